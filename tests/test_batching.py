"""The batches that are dealt out to ranks are those that the pipeline makes."""

import pytest

from mlx_sd import Request, StableDiffusion, batching
from tests.support.effort import slow_but

PROMPTS = ["a tent", "a house AND a moon", "a hut AND a moon", "a red tent " * 30, "a tent", "a tent", "a tent"]


@pytest.mark.slow
@pytest.mark.parametrize("size", slow_but([2], [1, 2, 3]))
def test_batches_are_those_of_the_pipeline(size):
    sd = StableDiffusion.load("tiny", dtype="float32")
    fast = {"steps": 1, "width": 32, "height": 32}
    requests = [sd.complete(Request(prompt=prompt, seed=i, **fast)) for i, prompt in enumerate(PROMPTS)]
    requests += [sd.complete(Request(prompt="a tent", seed=i, **fast | {"width": 48})) for i in range(3)]
    requests += [
        sd.complete(Request(prompt="a tent", seed=i, deepcache="adaptive:0.2", **fast | {"steps": 9})) for i in range(2)
    ]
    begun, made = [], []
    for result in sd.stream(requests, batch=size, accept=lambda i: not begun.append(i), output="latent"):
        made.append(begun[:])
        begun.clear()
        assert [request.seed for request in result.requests] == [requests[i].seed for i in made[-1]]
    assert batching.batches(sd.model, requests, size) == made
    assert [i for batch in made for i in batch] == [*range(len(requests))]
