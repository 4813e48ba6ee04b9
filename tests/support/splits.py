"""Pictures that ranks share, of everything that goes with a split, and a replay of each rank in one process.

Replay: `Recording` notes what one process computes wherever ranks would exchange something. `Replaying` runs one rank,
which finds there what the others would have sent; its own part must equal what was noted. Where that holds for all
ranks, they exchange what one process computes, one exchange after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_sd import StableDiffusion
from mlx_sd.core import blas
from mlx_sd.ranks.deal import Deal, share_of
from mlx_sd.result import Result
from mlx_sd.split import Split
from tests.support import adapters_beside, controls, families, image_prompts, instructions, singles, upscalers

PROMPT, NEGATIVE = "a red tent on green grass", "a dark stormy sky"
BASE = {"steps": 4, "guidance": 5.0, "seed": 3, "sampler": "ddim", "output": "latent"}
LARGE = {"width": 128, "height": 128, "steps": 2}


class Checkpoints:
    """Tiny checkpoints and networks beside them, in a folder, each written and loaded once."""

    def __init__(self, shapes: Mapping[str, Any], folder: Path):
        self._shapes, self._folder = shapes, folder
        self._loaded: dict[str, StableDiffusion] = {}

    def __getitem__(self, name: str) -> StableDiffusion:
        if name not in self._loaded:
            self._loaded[name] = StableDiffusion.load(self._place(name), dtype="float32")
        return self._loaded[name]

    def _place(self, name: str) -> Path | str:
        shapes, folder = self._shapes, self._folder / name
        if name == "classes":
            return "tiny-classes"
        if name == "edit":
            return instructions.write(shapes, folder, "sd1")
        if name == "refiner":
            return singles.refiner_folder(shapes, folder)
        if name == "upscaler":
            return upscalers.write(shapes, folder)
        return families.write_folder(name, shapes[name], folder)

    def control(self, family: str) -> str:
        """Returns the folder of a ControlNet."""
        folder = self._folder / f"control-{family}"
        return str(folder if folder.exists() else controls.write_folder(folder, controls.config(family)))

    def adapter(self) -> str:
        """Returns the folder of a T2I-Adapter."""
        folder = self._folder / "adapter"
        return str(folder if folder.exists() else adapters_beside.write_folder(folder, "full"))

    def image_prompt(self) -> str:
        """Returns the file of an IP-Adapter."""
        file = self._folder / "image-prompt" / "base.safetensors"
        return str(file if file.exists() else image_prompts.write(file, "base", self["sd1"].unet))


class Case(NamedTuple):
    """A picture or a batch that ranks share; options may need files of the checkpoints."""

    model: str = "sd1"
    options: Mapping[str, Any] = {}
    beside: Callable[[Checkpoints], Mapping[str, Any]] = lambda checkpoints: {}
    prompt: str | Sequence[str] | None = PROMPT
    ranks: int = 2
    kind: str = "guidance"

    def generate(self, checkpoints: Checkpoints, **more: Any) -> Result:
        """Makes the picture."""
        subjects = {} if self.prompt is None else {"prompt": self.prompt, "negative": NEGATIVE}
        return checkpoints[self.model].generate(
            **subjects, **{**BASE, **self.options, **self.beside(checkpoints), **more}
        )


def _picture() -> Any:
    return instructions.picture((64, 64))


def _mask() -> Any:
    mask = controls.image("mask").convert("L")
    return mask.point(lambda level: 255 * (level > 128))


# Of the tiny SDXL, which has four pixels a side for a latent
TILES = {"width": 96, "height": 64, "denoise_tile": 12, "steps": 2}
TGATE_REUSE = {"tgate": "5,2,2,0", "steps": 8}
CASES: dict[str, Case] = {
    "guidance": Case(),
    "batch of 2": Case(options=LARGE | {"count": 2, "batch": 2}),
    "deepcache": Case(options={"deepcache": "2:1"}),
    "deepcache, batch of 2": Case(options=LARGE | {"deepcache": 2, "count": 2, "batch": 2}),
    "deepcache nonuniform": Case(options={"deepcache": "nonuniform:3", "steps": 8}),
    "deepcache adaptive": Case(options={"deepcache": "adaptive:0.3", "steps": 6, "count": 2, "batch": 2}),
    "deepcache adaptive, forecast": Case(options={"deepcache": "adaptive:0.3:2+forecast1", "steps": 8}),
    "deepcache spectrum": Case(options={"deepcache": "spectrum:2,,2", "steps": 8}),
    "deepcache sada": Case(options={"deepcache": "sada:2,0,1,1", "steps": 8, "count": 2, "batch": 2}),
    "deepcache sada, heun": Case(options={"deepcache": "sada:2,0,1,0.7:1", "steps": 5, "sampler": "heun"}),
    "tgate": Case(options={"tgate": 2}),
    "tgate, self-attention reused": Case(options=TGATE_REUSE),
    "tgate, batch of 2": Case(options=LARGE | {"tgate": 2, "steps": 4, "count": 2, "batch": 2}),
    "tgate and deepcache adaptive": Case(options={"tgate": 4, "deepcache": "adaptive:0.2", "steps": 8}),
    "guidance interval": Case(options={"guidance_interval": "0.3-0.7", "deepcache": 2}),
    "token downsampling": Case(options=LARGE | {"token_downsampling": "2:1:0.6"}),
    "adaptive guidance": Case(options={"adaptive_guidance": 0.5, "deepcache": 2}),
    "freeu and rescale": Case(options={"freeu": True, "guidance_rescale": 0.7}),
    "perturbed attention": Case(options={"pag": 3.0, **LARGE}),
    "perturbed attention, 3 ranks": Case(options={"pag": 3.0, "pag_adaptive": 0.001}, ranks=3),
    "and": Case(prompt="a moon AND a tent :0.5 AND a star", options=LARGE),
    "and, 4 ranks": Case(prompt="a moon AND a tent :0.5 AND a star", options=LARGE, ranks=4),
    "prompt editing": Case(prompt="a [moon:tent:2]", options={"deepcache": 3}),
    "image to image": Case(beside=lambda _: {"image": _picture(), "strength": 0.8}),
    "inpaint": Case(beside=lambda _: {"image": _picture(), "mask": _mask(), "deepcache": 2}),
    "inpaint, 9 channels": Case("inpaint9", beside=lambda _: {"image": _picture(), "mask": _mask()}),
    "control": Case(beside=lambda c: {"controls": [(c.control("sd1"), controls.image(), 0.7)], "deepcache": 2}),
    "control, guess mode": Case(
        options=LARGE | {"guess_mode": True, "count": 2, "batch": 2},
        beside=lambda c: {"controls": [(c.control("sd1"), controls.image("control", (128, 128)), 0.7)]},
    ),
    "control and tgate": Case(beside=lambda c: {"controls": [(c.control("sd1"), controls.image(), 0.7)], "tgate": 2}),
    "adapter": Case(beside=lambda c: {"adapters": [(c.adapter(), controls.image(), 0.7)], "adapter_factor": 0.5}),
    "image prompt": Case(beside=lambda c: {"ip_adapters": [(c.image_prompt(), image_prompts.pictures()[0], 0.7)]}),
    "instruction": Case("edit", {"image_guidance": 2.0}, lambda _: {"image": _picture()}),
    "instruction, 3 ranks": Case("edit", {"image_guidance": 2.0}, lambda _: {"image": _picture()}, ranks=3),
    "sdxl": Case("sdxl", {"deepcache": 2}),
    "sdxl, control, batch of 2": Case(
        "sdxl",
        {"count": 2, "batch": 2},
        lambda c: {"controls": [(c.control("sdxl"), controls.image(size=_size(c["sdxl"])), 0.7)]},
    ),
    "sdxl, tgate": Case("sdxl", {"tgate": 2}),
    "sdxl and refiner": Case("sdxl", {}, lambda c: {"refiner": c["refiner"], "refine_at": 0.5}),
    "classes": Case("classes", {"classes": ["tent", "cactus"], "batch": 2}, prompt=None),
    "hires": Case(options={"hires": "2:2", "deepcache": 2}),
    "hires by pictures": Case(options={"hires": "2:2", "hires_mode": "lanczos"}),
    "upscaler": Case("upscaler", {"deepcache": 2}, lambda _: {"image": upscalers.picture(8, 8)}),
    "decoded in tiles": Case(options=LARGE | {"output": "image", "tile": 64}),
    "tiles, decoded in tiles": Case("sdxl", TILES | {"output": "image", "tile": 32}, kind="tiles"),
    "guidance over tiles": Case("sdxl", TILES),
    "tiles": Case("sdxl", TILES, kind="tiles"),
    "tiles, deepcache adaptive": Case("sdxl", TILES | {"deepcache": "adaptive:0.3", "steps": 6}, kind="tiles"),
    "tiles, deepcache sada": Case("sdxl", TILES | {"deepcache": "sada:2,0,1,1", "steps": 6}, kind="tiles"),
    "tiles, unconditional refresh": Case(
        "sdxl", TILES | {"unconditional_refresh": 2, "deepcache": 2, "steps": 4}, kind="tiles"
    ),
    "tiles, 4 ranks": Case("sdxl", TILES | {"deepcache": 2}, kind="tiles", ranks=4),
    "tiles of the second pass": Case("sdxl", {"hires": "2:2", "denoise_tile": 12}, kind="tiles"),
}


def _size(sd: StableDiffusion) -> tuple[int, int]:
    side = sd.unet.config.sample_size * sd.vae.config.downsampling
    return side, side


def same(first: mx.array, second: mx.array) -> bool:
    """Returns whether two arrays are bit-equal; with another BLAS than MKL, whether they are so to six digits."""
    if "mkl" in (blas.preload() or ""):
        return bool(mx.array_equal(first, second))
    return first.shape == second.shape and difference(first, second) <= 1e-6 * mx.abs(second).max().item()


def difference(first: mx.array, second: mx.array) -> float:
    """Returns the largest difference of two arrays."""
    return float(mx.abs(first.astype(mx.float32) - second.astype(mx.float32)).max().item()) if first.size else 0.0


class Recording(Deal):
    """One process, which notes all results that ranks would exchange."""

    size = 2  # so that what is not dealt out to one process is dealt out here

    def __init__(self) -> None:
        self.records: list[list[mx.array]] = []

    def collect(self, results, shapes, dtype):
        """Notes the results of all parts."""
        self.records.append(list(results))
        return list(results)

    def collect_rows(self, array, copies, count):
        """Notes all rows."""
        mx.eval(array)
        self.records.append([array])
        return array


class Replaying(Deal):
    """One rank of several, which computes its share; `Recording` has what the others send."""

    def __init__(self, rank: int, size: int, records: list[list[mx.array]]):
        self.rank, self.size, self._records = rank, size, list(records)
        self.shares: list[int] = []  # the number of rows or tiles that were computed, at each exchange

    def share(self, count):
        """Returns this rank's share."""
        return share_of(self.rank, self.size, count)

    def collect(self, results, shapes, dtype):
        """Checks the results of this rank's share, and returns those of all."""
        record, share = self._records.pop(0), self.share(len(shapes))
        self._check(results, record[share.start : share.stop])
        assert [array.shape for array in record] == [tuple(shape) for shape in shapes]
        assert all(array.dtype == dtype for array in record)
        return record

    def collect_rows(self, array, copies, count):
        """Checks this rank's rows, and returns all."""
        (record,), share = self._records.pop(0), self.share(copies)
        self._check([array], [record[share.start * count : share.stop * count]])
        return record

    def _check(self, results, expected):
        self.shares.append(len(results))
        for result, record in zip(results, expected, strict=True):
            assert result.shape == record.shape and result.dtype == record.dtype
            assert same(result, record), f"rank {self.rank}: {difference(result, record)}"

    def end(self) -> None:
        """Checks that nothing is left to be exchanged."""
        assert self._records == []


def with_deal(kind: str, deal: Deal) -> Split:
    """Returns a split by a deal that needs no other process."""
    split = Split()
    setattr(split, "rows" if kind == "guidance" else "tiles", deal)
    return split
