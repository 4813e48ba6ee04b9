"""Whatever follows the flags' grammar becomes a completed request or one line: never a traceback, never a picture."""

import contextlib
import io
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import InputError, StableDiffusion
from mlx_sd.cli import flags, replay
from tests.support import commands

_PARSER = flags.parser(commands.NAME)
# What reads or writes files has tests of its own.
_FILES = {"help", "version", "prompts", "from_image", "output", "preview", "animate", "coreml", "model", "loras"}
_FILES |= {"refiner", "init_image", "mask", "lora_folder"}
_NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "7",
    "0.5",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "999999999999999999999",
    "",
    " ",
    "x",
)
_TEXTS = (
    "karras",
    "DPM++ 2M SDE Karras",
    "euler a",
    "uni_pc",
    "plms",
    "3:1",
    "adaptive:0.1",
    "at=0,2",
    "10,5",
    "9,5,1",
)
_TEXTS += (
    "9,3,0",
    "fp16",
    "int8",
    "fast",
    "cuda",
    "heun",
    "bh2",
    "4:32",
    "unet=8",
    "64x64",
    "1.5,1.6,0.9,0.2",
    "-a",
    "--",
)


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.load("tiny", dtype="float32")


@st.composite
def _options(draw):
    action = draw(st.sampled_from([a for a in _PARSER._actions if a.dest not in _FILES and a.option_strings]))
    others = [name for name, spelling in _PARSER.spellings.items() if spelling.action is action and not spelling.hint]
    name = draw(st.sampled_from([*action.option_strings, *(f"--{other}" for other in others)]))
    if action.nargs == 0:
        return [name]
    value = draw(st.sampled_from([*(action.choices or ()), *_NUMBERS, *_TEXTS]) | st.text(max_size=5))
    return draw(
        st.sampled_from([[name, value], [f"{name}={value}"], [name.replace("-", "_").replace("__", "--", 1), value]])
    )


@given(parts=st.lists(_options(), max_size=4), prompt=st.text(min_size=1, max_size=9), place=st.integers(0, 4))
def test_options_become_a_request_or_one_line(sd, parts, prompt, place):
    words = [word for part in (*parts[:place], [prompt], *parts[place:]) for word in part]
    with contextlib.redirect_stderr(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            completed = sd.complete(replay.request_of(_PARSER.parse_args(words)))
        except SystemExit as stop:
            message = printed.getvalue()
            assert stop.code == 2 and message.count("\n") == 1, message
        except InputError as error:
            assert str(error) and "\n" not in str(error), str(error)
        else:
            assert sd.complete(completed) == completed
