"""A student begins as its teacher, the teacher is guided as pictures are, and only the student learns."""

import dataclasses
from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_sd import StableDiffusion
from mlx_sd.completion import complete
from mlx_sd.conditions import conditions_of
from mlx_sd.core.errors import InputError
from mlx_sd.predictor import predictor_of
from mlx_sd.request import Request
from mlx_sd.train.kinds.distill import WEIGHT_DECAY, Distillation
from mlx_sd.train.learning.consistency import Consistency
from mlx_sd.train.learning.examples import Captions, MicroBatch
from mlx_sd.train.learning.kind_settings import DistillSettings, parse_guidance
from mlx_sd.train.learning.objective import Objective
from mlx_sd.train.learning.optimizers import GroupedOptimizer
from mlx_sd.train.learning.random_keys import Place
from mlx_sd.train.learning.trainer import Rates, Trainer
from tests.support.families import numbers

CAPTIONS = ("a red tent", "two boats")
STUDENTS = ["lora", "full"]
_SLOW = [("sd1", "full"), ("sd2v", "lora"), ("sdxl", "full")]
PAIRS = [
    ("sd1", "lora"),
    ("sd2v", "full"),
    ("sdxl", "lora"),
    *(pytest.param(*p, marks=pytest.mark.slow) for p in _SLOW),
]
SIZE = (64, 48)  # width and height in pixels, as SDXL is told


@pytest.fixture
def kind(family) -> Iterator[Callable[..., Distillation]]:
    """kind("sd1", guidance=...) distils that family's tiny checkpoint; its adapters are taken away afterwards."""
    students = []

    def distil(name: str, **settings) -> Distillation:
        model = family(name).model
        record = DistillSettings(**{"rank": 4, "targets": "attention", "steps": 10} | settings)
        record.check()
        students.append(Distillation(model, record, Captions(model, CAPTIONS), Objective.of(model.scheduler)))
        return students[-1]

    yield distil
    for student in students:
        if student.layers:
            student.learned.remove()


def batch(objective: Objective, step: int = 0, count: int = 2, weights: mx.array | None = None) -> MicroBatch:
    places = tuple(Place(step, i) for i in range(count))
    clean = mx.array(numbers("clean", count, 4, 4, 4))
    draws = objective.draw(3, places, clean.shape[1:])
    return MicroBatch(
        clean, draws, CAPTIONS[:count], ((*SIZE[::-1], 0, 0, *SIZE[::-1]),) * count, (), weights, None, places
    )


def batch_of(model, **changes) -> MicroBatch:
    return batch(Objective.of(model.scheduler), **changes)


def moved(student: Distillation, size: float = 0.05) -> None:
    """Moves what is learned away from where it began."""
    flat = tree_flatten(student.learned.trainable_parameters())
    arrays = [(name, array + size * mx.array(numbers(name, *array.shape))) for name, array in flat]
    student.learned.load_weights(arrays, strict=False)


def inputs_of(sd) -> dict[str, mx.array]:
    """Returns what a UNet is called with, for one caption."""
    conditions = conditions_without_guidance(sd, CAPTIONS[0])
    return {"x": mx.array(numbers("x", 1, 4, 4, 4)), "t": mx.array(400), **conditions}


def conditions_without_guidance(sd, caption: str) -> dict[str, mx.array]:
    conditions = conditions_of(sd.model, [completed(sd, caption, 1.0)])
    return {"context": conditions.context, **conditions.keywords}


def completed(sd, prompt: str, guidance: float) -> Request:
    sizes = {"original_size": SIZE, "target_size": SIZE, "crop": (0, 0)} if len(sd.model.text_encoders) > 1 else {}
    return complete(sd.model, Request(prompt=prompt, seed=0, steps=2, sampler="euler", guidance=guidance, **sizes))


@pytest.mark.parametrize(("name", "student"), PAIRS)
def test_a_student_begins_as_its_teacher(name, student, family, kind):
    sd = family(name)
    inputs = inputs_of(sd)
    before = sd.unet(**inputs)[0]
    distillation = kind(name, student=student)
    network = sd.unet if student == "lora" else distillation.learned
    assert mx.array_equal(network(**inputs)[0], before).item()
    moved(distillation)
    assert not mx.array_equal(network(**inputs)[0], before).item()


