"""The report: pages say what the results say, or that is found out."""

import shutil

import pytest

from bench import results
from bench.report import report, reuse, speed
from bench.speed import latency, predict
from bench.speed.loops import Loop, setting
from mlx_sd import DeepCache

PAGE = "# Title\n\n<!-- report: {} -->\nold\n<!-- /report -->\n\nend\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of a small measurement, with a made-up peer of twice its times, and of a prediction."""
    folder = tmp_path_factory.mktemp("results")
    loops = [Loop(), Loop(DeepCache(2))]
    found = latency.measure(setting("tiny", 4, side=8), loops, profile=True)
    theirs = [{**k, "by": "other", **{s: 2 * k[s] for s in ("median", "min", "max")}} for k in found["kinds"]]
    found["kinds"] += theirs
    found["loops"] += [loop | {"by": "other", "seconds": [2 * s for s in loop["seconds"]]} for loop in found["loops"]]
    machine = {"processor": "P", "cores": 2, "system": "S", "device": "D", "mlx": "1", "blas": "B"}
    results.write(folder / "latency-tiny.json", found | {"peer": {"diffusers": "0"}, "machine": machine})
    for name in (reuse.CURVES, reuse.POLICIES):
        shutil.copy(report.RESULTS / name, folder / name)
    results.write(folder / "prediction.json", predict.predict(["M1", "M2 Pro"], ["sd15"], loops, 10))
    return folder


@pytest.fixture
def pages(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PAGE.format("latency"))
    (tmp_path / "docs" / "benchmarks.md").write_text(PAGE.format("published") + PAGE.format("prediction"))
    return tmp_path


def run(folder, pages, *flags):
    return report.main(["--results", str(folder), "--pages", str(pages), *flags])


def test_what_is_written_is_what_is_checked(folder, pages, capsys):
    pytest.importorskip("matplotlib")
    assert run(folder, pages, "--check") == 1
    assert "README.md is not what" in capsys.readouterr().err
    assert run(folder, pages, "--write") == run(folder, pages, "--check") == 0
    text = (pages / "docs" / "benchmarks.md").read_text()
    assert text.startswith("# Title\n") and text.endswith("end\n") and "old" not in text
    assert all((pages / plot).read_bytes().startswith(b"\x89PNG") for plot in report.PLOTS)
    page = pages / "README.md"
    page.write_text(page.read_text().replace("every step full", "every second step"))
    assert run(folder, pages, "--check") == 1


def test_a_section_that_there_is_not_is_one_line_and_nothing_is_written(folder, pages, capsys):
    pytest.importorskip("matplotlib")
    page = pages / "docs" / "benchmarks.md"
    page.write_text(PAGE.format("speed"))
    assert run(folder, pages, "--write") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no section 'speed'; there are summary, latency," in said
    assert "old" in (pages / "README.md").read_text() and "old" in page.read_text()


def test_a_section_without_an_end_is_found(folder, pages, capsys):
    page = pages / "README.md"
    page.write_text("<!-- report: latency -->\n" + page.read_text())
    assert run(folder, pages, "--check") == 2
    assert "is not followed by <!-- /report -->" in capsys.readouterr().err


def test_results_of_another_version_are_refused(folder, pages, tmp_path, capsys):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "latency-x.json").write_text('{"version": 0, "model": "tiny"}')
    assert run(tmp_path / "r", pages, "--check") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "are of version 0" in said


@pytest.mark.parametrize("name", report.SECTIONS)
def test_every_section_is_a_table_of_the_results(folder, name):
    rows = [line for line in report.SECTIONS[name](folder).splitlines() if line.startswith("|")]
    assert len(rows) >= 3 and len({row.count("|") for row in rows}) == 1


def test_latency_tells_ours_and_the_peers_ratio(folder):
    assert "`--deepcache 2:0`" in speed.latency(folder) and "other" not in speed.latency(folder)
    rows = speed.peer(folder).splitlines()[2:]
    assert len(rows) == 2 and all(row.endswith("| 2.00 |") for row in rows)


def test_predictions_are_called_so_in_every_row(folder):
    text, _, rows = speed.prediction(folder).partition("\n\n")
    assert text.startswith("Predictions, not measurements")
    assert all(row.startswith("| prediction: M") for row in rows.splitlines()[2:])


def test_the_pages_of_this_repository_are_up_to_date():
    assert report.main(["--check"]) == 0
