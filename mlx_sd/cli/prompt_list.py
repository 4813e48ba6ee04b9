"""The pictures that a command line lists: its prompt, its classes, or the lines of --prompts."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint.lora import Lora
from ..core.errors import InputError
from ..core.files import is_file
from ..metadata import CALLS_KEY, DEVICE_KEY, VERSION_KEY
from ..prompts import lora_tags
from ..prompts.style_names import A1111, COMFY
from ..request import MODEL, Request, values_from_json

_OBJECT = re.compile(r'\{\s*["}]')  # a line of JSON; {red|blue} is a wildcard
_FILE = re.compile(r"\.(png|jpe?g|webp|gif|txt|jsonl?)$", re.IGNORECASE)
_WEIGHT = re.compile(r"\([^()]+:\s*\d*\.?\d+\s*\)")
_OUTPUT, _COUNT = "output", "count"  # keys beside those of a request
_SCRIPT = re.compile(r"--?(prompt|negative|steps|seed|width|height|sampler|cfg)", re.IGNORECASE)  # as A1111's script
# What --json prints of how a picture was made, which is no setting.
_FACTS = re.compile(
    rf"{VERSION_KEY}|{DEVICE_KEY}|{CALLS_KEY}|animation|made|rank|batch|(full_)?evaluations|(\w+_)?seconds(_median)?"
)
STDIN = Path("-")


class Template(NamedTuple):
    """A request of which so many pictures are made, with seeds from its own up."""

    request: Request
    pictures: int
    wildcards: bool  # whether the prompt's are expanded
    output: str | None = None  # the name that a line of JSON gives
    where: str | None = None  # the file and the line


def templates_of(arguments: argparse.Namespace, request: Request) -> list[Template]:
    """Returns a template for each prompt or class, over the settings of `request`; LoRAs that a prompt names are its.

    Raises InputError where there is none, where there are both, and where a line of --prompts makes no sense.
    """
    return [_with_named_loras(template) for template in _templates(arguments, request)]


def _with_named_loras(template: Template) -> Template:
    """Returns a template whose request has the LoRAs of its prompt among its own, and no longer in the prompt."""
    request = template.request
    if request.prompt is None or request.prompt_style != A1111:
        return template
    try:
        prompt, tags = lora_tags.taken_out(request.prompt)
    except InputError as error:
        raise InputError(f"{template.where or 'the prompt'}: {error}") from None
    if not tags:
        return template
    loras = (*request.loras, *(Lora(tag.name, tag.scale) for tag in tags))
    return template._replace(request=request.with_values(prompt=prompt, loras=loras))


def _templates(arguments: argparse.Namespace, request: Request) -> list[Template]:
    count, wildcards = arguments.count, arguments.wildcards
    if request.class_label is not None:
        if request.prompt is not None or arguments.prompts is not None:
            raise InputError("give a prompt or --class, not both")
        labels = str(request.class_label).split(",")
        return [Template(request.with_values(class_label=label), count, False) for label in labels]
    if arguments.prompt is not None and _FILE.search(arguments.prompt) and is_file(Path(arguments.prompt)):
        raise InputError(
            f"the prompt {arguments.prompt!r} is a file here: --from-image makes a picture again, --init-image begins "
            "with one, and --prompts reads prompts"
        )
    if arguments.prompts is not None:
        if arguments.prompt is not None:
            raise InputError("give a prompt or --prompts, not both")
        return list(_from_file(arguments.prompts, request, count, wildcards))
    if request.prompt is None and request.model == MODEL:
        raise InputError("give a prompt, --prompts FILE or --from-image PNG")
    # A recorded prompt was expanded when its picture was made. Whether a prompt is missing, the model says.
    return [Template(request, count, wildcards and arguments.prompt is not None)]


def remarks_of(templates: Iterable[Template]) -> list[str]:
    """Returns a line for each thing in a prompt that means something in other styles, and is text in its own."""
    lines: dict[str, None] = {}
    for template in templates:
        prompt, style = template.request.prompt or "", template.request.prompt_style
        if style == A1111:
            continue
        where = f"--prompt-style {style}"
        for lora in lora_tags.TAG.finditer(prompt):
            tag = f"{lora['name']}{lora['scales']}"
            lines[f"{lora[0]} in a prompt is text in {where}; --lora {tag} merges it"] = None
        if style != COMFY and (weight := _WEIGHT.search(prompt)):
            lines[f"weights such as {weight[0]} are text in {where}"] = None
    return list(lines)


def _from_file(file: Path, request: Request, count: int, wildcards: bool) -> Iterator[Template]:
    empty = True
    name = "the standard input" if file == STDIN else str(file)
    for place, line in _lines(file, name):
        where, empty = f"{name}, {place}", False
        if _SCRIPT.match(line):
            raise InputError(f'{where}: a line is a prompt, or JSON such as {{"prompt": "a tent", "steps": 30}}')
        if not _OBJECT.match(line):
            text = line.removeprefix("\\") if line.startswith("\\#") else line
            yield Template(request.with_values(prompt=text), count, wildcards, where=where)
            continue
        values = _object(line, where)
        output, number_of_pictures = values.pop(_OUTPUT, None), values.pop(_COUNT, count)
        if output is not None and (not isinstance(output, str) or not output):
            raise InputError(f"{where}: output must be a file name, not {output!r}")
        if not isinstance(number_of_pictures, int) or isinstance(number_of_pictures, bool) or number_of_pictures < 1:
            raise InputError(f"{where}: count must be a whole number from 1, not {number_of_pictures!r}")
        _replace_size(values, where)
        fields = values_from_json(values, where)
        try:
            template = request.with_values(**fields)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        yield Template(template, number_of_pictures, wildcards, output, where)
    if empty:
        raise InputError(f"{name} is empty; give one prompt a line")


def _lines(file: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yields the lines, without comments and empty lines, or the objects of one JSON list, with their places."""
    try:
        content = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{name}, line {number}: not UTF-8; save the file as UTF-8 text") from None
    if (objects := _document(text)) is not None:
        yield from ((f"object {i}", json.dumps(value)) for i, value in enumerate(objects, 1))
        return
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"line {number}", line.strip()


def _document(text: str) -> list[dict[str, Any]] | None:
    """Returns the objects of a text that is one JSON list of objects, as --json prints it; None of any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):  # [red|blue] is a prompt
        return None
    return values if isinstance(values, list) and all(isinstance(value, dict) for value in values) else None


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        raise InputError(
            f"{where}: not JSON ({reason}); an object with prompt, seed, ... in one line, or write the brace as \\{{"
        ) from None
    if not isinstance(values, dict):  # more after the object
        raise InputError(f"{where}: not a JSON object")
    if VERSION_KEY in values or "made" in values:  # printed by --json
        return {key: value for key, value in values.items() if not _FACTS.fullmatch(key)}
    return values


def _replace_size(values: dict[str, Any], where: str) -> None:
    """Replaces a size such as "512x768" by width and height."""
    if (size := values.pop("size", None)) is None:
        return
    match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", size) if isinstance(size, str) else None
    if match is None:
        raise InputError(f'{where}: size is WIDTHxHEIGHT in pixels, for example "512x768", not {size!r}')
    values["width"], values["height"] = int(match[1]), int(match[2])
