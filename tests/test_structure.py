"""The rules of the house, over the real syntax trees: which way imports go, how long files are, what names are."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("mlx_sd", "convert", "coreml", "bench")
LINES = 400

# Modules may import from their own row and from the rows above it. A folder, or a file directly in mlx_sd.
ORDER = (
    ("core",),
    ("networks", "sampling", "ranks", "discrete"),
    ("reuse", "prompts", "checkpoint", "tasks", "metadata", "tuning"),
    ("files of mlx_sd",),
    ("train",),
    ("cli", "generate", "studio", "hosts", "tune"),
)
# Importer -> package that it imports although the package lies above it: converting on first use, and --coreml.
EXCEPTIONS = {"mlx_sd.resolve": "convert", "mlx_sd.cli": "coreml"}
CONVERT_MAY_IMPORT = ("core", "networks", "sampling", "prompts", "checkpoint")
RE_EXPORTS = {"mlx_sd", "mlx_sd.generate", "mlx_sd.generate.__main__", "mlx_sd.samplers", "mlx_sd.schedule"}

_PRONOUNS = """
    what found given made wanted chosen told whole rest ways said kept known
    asked one ones seen held put how there have own theirs ours both such way some
"""
PRONOUNS = frozenset(_PRONOUNS.split())
WORDS = 4


def sources() -> list[Path]:
    """Returns the Python files of the packages."""
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def module(file: Path) -> str:
    """Returns the dotted name by which a file is imported."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def trees() -> Mapping[str, ast.Module]:
    """Returns the syntax tree of every module, by its dotted name."""
    return {module(file): ast.parse(file.read_text(encoding="utf-8")) for file in sources()}


@functools.cache
def is_package(name: str) -> bool:
    """Returns whether a module is a folder's __init__.py."""
    return (ROOT / name.replace(".", "/") / "__init__.py").exists()


def imported(name: str) -> Iterator[str]:
    """Yields the modules of ours that module `name` imports, anywhere in it."""
    package = name.split(".") if is_package(name) else name.split(".")[:-1]
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(prefix + ([node.module] if node.module else []))
            targets = [f"{base}.{a.name}" if f"{base}.{a.name}" in trees() else base for a in node.names]
        else:
            continue
        yield from (target for target in targets if target in trees() and target != name)


@functools.cache
def arrows() -> frozenset[tuple[str, str]]:
    """Returns every pair (importer, imported), without the named exceptions."""
    return frozenset(
        (name, target)
        for name in trees()
        for target in imported(name)
        if not any(name.startswith(start) and target.startswith(end) for start, end in EXCEPTIONS.items())
    )


