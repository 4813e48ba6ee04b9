"""The checkpoint: a Stable Diffusion pipeline in Hugging Face layout, in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from .stages import Plan, say
from .training import prepare
from .unet import scheduler
from .vae import scaling_factor


def write(plan: Plan, out: Path) -> None:
    """Put the trained parts together in the folder `out`."""
    prepare(plan.threads)
    vae = AutoencoderKL.from_pretrained(plan.result("decoder"))
    vae.register_to_config(scaling_factor=scaling_factor(plan))
    text = CLIPTextModel.from_pretrained(plan.result("unet") / "text_encoder")
    unet = UNet2DConditionModel.from_pretrained(plan.result("unet") / "unet")
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text.half(),
        tokenizer=CLIPTokenizer.from_pretrained(plan.result("tokenizer")),
        unet=unet.half(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    for name in ("vae", "unet"):
        forget_origin(out / name / "config.json")
    for name in ("vocab.json", "merges.txt"):  # transformers 5 writes tokenizer.json alone
        shutil.copy(plan.result("tokenizer") / name, out / "tokenizer" / name)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"export: {size / 1e6:.0f} MB")


def write_judge(plan: Plan, out: Path) -> None:
    """Put the CLIP that measures checkpoints together in the folder `out`: text encoder, image tower, tokenizer."""
    prepare(plan.threads)
    CLIPTextModel.from_pretrained(plan.result("clip") / "text_encoder").half().save_pretrained(out / "text_encoder")
    shutil.copytree(plan.result("tokenizer"), out / "tokenizer")
    scoring = load_file(plan.result("clip") / "clip_image.safetensors")
    halved = {name: t if name == "logit_scale" else t.half() for name, t in scoring.items()}
    save_file(halved, out / "clip_image.safetensors")


def forget_origin(config: Path) -> None:
    """Drop the local path that diffusers notes in a config it loaded."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2) + "\n")
