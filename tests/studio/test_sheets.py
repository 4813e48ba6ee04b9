"""Grids: each cell is a job, and the sheet comes once, after the last of them has ended, also after a restart."""

import json

import numpy as np
import pytest
from PIL import Image

from mlx_sd import sheet
from mlx_sd.studio.job import PAGE, Origin
from mlx_sd.studio.submission import FieldError
from tests.studio import pictures
from tests.studio.galleries import studio

REQUEST = {"prompt": "a red tent", "width": 64, "height": 64}
GRID = {"x": {"setting": "steps", "values": [1, 2]}, "y": {"setting": "guidance", "values": [1.5, None]}}
ME = Origin(PAGE, "me")


def work(opened, count, fails=()):
    """Ends so many jobs as the worker does; those whose number is in `fails` without a picture."""
    for number in range(count):
        job = opened.queue.next(1)
        if number in fails:
            opened.queue.failed(job, "no luck")
        else:
            pictures.write(opened.folder / job.target, job.request.to_json(), side=64, grey=50 + 40 * number)
            opened.queue.done(job, target=job.target)


def sheets(opened):
    opened.gallery.submit(opened.gallery.refresh).result(20)
    return [path for path in opened.folder.glob("*.png") if sheet.is_sheet(path)]


def test_the_sheet_comes_once_after_the_last_job(tmp_path):
    with studio(tmp_path) as opened:
        jobs = opened.sheets.submit(REQUEST, GRID, ME)
        assert [(job.request.steps, job.request.guidance) for job in jobs] == [(1, 1.5), (1, None), (2, 1.5), (2, None)]
        assert len({job.request.seed for job in jobs}) == 1 and all(job.keep for job in jobs)
        work(opened, 3)
        assert sheets(opened) == []
        work(opened, 1)
        (path,) = sheets(opened)
        assert opened.gallery.find(path.name) is not None
        with Image.open(path) as image:
            greys = {int(value) for value in np.unique(np.asarray(image.convert("L")))}
        assert {50, 90, 130, 170} <= greys
        opened.sheets.start()
        assert sheets(opened) == [path] and not list((tmp_path / ".studio/grids").iterdir())


def test_failed_and_cancelled_cells_are_grey_and_a_grid_of_them_has_no_sheet(tmp_path):
    with studio(tmp_path) as opened:
        jobs = opened.sheets.submit(REQUEST, GRID, ME)
        opened.queue.cancel(jobs[3].id)
        work(opened, 3, fails=(0,))
        assert len(sheets(opened)) == 1
        jobs = opened.sheets.submit(REQUEST, GRID, ME)
        opened.queue.cancel_group(jobs[0].group)
        assert len(sheets(opened)) == 1 and not list((tmp_path / ".studio/grids").iterdir())


def test_a_grid_goes_on_after_a_restart(tmp_path):
    with studio(tmp_path) as opened:
        opened.sheets.submit(REQUEST, GRID, ME)
        work(opened, 2)
    with studio(tmp_path) as opened:
        opened.queue.restore()
        work(opened, 2)
        assert len(sheets(opened)) == 1


@pytest.mark.parametrize("content", ("", "{}", "[]", '{"name": 1, "axes": [1], "cells": []}', "\0"))
def test_a_damaged_file_of_a_grid_is_forgotten(tmp_path, content):
    with studio(tmp_path) as opened:
        (tmp_path / ".studio/grids").mkdir()
        (tmp_path / ".studio/grids/abc.json").write_text(content)
        opened.sheets.start()
        assert sheets(opened) == [] and not list((tmp_path / ".studio/grids").iterdir())


@pytest.mark.parametrize(
    ("grid", "field"),
    (
        (None, "grid"),
        ({}, "grid"),
        ({"x": GRID["x"], "z": 1}, "grid"),
        ({"x": {"setting": "steps"}}, "grid.x"),
        ({"x": {"setting": "steps", "values": [1] * 33}}, "grid.x"),
        ({"x": {"setting": "stepz", "values": [1]}}, "grid.x"),
        ({"x": {"setting": "model_hash", "values": ["a"]}}, "grid.x"),
        ({"x": {"setting": "replace", "values": ["red", 1]}}, "grid.x"),
        ({"x": {"setting": "replace", "values": ["house"]}}, "grid.x"),
        ({"x": GRID["x"], "y": {"setting": "sampler", "values": ["none such"]}}, "grid.y"),
        ({"x": GRID["x"], "y": {"setting": "init_image", "values": ["/etc/passwd"]}}, "grid.y"),
        ({"x": GRID["x"], "y": GRID["x"]}, "grid.y"),
        ({"x": {"setting": "prompt", "values": ["x" * 300]}}, "grid.x"),
    ),
)
def test_a_side_that_makes_no_sense_is_named_and_nothing_is_made(tmp_path, grid, field):
    with studio(tmp_path) as opened:
        with pytest.raises(FieldError) as raised:
            opened.sheets.submit(REQUEST, grid, ME)
        assert raised.value.field == field and "\n" not in str(raised.value)
        assert opened.queue.listing() == [] and "passwd" not in json.dumps(opened.queue.order)
