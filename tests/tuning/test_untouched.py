"""What a machine was tuned to never reaches exports, plans of memory and training."""

import ast
from contextlib import nullcontext
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_unflatten

import mlx_sd
from coreml.lowering.graph import record
from coreml.lowering.interfaces import UNetFunctions
from mlx_sd import StableDiffusion
from mlx_sd.checkpoint.model_folder import build, read_model_json
from mlx_sd.networks import ops, tuning
from mlx_sd.networks.graph import trace
from mlx_sd.networks.tuned_unet import TunedUNet
from mlx_sd.networks.tuning import DEFAULT, Tuning
from mlx_sd.networks.unet import UNet
from mlx_sd.train.memory import tracing

TUNED = Tuning(True, 16, "all", 1024, 1024, 1024)


@pytest.fixture(scope="module")
def config():
    from mlx_sd import resolve

    return read_model_json(resolve.model_folder("tiny"))["networks"]["unet"]


def graph_of(config, name):
    """Returns what an export records of a function of the embedded UNet."""
    network = build("unet", config, "tiny")
    functions = UNetFunctions(network.config, 77, 0, 16, 16, 2, mx.float16, 1)
    spec = functions.full() if name == "full" else functions.shallow(functions.deep_shape(network))
    graph = record(spec, network)
    return graph.nodes, graph.shapes, graph.parameters, graph.inputs, graph.outputs


@pytest.mark.parametrize("name", ["full", "shallow"])
def test_an_export_is_the_same_whatever_is_tuned(config, name):
    expected = graph_of(config, name)
    with tuning.using(TUNED):
        assert graph_of(config, name) == expected


@pytest.mark.parametrize("gpu", [False, True])
def test_a_plan_of_memory_is_the_same_whatever_is_tuned(config, gpu):
    unet = build("unet", config, "tiny")
    weights = dict(tree_flatten(unet.parameters()))

    def step(_, x, context, **parameters):
        unet.update(tree_unflatten(list(parameters.items())))
        return unet(x, mx.array(5.0), context)

    def graph():
        inputs = {"x": mx.zeros((1, 8, 8, 4)), "context": mx.zeros((1, 77, 192))}
        with ops.as_on_gpu() if gpu else nullcontext():
            return tracing.record(step, inputs | weights).nodes

    expected = graph()
    with tuning.using(TUNED):
        assert graph() == expected


def test_a_tuned_unet_that_is_recorded_is_the_network_itself(config):
    unet = build("unet", config, "tiny")
    weights, inputs = dict(tree_flatten(unet.parameters())), [mx.zeros((1, 8, 8, 4)), mx.zeros((1, 77, 192))]

    def graph(run):
        def call(x, context, **parameters):
            unet.update(tree_unflatten(list(parameters.items())))
            return run(x, mx.array(5.0), context)

        return trace(call, inputs, weights).nodes

    assert graph(TunedUNet(unet, TUNED)) == graph(unet)


def test_only_evaluations_of_pictures_are_tuned():
    """... because nothing else opens a tuning; recorders open the default."""
    callers = set()
    root = Path(mlx_sd.__file__).parent.parent
    for file in [
        file for package in ("mlx_sd", "convert", "coreml", "bench") for file in root.glob(f"{package}/**/*.py")
    ]:
        text = file.read_text(encoding="utf-8")
        if "using(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("using", "tuning.using"):
                callers.add((file.stem, ast.unparse(node.args[0])))
    assert callers == {
        ("tuned_unet", "self._tuning"),
        ("ops", "tuning.DEFAULT"),
        ("graph", "tuning.DEFAULT"),
    }


def test_gradients_are_those_of_the_default(monkeypatch):
    sd, seen = StableDiffusion.load("tiny", dtype="float32"), []
    convolve = mx.conv2d
    monkeypatch.setattr(mx, "conv2d", lambda *a, **k: seen.append(tuning.current()) or convolve(*a, **k))
    unet: UNet = sd.unet
    mx.grad(lambda x: unet(x, mx.array(5.0), mx.zeros((1, 77, 192)))[0].sum())(mx.zeros((1, 8, 8, 4)))
    assert set(seen) == {DEFAULT}


def test_whoever_records_operations_sees_the_default(config):
    """Counts of multiplications, and shares of a batch, which come out as those of one process."""
    unet, seen = build("unet", config, "tiny"), []
    inputs = mx.zeros((1, 8, 8, 4)), mx.array(5.0), mx.zeros((1, 77, 192))

    def recorder(name, function, arrays, attributes):
        seen.append(tuning.current())
        return function(*arrays, **attributes)

    with tuning.using(TUNED), ops.recording(recorder):
        unet(*inputs)
        TunedUNet(unet, TUNED)(*inputs)
    assert set(seen) == {DEFAULT}
