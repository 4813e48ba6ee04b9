"""Stable Diffusion in MLX that keeps the UNet's deep features between steps (DeepCache)."""

from .core import interrupt

interrupt.quiet_start()  # nothing in other programs: only where this process is one of our commands

# ruff: noqa: E402 - Ctrl-C may come during the imports too
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core import blas
from .core.version import VERSION as __version__

if TYPE_CHECKING:
    from .checkpoint.adapter import Adapter
    from .checkpoint.control import Control
    from .checkpoint.ip_adapter import ImagePrompt
    from .core.errors import Failure, InputError
    from .pipeline import StableDiffusion
    from .preview import Preview
    from .request import Request
    from .result import Result
    from .reuse.deepcache import Adaptive, At, DeepCache, NonUniform
    from .reuse.freeu import FreeU
    from .reuse.sada import SADA
    from .reuse.spectrum import Spectrum
    from .reuse.tgate import TGate
    from .reuse.token_downsampling import TokenDownsampling
    from .tasks.control_image import control_image

# The one thing that happens at import: a fast BLAS counts only if it is there before mlx.core.
blas.preload()

# Public names -> the modules that define them, imported at first use: --help and --version need none of them.
_MODULES = {
    "Adapter": "checkpoint.adapter",
    "Adaptive": "reuse.deepcache",
    "At": "reuse.deepcache",
    "Control": "checkpoint.control",
    "DeepCache": "reuse.deepcache",
    "Failure": "core.errors",
    "FreeU": "reuse.freeu",
    "ImagePrompt": "checkpoint.ip_adapter",
    "InputError": "core.errors",
    "NonUniform": "reuse.deepcache",
    "Preview": "preview",
    "Request": "request",
    "Result": "result",
    "Spectrum": "reuse.spectrum",
    "SADA": "reuse.sada",
    "StableDiffusion": "pipeline",
    "TGate": "reuse.tgate",
    "TokenDownsampling": "reuse.token_downsampling",
    "control_image": "tasks.control_image",
}

__all__ = [
    "SADA",
    "Adapter",
    "Adaptive",
    "At",
    "Control",
    "DeepCache",
    "Failure",
    "FreeU",
    "ImagePrompt",
    "InputError",
    "NonUniform",
    "Preview",
    "Request",
    "Result",
    "Spectrum",
    "StableDiffusion",
    "TGate",
    "TokenDownsampling",
    "__version__",
    "control_image",
]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
