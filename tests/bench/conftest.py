"""What tests of several measurements share."""

import pytest

from bench import models


@pytest.fixture
def small_shapes(monkeypatch):
    """Makes of sd15 and sdxl in `bench.models` models of small widths."""
    text = models.SD15_TEXT | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2}
    second = text | {"architectures": ["CLIPTextModelWithProjection"], "projection_dim": 32}
    widths = {"block_out_channels": [32, 64], "attention_head_dim": 2, "layers_per_block": 1, "sample_size": 8}
    cross = {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    cross |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
    sd15 = models.UNETS["sd15"] | widths | cross | {"cross_attention_dim": 32}
    sdxl = models.UNETS["sdxl"] | widths | cross | {"cross_attention_dim": 64, "transformer_layers_per_block": 1}
    sdxl |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32 + 6 * 8}
    monkeypatch.setattr(models, "UNETS", {"sd15": sd15, "sdxl": sdxl})
    monkeypatch.setattr(models, "TEXTS", {"sd15": [text], "sdxl": [text, second]})
    monkeypatch.setattr(models, "VAE", models.VAE | {"block_out_channels": [32, 32, 32, 32]})
