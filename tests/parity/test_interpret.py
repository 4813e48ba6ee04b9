"""torch modules that coremltools has converted, saved and interpreted, compute what torch computes."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from coreml.interpret.package import Package
from coreml.mil.coremltools import compress, ct
from tests.support import families
from tests.support.families import distance
from tests.support.reference import first

EXACT, HALF = 1e-5, 3e-2  # of float32; of fp16, where torch is float32: 30 dB below the largest value
# Left out: it turns a scale and an offset into a batch norm of variance 1 and epsilon 1e-5, which is 5e-6 too small.
PASSES = ct.PassPipeline.DEFAULT
PASSES.remove_passes({"common::fuse_elementwise_to_batchnorm"})
TARGETS = [ct.target.iOS16, ct.target.iOS18]
PRECISIONS = {"float32": ct.precision.FLOAT32, "float16": ct.precision.FLOAT16}


class Call(nn.Module):
    """A function of tensors as a module with one result; what it uses comes along."""

    def __init__(self, function: Callable[..., torch.Tensor], *used: nn.Module) -> None:
        super().__init__()
        self.used, self.function = nn.ModuleList(used), function

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.function(*tensors)


@pytest.fixture(scope="module", autouse=True)
def deprecated_torch() -> Iterator[None]:
    """coremltools' converter calls functions that torch has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def converted(module: nn.Module, tensors: dict[str, torch.Tensor], traced: bool, **options: Any) -> ct.models.MLModel:
    arguments = tuple(tensors.values())
    if traced:
        program = torch.jit.trace(module.eval(), arguments, check_trace=False)
    else:
        program = torch.export.export(module.eval(), arguments).run_decompositions({})
    kinds = [np.float32 if t.is_floating_point() else np.int32 for t in arguments]
    inputs = [ct.TensorType(n, tuple(t.shape), dtype=k) for (n, t), k in zip(tensors.items(), kinds, strict=True)]
    return ct.convert(program, inputs=inputs, pass_pipeline=PASSES, skip_model_load=True, **options)


def saved(model: ct.models.MLModel, folder: Path) -> Package:
    model.save(str(folder / "model.mlpackage"))
    return Package.load(folder / "model.mlpackage")


def only(outputs: dict[str, np.ndarray]) -> np.ndarray:
    (output,) = outputs.values()
    return output


def check(
    name: str,
    module: nn.Module,
    tensors: dict[str, torch.Tensor],
    folder: Path,
    measure: Callable,
    target: Any,
    traced: bool = False,
) -> None:
    expected = module(*tensors.values()).numpy()
    feeds = {n: t.numpy() for n, t in tensors.items()}
    for precision, kind in PRECISIONS.items():
        options = {"minimum_deployment_target": target, "compute_precision": kind}
        (folder / precision).mkdir()
        package = saved(converted(module, tensors, traced, **options), folder / precision)
        for rounding in (False, True):
            result = only(package.run(feeds, rounding=rounding))
            limit = EXACT if precision == "float32" else HALF
            measure(f"Core ML {name}, {precision}{', rounded' * rounding}", distance(result, expected), limit)


def normal(*shape: int) -> torch.Tensor:
    return torch.tensor(families.numbers(f"torch {shape}", *shape))


IMAGE, TOKENS = (2, 8, 6, 6), (2, 5, 16)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(8, 6, 3, padding=1), IMAGE),
    "strided conv": (lambda: nn.Conv2d(8, 6, (3, 1), stride=2, padding=(2, 0)), IMAGE),
    "dilated grouped conv": (lambda: nn.Conv2d(8, 4, 3, dilation=2, groups=4), IMAGE),
    "conv of sequences": (lambda: nn.Conv1d(5, 7, 3, padding=1), TOKENS),
    "group norm": (lambda: nn.GroupNorm(4, 8), IMAGE),
    "instance norm": (lambda: nn.InstanceNorm2d(8), IMAGE),
    "batch norm": (lambda: nn.BatchNorm2d(8), IMAGE),
    "layer norm": (lambda: nn.LayerNorm(16), TOKENS),
    "linear": (lambda: nn.Linear(16, 9), TOKENS),
    "attention": (
        lambda: Call(lambda x: functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])),
        TOKENS,
    ),
    "geglu": (lambda: Call(lambda x: x[..., :8] * functional.gelu(x[..., 8:])), TOKENS),
    "activations": (lambda: nn.Sequential(nn.SiLU(), nn.Tanh(), nn.Softplus(), nn.LeakyReLU(), nn.ELU()), TOKENS),
    "softmax": (lambda: nn.Softmax(1), TOKENS),
    "nearest": (lambda: nn.Upsample(scale_factor=2), IMAGE),
    "nearest to a size": (lambda: nn.Upsample(size=(9, 12)), IMAGE),
    "bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE),
    "bilinear, corners aligned": (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), IMAGE),
    "reflected": (lambda: nn.ReflectionPad2d((1, 2, 0, 3)), IMAGE),
    "replicated": (lambda: nn.ReplicationPad2d((1, 2, 0, 3)), IMAGE),
    "shuffled": (lambda: nn.PixelShuffle(2), IMAGE),
    "average": (lambda: Call(lambda x: x.mean((2, 3)) - x.amax((2, 3))), IMAGE),
    "einsum": (lambda: Call(lambda x: torch.einsum("bchq,bkhc->bkhq", x[:, :6], x)), IMAGE),
    "moved": (
        lambda: Call(lambda x: torch.cat([x[:, ::2, 1:-1], x.chunk(2, 1)[1][:, :, :4]], 1).permute(0, 2, 3, 1)),
        IMAGE,
    ),
    "masked": (lambda: Call(lambda x: x.masked_fill(torch.ones(6, 6).triu(1).bool(), -1e4).softmax(-1)), IMAGE),
}


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("name", MODULES)
def test_a_converted_module_computes_what_torch_computes(name, target, tmp_path, measure):
    build, shape = MODULES[name]
    torch.manual_seed(0)
    check("modules", build().eval(), {"x": normal(*shape)}, tmp_path, measure, target)


