"""A checkpoint becomes a model folder whole, or not at all and for a reason that is said."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from safetensors.numpy import load_file, save_file

from convert import __main__ as command
from convert.files.diffusers_names import current_name, diffusers_name
from convert.sources import hub_checkpoint
from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model_folder import build
from mlx_sd.checkpoint.model_folder import shapes as shapes_of
from mlx_sd.core.errors import InputError
from mlx_sd.core.files import tensors
from mlx_sd.networks.configs import VAEConfig
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.sampling import samplers
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options
from tests.support import families

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(original, tmp_path):
    """A diffusers folder of its own, to be spoilt."""
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


@pytest.fixture
def convert(folder, tmp_path, capsys):
    """convert(*flags) -> (exit code, stderr, the output folder); nothing but it may appear."""

    def call(*flags, model=folder):
        code = command.main(["--model", str(model), "--out", str(tmp_path / "out"), *map(str, flags)])
        assert sorted(p.name for p in tmp_path.iterdir()) in (["checkpoint"], ["checkpoint", "out"])
        return code, capsys.readouterr().err, tmp_path / "out"

    return call


def _edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_conversion_keeps_every_number_and_makes_images_channel_last(convert, folder):
    code, err, out = convert()
    assert (code, err) == (0, "")
    theirs, ours = load_file(folder / UNET), mx.load(str(out / "unet.safetensors"))
    unet = build("unet", json.loads((folder / "unet/config.json").read_text()), "unet")
    assert len(ours) == len(theirs)
    for name, array in ours.items():
        source = theirs[diffusers_name("unet", unet.names, name)]
        if source.ndim == 4:
            source = source.transpose(0, 2, 3, 1)
        assert (np.array(array) == source.reshape(array.shape)).all(), name
    about = json.loads((out / "model.json").read_text())
    assert (about["format"], about["version"], about["loras"]) == ("mlx-sd", 3, [])
    assert set(about["source"]["sha256"]) == {
        UNET,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_is_that_of_the_folder(convert, dtype):
    code, _, out = convert("--dtype", dtype)
    kinds = {t.dtype for file in out.glob("*.safetensors") for t in tensors(file)}
    assert (code, kinds) == (0, {{"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[dtype]})


def test_a_converted_folder_and_its_source_make_the_same_picture(convert, folder):
    _, _, out = convert()
    one, two = (
        StableDiffusion.load(f, "float32").generate("x", steps=2, output="latent", seed=0) for f in (folder, out)
    )
    assert mx.array_equal(one.latents, two.latents)


def _truncate(folder):
    os.truncate(folder / UNET, (folder / UNET).stat().st_size - 100)


def _scramble_header(folder):
    with (folder / UNET).open("r+b") as f:
        f.seek(8)
        f.write(b"\xff" * 64)


def _huge_header(folder):
    with (folder / UNET).open("r+b") as f:
        f.write((2**62).to_bytes(8, "little"))


def _only_pickle(folder):
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin")


def _drop_and_add(folder):
    arrays = load_file(folder / UNET)
    arrays["conv_inn.weight"] = arrays.pop("conv_in.weight")
    save_file(arrays, folder / UNET)


def _reshape(folder):
    arrays = load_file(folder / UNET)
    arrays["conv_in.bias"] = arrays["conv_in.bias"][:-1].copy()
    save_file(arrays, folder / UNET)


def _integers(folder):
    arrays = load_file(folder / UNET)
    arrays["conv_in.bias"] = arrays["conv_in.bias"].astype(np.int32)
    save_file(arrays, folder / UNET)


def _escape(folder):
    (folder / UNET).rename(folder / "secret.safetensors")
    index = {"weight_map": {"conv_in.weight": "../secret.safetensors"}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _lost_shard(folder):
    (folder / UNET).unlink()
    index = {"weight_map": {"conv_in.weight": "part-1.safetensors"}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


SPOILT = {
    "missing weights": (lambda f: (f / UNET).unlink(), "no diffusion_pytorch_model.safetensors"),
    "truncated": (_truncate, "is damaged or incomplete"),
    "scrambled header": (_scramble_header, "is damaged or incomplete"),
    "header beyond the file": (_huge_header, "is damaged or incomplete"),
    "empty": (lambda f: (f / UNET).write_bytes(b""), "is damaged or incomplete"),
    "pickle": (_only_pickle, "only pickled weights (diffusion_pytorch_model.bin), which can run code"),
    "names disagree": (_drop_and_add, "1 missing (conv_in.weight); 1 unexpected (conv_inn.weight)"),
    "shapes disagree": (_reshape, "1 of another shape (conv_in.bias is (31,) in the file, (32,) by the config)"),
    "integers": (_integers, "conv_in.bias is of type I32"),
    "path out of the folder": (_escape, "'../secret.safetensors' is not the name of a safetensors file"),
    "lost shard": (_lost_shard, "part-1.safetensors is missing"),
    "no config": (lambda f: (f / "unet/config.json").unlink(), "unet/config.json is missing"),
    "config is no JSON": (lambda f: (f / "vae/config.json").write_text("{"), "vae/config.json is not JSON"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "has neither model_index.json"),
    "no unet": (lambda f: _edit(f / "model_index.json", lambda v: v.pop("unet")), "no unet"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer is missing"),
    "unknown field": (
        lambda f: _edit(f / "unet/config.json", lambda v: v.update(magic=1)),
        "unet/config.json: unknown field(s) magic",
    ),
    "unsupported field": (
        lambda f: _edit(f / "unet/config.json", lambda v: v.update(dual_cross_attention=True)),
        "dual_cross_attention = True is not supported (only False)",
    ),
    "unsupported block": (
        lambda f: _edit(f / "unet/config.json", lambda v: v["down_block_types"].__setitem__(0, "AttnDownBlock2D")),
        "down_block_types = 'AttnDownBlock2D' is not supported",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_checkpoint_is_one_line_exit_code_2_and_no_folder(convert, folder, name):
    spoil, message = SPOILT[name]
    spoil(folder)
    code, err, out = convert()
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert not out.exists()


def test_an_existing_folder_is_not_touched(convert, tmp_path):
    (tmp_path / "out").mkdir()
    code, err, out = convert()
    assert code == 2 and "exists" in err and list(out.iterdir()) == []


def test_a_hub_id_without_network_says_what_to_do(tmp_path, monkeypatch):
    """A process of its own: the hub's client reads its environment when it is imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    made = subprocess.run(
        [sys.executable, "-m", "convert", "--model", "someone/something", "--out", str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 2 and made.stderr.count("\n") == 1
    assert "someone/something is not on this machine and the hub cannot be reached" in made.stderr


def test_a_failure_half_way_leaves_nothing(convert, monkeypatch):
    from mlx_sd.core.files import Tensor

    calls = []

    def read(self):
        calls.append(self)
        if len(calls) > 100:
            raise KeyboardInterrupt
        return original_read(self)

    original_read = Tensor.read
    monkeypatch.setattr(Tensor, "read", read)
    code, _, out = convert()
    assert code == 130 and not out.exists()


def test_a_changed_source_is_converted_anew(folder, cache):
    first = StableDiffusion.load(folder, "float32").model
    known = set(cache.iterdir())
    assert StableDiffusion.load(folder, "float32").model.hash == first.hash
    assert set(cache.iterdir()) == known
    arrays = load_file(folder / UNET)
    save_file({name: array * 2 for name, array in arrays.items()}, folder / UNET)
    second = StableDiffusion.load(folder, "float32").model
    assert second.hash != first.hash and len(set(cache.iterdir()) - known) == 1


def test_a_folder_that_lost_a_weight_does_not_load(convert):
    _, _, out = convert()
    weights = mx.load(str(out / "vae.safetensors"))
    weights.pop("quant_conv.bias")
    mx.save_safetensors(str(out / "vae.safetensors"), weights)
    with pytest.raises(InputError, match=r"does not fit model.json \(quant_conv.bias\)"):
        StableDiffusion.load(out)


@pytest.mark.parametrize(("field", "value"), [("format", "other"), ("version", 99)])
def test_a_folder_of_another_format_does_not_load(convert, field, value):
    _, _, out = convert()
    _edit(out / "model.json", lambda v: v.update({field: value}))
    with pytest.raises(InputError, match="convert the checkpoint again"):
        StableDiffusion.load(out)


def test_our_names_and_theirs_are_one_to_one(shapes):
    """Every tensor diffusers saves has exactly one of our parameters, for every network of every family."""
    for family in ("sd1", "sd2v", "sdxl", "inpaint9"):
        for part, theirs in shapes[family].items():
            network = build(part, families.FAMILIES[family][part], part)
            mapped = [diffusers_name(part, network.names, ours) for ours in shapes_of(network)]
            assert len(set(mapped)) == len(mapped)
            assert set(mapped) == {current_name(name) for name in theirs}


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=300)
def test_no_bytes_crash_the_reader(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    path.write_bytes(data)
    try:
        list(tensors(path))
    except InputError as error:
        assert re.search("is damaged or incomplete|holds a text|is an? |looks like", str(error))


@pytest.mark.parametrize("config", [UNetConfig, VAEConfig])
def test_a_config_without_blocks_names_the_field(config):
    with pytest.raises(InputError, match=r"config.json: the field block_out_channels is missing"):
        config.from_hf({})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver"}, "algorithm_type"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}, "solver_order"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True}, "use_lu_lambdas"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"_class_name": "UniPCMultistepScheduler", "predict_x0": False}, "predict_x0"),
        ({"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0]}, "disable_corrector"),
        ({"_class_name": "DDPMScheduler", "clip_sample": False, "variance_type": "learned"}, "variance_type"),
        ({"_class_name": "HeunDiscreteScheduler", "use_karras_sigmas": 1, "use_beta_sigmas": 1}, "use_beta_sigmas"),
        ({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}, "interpolation_type"),
        ({"_class_name": "KDPM2DiscreteScheduler"}, "KDPM2DiscreteScheduler is not among the samplers here"),
        ({"_class_name": "DPMSolverMultistepScheduler", "thresholding": True}, "thresholding"),
        ({"_class_name": "EulerDiscreteScheduler", "magic": 1}, "magic"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "flow"}, "prediction_type"),
    ],
)
def test_a_scheduler_field_that_cannot_be_honoured_is_named(values, message):
    with pytest.raises(InputError, match=message):
        samplers.choose(Scheduler.from_hf(values), None, None)


