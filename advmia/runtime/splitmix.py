"""SplitMix64, a counter-based generator of random numbers, as operations on whole tensors.

Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": word i of a stream is a hash of its state
plus i times an odd constant. All words of all streams can therefore be computed at once, by about 25 operators, where a
generator such as Philox4x32-10 needs over a hundred.

Numbers are the same to the bit on every device: only operators are used whose results are exact or, as of +, -, * and
/, rounded correctly (IEEE 754). Logarithm, sine, cosine and root are therefore made of these: even in the results of
`torch.sqrt`, the last bit differs between devices. No operator may be used that rounds a product and a sum at once
(`torch.addcmul`, or alpha of `torch.add`), none that divides by a number of the host, which a GPU may replace by a
product, and none of these functions may be compiled, which fuses operators.

All streams are parts of one sequence of 2**64 words, and begin where their states say. States are hashes: of 100,000
streams of 75,000 words (images of 224 pixels), any two overlap with probability 4e-5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Words that are computed at once. A temporary takes 8 bytes of each; uniform numbers need 3 at a time, normal ones 12.
# On a CPU they then stay in the cache; on a GPU they take at most 48 and 192 MiB.
_PIECE, _PIECE_ON_GPU = 2**15, 2**21


def _signed(word: int) -> int:
    """Returns the int64 with the bits of a number in [0, 2**64)."""
    return word - 2**64 if word >= 2**63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST_FACTOR, _SECOND_FACTOR = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)

# Taylor series, highest power first, as polynomials of the square: -4 atanh(s) / s, cos(t) and sin(t) / t.
_ATANH = [-4 / power for power in (15, 13, 11, 9, 7, 5, 3, 1)]
_COS = [(-1) ** (power // 2) / math.factorial(power) for power in (10, 8, 6, 4, 2, 0)]
_SIN = [(-1) ** (power // 2) / math.factorial(power) for power in (11, 9, 7, 5, 3, 1)]


def advance(states: Tensor, words: int) -> Tensor:
    """Returns the states, int64 of any shape, after so many further words; before, if `words` is negative."""
    return states + _signed(words * _GAMMA % 2**64)


def next_words(states: Tensor, count: int, first: int = 0) -> Tensor:
    """Returns words number `first` to `first` + `count` - 1 after the states (B,), as int64 (B, count)."""
    numbers = torch.arange(first + 1, first + count + 1, device=states.device)
    words = states[:, None] + numbers.mul_(_GAMMA)  # int64 wraps
    _xor_shifted(words, 30).mul_(_FIRST_FACTOR)
    _xor_shifted(words, 27).mul_(_SECOND_FACTOR)
    return _xor_shifted(words, 31)


def _xor_shifted(words: Tensor, bits: int) -> Tensor:
    """Replaces words w by w xor (w >> bits), in place. The mask drops the copies of the sign that int64 shifts in."""
    return words.bitwise_xor_((words >> bits).bitwise_and_(2 ** (64 - bits) - 1))


def uniform(states: Tensor, numbers: Tensor) -> int:
    """Fills `numbers` (B, n), contiguous, with uniform numbers in [0, 1); row b from stream b. Returns the words used.

    Float32 numbers are multiples of 2**-24, float64 numbers of 2**-53.
    """
    if numbers.dtype == torch.float64:
        return _fill(numbers, states, 1, lambda words: (words >> 11).bitwise_and_(2**53 - 1).double().mul_(2.0**-53))
    return _fill(numbers, states, 2, _uniform_floats)


def normal(states: Tensor, numbers: Tensor) -> int:
    """Fills `numbers` (B, n), contiguous, with standard normal numbers; row b from stream b. Returns the words used.

    Box and Muller 1958, in float64, then rounded. The largest possible number is 6.8.
    """
    return _fill(numbers, states, 2, _normal_pairs)


def _fill(numbers: Tensor, states: Tensor, per_word: int, convert: Callable[[Tensor], Tensor]) -> int:
    """Fills `numbers`, a piece of all rows at a time, with what `convert` makes of words (B, w): (B, per_word * w)."""
    if numbers.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"random numbers are float32 or float64, not {numbers.dtype}")
    count = -(-numbers.shape[1] // per_word)
    piece = _PIECE_ON_GPU if numbers.is_cuda else _PIECE
    width = max(piece // max(len(states), 1), 1)
    for first in range(0, count, width):
        words = next_words(states, min(width, count - first), first)
        part = numbers[:, per_word * first : per_word * (first + words.shape[1])]
        part.copy_(convert(words)[:, : part.shape[1]])
    return count


def _uniform_floats(words: Tensor) -> Tensor:
    """Returns the upper 24 bits of each half of the words as float32 in [0, 1)."""
    return (words.view(torch.int32) >> 8).bitwise_and_(2**24 - 1).float().mul_(2.0**-24)


def _normal_pairs(words: Tensor) -> Tensor:
    """Returns two normal numbers of each word, float64: one half gives the radius, the other one the angle."""
    first, second = words.view(torch.int32).double().view(*words.shape, 2).unbind(dim=2)  # whole, in [-2**31, 2**31)
    radius = _sqrt(_squared_radius(first))
    cos, sin = _cos_and_sin(second)
    return torch.stack((cos.mul_(radius), sin.mul_(radius)), dim=2).flatten(1)


def _squared_radius(number: Tensor) -> Tensor:
    """Returns -2 log(u), with an error of at most 1e-13, of u = (number + 2**31 + 0.5) / 2**32, which is in (0, 1)."""
    mantissa, exponent = torch.frexp(number + (2.0**31 + 0.5))  # mantissa * 2**exponent, mantissa in [0.5, 1)
    ratio = (mantissa - math.sqrt(0.5)).div_(mantissa + math.sqrt(0.5))  # in [-0.172, 0.172)
    # log(mantissa) = log(sqrt(0.5)) + 2 atanh(ratio)
    others = (exponent.double() - 32.5).mul_(-2 * math.log(2))
    return _polynomial(ratio * ratio, _ATANH).mul_(ratio).add_(others)


def _sqrt(x: Tensor) -> Tensor:
    """Returns the root of x > 0 by three steps of Heron's rule, with a relative error of at most 2e-12."""
    # Half the bits of a float64 are about half its logarithm. The bits say the root within 6.1 %.
    root = ((x.view(torch.int64) >> 1) + (1023 << 51)).view(torch.float64)
    for _ in range(3):
        root = (x / root).add_(root).mul_(0.5)
    return root


def _cos_and_sin(number: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine, with errors of at most 2e-9, of 2 pi number / 2**32, which is in [-pi, pi)."""
    quarter = number * (math.pi / 2 * 2.0**-32)
    square = quarter * quarter
    cos, sin = _polynomial(square, _COS), _polynomial(square, _SIN).mul_(quarter)
    for _ in range(2):  # doubles the angle
        cos, sin = (sin * sin).mul_(-2).add_(1), cos.mul_(sin).mul_(2)
    return cos, sin


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Returns the polynomial with these coefficients, highest power first, at x, by Horner's rule."""
    highest, next_highest, *others = coefficients
    value = (x * highest).add_(next_highest)
    for coefficient in others:
        value.mul_(x).add_(coefficient)
    return value
