"""Unknown keyword arguments of public functions: the error names the one that is spelled most alike."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from .core.suggestions import did_you_mean

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
                suggestion = did_you_mean(keyword, names) or f" there are {', '.join(names)}"
                raise TypeError(f"{function.__name__}() has no argument {keyword!r};{suggestion}")
        return function(*arguments, **keywords)

    return checked
