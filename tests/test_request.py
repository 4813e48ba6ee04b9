"""A request is the one record of a picture: Python, command line, metadata and JSON agree on it."""

import dataclasses
import inspect
import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mlx_sd
from mlx_sd import (
    SADA,
    Adaptive,
    DeepCache,
    FreeU,
    InputError,
    NonUniform,
    Request,
    Spectrum,
    StableDiffusion,
    TGate,
    seeds,
)
from mlx_sd.checkpoint import model
from mlx_sd.checkpoint.adapter import Adapter
from mlx_sd.checkpoint.control import Control
from mlx_sd.checkpoint.ip_adapter import ImagePrompt
from mlx_sd.checkpoint.lora import Lora
from mlx_sd.cli import flags
from mlx_sd.hires_setting import MODES, Hires
from mlx_sd.prompts.embeddings import Embedding
from mlx_sd.prompts.style_names import PROMPT_STYLES
from mlx_sd.request import DTYPES, SETTINGS, SOLVER, SPEEDS
from mlx_sd.reuse import presets
from mlx_sd.reuse.guided_steps import Interval
from mlx_sd.reuse.token_downsampling import TokenDownsampling
from mlx_sd.sampling import names, samplers, schedules
from mlx_sd.sampling.table import Options
from mlx_sd.tasks.extension import Extension

# Fields of a request that `generate` takes by another name, or that `StableDiffusion.load` decides.
_OF_LOADING = {"model", "dtype", "loras", "quantize", "coreml", "vae", "lora_mode"}
_BY_ANOTHER_NAME = {"class_label": "classes", "init_image": "image"}
# What `generate` takes beside the fields of a request.
_BESIDE = {"self", "count", "batch", "latents", "channels", "output", "callback", "split"}

_finite = st.floats(-1e6, 1e6)
_values = {
    int: st.integers(8, 2**31),
    float: _finite,
    bool: st.booleans(),
    str: st.text(st.characters(codec="utf-8"), min_size=1),
}
_parsed = {
    "class_label": st.integers(0, 999) | st.sampled_from(["tent", "snowman"]),
    "deepcache": st.sampled_from(
        [DeepCache(3, 1), NonUniform(5, 2), Adaptive(0.25), DeepCache(2, forecast=1), SADA(3), Spectrum(3.0)]
    ),
    "tgate": st.builds(TGate, st.integers(1, 30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9)),
    "freeu": st.sampled_from([FreeU(1.5, 1.6, 0.9, 0.2), FreeU(1.1, 1.2, 1.0, 0.5, form="constant")]),
    "loras": st.lists(st.builds(Lora, st.just("a.safetensors"), _finite, st.just(()), st.just("0" * 64))).map(tuple),
    "embeddings": st.lists(st.builds(Embedding, st.just("a.safetensors"), st.just("zorb"), st.just("0" * 64))).map(
        tuple
    ),
    **dict.fromkeys(("original_size", "target_size", "crop"), st.tuples(st.integers(1, 4096), st.integers(1, 4096))),
    "prompt_style": st.sampled_from(PROMPT_STYLES),
    "adapters": st.lists(st.builds(Adapter, st.just("sketch"), st.just("in.png"), _finite, st.just("0" * 12))).map(
        tuple
    ),
    "ip_encoder": st.sampled_from(["clip-h", "encoders/bigg"]),
    "ip_adapters": st.sampled_from([(), (ImagePrompt("ip.safetensors", ("a.png", "b.png"), 0.5, "mask.png"),)]),
    "hires": st.builds(
        Hires, st.sampled_from([1.5, 2.0, 4.0]), st.sampled_from([None, 7]), st.sampled_from([0.5, 1.0])
    ),
    "extend": st.builds(Extension, st.integers(1, 512), st.integers(0, 512)),
    "hires_mode": st.sampled_from([*MODES, "models/x4"]),
    "lora_mode": st.sampled_from(["merge", "runtime"]),
    "adapter_factor": st.floats(0, 1),
    "pag": st.floats(0, 10),
    "image_guidance": st.floats(1, 10),
    "pag_adaptive": st.floats(0, 1),
    "guidance_interval": st.builds(Interval, st.floats(0, 0.5), st.floats(0.6, 1)),
    "adaptive_guidance": st.floats(0, 1),
    "unconditional_refresh": st.integers(1, 9),
    "token_downsampling": st.builds(TokenDownsampling, st.integers(2, 5), st.integers(1, 3), st.floats(0.01, 1)),
    "temperature": st.floats(0.01, 10),
    "tuning": st.sampled_from(["off", "measured", "compile_step=true,piece=65536"]),
    "controls": st.lists(
        st.builds(
            Control,
            st.just("canny"),
            st.just("edges.png"),
            _finite,
            st.floats(0, 0.5),
            st.floats(0.6, 1),
            st.sampled_from([None, "canny"]),
            st.sampled_from([None, "depth"]),
            st.sampled_from([None, "0" * 12]),
        )
    ).map(tuple),
    "init_image": st.just("in.png"),
    "vae": st.sampled_from(["taesd", "vae.safetensors"]),
    "mask": st.sampled_from(["mask.png", "alpha"]),
    "seed": st.integers(0, seeds.HIGHEST),
    "guidance_rescale": st.floats(0, 1),
    "strength": st.floats(0.01, 1),
    "mask_blur": st.floats(0, 100),
    "padding": st.integers(0, 100),
    "dtype": st.sampled_from(DTYPES),
    "speed": st.sampled_from(SPEEDS),
    "model": st.sampled_from(["tiny", "models/sd15"]),
    "clip_skip": st.integers(0, 3),
    "refine_at": st.floats(0.01, 0.99),
    "rho": st.floats(0.01, 100),
    **dict.fromkeys(("s_churn", "s_tmin", "s_noise"), st.floats(0, 100)),
    "rng": st.sampled_from(names.GENERATORS),
    "sampler": st.sampled_from(samplers.names()),
    "schedule": st.sampled_from(schedules.names()) | st.just("sigmas=3,1,0"),
}
_required = {
    "guidance_rescale",
    "clip_skip",
    "model",
    "loras",
    "controls",
    "rng",
    "prompt_style",
    "embeddings",
    "adapters",
    "ip_adapters",
}


