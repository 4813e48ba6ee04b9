"""A Control-LoRA's file is the network: ComfyUI's rule and our loader make of it what was trained."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors import safe_open

from convert.files.diffusers_names import diffusers_name
from mlx_sd.controls import load_network
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.train.files import control_lora_file
from mlx_sd.train.files.base_model import BaseModel
from mlx_sd.train.files.lora_file import LowRankWeights
from mlx_sd.train.files.training_record import TrainingRecord
from mlx_sd.train.kinds.control import Control, network_like
from mlx_sd.train.learning.examples import Captions
from mlx_sd.train.learning.kind_settings import ControlSettings
from mlx_sd.train.learning.objective import Objective
from mlx_sd.train.learning.optimizers import arrays_of
from mlx_sd.train.results import Result
from tests.support import controls, families, singles
from tests.support.effort import slow_but
from tests.support.families import distance
from tests.train.conftest import TEXT

RANK = 3


def learned(model, settings=ControlSettings(rank=RANK)) -> Control:  # noqa: B008 - it is frozen
    """A control network of low rank, all of whose learned parameters are random."""
    network = Control(model, settings, Captions(model, [TEXT]), Objective.of(model.scheduler))
    parameters = [
        (name, array + 0.05 * mx.random.normal(array.shape, key=mx.random.key(i)))
        for i, (name, array) in enumerate(tree_flatten(network.learned.trainable_parameters()))
    ]
    network.learned.load_weights(parameters, strict=False)
    for adapter in network.adapters.by_layer.values():
        adapter.alpha *= 0.6  # as no option says; the format has no alpha
    return network


def written(model, path, dtype="float32", network=None) -> dict[str, np.ndarray]:
    network = learned(model) if network is None else network
    Result(BaseModel.of(model), model, dtype).write(network, path, TrainingRecord())
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def base_in_original_names(model, family) -> dict[str, np.ndarray]:
    """The base UNet's weights as in a single file, by the tests' own table of names."""
    linear, arrays = families.FAMILIES[family]["unet"].get("use_linear_projection"), {}
    for parameter, array in tree_flatten(model.unet.parameters()):
        name, stored = diffusers_name("unet", model.unet.names, parameter), np.array(array)
        if stored.ndim == 4:
            stored = stored.transpose(0, 3, 1, 2)
        elif not linear and name.endswith((".proj_in.weight", ".proj_out.weight")):
            stored = stored[..., None, None]
        arrays[name] = stored
    return singles.unet(arrays, families.FAMILIES[family]["unet"])


def merged(network: Control) -> dict[str, np.ndarray]:
    """The parameters of a network whose adapters are products that were added to its layers' weights."""
    arrays = {name: np.array(array) for name, array in tree_flatten(network.network.parameters())}
    for (_, path), adapter in network.adapters.by_layer.items():
        product = mx.tensordot(adapter.up, adapter.down, axes=1) * (adapter.alpha / adapter.rank)
        arrays[f"{path}.weight"] = arrays[f"{path}.weight"] + np.array(product)
    return arrays


@pytest.mark.parametrize("family", slow_but(["sd1"], ["sd1", "sd2v", "sdxl"]))
def test_comfyui_s_rule_makes_of_it_what_was_trained(family, fresh, tmp_path):
    """Its rule: the base's weights in original names, over them products of `up` and `down`, over them all others."""
    model = fresh(family)
    network = learned(model)
    tensors = written(model, tmp_path / "a.safetensors", network=network)
    assert tensors.pop("lora_controlnet").size == 0
    base, rebuilt = base_in_original_names(model, family), {}
    for name, tensor in tensors.items():
        layer, _, role = name.rpartition(".")
        if role == "up":
            down = tensors[f"{layer}.down"]
            product = tensor.reshape(len(tensor), -1) @ down.reshape(len(down), -1)
            assert down.shape[0] == tensor.shape[1] <= RANK
            rebuilt[f"{layer}.weight"] = base[f"{layer}.weight"] + product.reshape(base[f"{layer}.weight"].shape)
        elif role != "down":
            rebuilt[name] = tensor
    linear, values, expected = families.FAMILIES[family]["unet"].get("use_linear_projection"), {}, {}
    for parameter, array in merged(network).items():
        name, stored = diffusers_name("control", network.network.names, parameter), array
        if stored.ndim == 4:
            stored = stored.transpose(0, 3, 1, 2)
        elif not linear and name.endswith((".proj_in.weight", ".proj_out.weight")):
            stored = stored[..., None, None]
        expected[name] = stored
    values = controls.config(family)
    values["conditioning_embedding_out_channels"] = list(network.network.config.embedding_channels)
    expected = controls.original(expected, values)
    assert rebuilt.keys() == expected.keys()
    for name, array in expected.items():
        assert distance(rebuilt[name], array) <= 1e-6, name


