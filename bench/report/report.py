"""Tables and plots of the results, in the pages that show them: python -m bench report.

README.md and the pages under docs/ hold sections, each between a line "<!-- report: NAME -->" and a line
"<!-- /report -->". To add a section, write a function from the folder of results to Markdown and put it into SECTIONS;
to add a plot, put a function that returns a figure into PLOTS.
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

from .. import arguments, results
from ..memory import peaks, training
from ..speed.loops import MODELS
from . import adapters, cluster, exports, figure, mine, plots, reuse, solvers, speed, tokens, truth

ROOT = Path(__file__).parents[2]
SECTIONS: dict[str, Callable[[Path], str]] = {
    "summary": speed.summary,
    "latency": speed.latency,
    "presets": reuse.presets,
    "worth": reuse.by_cost,
    "papers": reuse.papers,
    "forecasts": reuse.forecasts,
    "policy-rules": reuse.rules,
    "truth-rules": truth.rules,
    "truth-parts": truth.parts,
    "truth-settings": truth.settings,
    "solvers": solvers.section,
    "aligned": solvers.aligned,
    "peer": speed.peer,
    "profile": speed.profile,
    "prediction": speed.prediction,
    "published": speed.published,
    "received": mine.section,
    "cluster": cluster.section,
    "exports": exports.exports,
    "asset-errors": exports.assets,
    "mixed-bits": exports.mixed,
    "bits-search": exports.search,
    "training-memory": training.section,
    "training-peaks": training.measured,
    "adapters": adapters.section,
    "memory-peaks": peaks.section,
    "token-calls": tokens.expected_calls,
    "token-samplers": tokens.samplers,
    "tokens-and-latents": tokens.beside_latents,
}
PLOTS: dict[str, Callable[[Path], Any]] = {
    "docs/step-profile.png": speed.levels,
    "docs/reuse.png": reuse.curves,
    "docs/solvers.png": figure.guided,
    "docs/solvers-unguided.png": figure.unguided,
    "docs/cluster.png": cluster.figure,
    "docs/tokens.png": tokens.by_calls,
}

_EXAMPLES = f"""sections: {", ".join(SECTIONS)}
plots: {", ".join(PLOTS)}

examples:
  python -m bench report                 print all sections
  python -m bench report --write         bring pages and plots up to date
  python -m bench report --check         exit 1 where a page differs from the results
  python -m bench report --mine mac.json measure this machine in minutes, to be sent
  python -m bench report --valid mac.json  say whether such a file is of the right form
"""
_MARKED = re.compile(r"^(<!-- report: ([\w-]+) -->\n)(.*?)^(<!-- /report -->)", re.DOTALL | re.MULTILINE)
_BEGINNING = re.compile(r"^<!-- report:", re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 1 where --check finds a page that is not up to date."""
    p = arguments.parser("report", __doc__, _EXAMPLES)
    p.add_argument("--results", type=Path, default=results.FOLDER, metavar="DIR", help="default: this repository's")
    p.add_argument("--pages", type=Path, default=ROOT, metavar="DIR", help="where README.md and docs/ are")
    mode = p.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="put sections into the pages, and draw the plots")
    mode.add_argument("--check", action="store_true", help="compare the pages with the results")
    mode.add_argument("--mine", type=arguments.results_file, metavar="FILE", help="measure this machine, to be sent")
    mode.add_argument("--valid", type=Path, metavar="FILE", help="say whether a file that was sent is of its form")
    p.add_argument("--model", action="append", choices=MODELS, help="of --mine; may be repeated (default: what fits)")
    options = p.parse_args(argv)
    if options.model and not options.mine:
        p.error("--model is of --mine; give both")
    return command.run("bench report", lambda: _report(options))


def _report(options: argparse.Namespace) -> None:
    if options.write:
        write(options.results, options.pages)
    elif options.mine:
        mine.measure(options.mine, options.model or ())
        print(f"{options.mine}: thank you; docs/results/apple.md says where to send it")
    elif options.valid:
        mine.read(options.valid)
        print(f"{options.valid} is of the right form")
    elif options.check:
        check(options.results, options.pages)
    else:
        for name, section in SECTIONS.items():
            print(f"## {name}\n\n{section(options.results)}\n")


def write(folder: Path, home: Path) -> None:
    """Writes sections and plots of a folder of results into the pages and plots under `home`."""
    drawings = {name: plot(folder) for name, plot in PLOTS.items()}  # before anything is written
    texts = {page: updated(page, folder) for page in pages(home)}
    for page, text in texts.items():
        with atomic_file(page) as f:
            f.write(text.encode())
    for name, drawing in drawings.items():
        plots.save(drawing, home / name)


def check(folder: Path, home: Path) -> None:
    """Compares the pages under `home` with a folder of results; Failure names the first that differs."""
    for page in pages(home):
        if page.read_text(encoding="utf-8") != updated(page, folder):
            raise Failure(f"{page} is not what {folder} says; run python -m bench report --write")


def updated(page: Path, folder: Path) -> str:
    """Returns a page's text with its sections written anew; InputError for an unknown section or an open one."""
    text = page.read_text(encoding="utf-8")

    def section(match: re.Match[str]) -> str:
        """Returns the lines from one marker to the other."""
        begin, name, _, end = match.groups()
        if name not in SECTIONS:
            raise InputError(f"{page}: there is no section {name!r}; there are {', '.join(SECTIONS)}")
        return f"{begin}\n{SECTIONS[name](folder)}\n\n{end}"

    result, count = _MARKED.subn(section, text)
    if count != len(_BEGINNING.findall(text)):
        raise InputError(f"{page}: a report's line is not followed by <!-- /report -->, or is not of its form")
    return result


def pages(home: Path) -> list[Path]:
    """Returns the pages that hold sections: README.md, and those under docs; InputError without a README.md."""
    readme = home / "README.md"
    if not readme.is_file():
        raise InputError(f"{readme} is missing; give the repository's folder to --pages")
    candidates = [readme, *sorted((home / "docs").rglob("*.md"))]
    return [page for page in candidates if _BEGINNING.search(page.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    sys.exit(main())
