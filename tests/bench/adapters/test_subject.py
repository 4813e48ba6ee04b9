"""What an autoencoder leaves of a picture."""

import numpy as np
import pytest

from bench.adapters.subject import Subject
from bench.quality.truth_judge import judge
from bench.tiny.claims import claims


@pytest.mark.slow
def test_pictures_of_the_world_come_through_its_autoencoder(tmp_path):
    subject = Subject("tiny", tmp_path / "none.safetensors", tmp_path, captions=3, steps=2, side=128)
    selection = claims()[:3]
    true = [claim.true_picture(128) for claim in selection]
    decoded = subject.through_autoencoder(true)
    for claim, before, after in zip(selection, true, decoded, strict=True):
        difference = np.abs(np.asarray(before, np.int16) - np.asarray(after)).mean()
        assert 0 < difference < 12 and judge(after, claim).true
