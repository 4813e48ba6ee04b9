"""Keyword arguments of public functions: prompts and classes in any form, and errors for unknown ones."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from .core.suggestions import did_you_mean
from .request import SETTINGS, Request
from .spellings import COUNT_ALIASES

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def suggests_keywords(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Returns the function with a TypeError for unknown keywords that says which one was probably meant."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Returned:
        """Checks the keywords before the call."""
        for keyword in keywords:
            if keyword not in names:
                suggestion = _translation(keyword, names) or did_you_mean(keyword, names)
                suggestion = suggestion or f" there are {', '.join(names)}"
                raise TypeError(f"{function.__name__}() has no argument {keyword!r};{suggestion}")
        return function(*arguments, **keywords)

    return checked


def _translation(keyword: str, names: Sequence[str]) -> str:
    """Returns " here it is 'NAME'" where other tools call one of `names` so, or nothing."""
    aliases = {field: [*setting.aliases.split(), *setting.false_friends] for field, setting in SETTINGS.items()}
    for field, others in {**aliases, "count": COUNT_ALIASES.split()}.items():
        if keyword.replace("_", "-") in others:
            for name in (field, *others):
                if name in names:
                    return f" here it is {name!r}"
    return ""


def subjects(
    request: Request, prompt: str | Sequence[str] | None, classes: int | str | Sequence[int | str] | None
) -> list[Request]:
    """Returns a request for each prompt or class."""
    if classes is not None:
        labels = [classes] if isinstance(classes, (int, str)) else list(classes)
        texts = [None] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        return [request.with_values(prompt=texts[0] if texts else None, class_label=label) for label in labels]
    if prompt is None:
        return [request]
    return [request.with_values(prompt=text) for text in ([prompt] if isinstance(prompt, str) else prompt)]
