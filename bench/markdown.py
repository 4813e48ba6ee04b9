"""Markdown tables, as the pages show results."""

from collections.abc import Sequence

DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """Returns a Markdown table; columns after the first `left` are aligned to the right, none by default."""
    rule = ["---" if left is None or column < left else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
