"""The names of samplers, schedules and noise generators in other programs, and ours for them.

Read are the names of AUTOMATIC1111's web UI (A1111) and its forks, ComfyUI, diffusers (class names), InvokeAI, Apple's
Core ML packages and stable-diffusion.cpp, in any case, with spaces, dashes, underscores or none of them. `canonical`
reads a sampler and a schedule together; `a1111_names` and `a1111_rng` write A1111's.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from ..core.errors import InputError
from ..core.suggestions import unknown
from ..discrete import calls
from ..discrete.schedules import NAMES as TOKEN_SCHEDULES
from ..discrete.schedules import is_name as is_token_schedule
from . import diffusers_classes, samplers, schedules


class Meaning(NamedTuple):
    """A sampler, and what else its name decides; None is left open."""

    sampler: str
    schedule: str | None = None
    kind: str | None = None  # the option of that name: "midpoint" or "heun", of unipc "bh1" or "bh2"


class Choice(NamedTuple):
    """The three settings of a request that names decide, under our names; None is left open."""

    sampler: str | None
    schedule: str | None
    kind: str | None


class NoEqual(NamedTuple):
    """Why a name has no equal here, and the nearest name that has."""

    reason: str
    nearest: str


class _NoEqualError(InputError):
    """A name that is known, and of which there is nothing here."""


NUMPY, TORCH, CUDA = GENERATORS = ("numpy", "torch", "cuda")

# Keys are names as `_key` writes them: in small letters, "+" as "p", nothing between the words.
_SAMPLERS: Mapping[str, Meaning] = {
    "eulera": Meaning("euler_ancestral"),
    "pndm": Meaning("plms"),
    "dpmpp": Meaning("dpmpp_2m"),
    "dpmsolverpp": Meaning("dpmpp_2m"),
    "sdedpmsolverpp": Meaning("dpmpp_2m_sde"),
    "dpmpp2msdegpu": Meaning("dpmpp_2m_sde"),  # "gpu" is where ComfyUI draws the noise
    "dpmpp2msdeheun": Meaning("dpmpp_2m_sde", kind="heun"),
    "dpmpp2msdeheungpu": Meaning("dpmpp_2m_sde", kind="heun"),
    "unipcbh2": Meaning("unipc", kind="bh2"),
    "ddimparallel": Meaning("ddim"),
    "ddpmparallel": Meaning("ddpm"),
}

_SCHEDULES: Mapping[str, str] = {
    "uniform": "normal",  # A1111's and k-diffusion's: timesteps evenly, both ends included
    "discrete": "normal",  # stable-diffusion.cpp's
    "polyexponential": "exponential",  # with the rho of A1111, which is 1
    "ddimuniform": "leading",
    "ddim": "leading",  # A1111's schedule type
    "alignyoursteps": "ays",
    "usekarrassigmas": "diffusers_karras",
    "useexponentialsigmas": "diffusers_exponential",
    "usebetasigmas": "diffusers_beta",
}
_OPEN = ("automatic", "default", "usesamescheduler")  # A1111's words for no choice

# Schedules at the end of a sampler's name, beside those above: A1111's short aliases, and InvokeAI's "_k".
_ENDINGS: Mapping[str, str] = {"ka": "karras", "k": "karras", "sgm": "sgm_uniform"}

# What A1111 takes for the schedule type "Automatic".
_AUTOMATIC: Mapping[str, str] = {
    "dpmpp_2m": "karras",
    "dpmpp_2m_sde": "exponential",
    "ddim": "leading",
    "plms": "leading",
    **dict.fromkeys(("euler", "euler_ancestral", "heun", "lms"), "normal"),
}

_TWICE = "it evaluates the network twice a step"
_ANCESTRAL = f"{_TWICE} and adds fresh noise"
_CFG_PP = "it is made for the guidance CFG++"
_NEWER = "this solver is not implemented"
_NO_SAMPLER: Mapping[str, NoEqual] = {
    "dpmpp3msde": NoEqual("it is of third order and adds fresh noise", "dpmpp_2m_sde"),
    "dpmppsde": NoEqual(_ANCESTRAL, "dpmpp_2m_sde"),
    "dpmsolversde": NoEqual(_ANCESTRAL, "dpmpp_2m_sde"),
    "dpmpp2sancestral": NoEqual(_ANCESTRAL, "euler_ancestral"),
    "dpmpp2sa": NoEqual(_ANCESTRAL, "euler_ancestral"),
    "dpm2": NoEqual(f"{_TWICE}, the second time in the middle", "heun"),
    "kdpm2discrete": NoEqual(f"{_TWICE}, the second time in the middle", "heun"),
    "dpm2ancestral": NoEqual(_ANCESTRAL, "euler_ancestral"),
    "dpm2a": NoEqual(_ANCESTRAL, "euler_ancestral"),
    "kdpm2ancestraldiscrete": NoEqual(_ANCESTRAL, "euler_ancestral"),
    "dpmfast": NoEqual("its steps are groups of one to three evaluations", "dpmpp_2s"),
    "dpmadaptive": NoEqual("it chooses its steps while it runs", "dpmpp_2m"),
    "dpmad": NoEqual("it chooses its steps while it runs", "dpmpp_2m"),
    "heunpp2": NoEqual("it evaluates the network up to three times a step", "heun"),
    "restart": NoEqual("it goes back to higher noise levels several times", "heun"),
    "ipndm": NoEqual("its weights are of even steps, whatever the schedule", "lms"),
    "ipndmv": NoEqual("its weights differ from those of lms", "lms"),
    "eulercfgpp": NoEqual(_CFG_PP, "euler"),
    "eulerancestralcfgpp": NoEqual(_CFG_PP, "euler_ancestral"),
    "dpmpp2mcfgpp": NoEqual(_CFG_PP, "dpmpp_2m"),
    "dpmpp2sancestralcfgpp": NoEqual(_CFG_PP, "euler_ancestral"),
    "ddimcfgpp": NoEqual(_CFG_PP, "ddim"),
    "resmultistep": NoEqual(_NEWER, "dpmpp_2m"),
    "resmultistepcfgpp": NoEqual(_CFG_PP, "dpmpp_2m"),
    "resmultistepancestral": NoEqual(_NEWER, "euler_ancestral"),
    "resmultistepancestralcfgpp": NoEqual(_CFG_PP, "euler_ancestral"),
    "gradientestimation": NoEqual(_NEWER, "lms"),
    "gradientestimationcfgpp": NoEqual(_CFG_PP, "lms"),
    "ersde": NoEqual(_NEWER, "dpmpp_2m_sde"),
    "seeds2": NoEqual(_NEWER, "dpmpp_2m_sde"),
    "seeds3": NoEqual(_NEWER, "dpmpp_2m_sde"),
    "sasolver": NoEqual(_NEWER, "dpmpp_2m_sde"),
    "sasolverpece": NoEqual(_NEWER, "dpmpp_2m_sde"),
    "ddiminverse": NoEqual("it turns pictures into noise", "ddim"),
    "dpmsolvermultistepinverse": NoEqual("it turns pictures into noise", "dpmpp_2m"),
    "flowmatcheulerdiscrete": NoEqual("it is of networks trained on flows, such as Stable Diffusion 3", "euler"),
    "flowmatchheundiscrete": NoEqual("it is of networks trained on flows, such as Stable Diffusion 3", "heun"),
}
_NO_SCHEDULE: Mapping[str, NoEqual] = {
    "kloptimal": NoEqual("its levels are even in the arctangent of sigma", "ays"),
    "karrasexponential": NoEqual("it blends two schedules", "karras"),
    "linearquadratic": NoEqual("it is of video models", "sgm_uniform"),
    "turbo": NoEqual("it is of SD Turbo alone", "trailing"),
    "alignyourstepsgits": NoEqual("its levels are other ones", "ays"),
    "gits": NoEqual("its levels are other ones", "ays"),
    "alignyoursteps11": NoEqual("its levels are other ones", "ays"),
    "alignyoursteps32": NoEqual("its levels are other ones", "ays"),
    "smoothstep": NoEqual("its timesteps follow a smooth step", "beta"),
    "beta57": NoEqual("it is of another beta distribution", "beta"),
}

_A1111_SAMPLERS: Mapping[str, str] = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "edm": "Heun",  # with the keys of Sigma churn
    "lms": "LMS",
    "ddim": "DDIM",
    "plms": "PLMS",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
}
_A1111_SCHEDULES: Mapping[str, str] = {
    **dict.fromkeys(("karras", "diffusers_karras"), "Karras"),
    **dict.fromkeys(("exponential", "diffusers_exponential"), "Exponential"),
    **dict.fromkeys(("beta", "diffusers_beta"), "Beta"),
    **dict.fromkeys(("sgm_uniform", "diffusers_sgm_uniform", "trailing"), "SGM Uniform"),
    "ays": "Align Your Steps",
    "simple": "Simple",
    "normal": "Normal",
    "linspace": "Uniform",
    "leading": "DDIM",
}
_GENERATORS: Mapping[str, str] = {"cpu": TORCH, "gpu": CUDA, "nv": CUDA, "nvidia": CUDA}
_A1111_GENERATORS: Mapping[str, str | None] = {NUMPY: None, TORCH: "CPU", CUDA: "GPU"}


# ------------------------------------------------------------------------------------------------- other names -> ours


def canonical(sampler: str | None, schedule: str | None = None, kind: str | None = None) -> Choice:
    """Returns sampler, schedule and kind under our names: what a sampler's name carries, it sets.

    None is left open, and so is A1111's "Automatic" where it has no fixed meaning. A list ("timesteps=...",
    "sigmas=...") and a .json file stay as they are. Raises InputError for a name that is unknown or has no equal here,
    and where the sampler's name carries another schedule or kind than the other argument. Samplers and schedules of
    tokens have one name each, in every program.
    """
    tokens = None if sampler is None else calls.read_name(sampler)
    if schedule is not None and (tokens or sampler is None) and is_token_schedule(schedule):
        return Choice(tokens, schedule, kind)
    if tokens and schedule is not None:
        raise InputError(f"the sampler {tokens} takes the schedules {', '.join(TOKEN_SCHEDULES)}, not {schedule}")
    if tokens:
        return Choice(tokens, None, kind)
    meaning = None if sampler is None else read_sampler(sampler)
    carried = None if meaning is None else meaning.schedule
    named = None if schedule is None else read_schedule(schedule, None if meaning is None else meaning.sampler)
    if carried and named not in (None, carried) and _key(schedule or "") not in _OPEN:
        raise InputError(f"the sampler {sampler!r} names the schedule {carried}, not {schedule}; leave one of them out")
    if meaning is None:
        return Choice(None, named, kind)
    if meaning.kind and kind not in (None, meaning.kind):
        raise InputError(f"the sampler {sampler!r} names the kind {meaning.kind}, not {kind}; leave one of them out")
    return Choice(meaning.sampler, carried or named, kind or meaning.kind)


def read_sampler(name: str) -> Meaning:
    """Returns the sampler that a name of any program means, with what the name decides beside it.

    Raises InputError for a name that is unknown, or that has no equal here; the latter says the nearest and why it is
    not the same.
    """
    if name in samplers.SAMPLERS:
        return Meaning(name)
    table, key = _sampler_table(), re.sub("scheduler$", "", _key(name))
    if key in _schedule_table() and key not in table:
        raise InputError(f"{name!r} is a schedule, not a sampler; give it as the schedule")
    endings = [("", None), *_schedule_table().items(), *_ENDINGS.items()]
    for start in (key, key.removeprefix("k")):  # A1111's k_euler_a
        for ending, schedule in endings:
            stem = start.removesuffix(ending)
            if start.endswith(ending) and stem in table:
                return table[stem]._replace(schedule=schedule)
            _refuse(f"the sampler {name!r}", stem.removesuffix("gpu"), _NO_SAMPLER)
    raise unknown("sampler", name, samplers.names())


def is_sampler(name: str) -> bool:
    """Returns whether a name is one of a sampler, of another program or here, one without an equal included."""
    try:
        read_sampler(name)
    except _NoEqualError:
        return True
    except InputError:
        return False
    return True


def read_schedule(name: str, sampler: str | None = None) -> str | None:
    """Returns the schedule that a name of any program means; None where it leaves the choice open.

    sampler: ours, which decides what A1111's "Automatic" means. A list or a .json file is returned as it is. Raises
    InputError as `read_sampler`.
    """
    if name in schedules.names() or name.partition("=")[0] in schedules.LISTS or name.endswith(".json"):
        return name
    key = re.sub("scheduler$", "", _key(name))
    if key in _OPEN:
        return _AUTOMATIC.get(sampler or "")
    if key in _schedule_table():
        return _schedule_table()[key]
    _refuse(f"the schedule {name!r}", key, _NO_SCHEDULE)
    if is_sampler(name):
        raise InputError(f"{name!r} is a sampler, not a schedule; give it as the sampler")
    raise unknown("schedule", name, schedules.names(), ", or a .json file")


def read_rng(name: str) -> str:
    """Returns the noise generator that a name means: one of GENERATORS, or A1111's CPU, GPU or NV."""
    key = _key(name) if isinstance(name, str) else ""
    if key in GENERATORS or key in _GENERATORS:
        return _GENERATORS.get(key, key)
    raise unknown("rng", str(name), GENERATORS)


