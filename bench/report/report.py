"""Results as tables and plots in the pages that hold them: python -m bench report.

A page holds a section between the lines "<!-- report: NAME -->" and "<!-- /report -->". To add one, write a function
from the folder of results to Markdown and put it into SECTIONS; a plot, into PLOTS.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_sd.core import command
from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import atomic_file

from . import plots, reuse, speed

_EXAMPLES = """examples:
  python -m bench report                 print all sections
  python -m bench report --write         bring pages and plots up to date
  python -m bench report --check         exit 1 where a page is not what the results say
"""
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
SECTIONS: dict[str, Callable[[Path], str]] = {
    "summary": speed.summary,
    "latency": speed.latency,
    "presets": reuse.presets,
    "worth": reuse.worth,
    "papers": reuse.papers,
    "forecasts": reuse.forecasts,
    "peer": speed.peer,
    "profile": speed.profile,
    "prediction": speed.prediction,
    "published": speed.published,
}
PLOTS: dict[str, Callable[[Path], Any]] = {"docs/step-profile.png": speed.levels, "docs/reuse.png": reuse.curves}

_MARKED = re.compile(r"(<!-- report: ([\w-]+) -->\n)(.*?)(<!-- /report -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 1 where --check finds a page that is not up to date."""
    p = command.Parser(
        prog="python -m bench report",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: those of this repository")
    p.add_argument("--pages", type=Path, default=ROOT, metavar="DIR", help="where README.md and docs/ are")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="put sections into the pages, and draw the plots")
    what.add_argument("--check", action="store_true", help="compare the pages with the results")
    arguments = p.parse_args(argv)
    return command.run("bench report", lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> None:
    if arguments.write:
        write(arguments.results, arguments.pages)
    elif arguments.check:
        check(arguments.results, arguments.pages)
    else:
        for name, section in SECTIONS.items():
            print(f"## {name}\n\n{section(arguments.results)}\n")


def write(folder: Path, pages: Path) -> None:
    """Brings pages and plots up to date with a folder of results."""
    drawn = {name: plot(folder) for name, plot in PLOTS.items()}  # before anything is written
    texts = {page: updated(page, folder) for page in _pages(pages)}
    for page, text in texts.items():
        with atomic_file(page) as f:
            f.write(text.encode())
    for name, figure in drawn.items():
        plots.save(figure, pages / name)


def check(folder: Path, pages: Path) -> None:
    """Failure where a page is not what a folder of results says."""
    for page in _pages(pages):
        if page.read_text(encoding="utf-8") != updated(page, folder):
            raise Failure(f"{page} is not what {folder} says; run python -m bench report --write")


def updated(page: Path, folder: Path) -> str:
    """A page with its sections made anew; InputError for a section that there is not."""
    text = page.read_text(encoding="utf-8")

    def section(found: re.Match[str]) -> str:
        if found[2] not in SECTIONS:
            raise InputError(f"{page}: there is no section {found[2]!r}; there are {', '.join(SECTIONS)}")
        return f"{found[1]}\n{SECTIONS[found[2]](folder)}\n\n{found[4]}"

    made, count = _MARKED.subn(section, text)
    if count != text.count("<!-- report:"):
        raise InputError(f"{page}: a report's line is not followed by <!-- /report -->, or is not of its form")
    return made


def _pages(folder: Path) -> list[Path]:
    readme = folder / "README.md"
    if not readme.is_file():
        raise InputError(f"{readme} is missing; give the repository's folder to --pages")
    return [readme, *sorted((folder / "docs").rglob("*.md"))]


if __name__ == "__main__":
    sys.exit(main())
