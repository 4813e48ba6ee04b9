"""A program of ranks: shares pictures, makes them again on rank 0 alone, and prints how the two differ, as JSON.

python -m tests.support.split_ranks FOLDER NAME ...; a name is one of `splits.CASES` or of a sampler.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import mlx_sd  # noqa: F401 - before mlx.core: it brings the BLAS

# isort: split
import mlx.core as mx
import numpy as np

from mlx_sd.networks.unet import UNet
from mlx_sd.ranks import launch
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.result import Result
from mlx_sd.split import Split
from tests.support import splits

SHAPES = Path(__file__).parents[1] / "goldens" / "shapes.json"
_rows = {"rows": 0}
_call = UNet.__call__


def _counted(unet: UNet, x: mx.array, *arrays: Any, **keywords: Any) -> Any:
    """Runs a UNet, and counts the latents of its rows."""
    _rows["rows"] += x.shape[0] * x.shape[1] * x.shape[2]
    return _call(unet, x, *arrays, **keywords)


def _counting(make: Any) -> tuple[Result, int]:
    """Returns a result, and the latents of all rows that a UNet has run on for it."""
    _rows["rows"] = 0
    return make(), _rows["rows"]


def compare(ranks: Ranks, names: list[str], folder: Path) -> None:
    """Prints a line of each case on rank 0."""
    warnings.simplefilter("ignore")
    UNet.__call__ = _counted
    # Each rank has files of its own, as on hosts that share none.
    checkpoints = splits.Checkpoints(json.loads(SHAPES.read_text()), folder / f"rank-{ranks.rank}")
    for name in names:
        case = splits.CASES.get(name) or splits.Case(options={"sampler": name})
        shared, rows = _counting(lambda case=case: case.generate(checkpoints, split=Split(case.kind, ranks)))
        counts = np.array(ranks.gather(mx.array([rows, len(shared.images), shared.full])))
        if ranks.rank:
            continue
        alone, expected = _counting(lambda case=case: case.generate(checkpoints))
        record = {
            "name": name,
            "same": splits.same(shared.latents, alone.latents),
            "difference": splits.difference(shared.latents, alone.latents),
            "rows": [int(counts[:, 0].sum()), expected],
            "most": int(counts[:, 0].max()),
            "images": counts[:, 1].tolist(),
            "full": [*map(int, counts[:, 2]), alone.full],
            "evaluations": [shared.evaluations, alone.evaluations],
            "requests": shared.requests == alone.requests,
            "pixels": [np.asarray(image).tolist() for image in shared.images]
            == [np.asarray(image).tolist() for image in alone.images],
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    launch.run(lambda ranks: compare(ranks, sys.argv[2:], Path(sys.argv[1])))
