"""What a LoRA's file says of itself, read by rules that were written down from A1111's and kohya's, apart from ours."""

import hashlib
import json
import struct
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from convert.adapters import adapter_file
from mlx_sd.networks.family import Family
from mlx_sd.train.files import lora_file
from mlx_sd.train.files.base_model import BaseModel
from mlx_sd.train.files.training_record import TrainingRecord
from tests.support import trained

FULL = TrainingRecord(
    title="A cat",
    trigger_phrase="sks cat",
    resolution=(512, 768),
    pictures=12,
    prior_pictures=100,
    tag_frequency={"10_sks cat": {"sks cat": 12, "on a mat": 3}},
    bucket_info={"buckets": {"0": {"resolution": [512, 768], "count": 12}}},
    steps=400,
    total_steps=1000,
    epoch=3,
    batch=4,
    accumulation=2,
    seed=7,
    learning_rate=1e-4,
    unet_learning_rate=1e-4,
    text_learning_rate=5e-6,
    schedule="cosine",
    warmup=10,
    optimizer="AdamW",
    clipping=1.0,
    min_snr_gamma=5.0,
    noise_offset=0.05,
    caption_dropout=0.1,
    prior_weight=1.0,
    zero_terminal_snr=False,
    clip_skip=2,
    precision="bf16",
    comment="a comment with ümläuts, and \udcff of an odd file's name",
    started=1.7e9,
    finished=1.7e9 + 3600.5,
)


def header(file: Path) -> tuple[dict[str, Any], bytes]:
    """The header and what follows it, by the definition of the format."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def conclusion(metadata: dict[str, str]) -> str:
    """Which models A1111 lists a file for."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    if metadata.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if metadata else "Unknown"


BASES = {  # what a base model is -> A1111's conclusion, kohya's version, ModelSpec's architecture, its prediction
    (Family.SD1, "epsilon"): ("SD1", "sd_v1", "stable-diffusion-v1/lora", "epsilon"),
    (Family.SD2, "epsilon"): ("SD2", "sd_v2", "stable-diffusion-v2-512/lora", "epsilon"),
    (Family.SD2, "v_prediction"): ("SD2", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "v"),
    (Family.SDXL, "epsilon"): ("SDXL", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "epsilon"),
}


@pytest.fixture
def base(models) -> BaseModel:
    return BaseModel.of(models("sd1"))


def written(models, base: BaseModel, folder: Path, pattern: str = "mid_block.*to_q", **changes: Any) -> dict[str, Any]:
    """The metadata of a LoRA that is written with a record's changes."""
    layers = trained.layers(models("sd1"), rank=8, alpha=4.0, pattern=pattern)
    lora_file.write(folder / "cat-000400.safetensors", layers, base, replace(FULL, **changes), force=True)
    return header(folder / "cat-000400.safetensors")[0]["__metadata__"]


@pytest.mark.parametrize(("family", "prediction"), BASES)
def test_other_programs_conclude_the_family(family, prediction, models, base, tmp_path):
    metadata = written(models, replace(base, family=family, prediction=prediction), tmp_path)
    assert (
        conclusion(metadata),
        metadata["ss_base_model_version"],
        metadata["modelspec.architecture"],
        metadata["modelspec.prediction_type"],
    ) == BASES[family, prediction]
    assert metadata["ss_v2"] == str(family is Family.SD2)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_family_is_that_of_the_loaded_model(family, models, tmp_path):
    layers, base = trained.layers(models(family), pattern="mid_block.*to_q"), BaseModel.of(models(family))
    lora_file.write(tmp_path / "a.safetensors", layers, base)
    assert conclusion(header(tmp_path / "a.safetensors")[0]["__metadata__"]) == family.upper()


