"""OpenAI's own client for JavaScript, unmodified, where node and its package are installed (npm install openai)."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sd import StableDiffusion
from tests.studio.pictures import pixels, png_of
from tests.support.studio import ROOT, serving

SCRIPT = Path(__file__).parent / "openai_client.cjs"
MODULES = Path(os.environ.get("NODE_PATH") or ROOT / "node_modules")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("node") is None or not (MODULES / "openai").is_dir(), reason="npm install openai, and node, for this"
)
def test_the_client_for_javascript_gets_pictures_streams_edits_and_errors(tmp_path: Path):
    image = Image.new("RGB", (64, 64), "teal")
    file = tmp_path / "image.png"
    file.write_bytes(png_of(image))
    with serving(tmp_path / "data") as (address, _):
        done = subprocess.run(
            ["node", str(SCRIPT), f"{address}/v1", str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "NODE_PATH": str(MODULES)},
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert "tiny" in answers["models"]
    sd = StableDiffusion.load("tiny")
    options = {"seed": 5, "steps": 1, "sampler": "euler"}
    expected = sd.generate("a lighthouse", count=2, width=64, height=64, **options).images
    for text, original in zip(answers["pictures"], expected, strict=True):
        assert np.array_equal(pixels(base64.b64decode(text)), np.asarray(original))
    assert answers["events"][-1] == "image_generation.completed"
    assert answers["events"][:-1] == ["image_generation.partial_image"]
    edited = sd.generate("a sky", image=image, strength=0.5, seed=5, steps=2).images[0]
    assert np.array_equal(pixels(base64.b64decode(answers["edited"])), np.asarray(edited))
    assert answers["error"] == {"status": 404, "code": "model_not_found", "param": "model"}
