"""What all figures stand on: one style, one width that a phone can show, and files that suit light and dark pages."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#8e5a9e", "#767676"
"""Colours that people with any colour vision tell apart (after Okabe and Ito), readable on white."""
EITHER = "#7c7c7c"
"""A grey as readable on the dark page as on the white one: for words beside pictures, which no page can turn over."""
WIDTH = 4.7
"""Inches of a figure: letters of ten points, the style's size, are ten pixels high on a phone of 390."""

_STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "svg.hashsalt": "Poisoned Once",
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "font.size": 10,
}

_UNDATED: dict[str, dict[str, None]] = {"svg": {"Date": None}}  # so that the same figure is the same file


def new_figure(
    width: float = WIDTH, height: float = 3.2, columns: int = 1, rows: int = 1, *, shared: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure in the book's style with its axes, row by row, with one scale for all if shared; inches."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, sharex=shared, sharey=shared)
    return figure, list(axes.flat)


def holds_pictures(figure: Figure) -> bool:
    """Whether there are pictures in a figure, and not only lines and words."""
    return any(axes.images for axes in figure.axes)


def show(figure: Figure, caption: str, alt: str, numbers: Sequence[Sequence[object]] = ()) -> None:
    """Display a figure with its caption and its alternative text: lines as SVG, pixels as PNG.

    Args:
        figure: A matplotlib figure; it is closed afterwards.
        caption: What to look at, in a sentence or two.
        alt: What the figure shows, for readers who do not see it: at least 20 characters.
        numbers: What is drawn, as rows of a table, the first of them the header; the page offers them as CSV.

    Raises:
        ValueError: caption or alternative text is missing.
    """
    if not caption or len(alt) < 20:
        raise ValueError("a figure needs a caption and an alternative text that says what it shows")
    pixels = holds_pictures(figure)
    drawn = save(figure, "png" if pixels else "svg")
    picture = {"image/png": drawn} if pixels else {"image/svg+xml": drawn.decode()}
    said = {"caption": caption, "alt": alt} | ({"csv": _as_csv(numbers)} if numbers else {})
    data = picture | {"text/plain": alt}
    display(data, raw=True, metadata={"figure": said})  # type: ignore[no-untyped-call]


def save(figure: Figure, form: str, dpi: float | None = None) -> bytes:
    """A figure as a file of a form that matplotlib knows, in the book's style, the same for the same data.

    Lines stand on white: a dark page turns them over. With pictures no page can do that, so they stand on nothing.
    """
    clear = holds_pictures(figure)
    file = io.BytesIO()
    with plt.rc_context(_STYLE | ({} if clear else {"savefig.facecolor": "white"})):
        dpi = dpi or plt.rcParams["savefig.dpi"]
        figure.savefig(file, format=form, transparent=clear, dpi=dpi, metadata=_UNDATED.get(form))
    plt.close(figure)
    return file.getvalue()


def _as_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; numbers with six digits, cells without a value empty."""
    file = io.StringIO()
    cells = ([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    csv.writer(file, lineterminator="\n").writerows(cells)
    return file.getvalue()