@pytest.mark.parametrize("family", slow_but(["sd1"], ["sd1", "sd2v", "sdxl"]))
def test_loaded_it_computes_what_the_live_network_computed(family, fresh, tmp_path):
    model = fresh(family)
    network = learned(model)
    written(model, tmp_path / "a.safetensors", network=network)
    again, live = load_network(str(tmp_path / "a.safetensors"), model), network.network
    inputs = families.unet_inputs(families.FAMILIES[family]["unet"])
    inputs = {name: mx.array(value) for name, value in inputs.items()}
    factor = model.vae.config.downsampling
    pixels = mx.random.uniform(shape=(1, 8 * factor, 8 * factor, 3), key=mx.random.key(5))
    first, second = (n(image=n.embed(pixels), **inputs) for n in (live, again))
    for a, b in zip([*first.skips, first.middle], [*second.skips, second.middle], strict=True):
        assert mx.abs(a - b).max().item() <= 1e-5 * mx.abs(a).max().item()
    network.adapters.remove()
    base = live(image=live.embed(pixels), **inputs)
    assert distance(np.array(first.middle), np.array(base.middle)) > 1e-2


def test_what_no_adapter_stands_beside_is_learned_in_float32_and_the_base_is_shared(fresh):
    model = fresh("sd1", "bfloat16")
    network = learned(model)
    arrays, base = arrays_of(network.network.parameters()), arrays_of(model.unet.parameters())
    beside = {f"{name.path}.weight" for name in network.adapters.by_layer}
    trainable = arrays_of(network.network.trainable_parameters())
    assert arrays.keys() == beside | trainable.keys() and not beside & trainable.keys()
    assert {array.dtype for array in arrays_of(network.learned.trainable_parameters()).values()} == {mx.float32}
    for name in beside:
        assert arrays[name].dtype == mx.bfloat16 and mx.array_equal(arrays[name], base[name]).item()


def test_only_what_learns_takes_memory(fresh):
    model = fresh("sd1", "bfloat16")
    mx.eval(model.unet.parameters())
    captions, objective = Captions(model, [TEXT]), Objective.of(model.scheduler)
    before = mx.get_active_memory()
    network = Control(model, ControlSettings(rank=RANK), captions, objective)
    mx.eval(network.learned.parameters())
    learning = sum(array.nbytes for array in arrays_of(network.learned.trainable_parameters()).values())
    everything = sum(array.nbytes for array in arrays_of(network.network.parameters()).values())
    assert learning <= mx.get_active_memory() - before <= 1.05 * learning + 2**16 < learning + everything / 2


@pytest.mark.slow
def test_the_metadata_name_base_form_and_rank(fresh, tmp_path):
    model = fresh("sdxl")
    written(model, tmp_path / "edges.safetensors", "float16")
    with safe_open(tmp_path / "edges.safetensors", "numpy") as file:
        metadata = file.metadata()
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"float16"}  # noqa: SIM118
    expected = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/control-lora",
        "modelspec.title": "edges",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_dim": str(RANK),
    }
    assert expected.items() <= metadata.items()


@pytest.mark.slow
def test_the_same_network_is_the_same_file(fresh, tmp_path):
    model = fresh("sd1")
    network, files = learned(model), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "x.safetensors")
        written(model, files[-1], "float16", network)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_does_not_fit_is_one_line_and_leaves_nothing(fresh, tmp_path):
    model = fresh("sd1")
    names, base, file = network_like(model).names, BaseModel.of(model), tmp_path / "a.safetensors"
    fitting = LowRankWeights(mx.zeros((2, 3, 3, 4)), mx.zeros((32, 2)), 2.0)
    wrong = {
        "no layer": ({"down.stages.99.0": fitting}, {}),
        "do not fit its weight": ({"down.stages.0.0": fitting._replace(down=mx.zeros((2, 3, 3, 5)))}, {}),
        "not of one rank": ({"down.stages.0.0": fitting._replace(up=mx.zeros((32, 3)))}, {}),
    }
    for words, (layers, parameters) in wrong.items():
        with pytest.raises(InputError, match=words):
            control_lora_file.write(file, layers, parameters, names, base)
    with pytest.raises(Failure, match="not finite"):
        broken = {"middle_output.bias": mx.full((64,), float("nan"))}
        control_lora_file.write(file, {"down.stages.0.0": fitting}, broken, names, base)
    with pytest.raises(InputError, match="float8"):
        control_lora_file.write(file, {}, {}, names, base, dtype="float8")
    file.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists"):
        control_lora_file.write(file, {}, {}, names, base)
    assert file.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [file]
