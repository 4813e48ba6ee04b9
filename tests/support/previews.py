"""Fits the preview of the embedded checkpoint and writes it into tests/goldens, from where tests take it.

`python -m tests.support.previews`, whenever the fit or the checkpoint has changed.
"""

import os
import shutil
import tempfile

from mlx_sd import StableDiffusion, preview
from tests.conftest import GOLDENS


def main() -> None:
    """Replaces tests/goldens/previews."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MLX_SD_CACHE"] = cache
        sd = StableDiffusion.load("tiny", "float32")
        preview.network_of(sd)
        shutil.rmtree(GOLDENS / "previews", ignore_errors=True)
        shutil.copytree(preview.cache_file(sd.model).parent, GOLDENS / "previews")


if __name__ == "__main__":
    main()
