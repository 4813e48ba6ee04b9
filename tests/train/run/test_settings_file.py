"""The settings of a run that is resumed are those that it was begun with."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import InputError
from mlx_sd.setting import setting
from mlx_sd.train.run import settings_file
from tests.train.run.records import Settings

OTHERS = {"steps": 50, "rank": 8, "lr": 2e-4, "sample_every": 20, "targets": ("v",)}
RECORDS = st.builds(
    Settings,
    steps=st.integers(1, 10**9),
    rank=st.integers(1, 512),
    lr=st.floats(allow_nan=False),
    sample_every=st.integers(),
    targets=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)


@given(record=RECORDS)
def test_the_same_settings_are_always_accepted(tmp_path, record):
    settings_file.write(tmp_path, record)
    settings_file.check(tmp_path, record)


@pytest.mark.parametrize("field", [field.name for field in fields(Settings)])
def test_every_setting_that_changes_is_named(tmp_path, field):
    settings_file.write(tmp_path, Settings())
    with pytest.raises(InputError) as error:
        settings_file.check(tmp_path, replace(Settings(), **{field: OTHERS[field]}), growing=("steps",))
    line = str(error.value)
    assert line.startswith(f"{tmp_path} was begun with {field.replace('_', ' ')} ") and "\n" not in line
    assert line.endswith("; give the same, or begin in another folder") and line.count(", not ") == 1


def test_all_that_changed_are_named_in_one_line(tmp_path):
    settings_file.write(tmp_path, Settings())
    with pytest.raises(InputError, match=r"with rank 4, not 8, targets \[\"q\", \"k\"\], not \[\"v\"\]; give"):
        settings_file.check(tmp_path, Settings(rank=8, targets=("v",)))


def test_steps_may_grow_and_display_may_differ(tmp_path):
    settings_file.write(tmp_path, Settings())
    settings_file.check(tmp_path, Settings(steps=101, sample_every=3), display=("sample_every",), growing=("steps",))
    with pytest.raises(InputError, match=r"steps 100, not 99 \(it may grow\)"):
        settings_file.check(tmp_path, Settings(steps=99), growing=("steps",))
    with pytest.raises(InputError, match="steps 100, not 101;"):
        settings_file.check(tmp_path, Settings(steps=101))


def test_a_setting_of_a_later_version_must_have_its_default(tmp_path):
    @dataclass(frozen=True)
    class Later(Settings):
        dropout: float = setting(0.0, "caption dropout", kind=float)

    settings_file.write(tmp_path, Settings())
    settings_file.check(tmp_path, Later())
    with pytest.raises(InputError, match=r"dropout 0.0, not 0.1"):
        settings_file.check(tmp_path, Later(dropout=0.1))
    settings_file.write(tmp_path, Later())
    with pytest.raises(InputError, match="has the setting 'dropout', which this training has not"):
        settings_file.check(tmp_path, Settings())


@dataclass(frozen=True)
class Files:
    data: Path | None = setting(None, "folder", kind=object)  # noqa: RUF009


def test_a_path_is_written_as_its_text(tmp_path):
    settings_file.write(tmp_path, Files(Path("photos")))
    assert json.loads((tmp_path / "settings.json").read_text())["settings"] == {"data": "photos"}
    settings_file.check(tmp_path, Files(Path("photos")))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 9, "settings": {}}', '{"version": 1}', "[" * 9999])
def test_damaged_settings_are_one_line(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(InputError) as error:
        settings_file.check(tmp_path, Settings())
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