def networks(name: str, modules: Callable) -> dict[str, tuple[nn.Module, dict[str, torch.Tensor], bool]]:
    """The networks of a family with tensors to call them with, and whether torch.jit traces them."""
    parts, config = modules(name), families.FAMILIES[name]
    inputs = {n: first(v) for n, v in families.unet_inputs(config["unet"]).items()}
    added = [n for n in inputs if n not in ("x", "t", "context")]

    def unet(x, t, context, *extra):
        with_added = dict(zip(added, extra, strict=True)) or None
        return parts["unet"](x, t, context, added_cond_kwargs=with_added, return_dict=False)[0]

    def text(ids):
        return parts["text_encoder"](ids, return_dict=False)[0]

    vae = parts["vae"]
    latents, image = first(families.small_latents()), first(families.image())
    return {
        "unet": (Call(unet, parts["unet"]), inputs, False),
        "text encoder": (Call(text, parts["text_encoder"]), {"ids": torch.randint(0, 90, (1, 77))}, True),
        "vae decoder": (Call(lambda z: vae.decode(z, return_dict=False)[0], vae), {"z": latents}, False),
        "vae encoder": (Call(lambda x: vae.encode(x).latent_dist.parameters, vae), {"image": image}, False),
    }


def test_the_approximate_gelu_computes_what_torch_computes(tmp_path, measure):
    """Traced: coremltools does not see the approximation in an exported program."""
    check("modules", nn.GELU("tanh"), {"x": normal(*TOKENS)}, tmp_path, measure, ct.target.iOS17, traced=True)


@pytest.mark.parametrize(
    "name, target", [("sd1", TARGETS[0]), ("sdxl", TARGETS[1])], ids=lambda v: getattr(v, "name", v)
)
@pytest.mark.parametrize("part", ["unet", "text encoder", "vae decoder", "vae encoder"])
def test_a_converted_network_computes_what_diffusers_computes(name, part, target, modules, tmp_path, measure):
    module, tensors, traced = networks(name, modules)[part]
    check(part, module, tensors, tmp_path, measure, target, traced)


SCHEMES = {
    "8 bits": (compress.palettize_weights, compress.OpPalettizerConfig(mode="uniform", nbits=8, weight_threshold=64)),
    "6 bits": (compress.palettize_weights, compress.OpPalettizerConfig(mode="uniform", nbits=6, weight_threshold=64)),
    "4 bits": (compress.palettize_weights, compress.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=64)),
    "int8": (compress.linear_quantize_weights, compress.OpLinearQuantizerConfig(weight_threshold=64)),
}


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_compressed_networks_equal_the_decompressed_ones(scheme, target, modules, tmp_path, measure):
    module, tensors, _ = networks("sd1", modules)["vae decoder"]
    model = converted(module, tensors, False, minimum_deployment_target=target, compute_precision=ct.precision.FLOAT32)
    method, config = SCHEMES[scheme]
    small = method(model, compress.OptimizationConfig(global_config=config))
    outputs = []
    for folder, m in ((tmp_path / "small", small), (tmp_path / "large", compress.decompress_weights(small))):
        folder.mkdir()
        package = saved(m, folder)
        compressed = sum(n for kind, n in package.kinds().items() if kind.startswith("constexpr"))
        assert (compressed > 20) == (m is small)
        outputs.append(only(package.run({n: t.numpy() for n, t in tensors.items()})))
    measure("Core ML compressed vae decoder", distance(*outputs), EXACT)
