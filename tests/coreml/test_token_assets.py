"""Assets of a model of tokens compute in Apple's own runtime what MLX computes."""

import numpy as np
import pytest

pytest.importorskip("coreai", reason="the extra coreai is not installed")

from coreml import asset_checks, info
from coreml.coreai.runtime import Runtime
from tests.support import tokens
from tests.support.effort import slow_but
from tests.support.exports import CORE_AI, TOKENS

SIDE = tokens.SIDE
FORMS = {
    "quick": {"dtype": "float32", "attention": "fused", "only": ("unet",)},
    "fused": {"dtype": "float32", "attention": "fused"},
    "split-einsum": {"dtype": "float32", "attention": "split-einsum"},
    "float16": {"dtype": "float16", "attention": "fused"},
    "a state, another branch, one row": {
        "dtype": "float32",
        "attention": "fused",
        "stateful": True,
        "branch": 1,
        "batch": 1,
        "only": ("unet",),
    },
}


@pytest.mark.parametrize("form", slow_but(("quick",), FORMS))
def test_every_function_computes_what_its_network_computes(form, exported, model):
    """And shallow fed with full's deep feature is full, exactly: a difference is an error of the checks themselves."""
    folder = exported(TOKENS, **FORMS[form], **CORE_AI)
    content, paths = asset_checks.content_of(folder)
    checks = list(asset_checks.run(content, paths, model(TOKENS).model.name, False, lambda line: None))
    assert max(check.error for check in checks) <= (1e-2 if FORMS[form]["dtype"] == "float16" else 1e-5)
    functions = {(check.package, check.function) for check in checks}
    assert {("Unet", "main"), ("Unet", "full"), ("Unet", "shallow")} <= functions
    assert functions == {(p, f) for p, d in content["packages"].items() for f in d["functions"]}
    assert content["tokens"]["sampler"] == "maskgit"


@pytest.mark.slow
def test_shallow_with_the_feature_of_full_is_full_exactly(exported):
    folder = exported(TOKENS, **FORMS["quick"], **CORE_AI)
    ports = info.read(folder)["packages"]["Unet"]["functions"]["full"]["inputs"]
    assert ports["tokens"] == {"shape": [2, SIDE, SIDE], "dtype": "int32"}
    assert ports["encoder_hidden_states"]["shape"] == [2, 77, 32]
    runtime, rng = Runtime(folder / "Unet.aimodel"), np.random.default_rng(0)
    feeds = {
        "tokens": rng.integers(tokens.TOKENS + 1, size=(2, SIDE, SIDE)).astype(np.int32),
        "time": np.array([0.25, 0.75], np.float32),
        "encoder_hidden_states": rng.standard_normal((2, 77, 32), dtype=np.float32),
    }
    full, whole = runtime.run("full", feeds), runtime.run("main", feeds)
    shallow = runtime.run("shallow", feeds | {"deep_feature": full["deep_feature"]})
    runtime.close()
    assert whole.keys() == shallow.keys() == {"log_probabilities"}
    for outputs in (whole, shallow):
        assert np.array_equal(outputs["log_probabilities"], full["log_probabilities"])
    assert np.abs(np.exp(full["log_probabilities"]).sum(1) - 1).max() < 1e-5
