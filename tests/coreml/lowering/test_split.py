"""A graph cut in two: about equal weights, and nothing awkward passes between the halves."""

import math

import pytest

from bench.models import UNETS
from coreml.lowering import split
from mlx_sd.checkpoint.model_folder import shapes
from tests.support.graphs import full_size, full_size_graph


@pytest.mark.parametrize(
    "name", [name if name == "sd15" else pytest.param(name, marks=pytest.mark.slow) for name in UNETS]
)
def test_halves_weigh_about_the_same_and_pass_on_images_and_vectors(name):
    functions, network = full_size(name)
    sizes = {parameter: math.prod(shape) for parameter, shape in shapes(network).items()}
    (first_spec, first), (_, second) = split.halves(functions.full(), full_size_graph(name))
    assert all(len(port.shape) in (2, 4) for port in first_spec.outputs)
    weights = [sum(sizes[p] for p in half.parameters.values()) for half in (first, second)]
    assert sum(weights) == sum(sizes.values())  # no tensor is in both
    assert abs(weights[0] - weights[1]) < 0.1 * sum(weights)