def test_all_metadata_are_strings_and_those_of_the_record(models, base, tmp_path):
    metadata = written(models, replace(base, sha256="ab" * 32), tmp_path)
    assert all(isinstance(value, str) for value in metadata.values())
    assert {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "4.0",
        "ss_network_args": "{}",
        "ss_sd_model_name": "sd1",
        "ss_new_sd_model_hash": "ab" * 32,
        "ss_output_name": "cat-000400",
        "ss_resolution": "(512, 768)",
        "ss_num_train_images": "12",
        "ss_clip_skip": "2",
        "ss_steps": "400",
        "ss_learning_rate": "0.0001",
        "ss_text_encoder_lr": "5e-06",
        "ss_zero_terminal_snr": "False",
        "ss_training_finished_at": "1700003600.5",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": "A cat",
        "modelspec.resolution": "512x768",
        "modelspec.trigger_phrase": "sks cat",
        "modelspec.date": "2023-11-14T23:13:20+00:00",
        "modelspec.implementation": "diffusers",
    }.items() <= metadata.items()
    assert json.loads(metadata["ss_tag_frequency"]) == FULL.tag_frequency
    assert json.loads(metadata["ss_bucket_info"]) == FULL.bucket_info
    assert metadata["ss_training_comment"] == "a comment with ümläuts, and ? of an odd file's name"
    names = {field.metadata["name"] for field in fields(TrainingRecord) if "name" in field.metadata}
    assert names <= metadata.keys()


def test_what_is_not_known_is_left_out(models, base, tmp_path):
    metadata = written(models, base, tmp_path, **{field.name: None for field in fields(TrainingRecord)})
    assert "None" not in metadata.values()
    assert metadata["modelspec.title"] == "cat-000400"
    assert metadata["modelspec.resolution"] == "64x64"  # the checkpoint's own
    assert not {"ss_new_sd_model_hash", "ss_steps", "modelspec.date", "modelspec.trigger_phrase"} & metadata.keys()


def test_no_folder_of_the_users_is_in_the_file(models, base, tmp_path):
    written(models, base, tmp_path)
    assert str(tmp_path).encode() not in (tmp_path / "cat-000400.safetensors").read_bytes()


def test_ranks_of_convolutions_stand_by_themselves_and_several_are_dynamic(models, base, tmp_path):
    both = written(models, base, tmp_path, r"mid_block.*(to_q|conv1)")
    assert (both["ss_network_dim"], both["ss_network_alpha"]) == ("8", "4.0")
    assert json.loads(both["ss_network_args"]) == {"conv_dim": "3", "conv_alpha": "4.0"}
    alone = written(models, base, tmp_path, r"mid_block.*conv1")
    assert (alone["ss_network_dim"], alone["ss_network_args"]) == ("3", "{}")
    layers = trained.layers(models("sd1"), pattern="mid_block.*to_[qk]")
    (one, weights), *others = layers.items()
    mixed = {one: weights._replace(down=weights.down[:2], up=weights.up[:, :2], alpha=1.0), **dict(others)}
    lora_file.write(tmp_path / "mixed.safetensors", mixed, base)
    metadata = header(tmp_path / "mixed.safetensors")[0]["__metadata__"]
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("Dynamic", "Dynamic")


@pytest.mark.parametrize("spelling", lora_file.SPELLINGS)
def test_the_hash_is_that_of_the_numbers_in_the_order_of_kohyas_scripts(spelling, models, base, tmp_path):
    file = tmp_path / "a.safetensors"
    lora_file.write(file, trained.layers(models("sd1")), base, FULL, spelling=spelling)
    head, numbers = header(file)
    digest = head["__metadata__"]["sshs_model_hash"]
    assert digest == hashlib.sha256(numbers).hexdigest()
    packed = save(load_file(file), {"ss_v2": "False"})  # as kohya's scripts do: the library's own bytes
    assert digest == hashlib.sha256(packed[8 + struct.unpack("<Q", packed[:8])[0] :]).hexdigest()
    assert adapter_file.read(file).autov3 == digest[:12]


def test_a_rank_and_an_alpha_are_concluded_from_the_tensors(models, base, tmp_path):
    written(models, base, tmp_path, r"mid_block.*(to_q|conv1)")
    tensors = load_file(tmp_path / "cat-000400.safetensors")
    assert {int(np.asarray(v).shape[0]) for n, v in tensors.items() if n.endswith("to_q.lora_down.weight")} == {8}
    assert {float(value) for name, value in tensors.items() if name.endswith(".alpha")} == {4.0}
