"""Requests that no client would send, to every route of the table: what tests of all routes have in common."""

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.routing import Route

from mlx_sd.request import SETTINGS
from mlx_sd.studio.guard.exchange import Exchange
from tests.studio import hostile
from tests.studio.asgi import scope_of

CANARY = "a-canary-that-no-answer-may-hold"
TRICKS = (
    "..", "../../canary.png", "..%2f..%2fcanary.png", "%2e%2e%2f%2e%2e%2fcanary.png", "%2e%2e", "....//canary.png",
    "..%5c..%5ccanary.png", "..\\canary.png", "%00", "canary.png%00.png", "%0a", "%ff", "/etc/passwd",
    "%2fetc%2fpasswd",
    "C:%5cWindows", "~", "~root", "$HOME", "file:%2f%2f%2fetc%2fpasswd", "x" * 900, "%e2%80%ae", "%ef%bc%8e%ef%bc%8e",
    "canary", "canary.png", ".studio", ".studio%2flock", "con", "a" * 32, "0" * 16, "-1", "1e9", "None", "*", "%25",
)  # fmt: skip
NAMES = (
    "../../canary.png", "/etc/passwd", "..\\..\\canary.png", "~/canary.png", "file:///etc/passwd", "http://127.0.0.1:9/a",
    "https://evil.example/a.png", "upload:../../canary", "gallery:../canary.png", "gallery:/etc/passwd", "upload:",
    "gallery:.studio/lock", "upload:" + "a" * 32, "canary\0.png", "x" * 3000, "owner/name", "..", ".", "\u202e",
    "tiny",
    "data:text/html;base64,PGh0bWw+", "data:image/png;base64,AAAA", "alpha", "timesteps=1,2", "a.json",
    "%2e%2e%2fcanary",
)  # fmt: skip
_SMALL = {"prompt": "a red tent", "steps": 2, "width": 64, "height": 64}
_WORDS = """request count client grid order styles hub name negative_prompt cfg_scale sampler_name sampler_index n size
    quality stream partial_images response_format output_format output_compression background user init_images
    denoising_strength inpainting_fill inpaint_full_res mask_blur image images enable_hr hr_scale hr_upscaler batch_size
    n_iter override_settings alwayson_scripts script_name script_args sd_model_checkpoint send_images save_images
    include_init_images resize_mode upscaling_resize upscaler_1 keep x y setting values prompt scheduler styles seed
    subseed tiling restore_faces extra_body"""
_KEYS = (*(description.key or name for name, description in SETTINGS.items()), *_WORDS.split())
_QUERIES = ("after", "limit", "search", "skip_current_image", "a")
_WEIGHTS = {"POST": 6, "PUT": 6, "HEAD": 0.5}  # of routes by their methods; others have 3
_NUMBERS = (0, -1, 1, 2, 8, 63, 64, 65, 4096, 10**6, 2**31, 2**63, 2**64, -(2**63), 0.5, -0.1, 1e-300, 1e308)


class Shot(NamedTuple):
    """One request."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    pattern: str  # of the route


def table(app: Any) -> list[tuple[str, str]]:
    """Returns method and path of every route of an app."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert len(routes) == len(app.routes), "every route is a plain one"
    return [(method, route.path) for route in routes for method in sorted(route.methods or ())]


def value(draw: random.Random, depth: int = 0) -> Any:
    """Returns a value of JSON of any kind, often one that means something."""
    kind = draw.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return draw.choice(_NUMBERS)
    if kind == 1:
        return draw.choice(NAMES)
    if kind == 2:
        return draw.choice([None, True, False, "", {}, []])
    if kind == 3:
        return "".join(chr(draw.choice([draw.randrange(32, 127), draw.randrange(160, 0xD800)])) for _ in range(5))
    if kind == 4:
        return draw.choice(
            ["1", "0.5", "karras", "euler", "1:2", "64x64", "auto", "png", "b64_json", "Latent", "(a:1.2)"]
        )
    if kind == 5:
        return draw.choice([1, 2, 64])
    if kind == 6:
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return settings(draw, depth + 1)


