"""A command says what goes wrong in one line, and each warning once."""

import warnings

import pytest

from mlx_sd import StableDiffusion
from mlx_sd.core import blas, command


def test_a_warning_is_printed_once_wherever_it_comes_from(capsys):
    def work():
        warnings.warn("this is slow", stacklevel=1)
        warnings.warn("this is slow", stacklevel=2)
        warnings.warn("that is slow", stacklevel=1)

    assert command.run("name", work) == 0
    assert capsys.readouterr().err == "name: this is slow\nname: that is slow\n"
    assert command.run("name", work) == 0  # another run says it again
    assert capsys.readouterr().err.count("this is slow") == 1


def test_a_warning_of_loading_is_printed_once_for_two_models(capsys, monkeypatch):
    monkeypatch.setattr(blas, "problem", lambda: "no fast BLAS")

    def work():
        StableDiffusion.load("tiny")
        StableDiffusion.load("tiny")

    assert command.run("name", work) == 0
    assert capsys.readouterr().err == "name: no fast BLAS\n"


@pytest.mark.slow
def test_python_shows_a_warning_once_for_calls_from_several_places(monkeypatch):
    """... by its own rule for warnings of one line, which is here ours and not the caller's."""
    StableDiffusion.load("tiny")  # imports what it needs: libraries that set filters make Python forget what it showed
    monkeypatch.setattr(blas, "problem", lambda: "no BLAS, twice")
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("default")
        sd = StableDiffusion.load("tiny")
        sd = StableDiffusion.load("tiny")
        settings = {"steps": 4, "deepcache": 3, "width": 64, "height": 64, "output": "latent", "seed": 0}
        sd.generate("a tent", **settings)
        sd.generate(["a tent", "a moon"], count=2, **settings)
        list(sd.stream([sd.generate("a tent", **settings).requests[0]]))
    texts = [str(entry.message) for entry in caught]
    assert len(texts) == len(set(texts)) == 2