@pytest.mark.parametrize(("name", "student"), PAIRS)
def test_without_guidance_and_further_jumps_there_is_nothing_to_learn(name, student, family, kind):
    distillation = kind(name, student=student, guidance=(1.0, 1.0), widen=1.0)
    examples = batch_of(family(name).model)
    assert distillation.loss(examples).item() == 0
    assert distillation.loss(dataclasses.replace(examples, places=(Place(10, 0), Place(10, 1)))).item() > 0
    moved(distillation)
    assert distillation.loss(examples).item() > 0


@pytest.mark.parametrize(("name", "student"), PAIRS)
def test_the_teacher_is_guided_as_pictures_are(name, student, family, kind):
    """A scale means what generate's --guidance means, with the checkpoint's own empty prompt; the student is moved."""
    sd = family(name)
    examples = batch_of(sd.model)
    clean, draws = examples.clean, examples.draws
    consistency = Consistency(sd.model.scheduler)
    jumps = [consistency.jump(timestep, 0.0, 0.0) for timestep in draws.timesteps.tolist()]
    starts, solved_at, ends = zip(*jumps, strict=True)
    noisy = Objective.of(sd.model.scheduler).mix(clean, draws.noise, mx.array(starts))
    guided = mx.concatenate(
        [
            predictor_of(sd.model, [completed(sd, prompt, 6.5)])(noisy[i : i + 1], float(starts[i]))
            for i, prompt in enumerate(CAPTIONS)
        ]
    )
    solved = consistency.solve(noisy, guided, starts, solved_at)

    distillation = kind(name, student=student, guidance=(6.5, 6.5), widen=1.0)
    moved(distillation)
    network = sd.unet if student == "lora" else distillation.learned
    rows = [conditions_without_guidance(sd, caption) for caption in CAPTIONS]
    inputs = {key: mx.concatenate([row[key] for row in rows]) for key in rows[0]}
    estimate = consistency.function(noisy, network(noisy, mx.array(starts), **inputs)[0], starts, ends)
    expected = mx.square(estimate - solved).mean().item()
    assert distillation.loss(examples).item() == pytest.approx(expected, rel=1e-4)


def test_a_class_is_guided_away_from_no_class():
    model = StableDiffusion.load("tiny-classes", "float32").model
    objective = Objective.of(model.scheduler)
    examples = dataclasses.replace(
        batch(objective), captions=(), labels=(4, 8), clean=mx.array(numbers("c", 2, 8, 8, 4))
    )
    examples = dataclasses.replace(examples, draws=objective.draw(3, examples.places, (8, 8, 4)))
    settings = DistillSettings(student="full", widen=1.0, guidance=(3.0, 3.0))
    consistency = Consistency(model.scheduler)
    jumps = [consistency.jump(timestep, 0.0, 0.0) for timestep in examples.draws.timesteps.tolist()]
    starts, solved_at, ends = zip(*jumps, strict=True)
    noisy = objective.mix(examples.clean, examples.draws.noise, mx.array(starts))
    requests = [complete(model, Request(class_label=label, seed=0, guidance=3.0)) for label in examples.labels]
    guided = [predictor_of(model, [r])(noisy[i : i + 1], float(starts[i])) for i, r in enumerate(requests)]
    solved = consistency.solve(noisy, mx.concatenate(guided), starts, solved_at)
    own = model.unet(noisy, mx.array(starts), class_labels=mx.array(examples.labels))[0]
    expected = mx.square(consistency.function(noisy, own, starts, ends) - solved).mean().item()
    loss = Distillation(model, settings, Captions(model, []), objective).loss(examples).item()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_scales_are_drawn_between_both_numbers_by_the_place_alone(family, kind):
    model = family("sd1").model
    distillation = kind("sd1", guidance=(3.0, 9.0))
    scales = [scale for step in range(40) for scale in distillation._draw(batch_of(model, step=step))[1]]
    assert 3 <= min(scales) < 3.5
    assert 8.5 < max(scales) <= 9
    assert distillation._draw(batch_of(model, step=7)) == distillation._draw(batch_of(model, step=7))


def test_jumps_grow_over_the_share_of_the_steps(family, kind):
    model = family("sd1").model
    distillation = kind("sd1", widen=0.5, steps=100)

    def longest(step: int) -> int:
        examples = batch_of(model, step=step)
        places = [tuple(Place(step, 2 * i + j) for j in range(2)) for i in range(100)]
        jumps = [jump for pair in places for jump in distillation._draw(dataclasses.replace(examples, places=pair))[0]]
        return max(jump.solved - jump.end for jump in jumps)

    start, quarter, half, end = (longest(step) for step in (0, 25, 50, 99))
    assert start == 0 < quarter <= 480  # 24 steps of the solver, of 49
    assert min(half, end) > 700


