"""What other projects send, as their source has it, and what they read of the answers: replayed against a server.

Each file in sequences/ names the project, the files and the versions that its requests were read from.
"""

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.studio.pictures import png_of
from tests.support.studio import Running, serving

SEQUENCES = sorted((Path(__file__).parent / "sequences").glob("*.json"))


def is_png(value: Any) -> bool:
    with Image.open(io.BytesIO(base64.b64decode(value, validate=True))) as image:
        image.load()
        return image.format == "PNG"


KINDS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str) and bool(value),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
    "json": lambda value: isinstance(json.loads(value), dict),
    "png": is_png,
}
_MISSING = object()


def value_at(answer: Any, path: str) -> Any:
    """Returns what lies at a path such as data.0.b64_json; _MISSING where nothing does."""
    for part in path.split(".") if path else ():
        try:
            answer = answer[int(part)] if isinstance(answer, list) else answer[part]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return answer


def filled(value: Any, saved: Mapping[str, Any]) -> Any:
    """Returns a body with the values that earlier answers had in the place of their names."""
    if isinstance(value, str) and value.startswith("$"):
        return saved[value[1:]]
    if isinstance(value, list):
        return [filled(entry, saved) for entry in value]
    if isinstance(value, dict):
        spread = filled(value["..."], saved) if "..." in value else {}
        return {**spread, **{name: filled(entry, saved) for name, entry in value.items() if name != "..."}}
    return value


def problems(exchange: Mapping[str, Any], answer: Any) -> Iterator[str]:
    """Yields what a project would miss in an answer."""
    for path, demand in exchange["reads"].items():
        value = value_at(answer, path)
        if isinstance(demand, dict):
            if value is _MISSING or value != demand["is"] or type(value) is not type(demand["is"]):
                yield f"{path} is {value!r}, not {demand['is']!r}"
        elif value is _MISSING or not KINDS[demand](value):
            yield f"{path} is no {demand}: {str(value)[:80]}"
    yield from (f"{path} is there" for path in exchange.get("lacks", ()) if value_at(answer, path) is not _MISSING)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("sequences"), token="secret") as running:
        yield running


@pytest.mark.parametrize("file", SEQUENCES, ids=lambda file: file.stem)
def test_the_requests_of_another_project_are_answered_as_it_reads_them(server, file):
    sequence = json.loads(file.read_text(encoding="utf-8"))
    assert all(sequence[name] for name in ("project", "file", "version"))
    image, mask = Image.new("RGB", (64, 64), "teal"), Image.new("RGB", (64, 64))
    mask.paste("white", (0, 0, 64, 32))
    saved = {name: base64.b64encode(png_of(picture)).decode() for name, picture in (("image", image), ("mask", mask))}
    headers = {"authorization": "Basic OnNlY3JldA==", **sequence["headers"]}
    with httpx.Client(base_url=server.address, headers=headers, timeout=120) as client:
        for exchange in sequence["exchanges"]:
            body = {"json": filled(exchange["json"], saved)} if "json" in exchange else {}
            if "form" in exchange:
                files = [
                    (name, ("a.png", png_of(image.resize((32, 32))), "image/png")) for name, _ in exchange["files"]
                ]
                body = {"data": exchange["form"], "files": files}
            answer = client.request(exchange["method"], exchange["path"], **body)
            assert answer.status_code == 200, f"{exchange['path']}: {answer.status_code} {answer.text[:300]}"
            content = answer.json()
            assert [*problems(exchange, content)] == [], exchange["path"]
            saved |= {name: value_at(content, path) for name, path in exchange.get("saves", {}).items()}


def test_an_answer_without_what_a_project_reads_is_found():
    exchange = {"reads": {"a.0": "text", "b": {"is": 0}, "c": "list"}, "lacks": ["d"]}
    assert len([*problems(exchange, {"a": [""], "b": False, "d": 1})]) == 4
    assert [*problems(exchange, {"a": ["x"], "b": 0, "c": []})] == []
