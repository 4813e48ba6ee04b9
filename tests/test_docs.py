"""What the documentation names exists: files, names, links, commands with their options, error messages."""

import ast
import contextlib
import importlib
import io
import itertools
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from mlx_sd.sampling import samplers, schedules
from mlx_sd.sampling.scheduler import Scheduler
from mlx_sd.sampling.table import Options
from mlx_sd.train.kind_table import KINDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
SPEED = ROOT / "docs" / "guide" / "speed.md"
PACKAGES = ("mlx_sd", "convert", "coreml", "bench", "tests")
COMMANDS = {"mlx_sd.generate": "mlx_sd.generate.__main__", "convert": "convert.__main__", "coreml": "coreml.__main__"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text(page):
    return page.read_text(encoding="utf-8")


def prose(page):
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


def inline_code(page):
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def is_module(name):
    """Whether a file or a folder has this dotted name; nothing is imported."""
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def exists(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    split = max((n for n in range(1, len(parts) + 1) if is_module(".".join(parts[:n]))), default=0)
    if split == len(parts):
        return True
    value = importlib.import_module(".".join(parts[:split]))
    for attribute in parts[split:]:
        if not hasattr(value, attribute):
            return attribute in getattr(value, "__dataclass_fields__", {})
        value = getattr(value, attribute)
    return True


def commands(page):
    """The words of each `python -m` command on a page, from blocks of code and from the text."""
    joined = text(page).replace("\\\n", " ")
    blocks = re.findall(r"^ *(?:\$ )?(python -m [^\n`]+)$", joined, re.MULTILINE)
    for command in blocks + [code for code in inline_code(page) if code.startswith("python -m ")]:
        yield shlex.split(command, comments=True)[2:]


@cache
def options(*command):
    """The options that a command's --help lists."""
    module = command[0] if command[0].startswith("tests.") else COMMANDS.get(command[0], f"{command[0]}.__main__")
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        importlib.import_module(module).main([*command[1:], "--help"])
    assert printed.getvalue().startswith("usage: ")
    return set(re.findall(r"--[\w-]+", printed.getvalue()))


def test_the_readme_is_short():
    assert len(text(ROOT / "README.md").splitlines()) <= 120


@each_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@each_page
def test_every_file_named_exists(page):
    for code in inline_code(page):
        path = code.partition(" ")[0]
        if re.fullmatch(rf"(?:{'|'.join(PACKAGES)}|docs|\.ci)/[\w./-]*", path) and "NAME" not in path:
            assert (ROOT / path).exists(), path


@each_page
def test_every_name_of_python_exists(page):
    directives = re.findall(r"^::: (\S+)", text(page), re.MULTILINE)
    for code in directives + inline_code(page):
        match = re.fullmatch(rf"((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?:\(.*)?", code)
        if match and not code.endswith((".md", ".py", ".json")):
            assert exists(match[1]), code


@each_page
def test_every_import_in_an_example_works(page):
    for block in re.findall(r"^```python\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] in PACKAGES:
                for alias in node.names:
                    assert exists(f"{node.module}.{alias.name}"), f"{node.module}.{alias.name}"


@each_page
def test_every_command_has_the_options_it_is_shown_with(page):
    for module, *words in commands(page):
        if module.partition(".")[0] not in PACKAGES or "NAME" in words:
            continue
        command = [module]
        if module == "bench" and words and re.fullmatch(r"[a-z]+", words[0]):
            command.append(words[0])
        if module == "mlx_sd.train" and words[:1] and words[0] in KINDS:
            command.append(words[0])
        if module == "coreml" and words[:1] in (["verify"], ["bits"]):
            command.append(words[0])
        if module == "coreml" and words[:1] == ["drive"]:  # whose options are those of generate
            command = ["mlx_sd.generate"]
        shown = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
        if shown:
            assert shown <= options(*command), (module, *words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_guide(command):
    guide = "".join(map(text, sorted((ROOT / "docs" / "guide").glob("*.md"))))
    for option in options(command) - {"--help"}:
        assert re.search(rf"{option}\b(?!-)", guide), option


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_training_is_in_its_page(kind):
    guide = text(ROOT / "docs" / "guide" / "training.md")
    for option in options("mlx_sd.train", kind) - {"--help"}:
        assert option.startswith("--no-") or re.search(rf"{option}\b(?!-)", guide), option


def test_every_target_of_make_exists():
    targets = set(re.findall(r"^([\w-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE))
        shown = re.findall(r"^make ([\w-]+)", blocks, re.MULTILINE) + re.findall(r"`make ([\w-]+)`", prose(page))
        assert set(shown) <= targets, page


def test_the_guide_has_every_sampler_and_every_schedule():
    page = text(SPEED)
    sections = {part.partition("\n")[0]: part.partition("### ")[0] for part in page.split("\n## ")}
    for title, names in (("Samplers", samplers.names()), ("Schedules", schedules.names())):
        cells = re.findall(r"^\| (`[^|]+) \|", sections[title], re.MULTILINE)
        named = re.findall(r"`(\w+)`", " ".join(cells))
        assert sorted(named) == sorted(names)


def test_the_guide_counts_the_evaluations_of_every_sampler():
    scheduler = Scheduler.from_hf({"_class_name": "DDIMScheduler"})
    rows = re.findall(r"^\| `(\w+)` \|.*?\|.*?\| (\d*)n(?: (\W) (\d+))? \|", text(SPEED), re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(samplers.names())
    for name, factor, sign, constant in rows:
        spacing = samplers.SAMPLERS[name].default_schedule
        for steps in (5, 20):
            evaluations = int(factor or 1) * steps + int(constant or 0) * (1 if sign == "+" else -1)
            assert len(samplers.table(scheduler, name, spacing, Options(), steps).rows) == evaluations, name


def strings(folder):
    """The texts in the source, with "..." where a value is filled in."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_error_message_explained_exists():
    page = text(ROOT / "docs" / "guide" / "troubleshooting.md")
    messages = re.findall(r"^> (.+)$", page, re.MULTILINE)
    messages += [m for row in re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE) for m in re.findall(r"`([^`]+)`", row)]
    source = "\n".join(itertools.chain(*map(strings, ("mlx_sd", "convert", "coreml"))))
    assert len(messages) >= 8
    for message in messages:
        for fragment in filter(None, (part.strip() for part in message.split("..."))):
            assert fragment in source, message
