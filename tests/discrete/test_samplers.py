"""Samplers of tokens: their laws, their calls, and what they keep."""

from itertools import product

import numpy as np
import pytest

from mlx_sd import Failure, InputError
from mlx_sd.discrete import calls, schedules
from mlx_sd.discrete.calls import calls_of
from mlx_sd.discrete.corruption import Corruption
from mlx_sd.discrete.samplers import Run, guided

SIZE, STEPS = 2, 4  # tokens of a word, and steps
WORDS = 100_000


def table(kind):
    """A toy denoiser of words of two tokens: each token's probabilities depend on both tokens, not on the time."""
    states = 3 if kind == "absorbing" else 2
    return np.random.default_rng(5).dirichlet([0.8, 0.8], size=(states, states, SIZE))


def denoiser(kind):
    """Of a picture of many words side by side, which have nothing to do with each other."""
    probabilities = table(kind)

    def predict(x, time):
        words = x.reshape(-1, SIZE)
        return np.log(probabilities[words[:, 0], words[:, 1]]).reshape(-1, 2)

    return predict


def sampled(name, kind, schedule="linear", seed=0):
    """The shares of the four words among many that are sampled at once."""
    rng = np.random.default_rng(seed)
    run = Run(name, Corruption(kind, 2), calls_of(name, schedule, STEPS, WORDS * SIZE, rng), rng)
    *_, tokens = run.steps(denoiser(kind))
    words = tokens.reshape(-1, SIZE)
    return np.bincount(words[:, 0] * 2 + words[:, 1], minlength=4)


def exact_chain(kind, schedule="linear"):
    """The chain's law of words, by enumeration of all states."""
    corruption, alphas, p = Corruption(kind, 2), schedules.alphas(schedule, STEPS), table(kind)
    states = list(product(range(corruption.states), repeat=SIZE))
    start = corruption.log_noise
    law = {state: float(np.exp(start[list(state)].sum())) for state in states}
    for t in range(STEPS, 0, -1):
        following = dict.fromkeys(states, 0.0)
        for state, weight in law.items():
            if weight:
                log_x0 = np.pad(np.log(p[state]), [(0, 0), (0, corruption.states - 2)], constant_values=-np.inf)
                posterior = np.exp(corruption.log_posterior(log_x0, np.array(state), alphas[t], alphas[t - 1]))
                for after in states:
                    following[after] += weight * posterior[0, after[0]] * posterior[1, after[1]]
        law = following
    return np.array([law[word] for word in product(range(2), repeat=SIZE)])


def exact_dndm(kind, schedule="linear"):
    """DNDM's law of words, by enumeration of all times of change."""
    corruption, alphas, p = Corruption(kind, 2), schedules.alphas(schedule, STEPS), table(kind)
    change = schedules.change_probabilities(alphas)
    states = list(product(range(corruption.states), repeat=SIZE))
    result = np.zeros(4)
    for times in product(range(1, STEPS + 1), repeat=SIZE):
        law = {state: float(np.exp(corruption.log_noise[list(state)].sum())) for state in states}
        for t in range(STEPS, 0, -1):
            following = dict.fromkeys(states, 0.0)
            for state, weight in law.items():
                choices = [list(enumerate(p[state][i])) if times[i] == t else [(state[i], 1.0)] for i in range(SIZE)]
                for (a, of_a), (b, of_b) in product(*choices):
                    following[a, b] += weight * of_a * of_b
            law = following
        weight = np.prod([change[t - 1] for t in times])
        result += weight * np.array([law[word] for word in product(range(2), repeat=SIZE)])
    return result


def chi_square(seen, expected):
    return float(((seen - expected * seen.sum()) ** 2 / (expected * seen.sum())).sum())


@pytest.mark.parametrize("schedule", ["linear", "cosine", "beta:3,3"])
def test_with_a_mask_dndm_has_the_law_of_the_chain(schedule):
    """A masked token is decided once, and given that it is masked still, its time has the chain's law."""
    assert np.abs(exact_dndm("absorbing", schedule) - exact_chain("absorbing", schedule)).max() <= 1e-12


def test_with_uniform_noise_dndm_has_another_law():
    """The chain draws a token anew at several steps, DNDM once: the two agree only for a denoiser that is exact."""
    assert np.abs(exact_dndm("multinomial") - exact_chain("multinomial")).max() > 0.01


