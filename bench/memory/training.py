"""Memory of a training step, counted and measured: python -m bench training.

Counted is what `python -m mlx_sd.train KIND --plan` prints, for the same settings. Measured is the most that MLX had in
memory in two steps on random weights, in a process of its own for each setting. --table measures nothing: it counts
models of full size as a GPU computes them, for the guide.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_sd.core import command
from mlx_sd.train.kind_table import KINDS
from mlx_sd.train.learning.settings import TrainSettings, parse_size
from mlx_sd.train.planning import memory_plan, prepare

from .. import arguments, markdown, models, process, results
from ..machine import describe
from ..models import FULL_SIZES

TABLE_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA, rank 8": ("lora", {"rank": 8}),
    "ControlNet": ("control", {}),
    "whole UNet": ("unet", {}),
}
WORDS = {"embedding": {"token": "zorb", "like": "tent"}}  # settings that a kind does not go without
CAPTION = "a red zorb on green grass"
FILE = "training-memory.json"  # of the counts, among the results
MEASURED = ("training-sd15-cpu.json", "training-sdxl-cpu.json")  # of models of full size
STEPS = 2  # the optimizer has its state from the second on
_EXAMPLES = """examples:
  python -m bench training --model tiny --kind lora --resolution 128 --batch 2
  python -m bench training --model sd15 --kind unet --resolution 512 --dtype bfloat16
  python -m bench training --table"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    p = arguments.parser("training", __doc__, _EXAMPLES)
    p.add_argument("--model", choices=("tiny", *models.NAMES), default="tiny", help="of random weights")
    p.add_argument("--kind", choices=tuple(KINDS), default="lora", help="of training")
    p.add_argument("--resolution", type=parse_size, metavar="SIZE", help="default: the model's")
    p.add_argument("--batch", type=int, default=1, help="pictures in a micro-batch")
    p.add_argument("--rank", type=int, help="of a LoRA (default: the kind's)")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    p.add_argument("--table", action="store_true", help="print the guide's table")
    arguments.add_json(p)
    options = p.parse_args(argv)
    if options.table:
        return command.run("bench training", lambda: _table(options.json))
    return command.run("bench training", lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    settings = {"batch": options.batch, "dtype": options.dtype, **WORDS.get(options.kind, {})}
    if options.rank is not None:
        settings["rank"] = options.rank
    size = options.resolution or FULL_SIZES.get(options.model, (128, 128))
    with tempfile.TemporaryDirectory() as home:
        model = options.model
        if model in models.NAMES:
            model = str(Path(home, model))
            models.write_outline(options.model, Path(model))
        rows = [compare(options.kind, {**settings, "model": model, "recompute": flag}, size) for flag in (False, True)]
    values = {"model": options.model, "kind": options.kind, "size": list(size), "batch": options.batch}
    results.report({**values, "dtype": options.dtype, "steps": rows, "machine": describe()}, options.json)


def compare(kind: str, settings: dict[str, Any], size: tuple[int, int]) -> results.Results:
    """Returns counted and measured peak of a step in bytes, and the first over the second; in another process."""
    (row,) = compare_all([(kind, settings, size)])
    return {"recompute": settings["recompute"], **row}


def compare_all(cases: Sequence[tuple[str, dict[str, Any], tuple[int, int]]]) -> list[results.Results]:
    """Returns the same for trainings (kind, settings, size), one after the other in one other process."""
    code = f"import json; from bench.memory import training; print(json.dumps([training.peaks(*c) for c in {cases!r}]))"
    rows: list[results.Results] = json.loads(process.run(code).output)
    return rows


def peaks(kind: str, settings: dict[str, Any], size: tuple[int, int]) -> results.Results:
    """Returns the peaks of a step, which are measured in this process."""
    record = KINDS[kind].settings(**settings)
    plan = memory_plan(kind, record, size, [CAPTION])
    measured = measure(kind, record, size)
    ratio = round(plan.peak / measured, 3)
    return {"counted_bytes": plan.peak, "measured_bytes": measured, "ratio": ratio, "plan": plan.numbers()}


def measure(kind: str, settings: TrainSettings, size: tuple[int, int]) -> int:
    """Returns the most bytes that MLX had in memory in two steps on random weights, and not before."""
    gc.collect()
    before = mx.get_active_memory()
    prepared = prepare(kind, settings, size, [CAPTION], False, settings.dtype or "float32")
    mx.eval([network.parameters() for network in prepared.resident], prepared.trainer.learned.parameters())
    mx.eval(prepared.trainer.optimizer.state, prepared.trainer.averages or {})
    most = 0
    for _ in range(STEPS):
        mx.reset_peak_memory()
        prepared.trainer.run([prepared.batch] * settings.accumulate)
        most = max(most, mx.get_peak_memory())
    return most - before


def count(name: str, label: str, recompute: bool) -> int:
    """Counts the bytes of a step of a model of full size, on a GPU, in bfloat16 and with one picture."""
    kind, settings = TABLE_KINDS[label]
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, name)
        models.write_outline(name, folder)
        record = KINDS[kind].settings(model=str(folder), recompute=recompute, **settings)
        return memory_plan(kind, record, FULL_SIZES[name], [CAPTION], gpu=True).peak


def count_all() -> results.Results:
    """Returns the bytes of all cells of the guide's table."""
    flags = {"kept": False, "recomputed": True}
    return {
        name: {label: {key: count(name, label, flag) for key, flag in flags.items()} for label in TABLE_KINDS}
        for name in FULL_SIZES
    }


def table(values: results.Results) -> str:
    """Returns the Markdown table of the guide."""
    rows = [
        [
            models.sized(name, FULL_SIZES[name]) if label == next(iter(kinds)) else "",
            label,
            *(f"{kinds[label][flag] / 1e9:.1f} GB" for flag in ("kept", "recomputed")),
        ]
        for name, kinds in values["counted"].items()
        for label in kinds
    ]
    return markdown.table(["model", "what learns", "as it is", "`--recompute`"], rows, left=2)


def section(folder: Path) -> str:
    """Returns the table of a folder of results, for `python -m bench report`."""
    return table(results.read(folder / FILE))


def measured(folder: Path) -> str:
    """Returns the table of counted beside measured peaks of models of full size, for `python -m bench report`."""
    files = [results.read(folder / name) for name in MEASURED]
    rows = [
        [
            models.sized(values["model"], values["size"]) if number == 0 else "",
            "`--recompute`" if step["recompute"] else "as it is",
            *(f"{step[f'{kind}_bytes'] / 1e9:.2f} GB" for kind in ("counted", "measured")),
            f"{100 * (step['ratio'] - 1):+.1f}%",
        ]
        for values in files
        for number, step in enumerate(values["steps"])
    ]
    head = ["model", "", "counted by the plan", "measured", "the plan's error"]
    return markdown.table(head, rows, left=2)


def _table(output: Path | None) -> None:
    values = {"counted": count_all(), "batch": 1, "dtype": "bfloat16", "machine": describe()}
    if output:
        results.write(output, values)
    print(table(values))


if __name__ == "__main__":
    sys.exit(main())