def test_a_checkpoint_whose_sampler_is_not_here_works_with_another():
    scheduler = Scheduler.from_hf({"_class_name": "SASolverScheduler", "predictor_order": 2})
    with pytest.raises(InputError, match=r"SASolverScheduler is not among the samplers here; choose a sampler: euler"):
        samplers.choose(scheduler)
    assert samplers.choose(scheduler, "euler")[:2] == ("euler", "linspace")


_DPM = {"_class_name": "DPMSolverMultistepScheduler"}
_ANCESTRAL = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
_UNIPC = {"_class_name": "UniPCMultistepScheduler", "use_exponential_sigmas": True, "solver_type": "bh1"}
_EDM = {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_schedule": "exponential"}


@pytest.mark.parametrize(
    ("values", "sampler", "schedule", "options"),
    [
        ({"_class_name": "DDPMScheduler", "clip_sample": False}, "ddpm", "leading", {}),
        ({"_class_name": "PNDMScheduler"}, "plms", "leading", {}),
        ({"_class_name": "LMSDiscreteScheduler", "use_karras_sigmas": True}, "lms", "diffusers_karras", {}),
        ({"_class_name": "HeunDiscreteScheduler", "use_beta_sigmas": True}, "heun", "diffusers_beta", {}),
        (_ANCESTRAL, "euler_ancestral", "trailing", {}),
        (_DPM, "dpmpp_2m", "linspace", {"order": 2, "kind": "midpoint"}),
        (_DPM | {"solver_order": 3}, "dpmpp_3m", "linspace", {"kind": "midpoint"}),
        (_DPM | {"algorithm_type": "dpmsolver"}, "dpm_2m", "linspace", {"order": 2, "kind": "midpoint"}),
        (_DPM | {"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde", "linspace", {"order": 2, "kind": "midpoint"}),
        ({"_class_name": "DPMSolverSinglestepScheduler"}, "dpmpp_2s", "linspace", {"order": 2, "kind": "midpoint"}),
        ({"_class_name": "DEISMultistepScheduler", "solver_type": "bh2"}, "deis", "linspace", {"order": 2}),
        (_UNIPC, "unipc", "diffusers_exponential", {"order": 2, "kind": "bh1"}),
        ({"_class_name": "LCMScheduler", "timestep_spacing": "leading"}, "lcm", "trailing", {}),
        ({"_class_name": "TCDScheduler"}, "tcd", "trailing", {}),
        ({"_class_name": "EDMEulerScheduler", "rho": 6.0}, "euler", "karras", {"rho": 6.0}),
        (_EDM, "dpmpp_2m", "exponential", {"order": 2, "kind": "midpoint"}),
    ],
)
def test_every_scheduler_class_becomes_a_sampler_a_schedule_and_options(values, sampler, schedule, options):
    assert samplers.choose(Scheduler.from_hf(values)) == (sampler, schedule, Options(**options))


@pytest.mark.parametrize(
    ("variant", "files", "wanted"),
    [
        (None, ["unet/model.safetensors", "unet/model.fp16.safetensors"], ["unet/model.safetensors"]),
        ("fp16", ["unet/model.safetensors", "unet/model.fp16.safetensors"], ["unet/model.fp16.safetensors"]),
        ("fp16", ["unet/model.safetensors"], ["unet/model.safetensors"]),
        (None, ["unet/model.fp16.safetensors"], ["unet/model.fp16.safetensors"]),
        (None, ["unet/model-00001-of-00002.safetensors"], ["unet/model-00001-of-00002.safetensors"]),
        (None, ["v1-5.safetensors", "unet/model.non_ema.safetensors", "safety_checker/model.safetensors"], []),
    ],
)
def test_only_the_weights_that_will_be_read_are_downloaded(variant, files, wanted):
    assert hub_checkpoint.weights(files, variant) == wanted


def test_a_folder_with_half_precision_only_is_read_as_such(convert, folder):
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert convert()[0] == 0


def test_an_old_scheduler_config_means_what_diffusers_makes_of_it(folder):
    """Its pipelines mend steps_offset and clip_sample."""
    _edit(folder / "scheduler/scheduler_config.json", lambda v: (v.pop("steps_offset"), v.update(clip_sample=True)))
    scheduler = StableDiffusion.load(folder, "float32").model.scheduler
    assert (scheduler.steps_offset, scheduler.problem) == (1, None)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["README.md", "dreamy.safetensors", "x/y.safetensors"], "dreamy.safetensors"),
        (["a.safetensors", "b.safetensors"], "download one of a.safetensors, b.safetensors and give --model its path"),
        (["model.ckpt"], "is neither a diffusers folder nor one single .safetensors file"),
    ],
)
def test_a_repository_of_one_single_file_is_that_file(files, wanted):
    try:
        assert hub_checkpoint.single_file("x/y", files) == wanted
    except InputError as error:
        assert wanted in str(error)


@pytest.mark.parametrize("name", ["folder/x.safetensors", "folder/x.ckpt", "nothing", "a/b/c"])
def test_what_is_not_there_is_not_looked_for_on_the_hub(name, convert):
    code, err, _ = convert(model=name)
    assert code == 2 and f"{name} does not exist" in err
