"""The generator's numbers are those of the formula, the same to the bit in any piece and on any device, and random."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advmia.runtime import splitmix
from advmia.runtime.rng import SampleRng

# The first words of the published C program for the seed 1234567.
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def word(state: int, number: int) -> int:
    """Returns word `number` after a state, in [0, 2**64)."""
    z = (state + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def halves(number: int) -> tuple[int, int]:
    """Returns the lower and the upper half of a word, in [-2**31, 2**31)."""
    return struct.unpack("<ii", number.to_bytes(8, "little"))


def polynomial(x: float, coefficients: list[float]) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def normal_pair(number: int) -> tuple[float, float]:
    """Returns the two normal numbers of a word, computed step by step as tensors are, by Python's exact float64."""
    first, second = halves(number)
    mantissa, exponent = math.frexp(first + (2.0**31 + 0.5))
    ratio = (mantissa - math.sqrt(0.5)) / (mantissa + math.sqrt(0.5))
    series = polynomial(ratio * ratio, [-4 / power for power in (15, 13, 11, 9, 7, 5, 3, 1)])
    squared = series * ratio + (exponent - 32.5) * (-2 * math.log(2))
    (bits,) = struct.unpack("<q", struct.pack("<d", squared))
    (root,) = struct.unpack("<d", struct.pack("<q", (bits >> 1) + (1023 << 51)))
    for _ in range(3):
        root = (squared / root + root) * 0.5
    angle = second * (math.pi / 2 * 2.0**-32)
    cos = polynomial(angle * angle, [(-1) ** n / math.factorial(2 * n) for n in (5, 4, 3, 2, 1, 0)])
    sin = polynomial(angle * angle, [(-1) ** n / math.factorial(2 * n + 1) for n in (5, 4, 3, 2, 1, 0)]) * angle
    for _ in range(2):
        cos, sin = sin * sin * -2 + 1, cos * sin * 2
    return cos * root, sin * root


