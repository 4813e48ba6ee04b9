"""What cannot be shared is refused with a line that says why, and a rank that has something else is named."""

import warnings

import mlx.core as mx
import pytest

from mlx_sd import Request
from mlx_sd.core.errors import InputError
from mlx_sd.ranks.exchange import Ranks
from mlx_sd.split import UNSPLIT, Split
from mlx_sd.split_checks import check, check_flags, check_parts, parts_of
from tests.support import splits
from tests.support.splits import CASES, NEGATIVE, PROMPT, TILES


@pytest.fixture(scope="module")
def checkpoints(shapes, tmp_path_factory):
    return splits.Checkpoints(shapes, tmp_path_factory.mktemp("splits"))


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Others(Ranks):
    """Rank 0 of two, which notes what it would compare."""

    def __init__(self, size: int = 2):
        super().__init__()
        self.size, self.compared = size, {}

    def check_same(self, parts):
        self.compared = dict(parts)


def completed(sd, **settings) -> Request:
    return sd.complete(Request(**{"prompt": PROMPT, "negative": NEGATIVE, "steps": 2, "seed": 1, **settings}))


@pytest.mark.parametrize(
    "model, settings, rows",
    [
        ("sd1", {}, 2),
        ("sd1", {"guidance": 1.0}, 1),
        ("sd1", {"guidance": 1.0, "pag": 3.0}, 2),
        ("sd1", {"pag": 3.0}, 3),
        ("sd1", {"prompt": "a AND b AND c"}, 4),
        ("edit", {"image_guidance": 2.0, "init_image": splits.instructions.picture()}, 3),
        ("edit", {"image_guidance": 1.0, "init_image": splits.instructions.picture()}, 2),
        ("classes", {"prompt": None, "negative": None, "class_label": 1}, 2),
        ("classes", {"prompt": None, "negative": None, "class_label": 1, "guidance": 1.0}, 1),
    ],
)
def test_rows_are_counted_as_they_are_made(model, settings, rows, checkpoints):
    from mlx_sd import conditions

    sd = checkpoints[model]
    request = completed(sd, **settings)
    assert parts_of(sd.model, request, "guidance") == rows == conditions.conditions_of(sd.model, [request]).copies


def test_tiles_are_counted_in_the_pass_that_has_most(checkpoints):
    sd = checkpoints["sdxl"]
    assert parts_of(sd.model, completed(sd), "tiles") == 1
    assert parts_of(sd.model, completed(sd, **TILES), "tiles") == 6
    assert parts_of(sd.model, completed(sd, denoise_tile=12), "tiles") == 1
    assert parts_of(sd.model, completed(sd, denoise_tile=12, hires="2:2"), "tiles") == 4


def test_more_ranks_than_parts_are_refused_before_anything_is_computed(checkpoints, monkeypatch):
    sd = checkpoints["sdxl"]
    monkeypatch.setattr(type(sd.unet), "__call__", lambda *_, **__: pytest.fail("it computes"))
    cases = [
        ("guidance", {}, 3, r"has 2, to 3 ranks; take at most 2 \(mlx.launch -n 2\)"),
        ("guidance", {"guidance": 1.0}, 2, "has 1, as guidance is off, to 2 ranks; leave --split out"),
        ("tiles", {}, 2, "has 1, to 2 ranks; choose smaller tiles"),
        ("tiles", TILES, 7, "has 6, to 7 ranks; take at most 6"),
    ]
    for kind, settings, size, words in cases:
        with pytest.raises(InputError, match=words):
            sd.generate(PROMPT, NEGATIVE, seed=1, **{"steps": 2, **settings}, split=Split(kind, Others(size)))


def test_one_rank_and_unknown_kinds_are_refused():
    with pytest.raises(InputError, match=r"this is one: start several by mlx.launch -n 2"):
        Split("guidance", Ranks())
    with pytest.raises(InputError, match="unknown split 'tile'; did you mean 'tiles'"):
        Split("tile", Others())


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        ("guidance", {"guidance": 1.0}, "with --guidance 1 there is one row"),
        ("tiles", {"denoise_tile": 0}, "0 is none"),
        ("guidance", {"coreml": "packages"}, "packages run as they were exported"),
    ],
)
def test_what_flags_tell_is_refused_before_a_model_is_loaded(kind, settings, words):
    with pytest.raises(InputError, match=words):
        check_flags(Request(prompt="a", **settings), kind)


def test_flags_that_leave_something_to_deal_out_are_not_refused():
    check_flags(Request(prompt="a"), "guidance")
    check_flags(Request(prompt="a", guidance=1.0, pag=3.0), "guidance")
    check_flags(Request(prompt="a AND b", guidance=1.0), "guidance")
    check_flags(Request(prompt="a", denoise_tile=16), "tiles")


def test_packages_are_refused(checkpoints):
    from dataclasses import replace

    model = replace(checkpoints["sd1"].model, sizes=((64, 64),))
    with pytest.raises(InputError, match="packages"):
        check_parts(model, [completed(checkpoints["sd1"])], "guidance", 2)


def test_ranks_compare_settings_networks_and_images_but_no_names(checkpoints):
    def compared(sd, array=None, **settings):
        ranks = Others()
        check(sd.model, [completed(sd, **settings)], Split("guidance", ranks), [array])
        return ranks.compared

    sd = checkpoints["sd1"]
    first = compared(sd)
    assert first == compared(sd) and len(first) == 5

    def different(other):
        return [part for part in first if first[part] != other[part]]

    assert different(compared(sd, steps=3)) == ["other settings or files"]
    picture = {"init_image": splits.instructions.picture((64, 64))}
    brighter = {"init_image": splits.instructions.picture((64, 64)).point(lambda level: min(255, level + 1))}
    with_image = compared(sd, **picture)
    assert [p for p in first if with_image[p] != compared(sd, **brighter)[p]] == ["other images or arrays"]
    assert different(compared(sd, mx.ones((1, 8, 8, 4)))) == ["other images or arrays"]
    from dataclasses import replace

    moved = type(sd)(replace(sd.model, name="elsewhere/model"))
    assert different(compared(moved)) == []
    changed = type(sd)(replace(sd.model, hash="0"))
    assert "another model" in different(compared(changed))


def test_a_folder_elsewhere_with_the_same_control_network_is_the_same(shapes, tmp_path, checkpoints):
    def compared(folder):
        place, ranks = splits.Checkpoints(shapes, folder), Others()
        options = CASES["control"].beside(place)
        check(checkpoints["sd1"].model, [completed(checkpoints["sd1"], **options)], Split("guidance", ranks))
        return ranks.compared

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert compared(tmp_path / "a") == compared(tmp_path / "b")


def test_one_process_checks_nothing_and_draws_its_own_seeds(checkpoints):
    check(checkpoints["sd1"].model, [completed(checkpoints["sd1"], guidance=1.0)], UNSPLIT)
    assert UNSPLIT.decisions(None) is None and UNSPLIT.most(3) == 3
    assert mx.array_equal(UNSPLIT.once(lambda: mx.ones(3)), mx.ones(3))
    assert UNSPLIT.draw_seed() != UNSPLIT.draw_seed()