@st.composite
def _requests(draw):
    fields = {}
    for name, setting in SETTINGS.items():
        strategy = _parsed[name] if name in _parsed else _values[setting.kind]
        fields[name] = draw(strategy if name in _required else st.none() | strategy)
    return Request(**fields)


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.load("tiny", dtype="float32")


@given(request_=_requests())
def test_json_gives_back_an_equal_request(request_):
    text = json.dumps(request_.to_json())
    assert Request.from_json(json.loads(text), "here") == request_


def test_every_field_is_described_and_has_a_flag_or_is_recorded_only():
    options = {action.dest: action for action in flags.parser("mlx_sd.generate")._actions}
    for field in dataclasses.fields(Request):
        setting = SETTINGS[field.name]
        assert len(setting.help.split()) > 1
        assert setting.hidden != (field.name in options), field.name


def test_names_that_help_lists_without_mlx_are_those_of_the_modules_that_need_it():
    assert tuple(model.DTYPES) == DTYPES and presets.NAMES == SPEEDS
    assert tuple(field.name for field in dataclasses.fields(Options)) == SOLVER


def test_generate_takes_every_field_and_explains_every_argument():
    """... with the type and the default of the record, so that an editor completes what the command line has."""
    parameters = inspect.signature(StableDiffusion.generate).parameters
    hidden = {name for name, setting in SETTINGS.items() if setting.hidden}
    expected = {_BY_ANOTHER_NAME.get(name, name) for name in SETTINGS} - _OF_LOADING - hidden
    assert set(parameters) - _BESIDE == expected
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    documentation = inspect.getdoc(StableDiffusion.generate)
    for name in set(parameters) - {"self"}:
        assert f"\n    {name}: " in documentation, name
        assert parameters[name].annotation is not inspect.Parameter.empty, name
    for name, setting in SETTINGS.items():
        if setting.range is not None and name in parameters:
            limits = [
                f"{limit:.12g}" for limit in (setting.range.minimum, setting.range.maximum) if abs(limit) < np.inf
            ]
            line = documentation.split(f"\n    {name}: ")[1].split("\n    ")[0]
            assert all(limit in line for limit in limits), name


