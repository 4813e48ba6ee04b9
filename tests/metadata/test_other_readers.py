"""Another program reads what we write: sd-parsers, which knows A1111's text in every format."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import sd_parsers
from hypothesis import given
from PIL import Image

from mlx_sd import metadata
from mlx_sd.request import Request

REQUEST = Request(
    prompt='ein Zelt über 海\nat night: "dark", cold',
    negative="blurry, low: quality",
    seed=4294967295,
    model="models/dreamy.v2.safetensors",
    model_hash="0123456789ab",
    steps=20,
    guidance=7.5,
    sampler="dpmpp_2m",
    schedule="karras",
    width=512,
    height=768,
    clip_skip=1,
    rng="torch",
    strength=0.6,
    checkpoint_hash="6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
)


def _parsed(path: Path, request: Request):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    metadata.save(Image.fromarray(pixels), path, request.to_json())
    return sd_parsers.ParserManager().parse(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_every_format_is_read(tmp_path, suffix):
    info = _parsed(tmp_path / f"a{suffix}", REQUEST)
    assert info.generator == sd_parsers.data.Generators.AUTOMATIC1111
    (sampler,) = info.samplers
    assert sampler.name == "DPM++ 2M"
    assert sampler.parameters == {"scheduler": "Karras", "cfg_scale": "7.5", "seed": "4294967295", "steps": "20"}
    assert (sampler.model.name, sampler.model.hash) == ("dreamy.v2", "6ce0161689")
    assert (info.full_prompt, info.full_negative_prompt) == (REQUEST.prompt, REQUEST.negative)
    assert (
        info.metadata.items()
        >= {
            "Size": "512x768",
            "Clip skip": "2",
            "RNG": "CPU",
            "Denoising strength": "0.6",
        }.items()
    )


def test_hashes_of_adapters_do_not_disturb_the_others(tmp_path):
    """sd-parsers cuts quoted values at their commas; the values that it knows come before."""
    loras = [("a.safetensors", 0.5), ("b.safetensors", 1.0)]
    request = REQUEST.with_values(loras=loras, lora_hashes="a: 0123456789ab, b: ba9876543210")
    plain, info = _parsed(tmp_path / "a.png", REQUEST), _parsed(tmp_path / "b.png", request)
    assert info.samplers[0].parameters == plain.samplers[0].parameters
    assert info.full_prompt == f"{REQUEST.prompt} <lora:a:0.5> <lora:b:1>"


_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"))).map(str.strip)


@given(prompt=_TEXT.filter(lambda text: "Negative prompt:" not in text), seed=st.integers(0, 2**32 - 1))
def test_any_plain_prompt_is_read_with_its_brackets_escaped(folder, prompt, seed):
    info = _parsed(folder / "a.png", REQUEST.with_values(prompt=prompt, prompt_style="plain", seed=seed))
    escaped = "".join(f"\\{c}" if c in r"\()[]" else c for c in prompt)
    assert info.full_prompt == escaped and info.samplers[0].parameters["seed"] == str(seed)
