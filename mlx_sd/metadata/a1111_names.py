"""Names of samplers and schedules in A1111's web UI and here."""

from collections.abc import Mapping
from typing import Any

# Ours -> A1111's. Those that A1111 has no equal of keep our names: its DPM++ 3M SDE, DPM++ 2S a and DPM2 are others.
SAMPLERS: Mapping[str, str] = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "ddim": "DDIM",
    "plms": "PLMS",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
}
SDE_HEUN = "DPM++ 2M SDE Heun"  # of dpmpp_2m_sde with kind "heun"
EDM = {1: "Euler", 2: "Heun"}  # of edm, by its order: they take churn

SCHEDULES: Mapping[str, str] = {
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "beta": "Beta",
    "ays": "Align Your Steps",
    "simple": "Simple",
    "normal": "Normal",
    "linspace": "Uniform",
    "leading": "DDIM",
}


def sampler_name(settings: Mapping[str, Any]) -> str:
    """Returns A1111's name of the sampler in a JSON object of settings."""
    name = str(settings.get("sampler"))
    if name == "edm":
        return EDM.get(settings.get("order") or 2, name)
    if name == "dpmpp_2m_sde" and settings.get("kind") == "heun":
        return SDE_HEUN
    return SAMPLERS.get(name, name)


def schedule_name(settings: Mapping[str, Any]) -> str:
    """Returns A1111's name of the schedule in a JSON object of settings."""
    name = str(settings.get("schedule"))
    return SCHEDULES.get(name, name)
