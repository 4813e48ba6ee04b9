"""The API reference of the Swift package, docs/api/swift.md, from the comments of its public declarations.

`python -m tests.support.swift_reference` writes the page again.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tree_sitter

from tests.support.swift_files import PACKAGE, ROOT, parsed

PAGE = ROOT / "docs/api/swift.md"
TITLES = {  # folder of Sources -> heading; in this order
    "MLXSDKit": "MLXSDKit",
    "MLXSDCore/Pipeline": "Pictures",
    "MLXSDCore/Requests": "Requests",
    "MLXSDCore/ModelSets": "Model sets",
    "MLXSDCore/Networks": "Networks",
    "MLXSDCoreML": "Core ML",
    "MLXSDCoreAI": "Core AI",
    "MLXSDCore/Sampling": "Sampling",
    "MLXSDCore/Reuse": "Reuse",
    "MLXSDCore/Text": "Prompts",
    "MLXSDCore/Noise": "Noise",
    "MLXSDCore/Numbers": "Numbers",
    "MLXSDCore": "Errors",
}
_TYPES = ("class_declaration", "protocol_declaration")
_MEMBERS = ("function_declaration", "property_declaration", "init_declaration", "subscript_declaration")
_REQUIREMENTS = ("protocol_function_declaration", "protocol_property_declaration")
_BODIES = ("class_body", "enum_class_body", "protocol_body")
_HEAD = """# Swift

