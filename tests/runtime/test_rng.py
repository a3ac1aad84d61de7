"""A sample's noise depends on the sample only, not on its batch or its position there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advmia.runtime.rng import SampleRng, generator_for, seed_from

DRAWS = ("uniform", "normal")
SHAPE = (3, 5, 4)


def noise(draw: str, samples: list[int], *scope: object, like: Tensor | None = None) -> Tensor:
    like = torch.zeros(len(samples), *SHAPE) if like is None else like
    return getattr(SampleRng.of(*scope, samples=samples), draw)(like)


@pytest.mark.parametrize("draw", DRAWS)
def test_noise_does_not_depend_on_the_batch(draw: str) -> None:
    """Fails if samples share a generator, or their seeds come from the position in the batch."""
    together = noise(draw, list(range(8)), 0, "pgd", 8.0)
    alone = torch.cat([noise(draw, [sample], 0, "pgd", 8.0) for sample in range(8)])
    turned = noise(draw, [7, 2, 5], 0, "pgd", 8.0)
    assert torch.equal(together, alone)
    assert torch.equal(together[[7, 2, 5]], turned)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_stream_continues(draw: str) -> None:
    """Fails if each call starts the streams anew, or one sample's draws change another's stream."""
    pair, single = SampleRng.of(0, samples=[3, 4]), SampleRng.of(0, samples=[4])
    like = torch.zeros(2, *SHAPE)
    first, second = getattr(pair, draw)(like), getattr(pair, draw)(like)
    assert not torch.equal(first, second)
    assert torch.equal(first[1:], getattr(single, draw)(like[:1]))
    assert torch.equal(second[1:], getattr(single, draw)(like[:1]))


@pytest.mark.parametrize("draw", DRAWS)
def test_streams_that_are_taken_continue(draw: str) -> None:
    """Fails if `take` starts the streams anew, confuses their order, or copies them."""
    like = torch.zeros(4, *SHAPE)
    batch, expected = SampleRng.of(0, samples=range(4)), SampleRng.of(0, samples=range(4))
    getattr(batch, draw)(like), getattr(expected, draw)(like)
    some = batch.take(torch.tensor([3, 1]))
    second, third = getattr(expected, draw)(like), getattr(expected, draw)(like)
    assert torch.equal(getattr(some, draw)(like[:2]), second[[3, 1]])
    assert torch.equal(getattr(batch, draw)(like)[[3, 1, 0]], torch.stack([third[3], third[1], second[0]]))
    assert getattr(batch.take(torch.tensor([], dtype=torch.int64)), draw)(like[:0]).shape == (0, *SHAPE)


@pytest.mark.parametrize("draw", DRAWS)
def test_restarts(draw: str) -> None:
    """Fails if a restart depends on the batch or on earlier draws, or two starts have the same numbers."""
    like = torch.zeros(4, *SHAPE)
    fresh, used = SampleRng.of(0, samples=range(4)), SampleRng.of(0, samples=range(4))
    starts = [getattr(rng, draw)(like) for rng in (fresh, *(fresh.restart(number) for number in range(3)))]
    getattr(used, draw)(like)
    taken = used.take(torch.tensor([3, 1])).restart(2)
    assert torch.equal(getattr(taken, draw)(like[:2]), starts[3][[3, 1]])
    assert not torch.equal(getattr(taken, draw)(like[:2]), starts[3][[3, 1]]), "the stream goes on"
    assert len(torch.unique(torch.cat(starts).flatten(1), dim=0)) == 16
    assert fresh.restart(1).batch_uniform() == used.restart(1).batch_uniform() != fresh.restart(2).batch_uniform()


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(
    ("scope", "other"),
    [
        pytest.param((0, "pgd", 8.0), (1, "pgd", 8.0), id="seed"),
        pytest.param((0, "pgd", 8.0), (0, "square", 8.0), id="attack"),
        pytest.param((0, "pgd", 8.0), (0, "pgd", 4.0), id="eps"),
        pytest.param((0, "pgd"), (0, "pgd", 8.0), id="length"),
    ],
)
def test_another_scope_gives_other_noise(draw: str, scope: tuple, other: tuple) -> None:
    """Fails if a part of the scope is left out of the seed."""
    assert not torch.equal(noise(draw, [0], *scope), noise(draw, [0], *other))


def test_numbers_of_a_batch() -> None:
    """Fails if they depend on the samples or on what these have drawn, are the same for each batch, or are not uniform.

    Two processes have different samples of a batch.
    """
    share, other = SampleRng.of(0, "train", samples=[1, 2], batch=3), SampleRng.of(0, "train", samples=[], batch=3)
    share.uniform(torch.zeros(2, *SHAPE))
    first = [share.batch_uniform(), share.take(torch.tensor([1])).batch_uniform(), share.batch_uniform()]
    assert first == [other.batch_uniform() for _ in range(3)] and len(set(first)) == 3
    drawn = torch.tensor([SampleRng.of(0, "train", samples=[], batch=batch).batch_uniform() for batch in range(2000)])
    assert 0 <= drawn.min() < 0.01 and 0.99 < drawn.max() < 1 and len(set(drawn.tolist())) == 2000
    assert abs(drawn.mean() - 0.5) < 0.02 and abs(drawn.std() - 12**-0.5) < 0.01


def test_samples_differ() -> None:
    """Fails if the sample's number is left out of the seed."""
    samples = noise("uniform", list(range(50)), 0).flatten(1)
    assert len(torch.unique(samples, dim=0)) == 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distributions(dtype: torch.dtype) -> None:
    """Fails for another range, spread or dtype."""
    like = torch.zeros(20, 1000, dtype=dtype)
    uniform = SampleRng.of(0, samples=range(20)).uniform(like)
    assert uniform.dtype == dtype and 0 <= uniform.min() < 0.001 and 0.999 < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.std() - 12**-0.5) < 0.01
    normal = SampleRng.of(0, samples=range(20)).normal(like)
    assert normal.dtype == dtype and abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02


