"""Exporting a model folder: the packages an app needs, its vocabulary, and info.json, which says how to run them."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from errno import ENOSPC
from pathlib import Path
from typing import Any

from mlx_sd import resolve
from mlx_sd.checkpoint import model_folder
from mlx_sd.checkpoint.token_diffusion import TokenDiffusion
from mlx_sd.core import interrupt
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import temporary_folder
from mlx_sd.prompts.tokenizer import bpe

from . import assets, control_networks, info, manifest, stock, token_sets
from .compression import schemes
from .control_networks import ControlSource
from .coreai import availability
from .coreai.asset_files import BYTECODE, SUFFIX
from .kit import selection as kit_folder
from .plan import Item, Options, plan, weight_bytes

SUFFIXES = (".mlpackage", ".mlmodelc", SUFFIX)
# Folders of an export in which an app may have other files.
_SHARED = (stock.TOKENIZER, control_networks.FOLDER, Path(control_networks.DEEPCACHE).name)

Report = Callable[[str], None]


def export(
    model: str,
    out: Path,
    options: Options,
    force: bool = False,
    report: Report = print,
    kit: kit_folder.Selection | None = None,
    controls: Sequence[ControlSource] | None = None,
) -> dict[str, Any]:
    """Writes the packages of a model into the folder `out` and returns the content of its info.json.

    model: as `--model` takes it. Everything is checked before the first network is lowered. Files in `out` with names
    of an export are replaced only with `force`, and only after everything is written. report(line) is called for each
    package. kit: which tables an app's kit has; None writes no kit. controls: the control networks to write; None are
    those of the options, whose UNet takes residuals in any case. Raises InputError for a model or a folder that does
    not fit, Failure where the disk is full.
    """
    if options.format == "coreai":
        availability.check()
    if options.control and controls is None:
        control_networks.check(model, options.control)
    folder = resolve.model_folder(model)
    about = model_folder.read_model_json(folder)
    if about.get("quantization"):
        raise InputError(f"{model} is quantized; convert it without --quantize, and use --compress here")
    networks = {
        part: model_folder.build(part, config, f"{folder}/model.json: {part}")
        for part, config in about["networks"].items()
    }
    tokens = TokenDiffusion.of(networks, about["scheduler"], f"{folder}/model.json")
    if kit and tokens:
        token_sets.refuse_kit(model)
    stored: dict[str, Any] = {part: model_folder.network_tensors(folder, part, about["version"]) for part in networks}
    schemes.check_model(options.compress, model_folder.model_hash(about))
    controls = _controls(options, networks, model) if controls is None and not tokens else controls or []
    items = plan(networks, options, model, controls)
    for source in controls:
        networks[source.part], stored[source.part] = source.network(), source.tensors(stored["unet"])
    settings = kit.settings(about, options.branch if _is_cut(items) else None) if kit else []
    names = [name for item in items for name in (item.pieces or (item.name,))]
    _refuse_existing(out, names, options.format, force, bool(kit))
    _check_space(out, sum(weight_bytes(stored[item.part], options) for item in items), options.format)
    descriptions: dict[str, Any] = {}
    with _beside(out) as home:
        for item in items:
            if options.format == "coreai":
                written = iter([(item.name, assets.write(item, folder, options, home, model, controls))])
            else:
                from . import packages  # coremltools takes seconds to import

                written = packages.write(item, networks[item.part], stored[item.part], home, options)
            for name, description in written:
                descriptions[name] = description
                report(info.summary(name, description))
        content = info.describe(model, about, networks, folder, asdict(options), descriptions, tokens)
        content["compression"] = schemes.record(options.compress)
        content["controls"] = {source.name: source.describe() for source in controls}
        if controls:
            content["how"] = [*content["how"], *info.control_instructions(options.format)]
        tokenizer = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder / "tokenizer_2"
        if options.format == "coreai":
            _write_beside_assets(home, out.name, content, networks, tokenizer, report)
        else:
            _write_vocabulary(tokenizer, home)
        if settings:
            from .kit.write import write as write_kit  # not for --help

            write_kit(home / kit_folder.FOLDER, model, settings, _packages_of(items, options))
            report(f"{kit_folder.FOLDER}: {len(settings)} tables and a golden picture")
        if sys.platform == "darwin" and options.format == "coreml":
            packages.compile(home, descriptions)
        hashed = {f"{name}{SUFFIX}/{BYTECODE}": d["sha256"] for name, d in descriptions.items() if "sha256" in d}
        content["files"] = manifest.describe(home, hashed)
        (home / "info.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return content


def _controls(options: Options, networks: Mapping[str, Any], model: str) -> list[ControlSource]:
    """Returns the control networks to export; InputError for one that does not fit the model."""
    if not options.control or "vae" not in networks or not networks.keys() & {*model_folder.TEXT}:
        return []  # the plan refuses models without a prompt
    return control_networks.load(options.control, networks["unet"].config, networks["vae"].config, model)


def _is_cut(items: Sequence[Item]) -> bool:
    """Returns whether there is a shallow half of the UNet, without which nothing is cached."""
    return any(entry.role == "unet_shallow" for item in items for entry in item.functions.values())


def _packages_of(items: Sequence[Item], options: Options) -> kit_folder.Packages:
    """Returns what a kit has to know of the packages; its picture has the first of their sizes."""
    size = next(entry.size for item in items for entry in item.functions.values() if entry.size)
    return kit_folder.Packages(size, options.branch, options.dtype, options.compress, options.format)


def _write_beside_assets(
    home: Path, name: str, content: dict[str, Any], networks: Mapping[str, Any], tokenizer: Path, report: Report
) -> None:
    """Writes the tokenizer, metadata.json where Apple's package runs the model, and info.json's content into assets."""
    from .coreai.asset import write_metadata  # coreai-core, an extra

    (home / stock.TOKENIZER).mkdir()
    _write_vocabulary(tokenizer, home / stock.TOKENIZER)
    if obstacle := stock.obstacle(networks, content):
        report(f"no {stock.METADATA} for Apple's package coreai-models: {obstacle}")
    else:
        stock.write(home, name, content)
    for asset in content["packages"]:
        write_metadata(home / f"{asset}{SUFFIX}", content)


def _write_vocabulary(tokenizer: Path, home: Path) -> None:
    vocabulary, merges = bpe(tokenizer)
    (home / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (home / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _refuse_existing(out: Path, packages: list[str], format: str, force: bool, kit: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder")
    names = [f"{name}{piece}{suffix}" for name in packages for piece in ("", "Part1") for suffix in SUFFIXES]
    names += [*_files(format), *([kit_folder.FOLDER] if kit else [])]
    existing = [name for name in names if (out / name).exists()]
    for folder, words in ((stock.TOKENIZER, "the tokenizer's folder"), (control_networks.FOLDER, "a folder of it")):
        used = format == "coreai" if folder == stock.TOKENIZER else any("/" in name for name in packages)
        if used and (out / folder).is_file():
            raise InputError(f"{out / folder} is a file; {words} has this name: choose another --out")
    if existing and not force:
        raise InputError(
            f"{out} has {', '.join(existing[:3])} already; --force replaces the files and packages of an export"
        )
    if kit and (out / kit_folder.FOLDER).exists() and not kit_folder.is_kit(out / kit_folder.FOLDER):
        raise InputError(f"{out / kit_folder.FOLDER} is no kit of an export; choose another --out, or move it away")


def _files(format: str) -> tuple[str, ...]:
    """Returns the files beside the packages of an export."""
    vocabulary = ("vocab.json", "merges.txt")
    if format == "coreai":
        return (*(f"{stock.TOKENIZER}/{name}" for name in vocabulary), stock.METADATA, "info.json")
    return (*vocabulary, "info.json")


def _check_space(out: Path, size: int, format: str) -> None:
    home = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(home).free
    copies = 2 if format == "coreml" else 1  # coremltools writes a second copy of each package while it saves
    if copies * size > free:
        raise InputError(f"{home} has {free / 1e9:.1f} GB free; the export needs about {copies * size / 1e9:.1f} GB")


def _packages_before(out: Path) -> list[str]:
    """Returns packages, files and kit of an earlier export in `out`: beside the new ones they would mislead an app."""
    if not (out / "info.json").is_file():
        return []
    content = info.read(out)
    format = next(name for name, title in info.FORMATS.items() if title == content["format"])
    kit = [kit_folder.FOLDER] if kit_folder.is_kit(out / kit_folder.FOLDER) else []
    return [*kit, *(f"{name}{suffix}" for name in content["packages"] for suffix in SUFFIXES), *_files(format)]


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Yields a folder beside `out` whose entries move into `out` when the block succeeds; removes it in any case."""
    try:
        with temporary_folder(out) as home:
            yield home
            with interrupt.deferred():  # Ctrl-C waits; what ends the process leaves a folder without info.json
                _replace(home, out)
    except OSError as error:
        if error.errno == ENOSPC:
            raise Failure(f"{out}: no space is left; nothing was written") from None
        raise Failure(f"{error.filename or out} failed: {error.strerror}") from None


def _replace(home: Path, out: Path) -> None:
    """Removes an earlier export from `out`, and moves what is in `home` there."""
    out.mkdir(exist_ok=True)
    before = _packages_before(out)
    for name in sorted(before, key=_marks):
        _remove(out / name)
    for name in (control_networks.DEEPCACHE, control_networks.FOLDER):  # no empty folders of an export stay
        if any(file.startswith(f"{name}/") for file in before):
            with suppress(OSError):
                (out / name).rmdir()
    _move_into(home, out)


def _marks(name: str) -> int:
    """Returns the order in which an earlier export is removed: first what says that it is there; and written last."""
    return {"info.json": 0, stock.METADATA: 1}.get(name, 2)


def _move_into(home: Path, out: Path) -> None:
    """Moves packages and files from one folder into another; what else is in folders of `_SHARED` stays."""
    for path in sorted(home.iterdir(), key=lambda path: (-_marks(path.name), path)):
        old = out / path.name
        if path.name in _SHARED:
            old.mkdir(exist_ok=True)
            _move_into(path, old)
            continue
        _remove(old)
        path.replace(old)


def _remove(path: Path) -> None:
    """Removes a package or file, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
