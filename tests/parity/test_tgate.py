"""T-GATE as its authors publish it, around diffusers' own UNets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
import torch

from mlx_sd import TGate
from tests.support import families, reference
from tests.support.families import FAMILIES, distance

LATENTS, STEPS = 1e-3, 9


@contextmanager
def gated(network: Any, gate: int, sp: int, fi: int, warm_up: int) -> Iterator[Callable[..., Any]]:
    """The UNet with T-GATE's rule in every attention, to be called once a step with both halves of a guided batch."""
    step, kept = -1, {}
    live = [(name, module) for name, module in network.named_modules() if name.endswith((".attn1", ".attn2"))]

    def forward(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def attend(hidden: Any, encoder_hidden_states: Any = None, **rest: Any) -> Any:
            crosses = encoder_hidden_states is not None
            if step > gate - 1 and (crosses or step % fi):
                return kept[name]
            if step < gate - 1 and not crosses and step > warm_up and step % sp:
                return kept[name]
            made = own(hidden, encoder_hidden_states=encoder_hidden_states, **rest)
            kept[name] = (made[: len(made) // 2] + made[len(made) // 2 :]) / 2 if step == gate - 1 else made
            return made

        return attend

    def call(x: Any, t: Any, encoder_hidden_states: Any, added_cond_kwargs: Any) -> Any:
        nonlocal step
        step += 1
        if step < gate:
            return network(x, t, encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=added_cond_kwargs)
        half = len(x) // 2
        added = added_cond_kwargs and {name: value[:half] for name, value in added_cond_kwargs.items()}
        alone = network(x[:half], t, encoder_hidden_states=encoder_hidden_states[:half], added_cond_kwargs=added)
        return SimpleNamespace(sample=torch.cat([alone.sample] * 2))  # which guidance leaves as it is

    for name, module in live:
        module.forward = forward(name, module.forward)
    try:
        yield call
    finally:
        for _, module in live:
            del module.forward


@pytest.mark.parametrize("numbers", [(4, 1, 1, 0), (5, 3, 1, 1), (6, 2, 3, 2), (3, 5, 2, 7), (1, 1, 1, 0)])
@pytest.mark.parametrize("name", ["sd1", "sd2v", "sdxl"])
def test_the_authors_rule(name, numbers, modules, family, shapes, tmp_path, measure):
    folder = families.write_folder(name, shapes[name], tmp_path / name)
    made, noise = reference.scheduler(FAMILIES[name]["scheduler"], "ddim", "trailing"), families.noise(batch=2)
    parts = modules(name)
    plain = reference.guided(folder, parts, made, noise, steps=STEPS)
    with gated(parts["unet"], *numbers) as network:
        theirs = reference.guided(folder, parts, made, noise, steps=STEPS, network=network)
    ours = family(name).generate(
        [families.PROMPT] * 2,
        families.NEGATIVE,
        latents=mx.array(noise),
        batch=2,
        steps=STEPS,
        guidance=families.GUIDANCE,
        sampler="ddim",
        schedule="trailing",
        width=noise.shape[2] * family(name).vae.config.downsampling,
        height=noise.shape[1] * family(name).vae.config.downsampling,
        tgate=TGate(*numbers),
        output="latent",
    )
    assert distance(theirs, plain) > LATENTS
    measure("T-GATE", distance(ours.latents, theirs), LATENTS)
