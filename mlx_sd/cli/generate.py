"""The command line: python -m mlx_sd.generate "PROMPT"."""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import command
from . import flags

if TYPE_CHECKING:
    from ..generation import Result
    from ..pipeline import StableDiffusion
    from ..request import Request

NAME = "mlx_sd.generate"
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}]"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = flags.parser(NAME).parse_args(argv)
    return command.run(NAME, lambda: _generate(arguments))


def _generate(arguments: argparse.Namespace) -> None:
    """Makes the pictures: request, targets, model, then picture by picture. --help needs none of these imports."""
    import mlx.core as mx
    from tqdm import tqdm

    from .. import metadata
    from ..completion import preset_of
    from ..core.version import VERSION
    from ..pipeline import StableDiffusion
    from ..request import pictures_of
    from . import animation, replay
    from .targets import targets

    replayed = replay.request_of(arguments)
    requests = replay.prompts(arguments, replayed)
    pictures = pictures_of([replay.without_hashes(request) for request in requests], arguments.count, arguments.batch)
    seed = pictures[0].seed or 0
    paths = targets(arguments.output, [_title(request) for request in requests], seed, arguments.count)
    plan = animation.plan(paths, arguments.preview, arguments.animate)
    sd = _packaged(arguments, replayed) if replayed.coreml else _loaded(replayed)
    refiner = StableDiffusion.load(replayed.refiner, replayed.dtype) if replayed.refiner else None
    completed = sd.complete(pictures[0])  # says what is wrong before a preview is fitted
    if refiner:
        completed = completed.with_values(refiner_hash=refiner.model.hash)
    pictures = [completed.with_subject(request) for request in pictures]
    replay.report_changes(NAME, replayed, completed)
    if arguments.speed:
        print(f"{NAME}: {preset_of(sd.model, arguments.speed)}", file=sys.stderr)
    drawn = replayed.seed is None and not arguments.json
    steps = animation.StepImages(sd, plan)
    reports: list[dict[str, Any]] = []

    with tqdm(unit="step", disable=not sys.stderr.isatty(), bar_format=_BAR) as bar:

        def progress(evaluation: int, evaluations: int, denoised: mx.array) -> None:
            """Moves the bar on and shows the step."""
            if evaluation == 1:
                if drawn and not reports:  # now that nothing is wrong with the request
                    bar.write(f"{NAME}: seed {seed}", file=sys.stderr)
                bar.reset(total=evaluations)
                bar.set_description(f"{len(reports) + 1}/{len(paths)}")
            bar.update()
            steps.add(len(reports), evaluation, denoised)

        for result in sd.stream(pictures, batch=arguments.batch, refiner=refiner, callback=progress):
            for image, request in zip(result.images, result.requests, strict=True):
                path = paths[len(reports)]
                path.parent.mkdir(parents=True, exist_ok=True)
                settings = request.to_json() | {metadata.VERSION_KEY: VERSION}
                metadata.save(image, path, settings)
                animated = steps.finish(len(reports), image)
                reports.append({"output": str(path), **animated, **settings, **_cost(result)})
                if not arguments.json:
                    bar.write(str(path), file=sys.stdout)
    if arguments.json:
        print(json.dumps(reports, indent=2, ensure_ascii=False))


def _loaded(request: "Request") -> "StableDiffusion":
    from ..pipeline import StableDiffusion

    loras = [(lora.path, lora.scale, lora.blocks) for lora in request.loras]
    return StableDiffusion.load(request.model, request.dtype, loras, request.quantize)


def _packaged(arguments: argparse.Namespace, request: "Request") -> "StableDiffusion":
    """Returns the model of Core ML packages; InputError for flags whose values were decided at the export."""
    from coreml import drive  # coreml builds on this package

    from ..core.errors import InputError
    from ..pipeline import StableDiffusion

    if arguments.speed:
        raise InputError(
            "--speed is of networks in MLX; with --coreml choose --sampler, --steps and --deepcache yourself"
        )
    for field in ("model", "dtype", "tile", "loras", "quantize"):
        if getattr(arguments, field) is not None:
            flag = "lora" if field == "loras" else field
            raise InputError(f"--{flag} was decided when the packages were written; leave it out with --coreml")
    return StableDiffusion(drive.load(Path(request.coreml or "")))


def _title(request: "Request") -> str:
    """Returns the text that a picture's file is named after."""
    if request.class_label is not None:
        return f"class {request.class_label}"
    return request.prompt or "picture"


def _cost(result: "Result") -> dict[str, Any]:
    """Returns the evaluations and the seconds of a picture's batch."""
    return {
        "evaluations": result.evaluations,
        "full_evaluations": result.full,
        "seconds": round(sum(result.seconds), 4),
        "step_seconds_median": round(statistics.median(result.seconds), 4),
    }