@pytest.mark.parametrize(
    ("friendly", "typed"),
    [
        ({"deepcache": 3}, {"deepcache": DeepCache(3)}),
        ({"deepcache": "3:1"}, {"deepcache": DeepCache(3, 1)}),
        ({"deepcache": "adaptive:0.25"}, {"deepcache": Adaptive(0.25)}),
        ({"tgate": 10}, {"tgate": TGate(10)}),
        ({"tgate": "10,5,1,2"}, {"tgate": TGate(10, 5, 1, 2)}),
        ({"freeu": True}, {"freeu": FreeU()}),
        ({"freeu": "1.5,1.6,0.9,0.2"}, {"freeu": FreeU(1.5, 1.6, 0.9, 0.2)}),
        ({"guidance": 3}, {"guidance": 3.0}),
        ({"steps": np.int64(7)}, {"steps": 7}),
        ({"loras": ["style.safetensors:0.8"]}, {"loras": (Lora("style.safetensors", 0.8),)}),
    ],
)
def test_friendly_values_become_typed_ones(friendly, typed):
    assert Request(**friendly) == Request(**typed)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 5.5}, "steps must be a whole number, not 5.5"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"guidance": "much"}, "guidance must be a number, not 'much'"),
        ({"prompt": 3}, "prompt must be text, not 3"),
        ({"guidance_rescale": 2}, "guidance rescale must be from 0 to 1, not 2.0"),
        ({"strength": 0}, "strength must be above 0, to 1, not 0.0"),
        ({"deepcache": 0}, "the DeepCache interval must be at least 1, not 0"),
        ({"deepcache": "nonunifrom:5"}, "did you mean nonuniform:5"),
        ({"dtype": "float23"}, "unknown dtype 'float23'; did you mean 'float32'?"),
    ],
)
def test_a_value_of_a_wrong_type_or_out_of_range_is_named(values, message):
    with pytest.raises(InputError) as error:
        Request(**values)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "dpmp_2m"}, "unknown sampler 'dpmp_2m'; did you mean 'dpmpp_2m'?"),
        ({"schedule": "karas"}, "unknown schedule 'karas'; did you mean 'karras'?"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(sd, values, message):
    with pytest.raises(InputError) as error:
        sd.complete(Request(prompt="a tent", **values))
    assert message in str(error.value)


def test_an_unknown_keyword_gets_the_nearest_one(sd):
    with pytest.raises(TypeError, match=r"generate\(\) has no argument 'step'; did you mean 'steps'\?"):
        sd.generate("a tent", step=3)


def test_an_unknown_key_in_json_gets_the_nearest_one():
    with pytest.raises(InputError, match=r"x\.json: it has a setting 'guidence', unknown to .*did you mean 'guidance'"):
        Request.from_json({"guidence": 3.0}, "x.json")


def test_a_completed_request_holds_everything_and_is_complete(sd):
    completed = sd.complete(Request(prompt="a tent"))
    for name in ("seed", "steps", "guidance", "sampler", "schedule", "width", "height", "dtype", "model_hash"):
        assert getattr(completed, name) is not None, name
    assert sd.complete(completed) == completed
    assert sd.complete(Request.from_json(completed.to_json(), "here")) == completed


@pytest.mark.parametrize(
    "options", [{"sampler": "euler_ancestral", "eta": 0.5}, {"deepcache": "2:1", "freeu": True, "steps": 9}]
)
def test_equal_requests_make_equal_pictures(sd, options):
    result = sd.generate("a tent", width=32, height=32, seed=4, count=2, **{"steps": 3} | options)
    again = [image for part in sd.stream(result.requests) for image in part.images]
    assert [np.array(image).tolist() for image in again] == [np.array(image).tolist() for image in result.images]
    assert [request.seed for request in result.requests] == [4, 5]


def test_requests_of_different_settings_come_in_their_order(sd):
    requests = [Request(prompt="a tent", width=side, height=32, steps=1, seed=1) for side in (32, 32, 64, 32)]
    sizes = [image.size for part in sd.stream(requests, batch=4) for image in part.images]
    assert sizes == [(32, 32), (32, 32), (64, 32), (32, 32)]


def test_an_image_in_memory_is_compared_by_its_pixels(sd):
    white, black = (Image.new("RGB", (32, 32), colour) for colour in ("white", "black"))
    assert Request(init_image=white) == Request(init_image=white.copy()) != Request(init_image=black)
    assert sd.complete(Request(prompt="x", init_image=white, steps=4)).strength == 0.8


def test_a_library_never_ends_the_process(sd):
    for wrong in ({"steps": 0}, {"width": 7}, {"deepcache": "often"}):
        with pytest.raises(mlx_sd.InputError):
            sd.generate("a tent", **wrong)
    with pytest.raises(mlx_sd.Failure):
        sd.decode(mx.full((1, 4, 4, 4), float("nan")))
