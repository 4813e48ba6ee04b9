"""Networks whose weights are in memory only while they work, as `--low-memory` has them."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

_KEPT_PROMPTS = 256
_CACHE = 128 << 20  # bytes of freed buffers that MLX may keep for the next arrays


class LowMemory:
    """Says which network of a model works; the weights of all others leave memory.

    Weights come back by themselves where a network is used: MLX reads each from its file when it needs it.
    """

    def __init__(self) -> None:
        self._give_back: dict[str, Callable[[], None]] = {}
        self._idle: set[str] = set()
        self._prompts: dict[Hashable, Any] = {}
        self.afterwards: Callable[[], None] = lambda: None  # puts back what was changed in the weights themselves

    def add(self, network: str, give_back: Callable[[], None]) -> None:
        """Adds a network that has no weights in memory; give_back: frees those that it has read by then."""
        self._give_back[network] = give_back
        self._idle.add(network)

    @property
    def networks(self) -> frozenset[str]:
        """The names of the networks whose weights leave memory."""
        return frozenset(self._give_back)

    def work(self, *networks: str) -> None:
        """Frees the weights of all networks but those named, which may read theirs from now on.

        What was computed with the others must be evaluated by then: it would read them again.
        """
        ending = self._give_back.keys() - self._idle - set(networks)
        for name in ending:
            self._give_back[name]()
        if ending:
            self.afterwards()
            mx.clear_cache()
        self._idle = self._give_back.keys() - set(networks)

    def remember(self, prompt: Hashable, encode: Callable[[], Any], networks: Sequence[str]) -> Any:
        """Returns what `encode` returns for a prompt, from memory where it was encoded before.

        networks: the names of the text encoders, which work where it was not.
        """
        if prompt not in self._prompts:
            self.work(*networks)
            encoded = encode()
            mx.eval([array for array in encoded if array is not None])
            while len(self._prompts) >= _KEPT_PROMPTS:
                del self._prompts[next(iter(self._prompts))]
            self._prompts[prompt] = encoded
        return self._prompts[prompt]


@contextmanager
def small_cache(low_memory: LowMemory | None) -> Iterator[None]:
    """Lets MLX keep few freed buffers while open, where a model is to take little memory."""
    if low_memory is None:
        yield
        return
    before = mx.set_cache_limit(_CACHE)
    try:
        yield
    finally:
        mx.set_cache_limit(before)
