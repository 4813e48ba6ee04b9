"""Answers in the form of A1111's API: pictures with the info of all of them, and errors."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from ....core.errors import InputError
from ....metadata import picture_file
from ....metadata.a1111_names import labels
from ....metadata.to_a1111 import written
from ...guard import problems
from ..request_error import RequestError

_PATH = "/sdapi/"  # whose errors have the shape of A1111's


def info(pngs: Sequence[bytes], parameters: Mapping[str, Any], timestamp: str, ignored: Sequence[str]) -> str:
    """Returns the info of pictures as A1111 has it: a text of JSON. parameters: the client's, for what none says.

    ignored: what has no equal here; it is a key of our own, where there is any.
    """
    texts = [picture_file.read_header(io.BytesIO(png), "a picture").texts for png in pngs]
    records = [json.loads(entry.get(picture_file.SETTINGS, "{}")) for entry in texts]
    first = records[0] if records else {}
    prompts = [written(record.get("prompt") or "", record) for record in records]
    negatives = [written(record.get("negative") or "", record) for record in records]
    seeds = [record.get("seed", -1) for record in records]
    values: dict[str, Any] = {
        "prompt": prompts[0] if prompts else parameters.get("prompt", ""),
        "all_prompts": prompts,
        "negative_prompt": negatives[0] if negatives else parameters.get("negative_prompt", ""),
        "all_negative_prompts": negatives,
        "seed": seeds[0] if seeds else -1,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(seeds),
        "subseed_strength": 0,
        "width": first.get("width"),
        "height": first.get("height"),
        "sampler_name": labels(first)[0] if first else parameters.get("sampler_name"),
        "cfg_scale": first.get("guidance"),
        "steps": first.get("steps"),
        "batch_size": parameters.get("batch_size"),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": first.get("model", "").rpartition("/")[2],
        "sd_model_hash": (first.get("checkpoint_hash") or "")[:10] or first.get("model_hash"),
        "denoising_strength": first.get("strength"),
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [entry.get(picture_file.PARAMETERS, "") for entry in texts],
        "styles": parameters.get("styles") or [],
        "job_timestamp": timestamp,
        "clip_skip": first.get("clip_skip", 0) + 1,
        "is_using_inpainting_conditioning": False,
    }
    return json.dumps({**values, "ignored": list(ignored)} if ignored else values)


def base64_of(data: bytes) -> str:
    """Returns bytes in base64, without the start of a data: URL, as A1111 sends pictures."""
    return base64.b64encode(data).decode("ascii")


def error_response(problem: Exception) -> Response:
    """Returns the answer to an error of ours: wrong input is 422, a full queue 429."""
    headers = problems.retry_headers(problem)
    status = 429 if headers else 422 if isinstance(problem, InputError) else 503
    if isinstance(problem, RequestError) and problem.status != HTTPStatus.BAD_REQUEST:
        status = problem.status
    return problems.response(_PATH, status, str(problem), headers=headers)
