"""Generators of unit noise: NumPy's, and the streams of PyTorch on the CPU and on CUDA, computed in NumPy.

One generator makes all the noise of one picture, one array after the other, so that a seed means the same picture in
other programs: diffusers with a list of generators, and A1111, draw in this way.
"""

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Draw = Callable[[tuple[int, ...]], Floats]  # shape -> unit noise, the next of the stream


def generator(name: str, seed: int) -> Draw:
    """Returns the function that draws arrays of unit noise, float32, from the stream of a seed (0 to 2^32 - 1).

    name: one of `names.GENERATORS`.
    """
    streams: dict[str, Callable[[int], Draw]] = {"numpy": _numpy, "torch": Torch, "cuda": Cuda}
    return streams[name](seed)


def _numpy(seed: int) -> Draw:
    # NumPy's legacy stream is frozen for ever and the same on every machine; Apple's Core ML pipeline has it too.
    stream = np.random.RandomState(seed)
    return lambda shape: stream.standard_normal(shape).astype(np.float32)


class Torch:
    """The noise of `torch.Generator("cpu").manual_seed(seed)`, float32, up to rounding (1e-6)."""

    def __init__(self, seed: int):
        self._words = np.random.RandomState(seed)  # the Mersenne Twister, seeded as PyTorch seeds its own
        self._second: float | None = None  # of a pair, of which the first has been drawn

    def __call__(self, shape: tuple[int, ...]) -> Floats:
        """Returns the next noise: `torch.randn(shape, generator=...)`."""
        size = prod(shape)
        return (self._groups(size) if size >= 16 else self._pairs(size)).reshape(shape)

    def _groups(self, size: int) -> Floats:
        """Returns noise in groups of 16: eight radii and eight angles give eight cosines and eight sines.

        The last 16 values are drawn anew where they are no whole group.
        """
        uniform = self._uniform(size)
        noise = np.empty(size, np.float32)
        full = size - size % 16
        noise[:full] = _box_muller(uniform[:full])
        if full < size:
            noise[-16:] = _box_muller(self._uniform(16))
        return noise

    def _uniform(self, size: int) -> Floats:
        words = self._words.randint(0, 2**32, size, np.uint32)
        return np.asarray((words & 0xFFFFFF) * 2.0**-24, np.float32)

    def _pairs(self, size: int) -> Floats:
        """Returns noise one by one, in float64; the second of a pair stays for the next call."""
        values = []
        for _ in range(size):
            if self._second is not None:
                values.append(self._second)
                self._second = None
                continue
            words = self._words.randint(0, 2**32, 4, np.uint32).astype(np.uint64)
            angle, tail = (words[::2] << np.uint64(32) | words[1::2]) & np.uint64(2**53 - 1)
            radius = np.sqrt(-2 * np.log1p(-float(tail) * 2.0**-53))
            values.append(radius * np.cos(2 * np.pi * float(angle) * 2.0**-53))
            self._second = radius * np.sin(2 * np.pi * float(angle) * 2.0**-53)
        return np.array(values, np.float32)


def _box_muller(uniform: Floats) -> Floats:
    """Returns normal values of uniform ones, in groups of 16, with the roundings to float32 that PyTorch has."""
    radii, angles = np.split(uniform.reshape(-1, 2, 8), 2, axis=1)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - radii))
    angle = np.float32(2 * np.pi) * angles
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


class Cuda:
    """The noise of a CUDA generator: Philox 4x32-10 (Salmon et al. 2011), each element with a counter of its own.

    PyTorch on a card gives the same for arrays that its threads fill in one pass, about 100,000 numbers; beyond that
    its numbers depend on the card, and these are those of A1111's emulation of a card.
    """

    def __init__(self, seed: int):
        self._seed, self._calls = seed, 0

    def __call__(self, shape: tuple[int, ...]) -> Floats:
        """Returns the next noise, the values of one call."""
        size = prod(shape)
        counter = np.zeros((4, size), np.uint32)
        counter[0], counter[2] = self._calls, np.arange(size, dtype=np.uint32)
        self._calls += 1
        u, v = (philox(counter, self._seed)[:2].astype(np.float64) + 0.5) * 2.0**-32
        return np.asarray(np.sqrt(-2 * np.log(u)) * np.sin(2 * np.pi * v), np.float32).reshape(shape)


def philox(counter: NDArray[np.uint32], seed: int) -> NDArray[np.uint32]:
    """Returns the random words (4, n) of counters (4, n) by Philox 4x32 in ten rounds, keyed by a seed of 64 bits."""
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    low = np.uint64(0xFFFFFFFF)
    x0, x1, x2, x3 = counter
    for _ in range(10):
        product, other = x0.astype(np.uint64) * np.uint64(0xD2511F53), x2.astype(np.uint64) * np.uint64(0xCD9E8D57)
        high, other_high = ((p >> np.uint64(32)).astype(np.uint32) for p in (product, other))
        x0, x2 = other_high ^ x1 ^ key[0], high ^ x3 ^ key[1]
        x1, x3 = (other & low).astype(np.uint32), (product & low).astype(np.uint32)
        key = key + np.array([0x9E3779B9, 0xBB67AE85], np.uint32)
    return np.stack([x0, x1, x2, x3])
