"""A1111's text both ways: texts of many versions are read, and what a request says comes back from ours."""

import json
import re
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mlx_sd.core.version import VERSION
from mlx_sd.metadata import infotext
from mlx_sd.metadata.a1111_names import solver_of
from mlx_sd.metadata.from_a1111 import translate
from mlx_sd.metadata.to_a1111 import quoted, to_text
from mlx_sd.request import SETTINGS, Request

TEXTS = json.loads((Path(__file__).parent / "infotexts.json").read_text(encoding="utf-8"))
ABOUT = {"prompt": "a tent", "negative": None, "steps": 3, "sampler": "ddim", "schedule": "leading", "guidance": 2.0}
ABOUT |= {"seed": 0, "width": 8, "height": 8, "model": "models/my.tent", "model_hash": "0123456789ab"}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text["name"])
def test_a_text_becomes_a_request_and_says_what_is_lost(text):
    translation = translate(text["text"])
    settings = {key: value for key, value in translation.settings.items() if value is not None}
    assert settings == text["settings"]
    assert [list(adapter) for adapter in translation.adapters] == text["adapters"]
    remarks = [remark.text for remark in translation.remarks]
    assert len(remarks) == len(text["remarks"]), remarks
    for remark, words in zip(remarks, text["remarks"], strict=True):
        assert words in remark and remark.isprintable()


def test_networks_leave_the_prompt_and_no_scale_is_guessed():
    text = "a <lora:one>, <lora:two:0.5:0.5> <lora:x:0.5:0.8><lyco:three:-1> <b:c>\nSteps: 1, Sampler: Euler, Seed: 1"
    translation = translate(text)
    assert translation.settings["prompt"] == "a ,   <b:c>"
    assert translation.adapters == (("one", 1.0), ("two", 0.5), ("three", -1.0))
    assert [remark.text for remark in translation.remarks] == ["the LoRA <lora:x:0.5:0.8>"]


def test_every_remark_of_a_setting_names_one():
    fields = {remark.field for text in TEXTS for remark in translate(text["text"]).remarks}
    assert fields - {None} <= SETTINGS.keys()


@pytest.mark.parametrize(
    "text",
    ["", "a tent", "Canon EOS 5D, f/2.8", "\n\n", "Steps: 3, Seed: 4", '{"steps": 3, "seed": 4}', "a: b\nc: d\ne: f"],
)
def test_other_texts_say_nothing(text):
    assert translate(text) is None


@given(st.text())
def test_any_text_is_read_or_says_nothing(text):
    for whole in (
        text,
        f"a\nSteps: 3, {text}, Sampler: {text}, Seed: {text}, Size: 1x1",
        f"Steps: 1, a b: {text},c d: 2",
    ):
        translation = translate(whole)
        assert translation is None or all(remark.text.isprintable() for remark in translation.remarks)


@pytest.mark.parametrize(
    "piece", ["a", "a: ", 'ab: "', "ab: [", '"\\', "ab:" + " " * 50, "(", "<lora:", "\n", "Steps:\n"]
)
def test_a_hostile_text_takes_no_long_time(piece):
    """Measured in steps of the worst text that the parser looks at; a quadratic reader would take minutes."""
    translate(f"a\nSteps: 3, Seed: 1, Size: 8x8, {piece * (60000 // len(piece))}")
    translate(piece * 60000 + "\nSteps: 3, Seed: 1, Size: 8x8")


def test_values_in_quotes_and_in_json_keep_their_commas():
    line = r'Steps: 1, Note: "a, b: \"c\"", Hashes: {"model": "a, b: c", "x": [1, 2]}, Open: "a, Size: 8x8, Odd: {1, '
    line += "Last: {}0"
    values = {
        "Steps": "1",
        "Note": 'a, b: "c"',
        "Hashes": '{"model": "a, b: c", "x": [1, 2]}',
        "Open": '"a',
        "Size": "8x8",
    }
    assert infotext.parse(f"a\n{line}").values == values | {"Odd": "{1", "Last": "{}0"}


SOLVERS = {  # A1111's sampler and schedule type -> ours
    ("DPM++ 2M", None): ("dpmpp_2m", "normal", None),
    ("DPM++ 2M", "Automatic"): ("dpmpp_2m", "karras", None),
    ("DPM++ 2M", "karras"): ("dpmpp_2m", "karras", None),
    ("DPM++ 2M Karras", None): ("dpmpp_2m", "karras", None),
    ("DPM++ 2M Karras", "Automatic"): ("dpmpp_2m", "karras", None),
    ("DPM++ 2M Karras", "Exponential"): ("dpmpp_2m", "exponential", None),
    ("DPM++ 2M SDE", "Automatic"): ("dpmpp_2m_sde", "exponential", None),
    ("DPM++ 2M SDE Heun Karras", None): ("dpmpp_2m_sde", "karras", "heun"),
    ("Euler a", "Automatic"): ("euler_ancestral", "normal", None),
    ("k_euler_a", None): ("euler_ancestral", "normal", None),
    ("LMS Karras", None): ("lms", "karras", None),
    ("Euler", "KL Optimal"): ("euler", None, None),
    ("DDIM", "Karras"): ("ddim", "leading", None),
    ("UniPC", "Automatic"): ("unipc", "linspace", None),
    ("LCM", "Automatic"): ("lcm", None, None),
    ("LCM", "SGM Uniform"): ("lcm", "sgm_uniform", None),
    ("DPM2 a Karras", None): (None, None, None),
    ("no such sampler", "Karras"): (None, None, None),
}