What `import MLXSDKit` offers an app. [Swift](../guide/swift.md) has the tutorial. This page is made of the comments in
`coreml/swift/Sources`; Xcode shows the same beside each name.
"""


@dataclass
class Declaration:
    """A public declaration: its text up to the body, its comment, and for a type its public members."""

    name: str
    signature: str
    comment: str
    place: str  # file and line, for messages
    members: list["Declaration"] = field(default_factory=list)
    is_extension: bool = False


def declarations(path: Path) -> list[Declaration]:
    """Returns the public declarations of a Swift file; members stand in their types and extensions."""
    return list(_public(parsed(path.read_bytes()), path.relative_to(PACKAGE).as_posix(), is_requirement=False))


def _public(parent: tree_sitter.Node, file: str, is_requirement: bool) -> Iterator[Declaration]:
    comment: list[str] = []
    for node in parent.children:
        text = (node.text or b"").decode()
        if node.type == "comment":
            comment = [*comment, text.removeprefix("///").removeprefix(" ")] if text.startswith("///") else []
            continue
        is_extension = any(child.type == "extension" for child in node.children)
        is_public = is_requirement or bool(re.match(r"(?:@\S+\s+)*(?:nonisolated\s+)?public\b", text))
        if node.type in _TYPES and (is_public or is_extension):
            name = next(c for c in node.children if c.type in ("type_identifier", "user_type"))
            body = next(child for child in node.children if child.type in _BODIES)
            head = _signature(node, body)
            members = list(_public(body, file, node.type == "protocol_declaration"))
            if members or not is_extension:
                place = f"{file}:{node.start_point[0] + 1}"
                yield Declaration((name.text or b"").decode(), head, "\n".join(comment), place, members, is_extension)
        elif node.type == "enum_entry" or (node.type in (*_MEMBERS, *_REQUIREMENTS) and is_public):
            bodies = ("function_body", "computed_property", "protocol_property_requirements", "willset_didset_block")
            body = next((child for child in node.children if child.type in bodies), None)
            signature = _signature(node, body)
            words = re.search(r"(?:func|var|let|case)\s+([^\s(:<=]+)|(init|subscript)", signature)
            name_text = (words[1] or words[2]) if words else signature
            yield Declaration(name_text, signature, "\n".join(comment), f"{file}:{node.start_point[0] + 1}")
        if text.strip():
            comment = []


def _signature(node: tree_sitter.Node, body: tree_sitter.Node | None) -> str:
    """Returns the text of a declaration without its body and without what only the package may do."""
    text = (node.text or b"").decode()
    if body is not None:
        text = (node.text or b"")[: body.start_byte - node.start_byte].decode().rstrip()
    text = re.sub(r"\s+", " ", text).replace("( ", "(").replace(" )", ")")
    if re.search(r"\b(internal|private)\(set\)", text) or (body is not None and body.type == "computed_property"):
        text += " { get }"
    text = re.sub(r"\b(public|final|nonisolated|internal\(set\)|private\(set\)) ", "", text)
    return re.sub(r" = \{.*", "", text)


def page() -> str:
    """Returns the page: a section for each folder, a heading for each type, its members below."""
    parts = [_HEAD]
    for folder, title in TITLES.items():
        types: dict[str, Declaration] = {}
        functions: list[Declaration] = []
        for path in sorted((PACKAGE / "Sources" / folder).glob("*.swift")):
            for declaration in declarations(path):
                if not declaration.signature.startswith(("struct", "class", "actor", "enum", "protocol", "extension")):
                    functions.append(declaration)
                elif declaration.is_extension and declaration.name in types:
                    types[declaration.name].members += declaration.members
                elif declaration.name in types:  # an extension stood in an earlier file
                    members = types[declaration.name].members
                    types[declaration.name] = declaration
                    declaration.members += members
                else:
                    types[declaration.name] = declaration
        if types or functions:
            parts.append(f"## {title}\n")
        parts += [_section(declaration) for declaration in types.values()]
        parts += [f"{_code(declaration.signature)}\n{_prose(declaration.comment)}\n" for declaration in functions]
    return "\n".join(parts)


def _section(declaration: Declaration, prefix: str = "") -> str:
    title = f"{prefix}{declaration.name}"
    lines = [f"### {title}\n", _code(declaration.signature), _prose(declaration.comment), ""]
    plain = [member for member in declaration.members if not member.members and not _is_type(member)]
    for member in plain:
        text = _indented(_prose(member.comment))
        lines.append(f"- `{member.signature}`" + (f"  \n    {text}" if text else ""))
    lines.append("")
    lines += [_section(member, f"{title}.") for member in declaration.members if member not in plain]
    return "\n".join(lines)


def _is_type(declaration: Declaration) -> bool:
    return declaration.signature.startswith(("struct ", "class ", "actor ", "enum ", "protocol "))


def _code(signature: str) -> str:
    return "```swift\n" + "\n".join(textwrap.wrap(signature, 100, subsequent_indent="    ")) + "\n```\n"


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ").replace("    \n", "\n")


def _prose(comment: str) -> str:
    """Returns a comment as Markdown: its lists of parameters as lists."""
    comment = re.sub(r"^- Parameters:$", "\nParameters:\n", comment, flags=re.MULTILINE)
    comment = re.sub(r"^- Parameter (\w+):", r"\n`\1`:", comment, flags=re.MULTILINE)
    comment = re.sub(r"^  - (\w+):", r"- `\1`:", comment, flags=re.MULTILINE)
    return re.sub(r"^    (\S)", r"  \1", comment, flags=re.MULTILINE).strip()


def undocumented() -> list[str]:
    """Returns the places of public types, functions and initialisers without a comment.

    What a protocol of the package asks for has its comment there.
    """
    places = []
    stack = [d for path in sorted((PACKAGE / "Sources").rglob("*.swift")) for d in declarations(path)]
    protocols = [declaration for declaration in stack if declaration.signature.startswith("protocol ")]
    explained = {member.name for protocol in protocols for member in protocol.members}
    while stack:
        declaration = stack.pop()
        stack += declaration.members
        is_value = declaration.signature.startswith(("var ", "let ", "case ", "static let", "static var"))
        if not (declaration.comment or declaration.is_extension or is_value or declaration.name in explained):
            places.append(f"{declaration.place}: {declaration.name}")
    return sorted(places)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for place in undocumented():
        print(f"no comment: {place}", file=sys.stderr)