# ------------------------------------------------------------------------------------------------- our names -> A1111's


def a1111_names(sampler: str, schedule: str, kind: str | None = None, order: int | None = None) -> tuple[str, str]:
    """Returns A1111's (Sampler, Schedule type) of ours; where it has no equal, our own name.

    kind, order: the options of these names. The nearest of its schedule types stands for one that differs a little
    (leading: DDIM, trailing: SGM Uniform). A list of timesteps or sigmas is "Automatic": A1111 cannot say it.
    """
    label = _A1111_SAMPLERS.get(sampler, sampler)
    if sampler == "dpmpp_2m_sde" and kind == "heun":
        label = "DPM++ 2M SDE Heun"
    if sampler == "edm" and order == 1:
        label = "Euler"
    listed = schedule.partition("=")[0] in schedules.LISTS
    return label, "Automatic" if listed else _A1111_SCHEDULES.get(schedule, schedule)


def a1111_rng(generator: str) -> str | None:
    """Returns A1111's value of RNG for one of GENERATORS; None for numpy, which it does not have.

    GPU is what A1111 takes where a text has no such key.
    """
    return _A1111_GENERATORS[generator]


# ------------------------------------------------------------------------------------------------------------- tables


def _key(name: str) -> str:
    """Returns a name without case and without what separates its words."""
    return re.sub(r"[\s_().-]+", "", name.lower()).replace("+", "p")


def _own(names: Iterable[str]) -> dict[str, str]:
    return {_key(name): name for name in names}


@cache
def _sampler_table() -> dict[str, Meaning]:
    """Returns every name of a sampler, as `_key` writes it, without the schedules that may follow."""
    classes = {_key(name.removesuffix("Scheduler")): entry for name, entry in diffusers_classes.CLASSES.items()}
    by_class = {key: entry.sampler or next(iter(entry.algorithms.values())).sampler for key, entry in classes.items()}
    names = by_class | _own(samplers.names())
    return {key: Meaning(name) for key, name in names.items()} | dict(_SAMPLERS)


@cache
def _schedule_table() -> dict[str, str]:
    """Returns every name of a schedule, as `_key` writes it."""
    return _own(schedules.names()) | dict(_SCHEDULES)


def _refuse(words: str, key: str, table: Mapping[str, NoEqual]) -> None:
    """Raises InputError for a name of which the table says that it has no equal."""
    if key in table:
        reason, nearest = table[key]
        raise _NoEqualError(f"{words} has no equal here: {reason}; the nearest is {nearest}")
