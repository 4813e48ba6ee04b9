"""What /api/state says: settings and their ranges, names to choose from, what is installed, and the queue."""

from typing import TYPE_CHECKING, Any

from ... import samplers, schedule
from ...discrete import calls, schedules
from ...hires_setting import MODES as HIRES_MODES
from ...request import DTYPES, SETTINGS, SPEEDS
from ...reuse.presets import EMBEDDED, SD, SDXL
from ...setting import Setting

if TYPE_CHECKING:
    from .studio import Studio

_KINDS = {int: "integer", float: "number", bool: "boolean", str: "text", object: "value"}


def of(studio: "Studio") -> dict[str, Any]:
    """Returns the state of a Studio as a JSON object."""
    return {
        "version": studio.settings.version,
        "limits": {**studio.settings.limits.to_json(), "queue": studio.queue.bound},
        "settings": [
            setting_to_json(description.key or name, description)
            for name, description in SETTINGS.items()
            if not description.hidden and name != "coreml"
        ],
        "samplers": list(samplers.names()),
        "schedules": list(schedule.names()),
        "token_samplers": list(calls.NAMES),
        "token_schedules": list(schedules.USUAL),
        "hires_modes": list(HIRES_MODES),
        "dtypes": list(DTYPES),
        "presets": {
            family: {name: _preset(presets[name]) for name in SPEEDS}
            for family, presets in (("embedded", EMBEDDED), ("sd", SD), ("sdxl", SDXL))
        },
        "catalogue": studio.catalog.to_json(),
        "default_model": studio.default_model.id,
        "model": {"loaded": studio.worker.model, "loading": studio.worker.loading},
        "jobs": [job.to_json() for job in studio.queue.listing()],
        "queue": studio.queue.order,
    }


def setting_to_json(name: str, description: Setting) -> dict[str, Any]:
    """Returns what a form needs to know about a setting."""
    bounds = description.range
    return {
        "name": name,
        "kind": _KINDS.get(description.kind, "value"),
        "help": description.help,
        "group": description.group,
        "unit": description.unit,
        "choices": None if description.choices is None else list(description.choices),
        "several": description.repeat,
        "range": None
        if bounds is None
        else {
            "minimum": None if bounds.minimum == -float("inf") else bounds.minimum,
            "maximum": None if bounds.maximum == float("inf") else bounds.maximum,
            "open_minimum": bounds.open_minimum,
            "open_maximum": bounds.open_maximum,
        },
    }


def _preset(preset: Any) -> dict[str, Any]:
    reuse = {name: None if value is None else str(value) for name, value in preset.settings.items()}
    return {**reuse, "steps": preset.steps, "evidence": preset.evidence}
