"""A1111's lists: what there is to choose from, and what is not here but must be an empty list."""

from __future__ import annotations

import asyncio
import io
import resource
import sys
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .... import memory
from ....checkpoint.control import MAKERS
from ....core.errors import InputError
from ....metadata import infotext, picture_file
from ....metadata.to_a1111 import HIRES
from ....sampling import names, samplers, schedules
from ...models.catalog import ModelEntry
from ...pictures.picture_parts import texts_of
from ...pictures.uploads import content_of
from ...requests.json_text import read_object
from ..answers import studio_of
from ..request_error import RequestError
from .routes import errors_as_a1111, state_of

UPSCALERS = ("None", "Lanczos", "Nearest")  # that need no network
_SCALE = 4  # of an upscaler's network


@errors_as_a1111
async def sd_models(request: Request) -> Response:
    """Answers with the models; their files have names here, and no folders."""
    entries = await asyncio.to_thread(studio_of(request).catalog.models)
    return JSONResponse([_model(entry) for entry in entries])


def _model(entry: ModelEntry) -> dict[str, Any]:
    digest = entry.sha256
    return {
        "title": entry.title,
        "model_name": entry.name,
        "hash": None if digest is None else digest[:10],
        "sha256": digest,
        "filename": entry.path.name,
        "config": None,
    }


@errors_as_a1111
async def sd_vaes(request: Request) -> Response:
    """Answers with the autoencoders that can take the place of a model's own."""
    entries = await asyncio.to_thread(studio_of(request).catalog.vaes)
    return JSONResponse([{"model_name": entry.name, "filename": entry.path.name} for entry in entries])


@errors_as_a1111
async def sampler_list(request: Request) -> Response:
    """Answers with the samplers by A1111's names; those that it has not by ours."""
    labels: dict[str, list[str]] = {}
    for name in samplers.names():
        if name != "edm":  # Heun and Euler with churn, which have A1111's fields for it
            labels.setdefault(names.a1111_names(name, "normal")[0], []).append(name)
    return JSONResponse([{"name": name, "aliases": aliases, "options": {}} for name, aliases in labels.items()])


@errors_as_a1111
async def schedulers(request: Request) -> Response:
    """Answers with the schedules by A1111's labels; those that it has not by our names."""
    labels: dict[str, list[str]] = {"Automatic": []}
    for name in schedules.names():
        label = names.a1111_names("euler", name)[1]
        meant = names.read_schedule(label) if label != name else name
        labels.setdefault(label if meant == name else name, []).append(name)
    return JSONResponse(
        [
            {
                "name": (aliases or ["automatic"])[0],
                "label": label,
                "aliases": aliases,
                "default_rho": schedules.RHO if aliases == ["karras"] else -1,
                "need_inner_model": False,
            }
            for label, aliases in labels.items()
        ]
    )


@errors_as_a1111
async def upscalers(request: Request) -> Response:
    """Answers with what makes finished pictures larger."""
    entries = await asyncio.to_thread(studio_of(request).catalog.upscalers)
    every = [*UPSCALERS, *(entry.name for entry in entries)]
    about = {"model_name": None, "model_path": None, "model_url": None, "scale": _SCALE}
    return JSONResponse([{"name": name, **about} for name in every])


@errors_as_a1111
async def latent_upscale_modes(request: Request) -> Response:
    """Answers with the ways in which hires fix enlarges latents."""
    return JSONResponse([{"name": name} for mode, name in HIRES.items() if mode.startswith("latent")])


@errors_as_a1111
async def loras(request: Request) -> Response:
    """Answers with the LoRAs that prompts may name."""
    entries = await asyncio.to_thread(studio_of(request).catalog.loras)
    named = [(entry.name.rpartition("/")[2], entry) for entry in entries]
    return JSONResponse(
        [{"name": name, "alias": name, "path": entry.path.name, "metadata": {}} for name, entry in named]
    )


@errors_as_a1111
async def embeddings(request: Request) -> Response:
    """Answers with the textual inversions that prompts may name."""
    entries = await asyncio.to_thread(studio_of(request).catalog.embeddings)
    about = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": None, "vectors": None}
    loaded = {entry.name.rpartition("/")[2]: about for entry in entries}
    return JSONResponse({"loaded": loaded, "skipped": {}})


