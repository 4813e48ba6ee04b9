"""Writes the golden files of every module in this package, or of the modules named behind the folder."""

import sys
import time
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from tests.support import swift_goldens


def main(arguments: list[str]) -> int:
    """Runs `write(folder)` of each module that has one, in the order of names."""
    if not arguments:
        print("usage: python -m tests.support.swift_goldens FOLDER [MODULE ...]", file=sys.stderr)
        return 2
    folder, names = Path(arguments[0]), arguments[1:]
    folder.mkdir(parents=True, exist_ok=True)
    for info in sorted(iter_modules(swift_goldens.__path__), key=lambda info: info.name):
        if info.name == "__main__" or (names and info.name not in names):
            continue
        module = import_module(f"{swift_goldens.__name__}.{info.name}")
        if hasattr(module, "write"):
            start = time.perf_counter()
            module.write(folder)
            print(f"{info.name}: {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
