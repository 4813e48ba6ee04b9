"""Stable Diffusion in MLX that keeps the UNet's deep features between steps (DeepCache)."""

from .core import blas
from .core.version import VERSION as __version__

# The one thing that happens at import: a fast BLAS counts only if it is there before mlx.core.
blas.preload()

from .pipeline import Result, StableDiffusion  # noqa: E402
from .preview import Preview  # noqa: E402
from .reuse.deepcache import Adaptive, At, DeepCache, NonUniform  # noqa: E402
from .reuse.freeu import FreeU  # noqa: E402
from .reuse.tgate import TGate  # noqa: E402
from .sampling.table import Options  # noqa: E402

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