def cycles(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Returns the groups of nodes that reach each other."""
    after: dict[str, set[str]] = {}
    for start, end in pairs:
        after.setdefault(start, set()).add(end)
        after.setdefault(end, set())
    reach = {}
    for node in after:
        stack, visited = [node], set()
        while stack:
            for following in after[stack.pop()] - visited:
                visited.add(following)
                stack.append(following)
        reach[node] = visited
    groups = {frozenset(m for m in after if m in reach[n] and n in reach[m]) for n in after if n in reach[n]}
    return sorted(sorted(group) for group in groups)


def folder(name: str) -> str:
    """Returns the folder of a module: of a package's __init__.py, the package."""
    return name if is_package(name) else name.rpartition(".")[0]


def row(name: str) -> int:
    """Returns the row of ORDER in which a module of mlx_sd stands."""
    parts = name.split(".")
    room = parts[1] if len(parts) > 1 and is_package(".".join(parts[:2])) else "files of mlx_sd"
    return next(i for i, rooms in enumerate(ORDER) if room in rooms)


def test_the_finder_of_cycles_finds_them():
    assert cycles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")}) == [["a", "b", "c"]]
    assert cycles({("a", "b"), ("b", "c")}) == []


def test_no_file_imports_itself_by_way_of_others():
    # `from . import x` in a package's own module names the package, whose __init__ may import that module.
    inner = {(start, end) for start, end in arrows() if not start.startswith(f"{end}.")}
    assert cycles(inner) == []


def test_no_folder_imports_itself_by_way_of_others():
    between = {(folder(start), folder(end)) for start, end in arrows()}
    assert cycles({(start, end) for start, end in between if start != end}) == []


def test_imports_inside_mlx_sd_go_down():
    ours = [(a, b) for a, b in arrows() if a.startswith("mlx_sd.") and b.startswith("mlx_sd.")]
    assert sorted((a, b) for a, b in ours if row(a) < row(b)) == []


def test_packages_import_only_what_lies_below_them():
    """mlx_sd imports none of the others, convert and coreml import mlx_sd, and bench all."""
    allowed = {"mlx_sd": set(), "convert": {"mlx_sd"}, "coreml": {"mlx_sd"}, "bench": set(PACKAGES)}
    between = {(a, b) for a, b in arrows() if a.split(".")[0] != b.split(".")[0]}
    assert sorted((a, b) for a, b in between if b.split(".")[0] not in allowed[a.split(".")[0]]) == []


def test_convert_imports_only_the_lower_folders_of_mlx_sd():
    upward = [(a, b) for a, b in arrows() if a.startswith("convert") and b.startswith("mlx_sd")]
    assert (
        sorted((a, b) for a, b in upward if b.split(".")[1:2] != [] and b.split(".")[1] not in CONVERT_MAY_IMPORT) == []
    )


def test_the_named_exceptions_exist():
    for start, end in EXCEPTIONS.items():
        importers = [name for name in trees() if name.startswith(start)]
        assert any(target.startswith(end) for name in importers for target in imported(name)), f"{start} -> {end}"


def test_no_module_only_re_exports():
    """A module whose statements are imports of names from others is an alias, which nothing needs."""

    def empty(node: ast.stmt) -> bool:
        constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        return constant or names or isinstance(node, ast.Import | ast.ImportFrom)

    hollow = {
        name
        for name, tree in trees().items()
        if all(map(empty, tree.body)) and any(isinstance(n, ast.ImportFrom) for n in tree.body)
    }
    assert sorted(hollow - RE_EXPORTS) == []


def test_files_are_short():
    files = [*sources(), *(ROOT / "tests").rglob("*.py")]
    lengths = {str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in files}
    assert {name: length for name, length in lengths.items() if length >= LINES} == {}


def bindings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and name of every variable, argument and definition that a module binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name


def test_names_are_nouns():
    pronouns = [f"{m}:{line}: {name}" for m, t in trees().items() for line, name in bindings(t) if name in PRONOUNS]
    assert pronouns == []


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef]:
    """Yields the public functions and classes of a module, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                inner = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
                yield from (n for n in inner if not n.name.startswith("_"))


def test_what_is_public_is_described():
    bare = [
        f"{name}:{node.lineno}: {node.name}"
        for name, tree in trees().items()
        for node in public(tree)
        if len((ast.get_docstring(node) or "").split()) < WORDS
    ]
    assert bare == []


def test_public_functions_name_their_options():
    starred = [
        f"{name}:{node.lineno}: {node.name}(**{node.args.kwarg.arg})"
        for name, tree in trees().items()
        for node in public(tree)
        if isinstance(node, ast.FunctionDef)
        and node.args.kwarg
        and node.args.kwarg.arg in ("options", "settings", "kwargs")
    ]
    assert starred == []


# Command -> how many modules of our own its --help imports; other libraries' counts differ with version and system.
IMPORTS = {"mlx-sd": 10, "mlx_sd.generate": 63, "convert": 100, "coreml": 83, "bench": 9}
HEAVY = {"mlx", "scipy", "PIL", "tokenizers", "safetensors", "huggingface_hub", "coremltools", "torch"}


@pytest.mark.parametrize("command", IMPORTS)
def test_help_imports_little(command):
    """A budget that fails both ways: above it, and when it has become a fifth too large."""
    start = f"import runpy; runpy.run_module({command!r}, run_name='__main__', alter_sys=True)"
    if command == "mlx-sd":
        start = "from mlx_sd.cli.main import main; main(sys.argv[1:])"
    code = (
        "import atexit, sys; sys.argv = [sys.argv[1], '--help'];"
        f"atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {start}"
    )
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, cwd=ROOT, check=True)
    roots = [name.partition(".")[0] for name in done.stderr.split()]
    count = sum(root in ("mlx_sd", "convert", "coreml", "bench") for root in roots)
    assert IMPORTS[command] / 1.2 <= count <= IMPORTS[command], f"{command} --help imports {count} of our modules"
    if command in ("mlx-sd", "mlx_sd.generate", "bench"):  # those that need no network to list what they take
        assert not HEAVY & {*roots}
