"""Rewriting a frozen network so that its convolutions run together with what follows them.

`torch.fx` traces the network into a graph of calls. There the layers of `advmia.attacks.inference.fused_layers` take
the place of convolution, bias, ReLU and addition, where nothing else uses what is in between.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from advmia.attacks.inference.fused_layers import (
    Biasless,
    ConvolutionReLU,
    DepthwiseReLU,
    FusedConvolution,
    Pointwise,
)
from advmia.models.normalize import Normalize

_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_)
_SUMS = (operator.add, torch.add)  # a trace has `+=` as `+`
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)  # what does nothing in eval mode
_LARGEST_KERNEL = 7  # of a depthwise convolution, whose taps the kernels unroll


def fuse(network: nn.Module) -> fx.GraphModule | None:
    """Returns the network, in eval mode, with fused layers; None if it cannot be traced or has none to fuse.

    Both share the weights. `FusedConvolution.refresh` must be called for each layer after the weights have changed.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # whatever the code of a user's network raises for want of numbers
        return None
    made = fx.GraphModule(network, graph)
    rewriting = _Rewriting(made)
    rewriting.run()
    if not rewriting.layers:
        return None
    made.graph.lint()
    made.recompile()
    made.delete_all_unused_submodules()
    made.graph.owning_module = None  # or the copy's memory would be freed by the garbage collector only
    return made.eval()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # `Normalize` asks for the number of channels, which no trace knows.
        return isinstance(module, Normalize) or super().is_leaf_module(module, name)


class _Rewriting:
    """The rewriting of one traced network."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self._traced, self._graph = traced, traced.graph
        self.layers: dict[fx.Node, FusedConvolution] = {}

    def run(self) -> None:
        """Puts fused layers into the graph."""
        for node in list(self._graph.nodes):
            if type(self._module(node)) in _NOTHING:
                node.replace_all_uses_with(_input(node))
                self._graph.erase_node(node)
        for node in list(self._graph.nodes):
            if self._is_relu(node):
                self._fuse(node, _input(node))
        for node in list(self._graph.nodes):
            convolution = self._convolution(node)
            if convolution is not None and _is_pointwise(convolution):
                self._replace(node, node, Pointwise(convolution))
        self._join_masks()
        self._fork()

    def _fuse(self, relu: fx.Node, source: fx.Node) -> None:
        """Fuses a ReLU with the convolution, or the sum with one, that is its input and that nothing else uses."""
        if len(source.users) > 1:
            return
        convolution = self._convolution(source)
        if convolution is not None:
            is_depthwise = _is_depthwise(convolution) and self._is_rectified(_input(source))
            self._replace(relu, source, (DepthwiseReLU if is_depthwise else ConvolutionReLU)(convolution))
            self._graph.erase_node(source)
        elif source.target in _SUMS and len(source.args) == 2 and not source.kwargs:
            self._fuse_sum(relu, source)

    def _fuse_sum(self, relu: fx.Node, total: fx.Node) -> None:
        """Fuses a ReLU with a sum of which one term at least is a convolution."""
        terms: list[Any] = list(total.args)
        for term, other in (terms, terms[::-1]):
            convolution = self._convolution(term)
            if convolution is None or len(term.users) > 1 or not isinstance(other, fx.Node) or term is other:
                continue
            further = self._convolution(other) if len(other.users) == 1 else None
            if self._writes_between(term, total):
                continue
            layer = ConvolutionReLU(convolution, None if further is None else further.bias)
            if further is not None and further.bias is not None:
                other = self._replace(other, other, Biasless(further))
            self._replace(relu, total, layer, (*term.args, other))
            self._graph.erase_node(total)
            self._graph.erase_node(term)
            return

    def _replace(self, node: fx.Node, place: fx.Node, layer: FusedConvolution, args: tuple[Any, ...] = ()) -> fx.Node:
        """Puts a call of the layer after `place`, for all uses of `node`. It takes `args`, or what `place` takes."""
        name = f"advmia_fused_{len(self.layers)}"
        self._traced.add_submodule(name, layer)
        with self._graph.inserting_after(place):
            made = self._graph.call_module(name, args or place.args)
        node.replace_all_uses_with(made)
        self._graph.erase_node(node)
        self.layers[made] = layer
        return made

    def _join_masks(self) -> None:
        """Leaves the mask of a ReLU that only a depthwise layer reads to the backward pass of that."""
        for node, layer in self.layers.items():
            before = self.layers.get(_input(node))
            if isinstance(layer, DepthwiseReLU) and isinstance(before, ConvolutionReLU):
                before.masks = len(_input(node).users) > 1

    def _fork(self) -> None:
        """Gives each user of a layer's output an output of its own, so that the layer adds their gradients."""
        for node, layer in self.layers.items():
            users = list(node.users)
            if isinstance(layer, ConvolutionReLU) and len(users) > 1:
                layer.users = len(users)
                for index, user in enumerate(users):
                    with self._graph.inserting_after(node):
                        user.replace_input_with(node, self._graph.call_function(operator.getitem, (node, index)))

    def _module(self, node: Any) -> nn.Module | None:
        """Returns the module that a node calls with one tensor, if it has no hooks, which might see what is fused."""
        if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            return None
        module = self._traced.get_submodule(str(node.target))
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        return None if any(hooks) else module

    def _convolution(self, node: Any) -> nn.Conv2d | None:
        module = self._module(node)
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            return module
        return None

    def _is_relu(self, node: Any) -> bool:
        if not isinstance(node, fx.Node) or not node.args or not isinstance(_input(node), fx.Node):
            return False
        is_method = node.op == "call_method" and node.target in ("relu", "relu_")
        return is_method or node.target in _RELUS or type(self._module(node)) is nn.ReLU

    def _is_rectified(self, node: Any) -> bool:
        return self._is_relu(node) or isinstance(self.layers.get(node), ConvolutionReLU | DepthwiseReLU)

    def _writes_between(self, first: fx.Node, last: fx.Node) -> bool:
        """Returns whether a node after `first` and before `last` writes over a tensor, perhaps the input of `first`."""
        node = first.next
        while node is not last:
            names = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
            module = self._traced.get_submodule(str(node.target)) if node.op == "call_module" else None
            is_told = bool(node.kwargs.get("inplace")) or getattr(module, "inplace", False)
            if is_told or (names.endswith("_") and not names.endswith("__")):
                return True
            node = node.next
        return False


def _input(node: fx.Node) -> Any:
    """Returns the first argument, which is a node where it is a tensor."""
    return node.args[0]


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    """Returns whether a convolution is a matrix product with a bias for each pixel."""
    sizes = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.groups)
    return sizes == ((1, 1), (1, 1), (0, 0), 1) and convolution.bias is not None


def _is_depthwise(convolution: nn.Conv2d) -> bool:
    """Returns whether a convolution is one that the kernels for depthwise convolutions compute."""
    is_depthwise = convolution.groups == convolution.in_channels == convolution.out_channels > 1
    return is_depthwise and convolution.dilation == (1, 1) and max(convolution.kernel_size) <= _LARGEST_KERNEL
