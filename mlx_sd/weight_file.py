"""The weights of one network in a model folder: read strictly, at once or when the network is used."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .checkpoint.model_folder import network_tensors, parameter_name, shapes
from .core import terminal
from .core.errors import InputError

Change = Callable[[str, mx.array], mx.array]


class WeightFile(NamedTuple):
    """The file of a network's weights, and what happens to them on the way.

    dtype: of the network. change: (parameter, array in float32 or the stored dtype) -> array, the merging of adapters.
    """

    folder: Path
    version: int
    part: str
    dtype: mx.Dtype
    change: Change | None = None

    @property
    def path(self) -> Path:
        """Returns where the file lies."""
        return self.folder / f"{self.part}.safetensors"

    def fill(self, network: nn.Module, advance: Callable[[int], Any] = lambda size: None) -> None:
        """Loads a network's weights; InputError lists parameters that are missing, unexpected or of another shape.

        advance: called with the bytes that are loaded.
        """
        self.check(network)
        if self.change or terminal.visible():
            weights = []
            for name, array in self._arrays(network):
                mx.eval(array)  # one weight's float32 at a time
                advance(array.nbytes)
                weights.append((name, array))
        else:
            weights = list(self._arrays(network))
        network.load_weights(weights)
        mx.eval(network.parameters())

    def lend(self, network: nn.Module) -> None:
        """Lets a network read its weights when it is used, and frees those that it had; errors as of `fill`.

        They are then in memory until the next call. What was changed or quantized after loading is lost.
        """
        self.check(network)
        network.load_weights(list(self._arrays(network)))

    def check(self, network: nn.Module) -> None:
        """Raises InputError where the file has other parameters than a network, or of other shapes."""
        tensors = network_tensors(self.folder, self.part, self.version)
        stored, expected = {name: tensor.shape for name, tensor in tensors.items()}, shapes(network)
        if stored == expected:
            return
        wrong = sorted(name for name in stored.keys() | expected.keys() if stored.get(name) != expected.get(name))
        raise InputError(
            f"{self.path} does not fit model.json ({', '.join(wrong[:8])}); remove {self.folder} and convert again"
        )

    def _arrays(self, network: Any) -> Iterator[tuple[str, mx.array]]:
        """Yields the arrays by the names that they have today; MLX reads each when it is asked for."""
        stored: Any = mx.load(str(self.path))
        # Some VAE's activations overflow float16.
        upcast = self.part == "vae" and network.config.force_upcast and self.dtype == mx.float16
        dtype = mx.float32 if upcast else self.dtype
        for stored_name in list(stored):
            name, array = parameter_name(self.part, stored_name, self.version), stored.pop(stored_name)
            array = self.change(name, array) if self.change else array
            yield name, array if array.dtype == mx.uint32 else array.astype(dtype)  # codes are no numbers to be cast
