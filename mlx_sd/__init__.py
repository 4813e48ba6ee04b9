"""Stable Diffusion in MLX that keeps the UNet's deep features between steps (DeepCache)."""

from . import blas
from .version import VERSION as __version__

# The one thing that happens at import: a fast BLAS counts only if it is there before mlx.core.
blas.preload()

from .freeu import FreeU  # noqa: E402
from .pipeline import Result, StableDiffusion  # noqa: E402
from .preview import Preview  # noqa: E402
from .reuse import Adaptive, At, DeepCache, NonUniform  # noqa: E402
from .table import Options  # noqa: E402
from .tgate import TGate  # noqa: E402

__all__ = [
    "Adaptive",
    "At",
    "DeepCache",
    "FreeU",
    "NonUniform",
    "Options",
    "Preview",
    "Result",
    "StableDiffusion",
    "TGate",
    "__version__",
]
