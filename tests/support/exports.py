"""Exports that several tests look at: each written once."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from coreml import export
from coreml.__main__ import main
from coreml.plan import Options
from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model_folder import build, shapes
from tests.support import controls, families, singles, tokens

SMALL = "small"  # the family sd1 with a UNet of two levels: a quarter of the operations, for what any UNet shows
# Forms of an export that tests share: (family of `families.FAMILIES`, options).
FORMS = {  # the families and dtypes, and between them every form of attention
    "sd1 float32": ("sd1", {"dtype": "float32", "attention": "original"}),
    "sd1 float16": ("sd1", {"dtype": "float16", "attention": "split-einsum"}),
    "sd2 float16": ("sd2v", {"attention": "fused", "target": "iOS18", "unets": ("full",)}),
    "sdxl float16": ("sdxl", {"attention": "split-einsum", "target": "iOS17"}),
    "small float32": (SMALL, {"dtype": "float32", "attention": "original"}),
}
TOKENS = "tokens"  # a checkpoint whose pictures are tokens
CORE_AI = {"format": "coreai", "target": "OS27", "unets": ("functions",)}
CONTROL = "controlnet"  # of the arguments `only`: all control networks
UNET_AND_TEXT = ("unet", "text_encoder")  # the networks of a generation that ends with latents
_SMALL_UNET = {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
}

Model = Callable[[str], StableDiffusion]


@pytest.fixture(scope="session")
def model(family: Model, shapes, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """model(name) is the tiny checkpoint of a family of `families.FAMILIES`, SMALL, refiner or TOKENS, in float32."""
    loaded: dict[str, StableDiffusion] = {}

    def load(name: str) -> StableDiffusion:
        if name not in (SMALL, "refiner", TOKENS):
            return family(name)
        if name not in loaded and name == "refiner":
            folder = singles.refiner_folder(shapes, tmp_path_factory.mktemp("checkpoints") / name)
            loaded[name] = StableDiffusion.load(folder, dtype="float32")
        if name not in loaded and name == TOKENS:
            folder = tokens.write_folder(tmp_path_factory.mktemp("checkpoints") / name)
            loaded[name] = StableDiffusion.load(folder, dtype="float32")
        if name not in loaded:
            folder = tmp_path_factory.mktemp("checkpoints") / SMALL
            write_small(family("sd1").model.folder, folder)
            loaded[name] = StableDiffusion.load(folder, dtype="float32")
        return loaded[name]

    return load


def write_small(sd1: Path, folder: Path) -> None:
    """Writes the model folder of SMALL from that of sd1."""
    shutil.copytree(sd1, folder)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    config = about["networks"]["unet"] | _SMALL_UNET
    about["networks"]["unet"] = config
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
    weights = families.weights(
        "unet", {name: list(shape) for name, shape in shapes(build("unet", config, "unet")).items()}
    )
    (folder / "unet.safetensors").unlink()
    save_file(weights, folder / "unet.safetensors")


@pytest.fixture(scope="session")
def control_network(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """control_network("sd1") is the folder of a tiny random ControlNet for a family, for SMALL or of `controls.KINDS`.

    Its name is `kind`, by default that of the family; "union" is one for SDXL.
    """
    home = tmp_path_factory.mktemp("control")

    def write(name: str, kind: str = "", **changes) -> str:
        folder = home / (kind or name)
        if not folder.exists():
            controls.write_folder(folder, control_config(name) | changes)
        return str(folder)

    return write


def control_config(name: str) -> controls.Config:
    """Returns the config of a ControlNet for a family, for SMALL or of `controls.KINDS`."""
    if name == "union":
        return controls.union()
    if name == SMALL:
        return controls.config("sd1") | {field: value for field, value in _SMALL_UNET.items() if field[:2] != "up"}
    family, changes = controls.KINDS[name]
    return controls.config(family, **changes)


@pytest.fixture(scope="session")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """exported("sd1", dtype="float16", ...) is the folder of that checkpoint with those options.

    exported("sd1 float16") is that of a name in FORMS. only=("unet", ...) leaves out the packages of other networks.
    """
    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent  # of all workers of the run, which share the exports

    def write(name: str, only: tuple[str, ...] = (), **options) -> Path:
        if name in FORMS:
            name, options = FORMS[name]
        asked = Options(**options)
        folder = home / "exports" / f"{name}-{hashlib.sha256(repr((only, asked)).encode()).hexdigest()[:16]}"
        folder.parent.mkdir(exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be writing it
            if not folder.exists():
                leave_out(patch, only)
                export.export(model(name).model.name, folder, asked, report=lambda line: None)
        return folder

    return write


def leave_out(patch: pytest.MonkeyPatch, only: tuple[str, ...]) -> None:
    """Makes exports write packages of these networks alone, or of all where there are none."""
    plan = export.plan
    patch.setattr(
        export, "plan", lambda *a: [item for item in plan(*a) if not only or item.part.partition("/")[0] in only]
    )


def check_replaced_by_force_alone(arguments, out, capfd):
    """Exports by the command line into `out` three times: anew, refused beside what is there, and with --force."""
    assert main(arguments) == 0
    first = (out / "info.json").stat().st_mtime_ns
    assert main(arguments) == 2
    assert "--force" in capfd.readouterr().err
    assert (out / "info.json").stat().st_mtime_ns == first
    assert main([*arguments, "--force"]) == 0
    assert (out / "info.json").stat().st_mtime_ns > first
