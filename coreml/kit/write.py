"""Writing a kit: tables, goldens and a README, into a folder beside the packages."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model import DTYPES
from mlx_sd.core.version import VERSION as PROGRAM

from ..compression import schemes
from ..compression.networks import compress
from ..lowering.interfaces import networks
from . import goldens, picture, tables
from .selection import FORMAT, VERSION, Packages

_HERE = Path(__file__).parent
_PACKAGES = {"coreml": "packages", "coreai": "assets"}  # words of the README, by the format


def write(folder: Path, model: str, settings: Sequence[tables.Setting], packages: Packages) -> None:
    """Makes a folder and writes a model's kit into it; the golden picture takes most of the time.

    model: as `--model` takes it; its networks are loaded in float32 and compressed as the packages are. settings: of
    the tables; the golden picture has the one with the fewest full evaluations. Raises Failure where the picture is
    not finite.
    """
    sd = StableDiffusion.load(model, "float32")
    if packages.compress:
        for part, network in networks(sd.model).items():
            compress(network, schemes.compressor(packages.compress, part), DTYPES[packages.dtype])
    (folder / "tables").mkdir(parents=True)
    (folder / "noise").mkdir()
    (folder / "picture").mkdir()
    described = [tables.describe(setting, tables.table_of(setting, sd.model.scheduler)) for setting in settings]
    files = [f"tables/{setting.name}.json" for setting in settings]
    for file, table in zip(files, described, strict=True):
        _write_json(folder / file, table)
    first = min(range(len(settings)), key=lambda i: tables.full_evaluations(described[i]))
    _write_json(folder / "prompts.json", goldens.prompts(sd.model.tokenizers))
    width, height = (side // sd.vae.config.downsampling for side in packages.size)
    shape = (sd.vae.config.latent_channels, height, width)
    _write_json(folder / "noise/noise.json", goldens.write_noise(folder / "noise", shape))
    golden = picture.write(
        folder / "picture",
        sd,
        described[first],
        settings[first].deepcache,
        packages.size,
        packages.branch,
        packages.dtype,
    )
    _write_json(folder / "picture/picture.json", {"table": files[first]} | golden)
    listed = [
        {"file": file, **{name: table[name] for name in ("sampler", "schedule", "steps", "deepcache")}}
        | {"evaluations": len(table["rows"]), "full": tables.full_evaluations(table)}
        for file, table in zip(files, described, strict=True)
    ]
    content = {
        "format": FORMAT,
        "version": VERSION,
        "made_by": f"mlx-sd {PROGRAM}",
        "model": {"name": sd.model.name, "hash": sd.model.hash},
        "tables": listed,
        "prompts": "prompts.json",
        "noise": "noise/noise.json",
        "picture": "picture/picture.json",
    }
    _write_json(folder / "kit.json", content)
    shutil.copyfile(_HERE / "LICENSE.txt", folder / "LICENSE.txt")
    (folder / "README.md").write_text(_readme(content, golden["prompt"], packages, sd), encoding="utf-8")


def _readme(content: Mapping[str, Any], prompt: str, packages: Packages, sd: StableDiffusion) -> str:
    rows = ["| table | evaluations | full |", "| --- | ---: | ---: |"]
    rows += [f"| `{entry['file']}` | {entry['evaluations']} | {entry['full']} |" for entry in content["tables"]]
    loras = [str(lora.get("path", "")) for lora in sd.model.loras]
    compression = schemes.record(packages.compress)
    words = {
        "PORTS": (_HERE / f"ports-{packages.format}.md").read_text(encoding="utf-8").rstrip(),
        "PACKAGES": _PACKAGES[packages.format],
        "MODEL": content["model"]["name"],
        "MADE_BY": content["made_by"],
        "TABLES": "\n".join(rows),
        "PROMPT": prompt,
        "DTYPE": packages.dtype,
        "COMPRESSED": f" with the compression {compression['name']}" if compression else "",
        "LORAS": f" with {', '.join(loras)}" if loras else "",
    }
    text = (_HERE / "README.md").read_text(encoding="utf-8")
    for name, value in words.items():  # PORTS first: they have words of their own
        text = text.replace(f"@{name}@", value)
    return text


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
