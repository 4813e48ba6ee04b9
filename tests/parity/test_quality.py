"""Features in MLX are those of the tower that was trained, in torch."""

import numpy as np
import torch
from safetensors.torch import load_file

from bench import quality
from bench.tiny.clip import ImageTower
from tests.families import distance


def test_features_are_the_trained_towers(measure):
    tower = ImageTower().eval()
    weights = {name.removeprefix("image."): w.float() for name, w in load_file(quality.WEIGHTS).items()}
    tower.load_state_dict({name: weights[name] for name in tower.state_dict() if name in weights}, strict=False)
    pixels = quality.paintings(range(4))
    with torch.no_grad():
        known = tower(torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)).numpy()
    measure("CLIP image features", distance(quality.Scorer().images(pixels), known), 1e-5)
