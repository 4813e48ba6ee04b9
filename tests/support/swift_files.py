"""The files of the Swift package, and where a parser finds that one is not Swift."""

from pathlib import Path

import tree_sitter
import tree_sitter_swift

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "coreml/swift"


def swift_files() -> list[Path]:
    """Returns the Swift files of the package, its tests and the sample app, without what was built."""
    files = sorted(PACKAGE.rglob("*.swift"))
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(PACKAGE).parts)]


def parsed(source: bytes) -> tree_sitter.Node:
    """Returns the root of the syntax tree of a Swift file, with nodes of faults where it is not Swift."""
    language = tree_sitter.Language(tree_sitter_swift.language())
    return tree_sitter.Parser(language).parse(source).root_node


def faults(swift: str) -> list[tuple[int, str]]:
    """Returns (line, text) of each place that is not Swift."""
    nodes = [parsed(swift.encode())]
    errors = []
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.is_error or node.is_missing:
            errors.append((node.start_point[0] + 1, (node.text or b"").decode()))
    return errors
