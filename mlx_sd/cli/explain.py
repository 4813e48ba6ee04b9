"""--explain-prompt: how a prompt is read, in lines, without making a picture."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..checkpoint.model_folder import TEXT, build, network_configs, read_model_json, tokenizers
from ..core.errors import InputError
from ..prompts import embeddings, script
from ..prompts.chunks import Chunk
from ..prompts.pieces import Section
from ..prompts.splitting import Splitter, by_name
from ..prompts.styles import STYLES
from ..prompts.tokenizer import Tokenizer
from ..prompts.wildcards import expand
from ..request import STEPS, Request
from ..resolve import model_folder
from .prompt_list import Template


def lines_of(templates: Sequence[Template]) -> list[str]:
    """Returns the lines about the prompts of a run; wildcards are those of the first picture's seed."""
    result: list[str] = []
    for template in templates:
        request = template.request
        prompt = request.prompt
        if prompt is not None and template.wildcards:
            prompt = expand(prompt, request.seed or 0)
        result += [*([template.where] if template.where else []), *lines(request, prompt)]
    return result


def lines(request: Request, prompt: str | None) -> list[str]:
    """Returns the lines about a prompt and the negative prompt of a request.

    Only the model's tokenizers are read. InputError for a model without a prompt, and where there is no prompt.
    """
    if prompt is None:
        raise InputError("--explain-prompt: give a prompt")
    if request.coreml:
        raise InputError("--explain-prompt reads the tokenizers of --model; name the model in the place of --coreml")
    folder = model_folder(request.model)
    configs = network_configs(read_model_json(folder))
    networks: dict[str, Any] = {
        part: build(part, config, str(folder)) for part, config in configs.items() if part in TEXT
    }
    if not networks:
        raise InputError("this model takes no prompt, so there is nothing to explain")
    widths = [network.config.width for network in networks.values()]
    vectors = by_name([embeddings.read(entry, widths) for entry in request.embeddings])
    style = STYLES[request.prompt_style]
    splitters = [Splitter(tokenizer, style, vectors) for tokenizer in tokenizers(folder, networks)]
    result = [f"style: {request.prompt_style}"]
    for title, text, composes in (("prompt", prompt, True), ("negative prompt", request.negative, False)):
        if text is not None:
            result += [f"{title}: {text!r}", *_script(text, request, splitters, composes)]
    return result


def _script(text: str, request: Request, splitters: Sequence[Splitter], composes: bool) -> Iterator[str]:
    """Yields lines about each direction and each version of a prompt."""
    read = script.read(text, request.prompt_style, request.steps or STEPS, composes=composes)
    for number, (weight, versions) in enumerate(zip(read.weights, read.versions, strict=True), 1):
        if len(read.weights) > 1:
            yield f"  direction {number} of {len(read.weights)}, weight {weight:g}"
        first = 1
        for version in versions:
            if len(versions) > 1:
                yield f"  steps {first} to {version.last}: {version.text!r}"
            first = version.last + 1
            yield from _text(version.text, STYLES[request.prompt_style].parts(version.text), splitters)


def _text(text: str, parts: Sequence[Any], splitters: Sequence[Splitter]) -> Iterator[str]:
    """Yields lines about the pieces and the chunks of one text."""
    several = len(parts) > 1 or any(len(part.blend.texts) > 1 for part in parts)
    for i, part in enumerate(parts, 1):
        for sections, share in zip(part.blend.texts, part.blend.weights, strict=True):
            if several:
                yield f"    part {i}, weight {part.weight:g}, share {share:.3g}"
            for j, section in enumerate(sections, 1):
                if len(sections) > 1:
                    yield f"    section {j} of {len(sections)}"
                yield from _pieces(section)
            counts = [splitter.chunks(sections) for splitter in splitters]
            for k, splitter in enumerate(splitters):
                if k and [chunk.ids[: chunk.length + 1] for chunk in counts[k]] == [
                    chunk.ids[: chunk.length + 1] for chunk in counts[0]
                ]:
                    continue  # the second encoder's tokens are the first one's
                which = f" of text encoder {k + 1}" if k else ""
                yield from _chunks(counts[k], splitter.tokenizer, which)


def _pieces(section: Section) -> Iterator[str]:
    for piece in section:
        yield f"      {piece.weight:<6.4g} {piece.text!r}"


def _chunks(chunks: Sequence[Chunk], tokenizer: Tokenizer, which: str) -> Iterator[str]:
    room = tokenizer.length - 2
    for i, chunk in enumerate(chunks, 1):
        text = " ".join(chunk.words(tokenizer))
        yield f"    chunk {i} of {len(chunks)}{which}, {chunk.length} of {room} tokens: {text}"
