"""Tables as plain lines, on a terminal and in a log alike."""

from collections.abc import Sequence

NOTHING = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Returns the rows in columns, the first `text_columns` of them set left and the others right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in rows)])


def number(value: float) -> str:
    """Returns two significant digits: 0.45, 3.1, 12, 340, 5.2e+05."""
    if value >= 1e4:
        return f"{value:.1e}"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"
