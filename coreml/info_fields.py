"""The fields of info.json that are looked up in it: their types, and that its parts name each other rightly."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from mlx_sd.checkpoint.model_folder import TEXT
from mlx_sd.core.errors import InputError
from mlx_sd.discrete.calls import NAMES
from mlx_sd.discrete.corruption import KINDS
from mlx_sd.networks.configs import TextConfig, vae_config
from mlx_sd.networks.control_config import ControlConfig
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.sampling.scheduler import Scheduler

from . import manifest
from .lowering.attention import ATTENTIONS

Check = Callable[[Any, str], None]  # check(value, name of its field) raises InputError, which names the field

_LARGEST = 1 << 20  # no size, width or count of a model is larger
_KINDS = ("conv2d", "linear", "attention")  # of operations that multiply and accumulate
_TYPES = ("float16", "float32", "int32")  # of ports


def check_packages(info: Mapping[str, Any], core_ai: bool) -> None:
    """Raises InputError for the first field of packages and options that is missing or has a value of another kind.

    core_ai: they are of assets, of which more is looked up than of packages. The message begins with the field's name.
    """
    _fields(_packages(core_ai))(info, "")
    for name, package in info["packages"].items():
        if not manifest.is_inside(name):
            raise InputError(f"packages: {name!r} is no name of a package")
        for function, description in package["functions"].items():
            if unknown := [state for state in description.get("states", ()) if state not in description["inputs"]]:
                raise InputError(f"packages.{name}.functions.{function}.states: {unknown[0]} is no input")


def check(info: Mapping[str, Any], core_ai: bool) -> None:
    """Raises InputError as `check_packages` does, for all fields of an info.json."""
    check_packages(info, core_ai)
    of_tokens = "tokens" in info
    _fields(_OF_TOKENS if of_tokens else _OF_LATENTS)(info, "")
    if of_tokens != ("token_states" in info["networks"]["unet"]):
        raise InputError("networks.unet has token_states where there are tokens, and only there")
    _check_roles(info, "tokens" if of_tokens else "sample")
    texts = [part for part in TEXT if part in info["networks"]]
    if len(texts) != len(info["tokenizers"]):
        raise InputError(f"tokenizers: there are {len(info['tokenizers'])} for {len(texts)} text encoders")


def _check_roles(info: Mapping[str, Any], divided: str) -> None:
    """Raises InputError for a role whose functions are not in the packages, or lack the input that is divided."""
    for size, roles in info["roles"].items():
        sides = size.split("x")
        if size != "any" and not (len(sides) == 2 and all(side.isdecimal() and int(side) for side in sides)):
            raise InputError(f"roles: {size!r} is no size; sizes are written WIDTHxHEIGHT")
        for role, steps in roles.items():
            ports: dict[str, Any] = {}
            for step in steps:
                package, function = step if len(step) == 2 else ("", "")
                if function not in info["packages"].get(package, {"functions": {}})["functions"]:
                    raise InputError(f"roles.{size}.{role} has {step}, which is no function of a package")
                ports |= info["packages"][package]["functions"][function]["inputs"]
            if role.startswith(("unet", "control:", "control_shallow:")) and divided not in ports:
                raise InputError(f"roles.{size}.{role}: its functions have no input {divided}")


def _fields(entries: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Returns the check of an object with these fields; others may be there."""

    def fields(value: Any, name: str) -> None:
        """Checks the fields of an object."""
        _need(isinstance(value, Mapping), value, name, "an object")
        for field, entry in {**entries, **(optional or {})}.items():
            inner = f"{name}.{field}" if name else field
            if field in value:
                entry(value[field], inner)
            elif field in entries:
                raise InputError(f"{inner} is missing")

    return fields


def _named(entry: Check) -> Check:
    """Returns the check of an object whose names are not known before."""

    def named(value: Any, name: str) -> None:
        """Checks the entries of an object."""
        _need(isinstance(value, Mapping), value, name, "an object")
        for field, content in value.items():
            entry(content, f"{name}.{field}")

    return named


def _listed(entry: Check, least: int = 0) -> Check:
    """Returns the check of a list of at least that many entries."""

    def listed(value: Any, name: str) -> None:
        """Checks the entries of a list."""
        words = f"a list of at least {least}" if least else "a list"
        _need(isinstance(value, list | tuple) and len(value) >= least, value, name, words)
        for i, content in enumerate(value):
            entry(content, f"{name}[{i}]")

    return listed


def _integer(least: int, largest: int = _LARGEST) -> Check:
    """Returns the check of a whole number from `least` to `largest`."""

    def integer(value: Any, name: str) -> None:
        """Checks a whole number."""
        good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= largest
        _need(good, value, name, f"a whole number from {least} to {largest}")

    return integer


def _one_of(*values: str) -> Check:
    return lambda value, name: _need(value in values, value, name, f"one of {', '.join(values)}")


def _or_null(entry: Check) -> Check:
    def nullable(value: Any, name: str) -> None:
        """Checks what is not null."""
        if value is not None:
            entry(value, name)

    return nullable


def _text(value: Any, name: str) -> None:
    _need(isinstance(value, str), value, name, "text")


def _flag(value: Any, name: str) -> None:
    _need(isinstance(value, bool), value, name, "true or false")


def _object(value: Any, name: str) -> None:
    _need(isinstance(value, Mapping), value, name, "an object")