@pytest.mark.parametrize("labels", SOLVERS)
def test_names_of_samplers_and_schedules_mean_what_they_meant_in_their_version(labels):
    assert solver_of(*labels)[:3] == SOLVERS[labels]


# ------------------------------------------------------------------------------------------------ ours

_LINE = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20).map(str.strip)
_PROMPT = st.lists(_LINE, max_size=3).map("\n".join).map(str.strip)
_SOLVERS = [
    ("euler", "karras", {}),
    ("euler_ancestral", "normal", {"eta": 0.5}),
    ("heun", "exponential", {}),
    ("lms", "beta", {}),
    ("ddim", "leading", {"eta": 0.25}),
    ("ddim", "sgm_uniform", {}),
    ("plms", "leading", {}),
    ("dpmpp_2m", "ays", {}),
    ("dpmpp_2m", "karras", {"rho": 5.0}),
    ("dpmpp_2m", "timesteps=900,500,20", {}),
    ("dpmpp_2m", "sigmas=14.5,3,0.1,0", {}),
    ("dpmpp_2m_sde", "exponential", {}),
    ("dpmpp_2m_sde", "karras", {"kind": "heun"}),
    ("unipc", "simple", {}),
    ("lcm", "sgm_uniform", {}),
    ("edm", "karras", {"order": 1, "s_churn": 3.0, "s_noise": 1.0}),
    ("edm", "karras", {"order": 2, "s_tmin": 0.5, "s_tmax": 10.0, "s_churn": 1.5}),
    ("deis", "linspace", {}),
    ("dpmpp_3m", "karras", {}),
    ("tcd", "sgm_uniform", {}),
]
_REUSE = [{}, {"deepcache": "3:1"}, {"deepcache": "adaptive:0.1"}, {"tgate": "10,5,1,2"}, {"freeu": "1.5,1.6,0.9,0.2"}]


def _holds(prompt):
    """Whether the text can hold a prompt: it has no line for the other, no network and no word that A1111 reads."""
    return not re.search(r"^\s*Negative prompt:|<\w+:[^<>]+>|\b(AND|BREAK)\b", prompt, re.MULTILINE)


@given(
    prompt=_PROMPT.filter(_holds),
    negative=st.none() | _PROMPT.filter(lambda text: text and _holds(text)),
    solver=st.sampled_from(_SOLVERS),
    seed=st.integers(0, 2**32 - 1),
    sides=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    steps=st.integers(1, 1000),
    guidance=st.floats(-30, 30),
    clip_skip=st.integers(0, 11),
    strength=st.none() | st.floats(0.001, 1),
    mask_blur=st.none() | st.floats(0.001, 64),
    loras=st.lists(st.tuples(st.from_regex(r"[a-z][\w .-]{0,8}[a-z]", fullmatch=True), st.floats(-2, 2)), max_size=2),
    reuse=st.sampled_from(_REUSE),
    rng=st.sampled_from(["numpy", "torch", "cuda"]),
    rescale=st.sampled_from([0.0, 0.7]),
)
def test_what_the_text_holds_of_a_request_comes_back(
    prompt, negative, solver, seed, sides, steps, guidance, clip_skip, strength, mask_blur, loras, reuse, rescale, rng
):
    sampler, schedule, options = solver
    request = Request(
        prompt=prompt,
        negative=negative,
        seed=seed,
        steps=steps,
        guidance=guidance,
        width=8 * sides[0],
        height=8 * sides[1],
        sampler=sampler,
        schedule=schedule,
        clip_skip=clip_skip,
        strength=strength,
        mask_blur=mask_blur,
        guidance_rescale=rescale,
        rng=rng,
        loras=[(f"folder/{name}.safetensors", scale) for name, scale in loras],
        **options,
        **reuse,
    )
    translation = translate(to_text(request.to_json()))
    assert list(translation.adapters) == loras
    settings = {key: value for key, value in translation.settings.items() if value is not None}
    assert Request.from_json(settings, "the text") == request.with_values(loras=())


def test_the_text_has_a1111s_keys_in_a1111s_order():
    about = ABOUT | {
        "negative": "a, (b)",
        "strength": 0.5,
        "clip_skip": 1,
        "eta": 0.0,
        "guidance": 7.0,
        "mlx_sd": "0.9",
    }
    about |= {"mlx_sd": "0.9"}
    about |= {"loras": [{"path": "dir/style.safetensors", "sha256": "0", "scale": 0.7}]}
    about |= {"lora_hashes": "style: 0123456789ab"}
    assert to_text(about).splitlines() == [
        "a tent <lora:style:0.7>",
        r"Negative prompt: a, \(b\)",
        "Steps: 3, Sampler: DDIM, Schedule type: DDIM, CFG scale: 7, Seed: 0, Size: 8x8, Model hash: 0123456789ab, "
        "Model: my.tent, Denoising strength: 0.5, Clip skip: 2, RNG: NumPy, Eta DDIM: 0, "
        'Lora hashes: "style: 0123456789ab", Version: mlx-sd 0.9',
    ]
    assert to_text(ABOUT).endswith(f"Version: mlx-sd {VERSION}")


@given(st.dictionaries(st.from_regex(r"[A-Z][a-z]{1,9}", fullmatch=True), st.text(min_size=1), min_size=3, max_size=5))
def test_any_value_survives_its_quotes(values):
    line = ", ".join(f"{key}: {quoted(value)}" for key, value in values.items())
    assert infotext.parse(f"a\n{line}").values == values
