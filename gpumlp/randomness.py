"""Stateless randomness: every random draw of the library is a pure function of named integers.

No generator outlives the call that made it, so there is no state to save: a run that is resumed, or
spread over several processes, draws what an unbroken one draws.
"""

from __future__ import annotations  # np.random is loaded when it is used: a tenth of NumPy's import

from operator import index

import numpy as np
import numpy.typing as npt

# Part of what a seed means: a number, once given, is never changed or given again.
_PURPOSES = {"parameters": 1, "shuffle": 2, "split": 3, "dropout": 4}

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def generator(purpose: str, *key: int) -> np.random.Generator:
    """Return a fresh NumPy generator (Philox) that depends on `purpose` and `key` alone.

    `purpose` is "parameters", "shuffle", "split" or "dropout"; `key` holds whole numbers from 0 to
    2⁶⁴ - 1, such as a seed and a layer. Different purposes or keys give independent streams, also
    where keys differ in length only. The bits are the same in any process on any machine; how NumPy
    turns them into normal numbers or permutations may change between NumPy versions. Raises
    ValueError for another purpose or number. Source: Salmon et al., Parallel Random Numbers: As
    Easy as 1, 2, 3 (SC 2011).

    >>> draws = [generator("parameters", 7, layer).random() for layer in (0, 0, 1)]
    >>> draws[0] == draws[1], draws[0] == draws[2]
    (True, False)
    """
    if purpose not in _PURPOSES:
        raise ValueError(f"unknown purpose {purpose!r}; known: {', '.join(_PURPOSES)}")
    # SeedSequence cuts numbers into as many words as they need and pads the list with zeros: only
    # a count and numbers of fixed width tell (1,) from (1, 0), and (2**32,) from (0, 1).
    words = _uint64(_PURPOSES[purpose], len(key), *key).astype("<u8").view("<u4")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words.tolist())))


def permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order in which an epoch visits n samples: int64 (n,), each of 0..n-1 once.

    Raises ValueError when a number is negative.

    >>> sorted(permutation(5, seed=0, epoch=3).tolist())
    [0, 1, 2, 3, 4]
    """
    if n < 0:
        raise ValueError(f"the number of samples must be at least 0, not {n}")
    return generator("shuffle", seed, epoch).permutation(n).astype(np.int64, copy=False)


def dropout_keys(seed: int, layers: int, first_step: int, steps: int) -> npt.NDArray[np.uint32]:
    """Return the key of the dropout mask of each step and layer: uint32 (steps, layers).

    Row i belongs to step first_step + i. With S(seed, n) for output n of the generator SplitMix64,
    the key is the upper half of S(S(mix(seed), layer), step): it depends on seed, layer and step
    alone, never on where a table begins. Raises ValueError when a number is negative or above
    2⁶⁴ - 1. Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators
    (OOPSLA 2014), with the finaliser of its Java implementation.

    >>> whole = dropout_keys(seed=1, layers=2, first_step=0, steps=3)
    >>> bool((whole[2:] == dropout_keys(seed=1, layers=2, first_step=2, steps=1)).all())
    True
    """
    start, _, count, _ = _uint64(first_step, steps, layers, first_step + steps)
    layer, step = np.arange(count, dtype=np.uint64), start + np.arange(steps, dtype=np.uint64)
    streams = _splitmix64(_mix(_uint64(seed)), layer)
    return (_splitmix64(streams, step[:, None]) >> np.uint64(32)).astype(np.uint32)


def _splitmix64(seed: npt.NDArray[np.uint64], n: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Output n, counted from 0, of SplitMix64 started at `seed`; arrays broadcast and wrap."""
    return _mix(seed + (n + np.uint64(1)) * _GOLDEN)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64 bits, one to one: each bit in flips about half of the bits out."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _uint64(*numbers: int) -> npt.NDArray[np.uint64]:
    for number in numbers:
        if not 0 <= number < 2**64:
            raise ValueError(f"a number of a key must be from 0 to 2**64 - 1, not {number}")
    # index, because NumPy would cut 1.5 to 1 silently
    return np.array([index(number) for number in numbers], dtype=np.uint64)
