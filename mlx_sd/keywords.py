"""Unknown keyword arguments of public functions: the error names the one that is spelled most alike."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def suggests_keywords(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Returns the function with a TypeError for unknown keywords that says which one was probably meant."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Returned:
        for keyword in keywords:
            if keyword not in names:
                matches = difflib.get_close_matches(keyword, names, n=1)
                suggestion = f"; did you mean {matches[0]}=?" if matches else f"; there are {', '.join(names)}"
                raise TypeError(f"{function.__name__}() has no argument {keyword!r}{suggestion}")
        return function(*arguments, **keywords)

    return checked
