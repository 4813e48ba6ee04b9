"""UNet packages, by the interface that Apple's app uses, against diffusers itself: nothing of ours between the two."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from coreml.interpret.package import Package
from coreml.lowering.graph import record
from coreml.lowering.interfaces import UNetFunctions
from coreml.mil import package
from coreml.mil.emitter import uncompressed
from mlx_sd.checkpoint import model_folder
from tests.support import families, reference
from tests.support.families import FAMILIES, distance


@pytest.mark.parametrize("attention", ["split-einsum", "original"])
@pytest.mark.parametrize("name", ["sd1", "sd2v", "sdxl"])
def test_a_package_of_the_unet_predicts_what_diffusers_does(name, attention, family, modules, tmp_path, measure):
    config = FAMILIES[name]["unet"]
    inputs = families.unet_inputs(config)
    inputs["context"] = families.numbers("a whole context", 2, 77, config["cross_attention_dim"])
    weights = dict(tree_flatten(family(name).unet.parameters()))

    network = model_folder.build("unet", config, name)  # recorded, it loses its weights
    spec = UNetFunctions(network.config, 77, 24, 8, 8, 2, mx.float32, 1).full()
    path = tmp_path / "Unet.mlpackage"
    read = {key: np.array(value) for key, value in weights.items()}.__getitem__
    package.write(spec, record(spec, network), read, uncompressed, attention, "iOS16", path)

    feeds = {
        "sample": inputs["x"].transpose(0, 3, 1, 2),
        "timestep": inputs["t"],
        "encoder_hidden_states": inputs["context"].transpose(0, 2, 1)[:, :, None],
    }
    feeds |= {key: inputs[key] for key in ("time_ids", "text_embeds") if key in inputs}
    outputs = Package.load(path).run(feeds)
    assert list(outputs) == ["noise_pred"]
    expected = reference.unet(modules(name)["unet"], inputs)
    measure("unet, Core ML package interpreted", distance(outputs["noise_pred"].transpose(0, 2, 3, 1), expected), 1e-5)
