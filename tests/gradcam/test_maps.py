"""Grad-CAM maps, and the comparison of two maps, against independent computations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advmia.gradcam.maps import cosine_similarity, grad_cam, is_empty, top_overlap
from advmia.models import MODELS, build_model
from tests.support.networks import SmallNet, Snapshot, network, pixels, trained, unsettle

HEADS = {"res18": "linear", "mv2": "linear", "chexnet": "densenet121.classifier.0", "wrn": "fc"}


def small_net() -> SmallNet:
    model = trained()
    assert isinstance(model, SmallNet)
    return model


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.usefixtures("narrow_wrn")
def test_maps_of_all_classifiers_equal_cam(name: str) -> None:
    """Fails for another layer, another class (the predicted one), a missing ReLU, or wrong channel weights.

    Where the average of the layer feeds a linear classifier, Grad-CAM is CAM (Zhou et al. 2016): the channel weights
    are the classifier's own, and no gradient is needed.
    """
    torch.manual_seed(0)
    model = build_model(name, 3).eval()
    x, y = pixels(3, size=32)
    head = model.get_submodule(HEADS[name])
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(50)  # so that the ReLU and the signs matter
    activations: list[Tensor] = []
    layer = model.get_submodule(str(MODELS[name].cam_layer))
    hook = layer.register_forward_hook(lambda module, inputs, output: activations.append(output))
    with torch.no_grad():
        expected_logits = model(x)
    hook.remove()
    cam = torch.einsum("bchw,bc->bhw", activations[0], head.weight.detach()[y]).clamp(min=0)
    cam = F.interpolate(cam[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    maps, logits = grad_cam(model, str(MODELS[name].cam_layer), x, y)
    largest = cam.amax(dim=(1, 2), keepdim=True)
    assert maps.shape == (3, 32, 32) and (largest > 0).any()
    torch.testing.assert_close(maps, cam / largest.clamp(min=1e-12), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, expected_logits)


def test_map_by_finite_differences() -> None:
    """Fails if the gradient is of another class's logit, or with respect to another tensor than the layer's output."""
    model = small_net().double()
    x, y = pixels(2)
    x = x.double()

    def logit(activations: Tensor) -> Tensor:
        with torch.no_grad():
            out = torch.relu(model.bn2(model.conv2(torch.relu(activations))))
            return model.linear(out.mean(dim=(2, 3))).gather(1, y[:, None])[:, 0]

    with torch.no_grad():
        activations = model.bn1(model.conv1(x))  # (B, 8, 16, 16), before the ReLU
    slopes = []
    for channel in range(8):
        nudge = torch.zeros_like(activations)
        # All cells at once: this is the sum of the gradients, of which Grad-CAM takes the mean. The nudge is so small
        # that hardly a cell crosses a ReLU's edge.
        nudge[:, channel] = 1e-7
        slope = (logit(activations + nudge) - logit(activations - nudge)) / 2e-7
        slopes.append(slope / activations[0, 0].numel())
    cam = torch.einsum("bchw,bc->bhw", activations, torch.stack(slopes, dim=1)).clamp(min=0)
    maps, _ = grad_cam(model, "bn1", x, y)
    assert maps.shape == (2, 16, 16)
    torch.testing.assert_close(maps, cam / cam.amax(dim=(1, 2), keepdim=True), rtol=1e-4, atol=1e-5)


def test_the_network_stays_as_it_was() -> None:
    """Fails if hooks stay, the mode changes, or gradients are added to the parameters."""
    model = unsettle(network("mv2"))
    before = Snapshot.of(model)
    x, y = pixels(2, size=32)
    with torch.no_grad():  # the caller's gradient mode does not matter
        maps, logits = grad_cam(model, "relu2", x, y)
    before.assert_same(model)
    assert not model.get_submodule("relu2")._forward_hooks
    assert not maps.requires_grad and not logits.requires_grad


def test_a_map_where_nothing_supports_the_class() -> None:
    """Fails if a map without positive evidence is NaN instead of 0, or overlaps with another map."""
    model = small_net()
    with torch.no_grad():
        model.linear.weight.copy_(-model.linear.weight.abs() - 1)
    x, y = pixels(2)
    maps, _ = grad_cam(model, "bn2", x, y)
    flat = torch.zeros_like(maps)
    assert maps.isfinite().all() and is_empty(torch.cat([maps, flat])).tolist() == [
        *(maps == 0).all(2).all(1),
        True,
        True,
    ]
    assert top_overlap(flat, maps).tolist() == cosine_similarity(flat, maps).tolist() == [0.0, 0.0]


def test_the_predicted_class() -> None:
    """Fails if the map of the predicted class is not the map of that class, or is one of the true class."""
    model, (x, _) = small_net(), pixels(6)
    maps, logits = grad_cam(model, "bn1", x, None)
    predicted = logits.argmax(dim=1)
    assert len(set(predicted.tolist())) > 1
    assert torch.equal(maps, grad_cam(model, "bn1", x, predicted)[0])
    assert not torch.allclose(maps, grad_cam(model, "bn1", x, (predicted + 1) % 3)[0])


def test_comparison_of_two_maps() -> None:
    """Fails if maps of ten pixels, whose brightest fifth is two pixels, get other scores than computed by hand."""
    first = torch.tensor([[[9.0, 8, 1, 1, 1, 1, 1, 1, 1, 1]]])
    second = torch.tensor([[[9.0, 1, 8, 1, 1, 1, 1, 1, 1, 1]]])
    assert top_overlap(first, first).item() == 1
    assert top_overlap(first, second).item() == pytest.approx(1 / 3)
    assert cosine_similarity(first, 3 * first).item() == pytest.approx(1)
    expected = (first * second).sum() / first.square().sum().sqrt() / second.square().sum().sqrt()
    assert cosine_similarity(first, second).item() == pytest.approx(float(expected))
