"""Writes tests/goldens: what diffusers, transformers and the authors' DeepCache compute on the tiny families.

Run as `python -m tests.make_goldens` where those are installed, after a new sampler or family.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from tests.support import families, reference, reference_unprompted, unprompted
from tests.support.families import FAMILIES, UNETS

OUT = Path(__file__).parent.parent / "goldens"


def saved_shapes(network: Any) -> dict[str, list[int]]:
    """Names and shapes as the network's own save_pretrained writes them."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        (file,) = Path(folder).glob("*.safetensors")
        with safe_open(file, "numpy") as f:
            return {name: list(f.get_slice(name).get_shape()) for name in sorted(f.keys())}


def of_networks(folder: Path, parts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in [p for p in parts if p.startswith("text_encoder")]:
        ids = reference.tokens(folder / part.replace("text_encoder", "tokenizer"), [families.PROMPT, ""])
        hidden, normalised, pooled = reference.text(parts[part], ids)
        found |= {f"{part}/ids": np.array(ids), f"{part}/hidden": hidden[-2]}
        found |= {f"{part}/last": normalised, f"{part}/pooled": pooled}
    found["unet"] = reference.unet(parts["unet"], families.unet_inputs(dict(parts["unet"].config)))
    found["vae/mean"], found["vae/log_variance"] = reference.encode(parts["vae"], families.image())
    found["vae/image"] = reference.decode(parts["vae"], families.small_latents())
    return found


def of_samplers(name: str, folder: Path, parts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    beside = families.beside() if name == "inpaint9" else None
    for sampler, schedule in families.sampled(name):
        made = reference.scheduler(FAMILIES[name]["scheduler"], sampler, schedule)
        found[f"latents/{sampler}/{schedule}"] = reference.guided(folder, parts, made, families.noise(), beside=beside)
    for sampler, interval, branch in families.cached(name):
        made = reference.scheduler(FAMILIES[name]["scheduler"], sampler)
        latents = reference.cached(folder, parts, made, families.noise(), interval, branch, beside=beside)
        found[f"deepcache/{sampler}/{interval}:{branch}"] = latents
    return found


def of_unprompted() -> None:
    """The same of models that take no prompt: shapes, networks, and what their pipelines make."""
    shapes: dict[str, Any] = {"unets": {}, "vqs": {}}
    arrays: dict[str, Any] = {}
    for name, config in unprompted.UNETS.items():
        network = reference_unprompted.module("unet", config)
        shapes["unets"][name] = saved_shapes(network)
        arrays[f"unet/{name}"] = reference_unprompted.unet(network, unprompted.unet_inputs(config))
    for name, config in unprompted.VQS.items():
        network = reference_unprompted.module("vae", config)
        shapes["vqs"][name] = saved_shapes(network)
        found = network.encode(reference.first(families.image())).latents
        arrays[f"vq/{name}/latents"] = reference.last(found)
        arrays[f"vq/{name}/image"] = reference.last(network.decode(found).sample)
    for name, configs in unprompted.FAMILIES.items():
        parts = reference_unprompted.modules(name)
        shapes[name] = {place: saved_shapes(network) for place, network in parts.items()}
        with tempfile.TemporaryDirectory() as temporary:
            folder = unprompted.write_folder(name, shapes[name], Path(temporary) / name)
            if name in unprompted.WITHOUT_CONDITION:
                arrays[f"pictures/{name}"] = reference_unprompted.pictures(folder, families.SEED, 2, 5)
        if name == "classes":
            made = reference.scheduler(configs["scheduler"])
            arrays["guided"] = reference_unprompted.guided(parts["unet"], made, [1, 4], 3.0, unprompted.noise(), 10)
    np.savez_compressed(OUT / "unprompted.npz", **arrays)
    _write_shapes(OUT / "unprompted.json", shapes)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    shapes: dict[str, Any] = {"unets": {}}
    for name in FAMILIES:
        parts = reference.modules(name)
        shapes[name] = {part: saved_shapes(network) for part, network in parts.items()}
        with tempfile.TemporaryDirectory() as temporary:
            folder = families.write_folder(name, shapes[name], Path(temporary) / name)
            arrays = of_networks(folder, parts) | of_samplers(name, folder, parts)
        np.savez_compressed(OUT / f"{name}.npz", **arrays)
        print(name, len(arrays), "arrays")
    outputs = {}
    for name, config in UNETS.items():
        network = reference.module("unet", config)
        shapes["unets"][name] = saved_shapes(network)
        outputs[name] = reference.unet(network, families.unet_inputs(config))
        outputs[f"{name}/odd"] = reference.unet(network, families.unet_inputs(config, (5, 7)))
    np.savez_compressed(OUT / "unets.npz", **outputs)
    _write_shapes(OUT / "shapes.json", shapes)
    of_unprompted()


def _write_shapes(path: Path, shapes: dict[str, Any]) -> None:
    text = json.dumps(shapes, separators=(",", ":")).replace('},"', '},\n"')
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