def settings(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """Returns an object of settings, some right and some not."""
    values = dict(_SMALL) if draw.random() < 0.7 else {}
    for _ in range(draw.choice([0, 0, 1, 1, 2, 3])):
        values[draw.choice(_KEYS)] = value(draw, depth)
    return values


def body(draw: random.Random, kinds: Sequence[str]) -> tuple[str, bytes]:
    """Returns a content type that a route takes, and a body that may be of it."""
    kind = draw.choice(list(kinds))
    if kind == "application/json":
        content: Any = settings(draw)
        if draw.random() < 0.6:
            content |= {"request": settings(draw), "client": "a page"}
        data = json.dumps(content).encode()
        chance = draw.random()
        if chance < 0.1:
            data = data[: draw.randrange(len(data))]
        elif chance < 0.2:
            data = json.dumps(value(draw)).encode()
        elif chance < 0.25:
            data = bytes(draw.randrange(256) for _ in range(20))
        return kind, data
    if kind == "multipart/form-data":
        return f"{kind}; boundary=xyz", _form(draw)
    return kind, _picture(draw, kind)


def _picture(draw: random.Random, kind: str = "image/png") -> bytes:
    first = _PICTURES[_ORDER.index(kind)] if draw.random() < 0.7 else draw.choice(_PICTURES)
    data = bytearray(first)
    for _ in range(draw.choice([0, 0, 0, 1, 3])):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data[: draw.randrange(len(data))] if draw.random() < 0.1 else data)


_ORDER = ("image/png", "image/jpeg", "image/webp", "image/gif")
_PICTURES = [
    *(hostile.saved(hostile.picture(), format) for format in ("PNG", "JPEG", "WEBP", "GIF")),
    hostile.saved(hostile.picture("RGBA", (64, 64)), "PNG"),
    b"<svg/>",
    hostile.png(9, 9, before=hostile.chunk(b"tEXt", b"parameters\0a\nSteps: 2, Seed: 1, Sampler: Euler, Size: 64x64")),
]


def _form(draw: random.Random) -> bytes:
    parts = []
    for _ in range(draw.randrange(5) if draw.random() < 0.95 else 60):
        name = draw.choice([*_KEYS, "image", "image[]", "mask", "prompt", "prompt"])
        if name.startswith(("image", "mask")):
            head = f'Content-Disposition: form-data; name="{name}"; filename="../../canary.png"'
            content = _picture(draw)
        else:
            head = f'Content-Disposition: form-data; name="{name}"'
            content = str(value(draw, 3)).encode("utf-8", "replace")
        parts.append(b"--xyz\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + (b"--xyz--\r\n" if draw.random() < 0.9 else b"")


def shot(seed: int, routes: Sequence[tuple[str, str]], ids: Sequence[str] = ()) -> Shot:
    """Returns one request of many; ids: of things that are there."""
    draw = random.Random(seed)
    method, pattern = draw.choices(routes, [_WEIGHTS.get(method, 3) for method, _ in routes])[0]
    target = filled(pattern, lambda: draw.choice(list(ids)) if ids and draw.random() < 0.4 else draw.choice(TRICKS))
    if draw.random() < 0.2:
        target += f"?{draw.choice(_QUERIES)}={draw.choice(TRICKS)}&{draw.choice(_QUERIES)}={draw.choice(TRICKS)}"
    headers: list[tuple[str, str]] = []
    data = b""
    if method in ("POST", "PUT"):
        kinds = Exchange(scope_of(method, pattern, [])).body_kind.types
        kind, data = body(draw, kinds)
        headers.append(("content-type", kind if draw.random() < 0.97 else "text/plain"))
    return Shot(method, target, headers, data, pattern)


def filled(pattern: str, name: Any) -> str:
    """Returns a path of a route, with names in place of its parameters."""
    return "/".join(name() if part.startswith("{") else part for part in pattern.split("/"))
