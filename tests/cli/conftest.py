"""Fixtures of the command line's tests."""

import functools

import pytest

from mlx_sd import StableDiffusion


@pytest.fixture
def tiny_once(monkeypatch):
    """The embedded checkpoint is loaded once for all tests that are about files and not about models."""

    def shared(model="tiny", *options, **keywords):
        if model != "tiny" or any(options) or any(keywords.values()):
            return _load(model, *options, **keywords)
        return _tiny()

    monkeypatch.setattr(StableDiffusion, "load", staticmethod(shared))


@functools.cache
def _tiny():
    return _load("tiny")


_load = StableDiffusion.load
