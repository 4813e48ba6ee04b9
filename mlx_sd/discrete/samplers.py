"""Samplers of tokens: one loop over the calls of the network, and a rule by which each call changes tokens."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.errors import Failure, InputError
from . import calls as kinds
from .calls import Call
from .corruption import Corruption, Floats, Tokens, draw

# (tokens (N,), time) -> logarithms (N, K) of probabilities of the picture's tokens
Predict = Callable[[Tokens, float], Floats]
Mask = NDArray[np.bool_]

_CHOICE_TEMPERATURE = 4.5  # MaskGIT's noise on the confidence at the first call, which falls to 0 (Chang et al. 2022)


class Run:
    """One picture's tokens on their way; `tokens` (N,) are those of now."""

    def __init__(
        self,
        name: str,
        corruption: Corruption,
        calls: Sequence[Call],
        rng: np.random.Generator,
        temperature: float = 1.0,
        image: Tokens | None = None,
    ):
        """Begins with tokens that have all changed, or with those of an image that have changed by the first call.

        name: one of `calls.NAMES`. calls: all of `calls.calls_of`, or the last of them. temperature: above 0, of the
        distributions that tokens are drawn from. image: tokens (N,). InputError where these do not fit.
        """
        if not temperature > 0:
            raise InputError(f"the temperature must be above 0, not {temperature:g}")
        if corruption.mask is None and name in kinds.MASKING:
            raise InputError(f"{name} masks tokens, and this model knows no mask; choose another sampler")
        self._update = _RULES[name]
        self.corruption, self.calls, self.rng, self.temperature = corruption, calls, rng, temperature
        self.noise = corruption.draw_noise((len(calls[0].changing),), rng)  # one for each token, for all times
        self.undecided = np.ones(len(self.noise), bool) if image is None else _changed(name, calls, rng)
        self.tokens = self.noise.copy() if image is None else np.where(self.undecided, self.noise, image)

    def steps(self, predict: Predict) -> Iterator[Tokens]:
        """Calls the network, changes tokens, and yields them (N,) after each call; Failure for NaN."""
        for number, call in enumerate(self.calls):
            predicted = predict(self.tokens, call.time)
            if np.isnan(predicted).any():
                raise Failure(f"the network's predictions are not finite at call {number + 1}")
            self._update(self, call, predicted, number)
            yield self.tokens

    def draw(self, predicted: Floats) -> Tokens:
        """Draws tokens (N,) of predicted distributions (N, K), at this picture's temperature."""
        return draw(normalized(predicted / self.temperature), self.rng)


def _changed(name: str, calls: Sequence[Call], rng: np.random.Generator) -> Mask:
    """Returns which tokens (N,) of an image have changed when the first of these calls begins.

    Nothing is drawn where all have, so that a picture is then the one without an image.
    """
    first, count = calls[0], len(calls[0].changing)
    if name in kinds.TIMED:
        changed: Mask = np.array([call.changing for call in calls]).sum(axis=0) > 0
        return changed
    if first.alpha == 0:
        return np.ones(count, bool)
    if name == kinds.CHAIN:
        return rng.random(count) >= first.alpha
    order = rng.permutation(count)
    return order >= round(first.alpha * count)


def normalized(scores: Floats) -> Floats:
    """Returns logarithms (..., K) of the probabilities that scores (..., K) stand for: their logarithmic softmax."""
    below = scores - scores.max(axis=-1, keepdims=True)
    logs: Floats = below - np.log(np.exp(below).sum(axis=-1, keepdims=True))
    return logs


def _posterior(run: Run, call: Call, predicted: Floats, _: int) -> None:
    """Draws each token of p(x_s | x_t), as the chain's reversal does (D3PM)."""
    log_x0 = run.corruption.over_states(normalized(predicted / run.temperature))
    run.tokens = draw(run.corruption.log_posterior(log_x0, run.tokens, call.alpha, call.before), run.rng)


def _at_their_time(run: Run, call: Call, predicted: Floats, _: int) -> None:
    """Draws the tokens whose time has come; all others stay as they are (DNDM, algorithm 1)."""
    run.tokens = np.where(call.changing, run.draw(predicted), run.tokens)


def _most_confident(run: Run, call: Call, predicted: Floats, _: int) -> None:
    """Decides as many tokens as have had their time, the most probable ones; the rest become noise (DNDM-k)."""
    drawn = run.draw(predicted)
    _decide(run, call, drawn, _of(predicted, drawn))


def _again(run: Run, call: Call, predicted: Floats, _: int) -> None:
    """Predicts the masked tokens, and masks the least probable of all again (Ghazvininejad et al. 2019)."""
    drawn = np.where(run.undecided, run.draw(predicted), run.tokens)
    _decide(run, call, drawn, _of(predicted, drawn))


def _for_good(run: Run, call: Call, predicted: Floats, number: int) -> None:
    """Decides the most probable of the masked tokens, with noise that falls, for good (Chang et al. 2022, MaskGIT)."""
    drawn = run.draw(predicted)
    noise = -np.log(-np.log(run.rng.random(len(drawn)) + 1e-30) + 1e-30)
    temperature = _CHOICE_TEMPERATURE * (1 - (number + 1) / len(run.calls))
    confidence = np.where(run.undecided, _of(predicted, drawn) + temperature * noise, np.inf)
    _decide(run, call, drawn, confidence)


def _of(log_probabilities: Floats, tokens: Tokens) -> Floats:
    picked: Floats = np.take_along_axis(log_probabilities, tokens[:, None], axis=-1)[:, 0]
    return picked


def _decide(run: Run, call: Call, drawn: Tokens, confidence: Floats) -> None:
    """Decides the `call.decided` most confident tokens: new ones take what was drawn, the others become noise."""
    order = np.argsort(-confidence, kind="stable")
    decided = np.zeros(len(order), bool)
    decided[order[: call.decided]] = True
    tokens = np.where(decided & run.undecided, drawn, run.tokens)
    run.tokens, run.undecided = np.where(decided, tokens, run.noise), ~decided


_RULES: dict[str, Callable[[Run, Call, Floats, int], None]] = {
    kinds.CHAIN: _posterior,
    kinds.DNDM: _at_their_time,
    kinds.DNDM_C: _at_their_time,
    kinds.DNDM_K: _most_confident,
    kinds.MASK_PREDICT: _again,
    kinds.MASKGIT: _for_good,
}


def guided(conditional: Floats, unconditional: Floats, scale: float) -> Floats:
    """Returns logarithms (..., K) of probabilities, pushed away from those without the prompt: u + scale (c - u)."""
    mixed = unconditional + scale * (conditional - unconditional)
    return normalized(mixed)
