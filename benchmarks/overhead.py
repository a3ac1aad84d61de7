"""Times what SimBA does outside the network: `python -m benchmarks.evaluation --simba`."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advmia.attacks.inference import Blocks
from advmia.attacks.simba_dct import simba
from advmia.budgets import Budget
from advmia.losses import cross_entropy
from advmia.runtime.rng import SampleRng
from benchmarks import plain, report, timing

GREY_EPS = 8.0


class FewPixels(nn.Module):
    """A network of two classes that costs almost nothing: its logits are linear in 64 pixels.

    Class 0 leads by so much that no attack succeeds, and every step of SimBA changes the logits.
    """

    indices: Tensor  # (3, 64): channel, row and column of each pixel

    def __init__(self, size: int) -> None:
        super().__init__()
        flat = torch.randperm(3 * size * size, generator=torch.Generator().manual_seed(0))[:64]
        self.register_buffer("indices", torch.stack([flat // size**2, flat % size**2 // size, flat % size]))
        self.weight = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(1)) / 64)

    def forward(self, x: Tensor) -> Tensor:
        channel, row, column = self.indices
        score = x[:, channel, row, column] @ self.weight
        return torch.stack([score + 3, -score], dim=1)


def measure_simba(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times an iteration of SimBA, ours and plain, and prints the table; returns the results for the JSON file.

    The time of an iteration is the difference between a run of `args.queries` iterations and a run of one, divided by
    `args.queries` - 1.
    """
    size = args.size
    model = FewPixels(size).to(device).eval()
    x = torch.rand(args.bs, 3, size, size, generator=torch.Generator().manual_seed(2)).to(device)
    y = torch.zeros(args.bs, dtype=torch.int64, device=device)

    def ours(directions: int) -> None:
        rng = SampleRng.of(0, "simba", samples=range(args.bs), device=device)
        simba(Budget.grey(GREY_EPS, directions, GREY_EPS), cross_entropy)(Blocks(model, args.bs), x, y, rng=rng)

    def plain_code(directions: int) -> None:
        plain.simba_dct(model, x, y, GREY_EPS / 255, directions)

    runs = {"plain": plain_code, timing.OURS: ours}
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(args.repeats + 1):  # round 0 is the warm-up
        for name, run in runs.items():
            one_iteration = timing.seconds_of(partial(run, 1), device)
            all_iterations = timing.seconds_of(partial(run, args.queries), device)
            if round_number:
                milliseconds[name].append(1000 * (all_iterations - one_iteration) / (args.queries - 1))
    rows = {name: timing.spread("ms", values) for name, values in milliseconds.items()}
    for name in rows:
        pairs = zip(milliseconds[name], milliseconds[timing.OURS], strict=True)
        rows[name] |= timing.spread("ours_faster", [seconds / our_seconds for seconds, our_seconds in pairs])
    columns = ("", "ms", "min", "max", "ours faster", "min", "max")
    table = [[name, *row.values()] for name, row in rows.items()]
    report.show(f"a SimBA iteration outside the network, images {tuple(x.shape)}", columns, table)
    return {"ms_per_iteration": rows, "iterations": args.queries}