@pytest.mark.parametrize("kind", ["absorbing", "multinomial"])
@pytest.mark.parametrize(("name", "law"), [(calls.CHAIN, exact_chain), (calls.DNDM, exact_dndm)])
def test_samples_have_their_law(name, law, kind):
    """At 100,000 words: chi-square of 3 degrees, 0.1%."""
    assert chi_square(sampled(name, kind), law(kind)) < 16.3


def test_two_samples_agree_with_a_mask_and_differ_without():
    for kind, agree in (("absorbing", True), ("multinomial", False)):
        a, b = sampled(calls.CHAIN, kind, seed=1), sampled(calls.DNDM, kind, seed=2)
        statistic = float(((a - b) ** 2 / (a + b)).sum())
        assert (statistic < 16.3) == agree


def test_dndm_of_continuous_time_is_the_limit_of_many_steps():
    """One token changes at a time, so the law is that of the chain with infinitely many steps."""
    rng = np.random.default_rng(3)
    corruption, p = Corruption("absorbing", 2), table("absorbing")
    counts = np.zeros(4)
    for _ in range(3000):
        run = Run(calls.DNDM_C, corruption, calls_of(calls.DNDM_C, "linear", 1, SIZE, rng), rng)
        *_, word = run.steps(denoiser("absorbing"))
        counts[word[0] * 2 + word[1]] += 1
    one_by_one = np.zeros(4)  # either token first, with equal probability
    for first in range(SIZE):
        for a, b in product(range(2), repeat=2):
            before = [2, 2]
            of_first = p[2, 2, first][(a, b)[first]]
            before[first] = (a, b)[first]
            one_by_one[a * 2 + b] += of_first * p[before[0], before[1], 1 - first][(a, b)[1 - first]] / 2
    assert chi_square(counts, one_by_one) < 16.3


@pytest.mark.parametrize("name", calls.NAMES)
def test_every_sampler_ends_with_tokens_of_the_picture_in_the_calls_that_were_told(name):
    rng, count = np.random.default_rng(4), 24
    told = calls_of(name, "linear", 10, count, rng)
    seen = []

    def predict(x, time):
        seen.append(time)
        return np.log(np.full((count, 5), 0.2))

    run = Run(name, Corruption("absorbing", 5), told, rng)
    *_, tokens = run.steps(predict)
    assert len(seen) == len(told) <= {calls.DNDM_C: count}.get(name, 10)
    assert seen == sorted(seen, reverse=True)
    assert tokens.max() < 5
    assert told[-1].decided == count


@pytest.mark.parametrize("name", [calls.MASK_PREDICT, calls.MASKGIT, calls.DNDM_K])
@pytest.mark.parametrize("steps", [1, 7, 24, 100])
def test_each_call_decides_more_tokens_until_all_are(name, steps):
    decided = [call.decided for call in calls_of(name, "cosine", steps, 24, np.random.default_rng(5))]
    assert decided == sorted(set(decided))
    assert decided[-1] == 24
    if name != calls.DNDM_K:
        assert len(decided) == min(steps, 24)


def test_the_most_probable_tokens_are_decided_first():
    """Token i is predicted with a certainty that grows with i, whatever the temperature."""
    count, certain = 8, np.linspace(0.55, 0.99, 8)
    p = np.stack([certain, 1 - certain], axis=1)
    told = calls_of(calls.MASK_PREDICT, "linear", 4, count, np.random.default_rng(6))
    run = Run(calls.MASK_PREDICT, Corruption("absorbing", 2), told, np.random.default_rng(6), temperature=1e-3)
    first = next(run.steps(lambda x, time: np.log(p)))
    assert first.tolist() == [2] * 6 + [0] * 2


def test_maskgit_decides_for_good_and_mask_predict_may_think_again():
    count, rng = 16, np.random.default_rng(7)
    tables = rng.dirichlet([0.3] * 4, size=(64, count))
    for name in (calls.MASKGIT, calls.MASK_PREDICT):
        run = Run(name, Corruption("absorbing", 4), calls_of(name, "linear", 8, count, rng), rng)
        rows = iter(tables)
        before, revised = np.full(count, 4), 0
        for tokens in run.steps(lambda x, time, rows=rows: np.log(next(rows) + 1e-9)):
            revised += int(((before != 4) & (tokens != before)).sum())
            before = tokens.copy()
        assert (revised == 0) == (name == calls.MASKGIT)