@pytest.mark.parametrize("draw", DRAWS)
def test_memory_layout_does_not_matter(draw: str) -> None:
    """Fails if noise is drawn in memory order: the loader's images are channels-last, others may be contiguous."""
    plain = torch.zeros(2, *SHAPE)
    channels_last = plain.to(memory_format=torch.channels_last)
    permuted = torch.zeros(2, 5, 4, 3).permute(0, 3, 1, 2)
    expected = noise(draw, [0, 1], 0, like=plain)
    for like in (channels_last, permuted):
        drawn = noise(draw, [0, 1], 0, like=like)
        assert drawn.shape == plain.shape and torch.equal(drawn, expected)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("batch", [1, 3])
def test_another_number_of_samples_is_an_error(draw: str, batch: int) -> None:
    """Fails if a batch of another size is filled in part or from the wrong streams, without an error."""
    with pytest.raises(ValueError, match=f"2 random streams for a batch of {batch}"):
        noise(draw, [0, 1], 0, like=torch.zeros(batch, *SHAPE))


def test_the_global_generator_is_left_alone() -> None:
    """Fails if drawing uses or moves torch's own stream."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = noise("uniform", [0], 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(noise("uniform", [0], 0), first)


def test_seeds_are_the_same_in_every_process() -> None:
    """Fails if a seed comes from `hash`, which differs between processes, or published numbers would change."""
    assert seed_from(0, "pgd", 8.0, 17) == 6_631_190_342_905_627_167


def test_seeds_fit_and_differ() -> None:
    """Fails if seeds leave the range that torch accepts, or two of a large list are equal."""
    seeds = {seed_from(0, "pgd", sample) for sample in range(100_000)}
    assert len(seeds) == 100_000 and min(seeds) >= 0 and max(seeds) < 2**63
    assert generator_for("a").initial_seed() == seed_from("a")


@pytest.mark.gpu
@pytest.mark.parametrize("draw", DRAWS)
def test_noise_on_a_gpu_does_not_depend_on_the_batch(draw: str, gpu: torch.device) -> None:
    """Fails if samples share a generator on the GPU, or the noise is on another device than the images."""
    like = torch.zeros(4, *SHAPE, device=gpu)
    together = getattr(SampleRng.of(0, samples=range(4), device=gpu), draw)(like)
    alone = getattr(SampleRng.of(0, samples=[2], device=gpu), draw)(like[:1])
    assert together.is_cuda and torch.equal(together[2:3], alone)
