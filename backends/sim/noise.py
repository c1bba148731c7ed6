"""Smooth noise: a random-looking curve that can be asked for its height at any time, in any order.

A sum of octaves. Each has a random height at every multiple of its period, made by hashing, and a smooth curve between.
Long octaves are higher, by the square root of their period, so that differences grow with time as a random walk's do;
but the curve stays near 0 for ever, and nothing has to be remembered to go on with it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SHORTEST_BITS = 29  # 2**29 ns = 0.54 s
_OCTAVES = 10  # each four times as long as the one before; the longest 1.6 days
_YEAR_NS = 365 * 86_400e9
# Octaves overlap: with this factor the standard deviation of differences comes out right (measured by a test).
_OVERLAP = 1.1

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_OCTAVE_KEYS = [np.uint64(octave * int(_STEP) % 2**64) for octave in range(_OCTAVES)]

Keys = npt.NDArray[np.uint64]
Heights = npt.NDArray[np.float64]


def heights(keys: Keys, times_ns: npt.NDArray[np.int64]) -> Heights:
    """Return the heights of curves at times.

    Args:
        keys: which curve; shape (n,) or (1,).
        times_ns: shape (n,), 0 or later.

    Returns:
        Shape (n,). Over a time ``d`` differences have a standard deviation of about ``sqrt(d in years)``.
    """
    total: Heights = np.zeros(len(times_ns))
    for octave in range(_OCTAVES):
        bits = _SHORTEST_BITS + 2 * octave
        cells = (times_ns >> bits).astype(np.uint64)
        part = (times_ns & ((1 << bits) - 1)) * 2.0**-bits
        part *= part * (3.0 - 2.0 * part)
        octave_keys = keys + _OCTAVE_KEYS[octave]
        left = _hash(cells, octave_keys)
        left += (_hash(cells + np.uint64(1), octave_keys) - left) * part
        total += left * (_OVERLAP * (2.0**bits / _YEAR_NS) ** 0.5)
    return total


def _hash(cells: Keys, keys: Keys) -> Heights:
    """Turn numbers into numbers in [-1, 1) that look random (the finaliser of splitmix64)."""
    mixed = (cells * _STEP) ^ keys
    mixed ^= mixed >> np.uint64(30)
    mixed *= _MIX_1
    mixed ^= mixed >> np.uint64(27)
    mixed *= _MIX_2
    mixed ^= mixed >> np.uint64(31)
    uniform: Heights = np.multiply(mixed >> np.uint64(11), 2.0**-52, dtype=np.float64)
    return uniform - 1.0
