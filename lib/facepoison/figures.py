"""Figures and tables as the book shows them: one style, a caption and a text for those who cannot see them."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from facepoison.protection import Rate

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#8e5a9e", "#767676"
"""Colours that people with any colour vision tell apart (after Okabe and Ito), readable on white."""

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "font.size": 10,
}


def new_figure(width: float = 7.0, height: float = 3.2, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure in the book's style with its axes, side by side; sizes in inches."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False)
    return figure, list(axes[0])


def show(figure: Figure, caption: str, alt: str) -> None:
    """Display a figure with its caption and its alternative text.

    Args:
        figure: A matplotlib figure; it is closed afterwards.
        caption: What to look at, in a sentence or two.
        alt: What the figure shows, for readers who do not see it: at least 20 characters.

    Raises:
        ValueError: caption or alternative text is missing.
    """
    if not caption or len(alt) < 20:
        raise ValueError("a figure needs a caption and an alternative text that says what it shows")
    picture = io.BytesIO()
    with plt.rc_context(STYLE):
        figure.savefig(picture, format="png", facecolor="white")
    plt.close(figure)
    data = {"image/png": picture.getvalue(), "text/plain": alt}
    display(data, raw=True, metadata={"figure": {"caption": caption, "alt": alt}})  # type: ignore[no-untyped-call]


def show_pictures(pixels: Tensor, caption: str, alt: str, *, columns: int = 8, labels: Sequence[str] = ()) -> None:
    """Display a sheet of pictures, row by row.

    Args:
        pixels: uint8, shape (N, 3, H, W).
        caption: As for ``show``.
        alt: As for ``show``.
        columns: Pictures in a row.
        labels: One for each row, written at its left.
    """
    grid = make_grid(pixels.cpu(), nrow=columns, padding=2, pad_value=255).permute(1, 2, 0)
    rows = -(-len(pixels) // columns)
    margin = 0.9 if labels else 0.0
    figure, (axes,) = new_figure(7.0, (7.0 - margin) * grid.shape[0] / grid.shape[1])
    axes.imshow(grid.numpy(), interpolation="nearest" if pixels.shape[-1] < 100 else "antialiased")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    centres = [(row + 0.5) * grid.shape[0] / rows for row in range(len(labels))]
    axes.set_yticks(centres, labels)
    axes.tick_params(length=0)
    show(figure, caption, alt)


def difference(before: Tensor, after: Tensor, gain: int = 6) -> Tensor:
    """What a poison changed, around mid-grey and times ``gain``: uint8 pictures in, uint8 pictures out."""
    change = (after.to(torch.int16) - before.to(torch.int16)) * gain + 128
    return change.clamp(0, 255).to(torch.uint8)


def percent(rate: Rate) -> str:
    """A rate with its 95 % interval, as a table shows it."""
    return f"{rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%})".replace("%", " %")


def show_table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> None:
    """Display a table with a header and a caption; cells are shown as ``str`` gives them."""
    body = [[str(cell) for cell in row] for row in rows]
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    lines = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in body
    )
    table = (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    )
    plain = "\n".join(" | ".join(row) for row in [list(header), *body])
    data = {"text/html": f"<table>{parts}</table>", "text/plain": plain}
    display(data, raw=True, metadata={"table": {"caption": caption}})  # type: ignore[no-untyped-call]
