"""The report: the pages hold the tables that the results give, and a page that differs is found."""

import shutil

import pytest

from bench import results
from bench.memory import peaks, training
from bench.report import adapters, cluster, exports, mine, report, reuse, solvers, speed, tokens, truth
from bench.speed import latency, predict
from bench.speed.loops import Loop, setting
from mlx_sd import DeepCache
from tests.support.received import VALUES

PAGE = "# Title\n\n<!-- report: {} -->\nold\n<!-- /report -->\n\nend\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of a small measurement, with an invented baseline of twice its times, and of a prediction."""
    folder = tmp_path_factory.mktemp("results")
    loops = [Loop(), Loop(DeepCache(2))]
    values = latency.measure(setting("tiny", 4, side=8), loops, profile=True)
    values["kinds"] += [
        {**k, "by": "other", **{s: 2 * k[s] for s in ("median", "min", "max")}} for k in values["kinds"]
    ]
    values["loops"] += [loop | {"by": "other", "seconds": [2 * s for s in loop["seconds"]]} for loop in values["loops"]]
    machine = {"processor": "P", "cores": 2, "system": "S", "device": "D", "mlx": "1", "blas": "B"}
    results.write(folder / "latency-tiny.json", values | {"peer": {"diffusers": "0"}, "machine": machine})
    for name in (
        *(truth.RULES, truth.DEFAULT, *truth.OTHERS.values()),
        *(solvers.SOLVERS, solvers.ALIGNED),
        cluster.FILE,
        reuse.CURVES,
        reuse.POLICIES,
        *exports.EXPORTS,
        exports.ASSETS,
        exports.BITS,
        exports.SEARCH,
        peaks.FILE,
        training.FILE,
        *training.MEASURED,
        tokens.FILE,
        adapters.FILE,
    ):
        shutil.copy(results.FOLDER / name, folder / name)
    (folder / mine.RECEIVED).mkdir()
    results.write(folder / mine.RECEIVED / "m9.json", VALUES)
    results.write(folder / "prediction.json", predict.predict(["M1", "M2 Pro"], ["sd15"], loops, 10))
    return folder


@pytest.fixture
def home(tmp_path):
    """A README, a page of results in a folder of docs, and a page without sections."""
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text(PAGE.format("latency"))
    (tmp_path / "docs" / "results" / "all.md").write_text(PAGE.format("published") + PAGE.format("prediction"))
    (tmp_path / "docs" / "guide.md").write_text("A section begins with `<!-- report: NAME -->`.\n")
    return tmp_path


def run(folder, home, *flags):
    return report.main(["--results", str(folder), "--pages", str(home), *flags])


@pytest.mark.slow
def test_what_is_written_is_what_is_checked(folder, home, capsys):
    pytest.importorskip("matplotlib")
    assert run(folder, home, "--check") == 1
    assert "README.md is not what" in capsys.readouterr().err
    assert run(folder, home, "--write") == run(folder, home, "--check") == 0
    text = (home / "docs" / "results" / "all.md").read_text()
    assert text.startswith("# Title\n") and text.endswith("end\n") and "old" not in text
    assert all((home / plot).read_bytes().startswith(b"\x89PNG") for plot in report.PLOTS)
    page = home / "README.md"
    page.write_text(page.read_text().replace("every step full", "every second step"))
    assert run(folder, home, "--check") == 1


def test_the_pages_are_those_with_a_section(home):
    assert report.pages(home) == [home / "README.md", home / "docs" / "results" / "all.md"]


@pytest.mark.slow
def test_an_unknown_section_is_one_line_and_nothing_is_written(folder, home, capsys):
    pytest.importorskip("matplotlib")
    page = home / "docs" / "results" / "all.md"
    page.write_text(PAGE.format("speed"))
    assert run(folder, home, "--write") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no section 'speed'; there are summary, latency," in error
    assert "old" in (home / "README.md").read_text() and "old" in page.read_text()


def test_a_section_without_an_end_is_found(folder, home, capsys):
    page = home / "README.md"
    page.write_text("<!-- report: latency -->\n" + page.read_text())
    assert run(folder, home, "--check") == 2
    assert "is not followed by <!-- /report -->" in capsys.readouterr().err


def test_a_folder_without_a_readme_is_one_line(folder, tmp_path, capsys):
    assert run(folder, tmp_path, "--check") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "README.md is missing; give the repository's folder to --pages" in error


def test_results_of_another_version_are_refused(folder, home, tmp_path, capsys):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "latency-x.json").write_text('{"version": 0, "model": "tiny"}')
    assert run(tmp_path / "r", home, "--check") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "are of version 0" in error


@pytest.mark.parametrize("name", sorted(report.SECTIONS.keys() - {"truth-rules"}))
def test_every_section_but_a_paragraph_is_a_table_of_the_results(folder, name):
    rows = [line for line in report.SECTIONS[name](folder).splitlines() if line.startswith("|")]
    assert len(rows) >= 3 and len({row.count("|") for row in rows}) == 1


def test_the_rules_of_truth_are_one_paragraph_with_their_shares(folder):
    shares = results.read(folder / truth.RULES)["shares"]["captions"]["all"]
    text = truth.rules(folder)
    assert "\n" not in text and f"{shares['percent']:.1f}" in text


def test_the_table_of_latency_is_of_our_loops_and_that_of_peers_has_the_ratio(folder):
    assert "`--deepcache 2:0`" in speed.latency(folder) and "other" not in speed.latency(folder)
    rows = speed.peer(folder).splitlines()[2:]
    assert len(rows) == 2 and all(row.endswith("| 2.00 |") for row in rows)


def test_every_row_of_a_prediction_is_marked_as_one(folder):
    text, _, rows = speed.prediction(folder).partition("\n\n")
    assert text.startswith("Predictions, not measurements")
    assert all(row.startswith("| prediction: M") for row in rows.splitlines()[2:])


def test_the_pages_of_this_repository_are_up_to_date():
    assert report.main(["--check"]) == 0