def _macs(value: Any, name: str) -> None:
    _named(_integer(0, 1 << 62))(value, name)
    for kind in value:
        _need(kind in _KINDS, kind, name, f"of {', '.join(_KINDS)}")


def _config(read: Callable[..., Any], also: Check | None = None) -> Check:
    """Returns the check of a config of Hugging Face, which `read`(values, where) makes a dataclass of.

    also: a check of that dataclass, whose fields are of their types.
    """

    def config(value: Any, name: str) -> None:
        """Reads the config, and looks at the numbers that came of it."""
        _object(value, name)
        _check_numbers(value, name)  # before anything is made in such a number
        try:
            result = read(value, name)
            _check_types(result, name)
            if also:
                also(result, name)
        except InputError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError):
            raise InputError(f"{name} has a field of another type, or of another length") from None

    return config


def _check_betas(scheduler: Scheduler, where: str) -> None:
    """Raises InputError where betas are no variances, or not one for each timestep."""
    steps, betas = scheduler.num_train_timesteps, scheduler.trained_betas
    if steps < 1 or (betas is not None and len(betas) != steps):
        raise InputError(f"{where}: {steps} timesteps and {'no' if betas is None else len(betas)} betas do not fit")
    for beta in betas or (scheduler.beta_start, scheduler.beta_end):
        if not 0 <= beta < 1 and not (betas and beta == 1):  # 1 is nothing but noise
            raise InputError(f"{where}: betas are from 0 to below 1, not {beta}")


def _check_numbers(value: Any, name: str) -> None:
    """Raises InputError for a whole number in a config that no network has."""
    if isinstance(value, Mapping | list):
        for field, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            _check_numbers(entry, f"{name}.{field}")
    elif isinstance(value, int):
        _need(abs(value) <= _LARGEST, value, name, f"at most {_LARGEST}")


def _check_types(config: Any, name: str) -> None:
    """Raises InputError for a field of a dataclass that is not of its declared type, or a number out of all range."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        words = str(field.type) if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        _need(_is_of(value, hints[field.name]), value, f"{name}: {field.name}", f"a usable {words}")


def _is_of(value: Any, hint: Any) -> bool:
    """Returns whether a value is of a declared type, with numbers that a network can have."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_of(value, choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_is_of(entry, get_args(hint)[0]) for entry in value)
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):  # a NamedTuple
        hints = get_type_hints(type(value))
        return isinstance(value, hint) and all(_is_of(getattr(value, field), hints[field]) for field in hints)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return not isinstance(hint, type) or isinstance(value, hint)


def _need(condition: bool, value: Any, name: str, words: str) -> None:
    """Raises InputError, which says what a field must be, unless the condition holds."""
    if not condition:
        text = repr(value)
        raise InputError(f"{name or 'it'} must be {words}, not {text if len(text) < 40 else text[:36] + ' ...'}")


_PORTS = _named(_fields({"shape": _listed(_integer(1), 1), "dtype": _one_of(*_TYPES)}))
_FUNCTION = {"role": _text, "inputs": _PORTS, "outputs": _PORTS}
_SIZE = {"size": _or_null(_listed(_integer(1), 2))}
_NETWORKS = _fields(
    {"unet": _config(UNetConfig.from_hf), "vae": _config(vae_config)},
    {part: _config(TextConfig.from_hf) for part in TEXT},
)
_CONTROL = _fields(
    {"model": _text, "hash": _text, "config": _config(ControlConfig.from_hf)},
    {"mode": _or_null(_text)},
)


_COMMON: Mapping[str, Check] = {
    "roles": _named(_named(_listed(_listed(_text)))),
    "networks": _NETWORKS,
    "model": _fields({"name": _text, "hash": _text}),
    "deepcache": _fields({"branch": _integer(0)}),
    "tokenizers": _listed(_fields({"length": _integer(3, 1 << 12), "pad": _integer(0)})),
    "pipeline": _object,
    "files": _object,
    "controls": _named(_CONTROL),
}
_OF_LATENTS: Mapping[str, Check] = {
    **_COMMON,
    "latents": _fields({"factor": _integer(1)}),
    "scheduler": _config(Scheduler.from_hf, _check_betas),
}
_OF_TOKENS: Mapping[str, Check] = {
    **_COMMON,
    "tokens": _fields(
        {
            "codebook": _integer(2),
            "states": _integer(2),
            "mask": _or_null(_integer(2)),
            "corruption": _one_of(*KINDS),
            "schedule": _text,
            "steps": _integer(1),
            "factor": _integer(1),
            "sampler": _one_of(*NAMES),
            "samplers": _listed(_one_of(*NAMES), 1),
        }
    ),
    "scheduler": _object,
}


def _packages(core_ai: bool) -> dict[str, Check]:
    """Returns the checks of packages and options."""
    function, package = _fields(_FUNCTION, _SIZE), {}
    options: Check = _fields({}, {"control": _listed(_text)})
    if core_ai:
        function = _fields({**_FUNCTION, "states": _listed(_text), "macs_by_operation": _macs}, _SIZE)
        package = {"sha256": _text}
        options = _fields(
            {
                "dtype": _one_of("float16", "float32"),
                "attention": _one_of(*ATTENTIONS),
                "unets": _listed(_text),
                "branch": _integer(0),
                "batch": _integer(1, 2),
            },
            {"stateful": _flag, "control": _listed(_text), "compress": _or_null(_text)},
        )
    return {
        "packages": _named(_fields({**package, "functions": _named(function)})),
        "options": options,
    }
