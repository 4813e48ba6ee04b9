"""Packages of a model of tokens compute what its networks compute, and say what an app has to know of its tokens."""

import json

import numpy as np
import pytest

from coreml import info, verify
from coreml.__main__ import main
from coreml.interpret.package import Package
from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from tests.support import tokens
from tests.support.effort import slow_but
from tests.support.exports import SMALL, TOKENS

SIDE = tokens.SIDE * tokens.FACTOR
K, STATES = tokens.TOKENS, tokens.TOKENS + 1
FORMS = {
    "float32": {"dtype": "float32", "attention": "original"},
    "float16": {"dtype": "float16", "attention": "split-einsum"},
    "fused": {"dtype": "float16", "attention": "fused", "target": "iOS18", "unets": ("functions",)},
    "halves": {"dtype": "float32", "attention": "original", "unets": ("halves",)},
    "one row": {"dtype": "float32", "attention": "original", "batch": 1, "branch": 1},
}


@pytest.mark.parametrize("form", slow_but(("float32",), FORMS))
def test_every_package_computes_what_its_network_computes(form, exported, model):
    folder = exported(TOKENS, **FORMS[form])
    checks = [check for chain in verify.chains(folder) for check in verify.verify(chain, model(TOKENS))]
    exact = FORMS[form]["dtype"] == "float32"
    assert min(check.psnr for check in checks) > 60
    assert max(check.error for check in checks) <= (1e-4 if exact else 5e-3)
    assert {"log_probabilities", "image"} < {check.output for check in checks}
