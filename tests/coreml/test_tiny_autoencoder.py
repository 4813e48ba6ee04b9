"""A tiny autoencoder is exported as any other: packages and assets compute what it computes, with the same ports."""

import importlib.util
import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from coreml import asset_checks, drive, export, info, verify
from coreml.interpret.package import Package
from coreml.plan import Options, defaults
from mlx_sd import StableDiffusion, resolve
from tests.support import autoencoders
from tests.support.exports import SMALL, leave_out


@pytest.fixture(scope="module")
def tiny(model, tmp_path_factory):
    """The small checkpoint with a tiny autoencoder, as a model folder."""
    home = tmp_path_factory.mktemp("taesd")
    vae = resolve.vae_folder(str(autoencoders.write_folder(home / "vae")), {})
    folder = shutil.copytree(model(SMALL).model.folder, home / "model")
    shutil.copyfile(vae.folder / "vae.safetensors", folder / "vae.safetensors")
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    about["networks"]["vae"] = vae.config
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def _export(model, out, options, only=("vae",)):
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch, only)
        export.export(str(model), out, options, report=lambda line: None)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_packages_compute_what_the_network_computes(dtype, tiny, tmp_path):
    folder = _export(tiny, tmp_path / "out", Options(dtype=dtype))
    sd, checks = StableDiffusion.load(tiny, dtype="float32"), []
    for chain in verify.chains(folder):
        checks += verify.verify(chain, sd)
    assert {check.package for check in checks} == {"VAEDecoder", "VAEEncoder"}
    assert max(check.error for check in checks) <= (1e-4 if dtype == "float32" else 5e-3)
    operations = {
        o.kind for name in ("VAEDecoder", "VAEEncoder") for o in Package.load(folder / f"{name}.mlpackage").operations()
    }
    assert not operations & {"matmul", "softmax", "layer_norm", "reduce_mean", "transpose"}


def test_ports_are_those_of_every_autoencoder(tiny, tmp_path):
    """The encoder writes a log variance too, so low that an app that draws latents from it draws the mean."""
    folder = _export(tiny, tmp_path / "out", Options(dtype="float32"))
    saved = Package.load(folder / "VAEEncoder.mlpackage")
    assert {n: shape for n, (shape, _) in saved.outputs().items()} == {"latent": (1, 8, 8, 8)}
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    latent = np.array(saved.run({"x": image})["latent"])
    sd = StableDiffusion.load(tiny, dtype="float32")
    mean, _ = sd.vae.encode(mx.array(image.transpose(0, 2, 3, 1)))
    assert np.abs(latent[:, :4] - np.array(mean).transpose(0, 3, 1, 2)).max() <= 1e-4 * np.abs(latent[:, :4]).max()
    assert (latent[:, 4:] == -30).all()
    assert info.read(folder)["latents"] == {"channels": 4, "factor": 8, "scaling_factor": 1.0}


def test_packages_stand_in_for_the_network(tiny, tmp_path):
    folder = _export(tiny, tmp_path / "out", Options(dtype="float32"))
    sd, packaged = StableDiffusion.load(tiny, dtype="float32"), drive.load(folder).vae
    image = mx.array(np.random.default_rng(1).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32))
    for ours, theirs in zip(packaged.encode(image), sd.vae.encode(image), strict=True):
        assert np.allclose(np.array(ours), np.array(theirs), atol=1e-4)
    z = mx.array(np.random.default_rng(2).standard_normal((1, 8, 8, 4)).astype(np.float32))
    assert np.allclose(np.array(packaged.decode(z)), np.array(sd.vae.decode(z)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("coreai") is None, reason="the extra coreai is not installed")
def test_assets_compute_what_the_network_computes(tiny, tmp_path):
    options = Options(**{**vars(defaults("coreai")), "dtype": "float32"})
    folder = _export(tiny, tmp_path / "out", options, ("unet", "vae"))
    content, paths = asset_checks.content_of(folder)
    checks = list(asset_checks.run(content, paths, str(tiny), False, lambda line: None))
    errors = {check.package: check.error for check in checks}
    assert errors.keys() == {"Unet", "VAEDecoder", "VAEEncoder"} and max(errors.values()) <= 1e-5