@pytest.mark.parametrize(
    ("student", "method"),
    [
        ("lora", "tcd"),
        ("full", "lcm"),
        pytest.param("lora", "lcm", marks=pytest.mark.slow),
        pytest.param("full", "tcd", marks=pytest.mark.slow),
    ],
)
def test_gradients_do_not_pass_through_targets(student, method, family, kind):
    """With averages equal to the student, which no gradient can reach, the gradients are the same; and finite
    differences, in which such a target stays, agree."""
    model = family("sd2v").model
    distillation = kind("sd2v", student=student, method=method, guidance=(3.0, 3.0))
    moved(distillation, 0.02)
    examples = batch_of(model)
    value = nn.value_and_grad(distillation.learned, lambda: distillation.loss(examples))
    own = tree_flatten(value()[1])
    constants = tree_map(mx.array, distillation.learned.trainable_parameters())
    distillation.follow(lambda: constants)
    followed = dict(tree_flatten(value()[1]))
    assert all(mx.allclose(gradient, followed[name], rtol=1e-5, atol=1e-7).item() for name, gradient in own)
    assert any(gradient.abs().max().item() > 0 for _, gradient in own)
    length = float(np.sqrt(sum(float((gradient**2).sum().item()) for _, gradient in own)))
    losses, size = [], 1e-2 if student == "lora" else 1e-3
    for sign in (1, -1):
        shifted = [(name, array + sign * size / length * dict(own)[name]) for name, array in tree_flatten(constants)]
        distillation.learned.load_weights(shifted, strict=False)
        losses.append(distillation.loss(examples).item())
    assert (losses[0] - losses[1]) / (2 * size) == pytest.approx(length, rel=0.02)


@pytest.mark.parametrize("student", STUDENTS)
def test_only_the_student_learns(student, family, kind):
    model = family("sd2v").model
    distillation = kind("sd2v", student=student)
    assert tree_flatten(model.unet.trainable_parameters()) == []
    before = {name: np.array(array) for name, array in tree_flatten(model.unet.parameters())}
    losses = train(distillation, model, steps=3)
    assert all(np.array_equal(before[name], array) for name, array in tree_flatten(model.unet.parameters()))
    assert losses[-1] < losses[0]


def train(distillation: Distillation, model, steps: int, rate: float = 1e-3) -> list[float]:
    """Returns the losses of one batch over some steps on it."""
    optimizer = GroupedOptimizer("adamw", WEIGHT_DECAY, (0.9, 0.999))
    decay = distillation.average_decay
    trainer = Trainer(distillation.learned, distillation.loss, optimizer, Rates(rate, steps), average_decay=decay)
    if decay:
        distillation.follow(lambda: trainer.averages)
    examples = batch_of(model)
    return [trainer.run([examples]).loss for _ in range(steps)]


def test_targets_are_of_the_averaged_student(family, kind):
    model = family("sd2v").model
    distillation = kind("sd2v", student="full")
    assert distillation.average_decay == 0.95
    assert kind("sd2v").average_decay is None
    averages = tree_map(mx.array, distillation.learned.trainable_parameters())
    moved(distillation, 0.01)
    examples = batch_of(model, step=1)
    own = distillation.loss(examples).item()
    distillation.follow(lambda: averages)
    followed = distillation.loss(examples).item()
    assert own != followed
    distillation.learned.update(averages)
    current = tree_flatten(distillation.learned.trainable_parameters())
    assert all(mx.array_equal(array, dict(tree_flatten(averages))[name]).item() for name, array in current)


@pytest.mark.slow
@pytest.mark.parametrize("student", STUDENTS)
def test_recomputing_changes_no_gradient(student, family, kind):
    gradients = []
    for recompute in (False, True):
        distillation = kind("sd2v", student=student, recompute=recompute)
        moved(distillation, 0.02)
        examples = batch_of(family("sd2v").model)
        _, gradient = nn.value_and_grad(distillation.learned, lambda: distillation.loss(examples))()  # noqa: B023
        gradients.append(tree_flatten(gradient))
        if student == "lora":
            distillation.learned.remove()
    differences = [(mx.square(a - b).sum(), mx.square(a).sum()) for (_, a), (_, b) in zip(*gradients, strict=True)]
    difference, total = (sum(column) for column in zip(*differences, strict=True))
    assert 0 < difference.item() < 1e-10 * total.item()  # it is computed in another way, and the same


