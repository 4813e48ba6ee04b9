"""Forms are read to their end or not at all, within bounds, and leave no open file."""

import gc
import json
import warnings

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_sd.studio.forms import FIELDS, FILES, form_of
from mlx_sd.studio.guard import Guard, Policy, problems
from tests.studio.asgi import ask

PATH = "/v1/images/edits"


async def sizes(request: Request) -> Response:
    async with form_of(request) as form:
        return JSONResponse({name: len(part) if isinstance(part, str) else part.size for name, part in form.items()})


APP = Starlette(
    routes=[Route(PATH, sizes, methods=["POST"])],
    middleware=[Middleware(Guard, policy=Policy())],
    exception_handlers=problems.handlers(),
)


def part(name: str, content: bytes, file: bool = False) -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"' + ('; filename="a.png"' if file else "")
    return head.encode() + b"\r\n\r\n" + content + b"\r\n"


END = b"--xyz--\r\n"


def post(body: bytes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = ask(APP, "POST", PATH, {"content-type": "multipart/form-data; boundary=xyz"}, body)
        gc.collect()  # a file that was left open would warn here
    return answer


def test_a_form_is_read_with_its_files():
    answer = post(part("prompt", b"a tent") + part("image", bytes(3 << 20), file=True) + END)
    assert (answer.status, json.loads(answer.body)) == (200, {"prompt": 6, "image": 3 << 20})


DAMAGED = {
    "no end": part("prompt", b"a") + part("image", bytes(2 << 20), file=True)[:-100],
    "an end in a head": part("prompt", b"a") + b"--xyz\r\nContent-Disp",
    "nothing": b"--xyz",
    "another boundary": part("prompt", b"a").replace(b"xyz", b"abc") + END,
    "no name": b"--xyz\r\nContent-Disposition: form-data\r\n\r\na\r\n" + END,
    "too many files": b"".join(part(f"f{i}", b"a", file=True) for i in range(FILES + 1)) + END,
    "too many fields": b"".join(part(f"f{i}", b"a") for i in range(FIELDS + 1)) + END,
    "a field that is too long": part("prompt", bytes(2 << 20)) + END,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_form_is_one_line_and_leaves_no_open_file(name):
    answer = post(DAMAGED[name])
    assert answer.status == 400 and "form" in answer.message and "\n" not in answer.message