def drawn(fill: Callable[[Tensor, Tensor], int], states: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Returns `count` numbers of each stream, (B, count)."""
    numbers = torch.full((len(states), count), torch.nan, dtype=dtype)
    fill(states, numbers)
    return numbers


def test_words() -> None:
    """Fails if a word is not that of the published program, at some state or place, or a shift copies the sign."""
    words = splitmix.next_words(torch.tensor([1234567]), 5)
    assert [value % 2**64 for value in words[0].tolist()] == PUBLISHED == [word(1234567, n) for n in range(5)]
    states = [0, 1, -1, 2**63 - 1, -(2**63), -0x123456789ABCDEF]
    words = splitmix.next_words(torch.tensor(states), 40, first=-20)
    assert [[value % 2**64 for value in row] for row in words.tolist()] == [
        [word(state, number) for number in range(-20, 20)] for state in states
    ]
    advanced = splitmix.advance(torch.tensor(states), 7)
    assert torch.equal(splitmix.next_words(advanced, 33, first=-20), words[:, 7:])


def test_uniform_numbers_are_those_of_the_words() -> None:
    """Fails if bits are lost, used twice or out of place, or a float is rounded."""
    words = [word(5, number) for number in range(50)]
    floats = drawn(splitmix.uniform, torch.tensor([5]), 99, torch.float32)[0].tolist()
    assert floats == [(half % 2**32 >> 8) / 2**24 for each in words for half in halves(each)][:99]
    doubles = drawn(splitmix.uniform, torch.tensor([5]), 50, torch.float64)[0].tolist()
    assert doubles == [(each >> 11) / 2**53 for each in words]
    dtypes = (torch.float32, torch.float64)
    used = [splitmix.uniform(torch.tensor([5]), torch.empty(1, 99, dtype=dtype)) for dtype in dtypes]
    assert used == [50, 99]


def test_normal_numbers_are_rounded_as_the_standard_demands() -> None:
    """Fails if an operator rounds otherwise than IEEE 754 demands, in vectors or at their ends: then devices differ."""
    words = [word(state, number) for state in range(20) for number in range(51)]
    expected = torch.tensor([normal_pair(each) for each in words], dtype=torch.float64).view(20, 102)
    for count in (1, 2, 3, 101, 102):
        for dtype in (torch.float64, torch.float32):
            numbers = drawn(splitmix.normal, torch.arange(20), count, dtype)
            assert torch.equal(numbers, expected[:, :count].to(dtype)), (count, dtype)


def test_normal_numbers_are_box_and_mullers() -> None:
    """Fails if logarithm, root, sine or cosine is inexact somewhere, or not finite at the ends of their ranges."""
    ends = torch.tensor([-(2**31), -(2**31) + 1, -1, 0, 1, 2**30, 2**31 - 2, 2**31 - 1], dtype=torch.int32)
    pairs = torch.cartesian_prod(ends, ends)
    words = torch.cat([splitmix.next_words(torch.tensor([3]), 10_000)[0], pairs.contiguous().view(torch.int64)[:, 0]])
    numbers = splitmix._normal_pairs(words[None]).view(-1, 2)
    first, second = words.view(torch.int32).double().view(-1, 2).unbind(dim=1)
    radius = ((first + 2.0**31 + 0.5) / 2**32).log().mul(-2).sqrt()
    angle = second * (2 * math.pi / 2**32)
    expected = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)
    assert float((numbers - expected).abs().max()) < 1e-8 and 6.7 < float(numbers.abs().max()) < 6.8


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_pieces_do_not_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a number depends on the piece that it is drawn in, or some are missing where pieces meet."""
    states, fill = torch.tensor([4, 7, 9]), getattr(splitmix, kind)
    whole = {dtype: drawn(fill, states, 101, dtype) for dtype in (torch.float32, torch.float64)}
    for piece in (1, 7, 3 * 50, 3 * 51):
        monkeypatch.setattr(splitmix, "_PIECE", piece)
        for dtype, expected in whole.items():
            assert torch.equal(drawn(fill, states, 101, dtype), expected), (piece, dtype)


def test_other_dtypes_are_errors() -> None:
    """Fails if numbers are rounded to a dtype in which a uniform number may become 1."""
    with pytest.raises(ValueError, match="are float32 or float64, not torch"):
        drawn(splitmix.uniform, torch.tensor([1]), 4, torch.bfloat16)


def correlation(a: Tensor, b: Tensor) -> float:
    """Returns the correlation of two lists of numbers, in standard errors of that of independent ones."""
    a, b = (values.flatten().double() - values.double().mean() for values in (a, b))
    return float((a * b).sum() / (a.norm() * b.norm())) * len(a) ** 0.5


def test_statistics() -> None:
    """Fails if numbers are uneven, or neighbours in a stream, streams, draws or restarts depend on each other.

    Each figure is in standard errors.
    """
    rng, like = SampleRng.of(0, "test", samples=range(256)), torch.empty(256, 1024)
    first, second = rng.uniform(like), rng.uniform(like)
    restarted, other = rng.restart(1).uniform(like), SampleRng.of(1, "test", samples=range(256)).uniform(like)
    for numbers in (first, second, restarted, first[:, :4]):
        for digits in (numbers, numbers * 2**16 % 1):  # the upper and the lower 8 bits
            counts = (digits * 256).long().flatten().bincount(minlength=256).double()
            expected = numbers.numel() / 256
            chi_square = float(((counts - expected) ** 2).sum() / expected)
            assert abs(chi_square - 255) / (2 * 255) ** 0.5 < 4
    pairs = [(first, each) for each in (second, restarted, other)]
    pairs += [(first[:, :-lag], first[:, lag:]) for lag in (1, 2, 3, 512)] + [(first[:-1], first[1:])]
    for a, b in pairs:
        assert abs(correlation(a, b)) < 4 and abs(correlation((a - 0.5) ** 2, (b - 0.5) ** 2)) < 4


def test_normal_distribution() -> None:
    """Fails if moments or the distribution function are not the normal one's, or the two numbers of a word depend."""
    numbers = SampleRng.of(0, samples=range(256)).normal(torch.empty(256, 1024, dtype=torch.float64))
    count, values = numbers.numel(), numbers.flatten().sort().values
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((numbers**power).mean()) - moment) * (count / variance) ** 0.5 < 4, power
    share = torch.arange(1, count + 1) / count
    assert float((torch.special.ndtr(values) - share).abs().max()) * count**0.5 < 1.95  # Kolmogorov, 1 in 1000
    assert abs(correlation(numbers[:, ::2], numbers[:, 1::2])) < 4
    assert abs(correlation(numbers[:, ::2] ** 2, numbers[:, 1::2] ** 2)) < 4


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_gpu_draws_the_same_numbers(kind: str, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a number on the GPU is another one than on the CPU, in its last bit, in one piece or in several."""
    for piece in (splitmix._PIECE_ON_GPU, 1000):
        monkeypatch.setattr(splitmix, "_PIECE_ON_GPU", piece)
        for dtype in (torch.float32, torch.float64):
            like = torch.zeros(3, 3, 40, 40, dtype=dtype)
            expected, found = (
                getattr(SampleRng.of(0, samples=range(3), device=device).restart(2), kind)(like.to(device))
                for device in ("cpu", gpu)
            )
            assert found.is_cuda and torch.equal(found.cpu(), expected), (piece, dtype)