def from_image(name, share, seed, count=400):
    """The tokens of an image with which a sampler begins at its last calls, and the share that has changed."""
    rng = np.random.default_rng(seed)
    every = calls_of(name, "linear", 20, count, rng)
    last = [call for call in every if call.time <= share]
    image = rng.integers(5, size=count)
    run = Run(name, Corruption("absorbing", 5), last, rng, image=image)
    assert (run.tokens[~run.undecided] == image[~run.undecided]).all() and (run.tokens[run.undecided] == 5).all()
    return run, run.undecided.mean()


@pytest.mark.parametrize("name", calls.NAMES)
def test_an_image_begins_with_the_share_of_changed_tokens_of_its_time(name):
    shares = [from_image(name, 0.5, seed)[1] for seed in range(20)]
    assert abs(np.mean(shares) - 0.5) < (0.12 if name == calls.MASKGIT else 0.03)  # few calls of it are at the half


@pytest.mark.parametrize("name", calls.NAMES)
def test_from_an_image_at_the_first_call_nothing_of_it_is_left(name):
    def tokens(**image):
        rng = np.random.default_rng(8)
        run = Run(name, Corruption("absorbing", 5), calls_of(name, "linear", 6, 30, rng), rng, **image)
        *_, last = run.steps(lambda x, time: np.log(np.full((30, 5), 0.2)))
        return last.tolist()

    assert tokens() == tokens(image=np.arange(30) % 5)


def test_a_low_temperature_takes_the_most_probable_token():
    rng, count = np.random.default_rng(9), 50
    p = rng.dirichlet([1.0] * 6, size=count)
    run = Run(calls.DNDM, Corruption("absorbing", 6), calls_of(calls.DNDM, "linear", 5, count, rng), rng, 1e-3)
    *_, tokens = run.steps(lambda x, time: np.log(p))
    assert (tokens == p.argmax(axis=1)).mean() > 0.95


def test_guidance_of_one_is_the_prompts_prediction_and_of_zero_that_without():
    rng = np.random.default_rng(10)
    c, u = (np.log(rng.dirichlet([1.0] * 4, size=3)) for _ in range(2))
    assert np.abs(guided(c, u, 1.0) - c).max() < 1e-12
    assert np.abs(guided(c, u, 0.0) - u).max() < 1e-12
    ratio = (guided(c, u, 3.0) - u)[:, :1] - (guided(c, u, 3.0) - u)[:, 1:]
    assert np.abs(ratio - 3 * ((c - u)[:, :1] - (c - u)[:, 1:])).max() < 1e-9


def test_equal_seeds_are_equal_tokens():
    def tokens(seed):
        rng = np.random.default_rng(seed)
        run = Run(calls.DNDM, Corruption("multinomial", 9), calls_of(calls.DNDM, "cosine", 30, 20, rng), rng)
        *_, last = run.steps(lambda x, time: np.log(np.full((20, 9), 1 / 9)))
        return last.tolist()

    assert tokens(1) == tokens(1) != tokens(2)


BAD = {
    "a sampler": (lambda: calls_of("ddim", "linear", 4, 4, np.random.default_rng()), "sampler of tokens"),
    "steps": (lambda: calls_of(calls.DNDM, "linear", 0, 4, np.random.default_rng()), "steps must be"),
    "tokens": (lambda: calls_of(calls.DNDM, "linear", 4, 0, np.random.default_rng()), "1 token or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_sampled_is_refused(case):
    run, text = BAD[case]
    with pytest.raises(InputError, match=text):
        run()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperatures_are_above_zero(temperature):
    rng = np.random.default_rng()
    with pytest.raises(InputError, match="the temperature must be above 0"):
        Run(calls.DNDM, Corruption("absorbing", 3), calls_of(calls.DNDM, "linear", 4, 4, rng), rng, temperature)


def test_masks_are_of_models_that_know_one():
    rng = np.random.default_rng()
    with pytest.raises(InputError, match="this model knows no mask"):
        Run(calls.MASKGIT, Corruption("multinomial", 3), calls_of(calls.MASKGIT, "linear", 4, 4, rng), rng)


def test_predictions_that_are_no_numbers_are_a_failure():
    rng = np.random.default_rng()
    run = Run(calls.DNDM, Corruption("absorbing", 3), calls_of(calls.DNDM, "linear", 4, 4, rng), rng)
    with pytest.raises(Failure, match="not finite at call 1"):
        next(run.steps(lambda x, time: np.full((4, 3), np.nan)))
