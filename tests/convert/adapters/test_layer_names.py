"""A name in an adapter means one layer of a model, in every spelling."""

import pytest

from bench.models import UNETS
from convert.adapters import layer_names
from mlx_sd.checkpoint.model_folder import build


@pytest.mark.parametrize("name", UNETS)
def test_names_with_underscores_mean_one_layer(name):
    """At full size: no two layers have a spelling in common, but for the pieces of one projection."""
    unet = build("unet", UNETS[name], name)
    for spelling, found in layer_names.spellings("unet", unet).items():
        assert [t.piece for t in found] == list(range(found[0].pieces)) and len(found) == found[0].pieces, spelling