def test_weights_of_examples_weigh_their_losses(family, kind):
    model = family("sd1").model
    distillation = kind("sd1")
    alone = [distillation.loss(batch_of(model, weights=mx.array(pair))).item() for pair in ([1.0, 0.0], [0.0, 1.0])]
    both = distillation.loss(batch_of(model, weights=mx.array([3.0, 5.0]))).item()
    assert both == pytest.approx(3 * alone[0] + 5 * alone[1], rel=1e-5)


def test_what_is_written_is_adapters_or_weights(family, kind):
    unet = family("sd1").unet
    lora, whole = kind("sd1"), kind("sd1", student="full")
    assert lora.weights == whole.layers == {}
    assert all(up.shape[1] == down.shape[0] == alpha == 4 for down, up, alpha in lora.layers.values())
    shapes = {name: array.shape for name, array in tree_flatten(unet.parameters())}
    assert {name: array.shape for name, array in whole.weights.items()} == shapes


@pytest.mark.parametrize(
    ("value", "scales"), [(7.5, (7.5, 7.5)), ("7.5", (7.5, 7.5)), ("5:9", (5.0, 9.0)), ([2, 3], (2.0, 3.0))]
)
def test_guidance_is_a_scale_or_two(value, scales):
    assert parse_guidance(value) == scales
    assert DistillSettings().with_values(guidance=value).guidance == scales


@pytest.mark.parametrize("value", ["x", "9:5", "1:2:3", "0.5", "nan", "", None, [], "5:"])
def test_other_guidance_is_refused(value):
    with pytest.raises(InputError, match="guidance must be a number from 1 up, or two"):
        parse_guidance(value)


def test_settings_survive_json():
    record = DistillSettings(method="lcm", guidance=(2.0, 5.0), huber=1e-3, average=0.9)
    assert DistillSettings.from_json(record.to_json(), "settings.json") == record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snr_gamma": 5.0}, "leave it out"),
        ({"solver_steps": 2000}, "1 to 1000 steps, not 2000"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message, kind):
    with pytest.raises(InputError, match=message):
        kind("sd1", **changes)


def test_checkpoints_that_cannot_be_distilled_are_refused(family):
    model = family("sd1").model
    config = dataclasses.replace(model.unet.config, guidance_dims=256)

    class Distilled:
        """A UNet that takes its guidance as an input."""

        def __init__(self) -> None:
            self.config = config

    with pytest.raises(InputError, match="distilled already"):
        Distillation(
            dataclasses.replace(model, unet=Distilled()),
            DistillSettings(),
            Captions(model, []),
            Objective.of(model.scheduler),
        )
    with pytest.raises(InputError, match="not quantized"):
        quantized = dataclasses.replace(model, quantization="4")
        Distillation(quantized, DistillSettings(student="full"), Captions(model, []), Objective.of(model.scheduler))


@pytest.mark.slow
def test_a_student_learns_its_teachers_picture():
    """A few dozen steps on one picture, drawn at all its levels, bring four steps nearer to the teacher's fifty."""
    sd = StableDiffusion.load("tiny", "float32")
    caption = "a lighthouse by the sea"
    options = {"seed": 4, "output": "latent", "width": 128, "height": 128}
    picture = sd.generate(caption, sampler="ddim", schedule="trailing", steps=50, **options).latents
    objective = Objective.of(sd.model.scheduler)
    settings = DistillSettings(rank=8, targets="attention", steps=30)
    distillation = Distillation(sd.model, settings, Captions(sd.model, [caption]), objective)
    optimizer = GroupedOptimizer("adamw", WEIGHT_DECAY, (0.9, 0.999))
    trainer = Trainer(distillation.learned, distillation.loss, optimizer, Rates(2e-3, settings.steps, "cosine"))

    def distance() -> float:
        fast = sd.generate(caption, sampler="tcd", gamma=0.0, steps=4, guidance=1.0, **options).latents
        return float(mx.sqrt(mx.square(fast - picture).mean()).item())

    before = distance()
    for step in range(settings.steps):
        places = (Place(step, 0), Place(step, 1))
        draws = objective.draw(1, places, picture.shape[1:])
        clean = mx.concatenate([picture, picture])
        trainer.run([MicroBatch(clean, draws, (caption, caption), places=places)])
    assert distance() < 0.5 * before  # measured: 0.31 of it