@errors_as_a1111
async def prompt_styles(request: Request) -> Response:
    """Answers with the named styles."""
    styles = await asyncio.to_thread(studio_of(request).styles.listing)
    keys = {"name": "name", "prompt": "prompt", "negative_prompt": "negative"}
    return JSONResponse([{name: style.get(key) or "" for name, key in keys.items()} for style in styles])


@errors_as_a1111
async def refresh(request: Request) -> Response:
    """Looks again at what is installed."""
    await asyncio.to_thread(studio_of(request).catalog.rescan)
    return JSONResponse(None)


@errors_as_a1111
async def memory_use(request: Request) -> Response:
    """Answers with the machine's memory, and the most that the server has used, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    used, total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, memory.available()
    ram = {"free": max(total - used, 0), "used": used, "total": total}
    return JSONResponse({"ram": ram, "cuda": {"error": "there is no CUDA here: MLX makes the pictures"}})


@errors_as_a1111
async def png_info(request: Request) -> Response:
    """Answers with what a picture says about how it was made."""
    image = (await read_object(request)).get("image")
    if not isinstance(image, str) or not image.strip():
        raise RequestError("Image not found", status=404, field="image")
    try:
        texts = await asyncio.to_thread(_texts, image.strip())
    except InputError as error:
        raise RequestError(f"image: {error}", field="image") from None
    text = texts.pop(picture_file.PARAMETERS, "")
    parsed = infotext.parse(text)
    parameters: dict[str, str] = {}
    if parsed is not None:
        parameters = {"Prompt": parsed.prompt, "Negative prompt": parsed.negative, **parsed.values}
    return JSONResponse({"info": text, "items": texts, "parameters": parameters})


def _texts(image: str) -> dict[str, str]:
    """Returns the texts of a picture file in base64; its pixels are not decoded."""
    return picture_file.read(io.BytesIO(texts_of(content_of(image))), "the picture")


@errors_as_a1111
async def interrogate(request: Request) -> Response:
    """Refuses to describe a picture."""
    await read_object(request)
    raise RequestError("Model not found: there is none here that describes pictures", status=404, field="model")


@errors_as_a1111
async def control_models(request: Request) -> Response:
    """Answers with the control networks."""
    entries = await asyncio.to_thread(studio_of(request).catalog.control_networks)
    return JSONResponse({"model_list": [entry.name for entry in entries]})


def _always(value: Any) -> Any:
    """Returns an endpoint that always answers with one value."""

    @errors_as_a1111
    async def answer(request: Request) -> Response:
        state_of(request)
        return JSONResponse(value)

    return answer


_EMPTY: tuple[tuple[str, Any], ...] = (
    ("sd-modules", []),
    ("face-restorers", []),
    ("hypernetworks", []),
    ("realesrgan-models", []),
    ("script-info", []),
    ("extensions", []),
    ("scripts", {"txt2img": [], "img2img": []}),
    ("cmd-flags", {}),
)

ROUTES: list[BaseRoute] = [
    Route("/sdapi/v1/sd-models", sd_models),
    Route("/sdapi/v1/sd-vae", sd_vaes),
    Route("/sdapi/v1/samplers", sampler_list),
    Route("/sdapi/v1/schedulers", schedulers),
    Route("/sdapi/v1/upscalers", upscalers),
    Route("/sdapi/v1/latent-upscale-modes", latent_upscale_modes),
    Route("/sdapi/v1/loras", loras),
    Route("/sdapi/v1/embeddings", embeddings),
    Route("/sdapi/v1/prompt-styles", prompt_styles),
    Route("/sdapi/v1/memory", memory_use),
    Route("/sdapi/v1/png-info", png_info, methods=["POST"]),
    Route("/sdapi/v1/interrogate", interrogate, methods=["POST"]),
    *(Route(f"/sdapi/v1/refresh-{name}", refresh, methods=["POST"]) for name in ("checkpoints", "loras", "vae")),
    *(Route(f"/sdapi/v1/{name}", _always(value)) for name, value in _EMPTY),
    Route("/controlnet/model_list", control_models),
    Route("/controlnet/module_list", _always({"module_list": ["none", *MAKERS]})),
    Route("/controlnet/version", _always({"version": 2})),
]
