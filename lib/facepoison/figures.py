"""Figures and tables as the book shows them: one style, a caption and a text for those who cannot see them."""

from __future__ import annotations

import csv
import html
import io
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.utils import make_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from facepoison.evaluation import Protection, Rate

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#8e5a9e", "#767676"
"""Colours that people with any colour vision tell apart (after Okabe and Ito), readable on white."""

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
    width: float = 7.0, height: float = 3.2, columns: int = 1, rows: int = 1, *, shared: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure in the book's style with its axes, row by row, with one scale for all if shared; inches."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, sharex=shared, sharey=shared)
    return figure, list(axes.flat)


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
    pixels = any(axes.images for axes in figure.axes)
    drawn = save(figure, "png" if pixels else "svg")
    picture = {"image/png": drawn} if pixels else {"image/svg+xml": drawn.decode()}
    said = {"caption": caption, "alt": alt} | ({"csv": _as_csv(numbers)} if numbers else {})
    data = picture | {"text/plain": alt}
    display(data, raw=True, metadata={"figure": said})  # type: ignore[no-untyped-call]


def save(figure: Figure, form: str, dpi: float | None = None) -> bytes:
    """A figure as a file of a form that matplotlib knows, in the book's style, on white, the same for the same data."""
    file = io.BytesIO()
    with plt.rc_context(_STYLE):
        figure.savefig(
            file, format=form, facecolor="white", dpi=dpi or plt.rcParams["savefig.dpi"], metadata=_UNDATED.get(form)
        )
    plt.close(figure)
    return file.getvalue()


def _as_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; numbers with six digits, cells without a value empty."""
    file = io.StringIO()
    cells = ([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    csv.writer(file, lineterminator="\n").writerows(cells)
    return file.getvalue()


_RATE_COLUMNS = ("value", "low", "high", "users", "probes", "clean_error")


def _rate_numbers(rate: Rate) -> tuple[object, ...]:
    """A rate as numbers, in the order of ``_RATE_COLUMNS``."""
    clean = None if rate.clean_error is None else rate.clean_error.value
    return rate.value, rate.low, rate.high, rate.n, rate.probes, clean


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


def enlarged_difference(before: Tensor, after: Tensor, gain: int = 6) -> Tensor:
    """What a poison changed, around mid-grey and times ``gain``: uint8 pictures in, uint8 pictures out."""
    change = (after.to(torch.int16) - before.to(torch.int16)) * gain + 128
    return change.clamp(0, 255).to(torch.uint8)


def side_by_side(before: Tensor, after: Tensor) -> Tensor:
    """For each picture a row of three: as it was, as it is, and the difference. uint8 (3N, 3, H, W)."""
    return torch.stack([before, after, enlarged_difference(before, after)], dim=1).flatten(0, 1)


def show_cosines(same: Tensor, different: Tensor, caption: str, alt: str) -> None:
    """Display how cosines between embeddings are distributed, for pairs of one person and of two."""
    figure, (axes,) = new_figure()
    numbers: list[tuple[object, ...]] = [("pairs", "from", "to", "density")]
    for cosines, label, colour in ((different, "two people", GREY), (same, "one person", BLUE)):
        density, edges, _ = axes.hist(
            cosines.numpy(), bins=80, range=(-1, 1), density=True, alpha=0.7, color=colour, label=label
        )
        bins = zip(edges[:-1].tolist(), edges[1:].tolist(), density.tolist(), strict=True)  # type: ignore[union-attr]
        numbers += [(label, *each) for each in bins]
    axes.set_xlabel("cosine between the embeddings of a probe and a gallery picture")
    axes.set_ylabel("density")
    axes.legend()
    show(figure, caption, alt, numbers)


def draw_rates(rates: Mapping[str, Rate], label: str, *, whole: bool = False) -> Figure:
    """A figure of rates with their 95 % intervals, one line each, from top to bottom, and clean errors where known.

    The axis goes from 0 to 100 % where it is to be ``whole``.
    """
    figure, (axes,) = new_figure(height=0.8 + 0.4 * len(rates))
    for row, rate in enumerate(rates.values()):
        axes.plot([100 * rate.low, 100 * rate.high], [row, row], color=BLUE, linewidth=3, alpha=0.4)
        axes.plot(100 * rate.value, row, "o", color=BLUE)
        if rate.clean_error is not None:
            clean = 100 * rate.clean_error.value
            axes.plot([clean, clean], [row - 0.35, row + 0.35], color=GREY, linestyle="--")
    axes.set_yticks(range(len(rates)), list(rates))
    axes.set_ylim(len(rates) - 0.5, -0.5)
    if whole:
        axes.set_xlim(-4, 104)
    axes.set_xlabel(f"{label}, %")
    return figure


def show_rates(rates: Mapping[str, Rate], caption: str, alt: str, label: str) -> None:
    """Display rates as ``draw_rates`` draws them."""
    numbers = [("", *_RATE_COLUMNS), *((name, *_rate_numbers(rate)) for name, rate in rates.items())]
    show(draw_rates(rates, label), caption, alt, numbers)


def show_protection(results: Mapping[str, Protection], caption: str, alt: str) -> None:
    """Display every user's protection, the mean with its interval and the clean error, a line for each result."""
    figure, (axes,) = new_figure(height=1.0 + 0.45 * len(results))
    numbers: list[tuple[object, ...]] = [("", "user", *_RATE_COLUMNS)]
    for row, result in enumerate(results.values()):
        users = 100 * result.poisoned.by_user.numpy()
        name = list(results)[row]
        numbers.append((name, "all", *_rate_numbers(result.rate)))
        numbers += [(name, number, error / 100) for number, error in enumerate(users.tolist(), 1)]
        offsets = [row + 0.5 * ((i + 0.5) / len(users) - 0.5) for i in range(len(users))]
        axes.plot(users, offsets, "o", color=GREY, alpha=0.5, markersize=4, markeredgewidth=0)
        axes.plot([100 * result.rate.low, 100 * result.rate.high], [row] * 2, color=ORANGE, linewidth=3)
        axes.plot(100 * result.rate.value, row, "D", color=ORANGE, markersize=7)
        clean = 100 * (result.rate.clean_error or result.rate).value
        axes.plot([clean, clean], [row - 0.35, row + 0.35], color=BLUE, linestyle="--")
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlim(-4, 104)
    axes.set_xlabel("clean probes not recognised, %")
    show(figure, caption, alt, numbers)


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
    parts = f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
    plain = "\n".join(" | ".join(row) for row in [list(header), *body])
    data = {"text/html": f"<table>{parts}</table>", "text/plain": plain}
    display(data, raw=True, metadata={"table": {"caption": caption}})  # type: ignore[no-untyped-call]


def show_tradeoff(points: Mapping[str, tuple[float, Rate]], caption: str, alt: str) -> None:
    """Display protection with its interval against the picture quality (PSNR, dB) that it costs, by attack."""
    figure, (axes,) = new_figure(height=3.4)
    for (name, (quality, rate)), marker in zip(points.items(), "osD^vPX*", strict=False):
        axes.plot([quality] * 2, [100 * rate.low, 100 * rate.high], color=GREY, linewidth=2, alpha=0.6)
        axes.plot(quality, 100 * rate.value, marker, markersize=8, label=name)
    axes.set_xlabel("PSNR of what is posted, dB (to the right: less visible)")
    axes.set_ylabel("clean probes not recognised, %")
    axes.set_ylim(-4, 104)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    rows = [(name, quality, *_rate_numbers(rate)) for name, (quality, rate) in points.items()]
    show(figure, caption, alt, [("", "psnr_db", *_RATE_COLUMNS), *rows])


def show_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], caption: str, alt: str) -> None:
    """Display how trainings went, accuracy on the training pictures by share of the steps, a small plot for each.

    Args:
        curves: By name: ``step`` and ``accuracy`` (0 to 1) of each point.
        caption: As for ``show``.
        alt: As for ``show``.
    """
    rows = -(-len(curves) // 5)
    figure, axes = new_figure(height=0.4 + 1.5 * rows, columns=5, rows=rows, shared=True)
    for place, (name, curve) in zip(axes, curves.items(), strict=False):
        done = [step / curve["step"][-1] for step in curve["step"]]
        place.plot(done, [100 * share for share in curve["accuracy"]], color=BLUE)
        place.set_title(name, fontsize=8)
        place.set_ylim(0, 104)
        place.set_xticks([0, 1], ["start", "end"])
    for place in axes[len(curves) :]:
        place.set_axis_off()
    axes[0].set_ylabel("named right, %")
    numbers = [
        (name, step, share)
        for name, curve in curves.items()
        for step, share in zip(curve["step"], curve["accuracy"], strict=True)
    ]
    show(figure, caption, alt, [("extractor", "step", "accuracy"), *numbers])


def show_series(
    places: Sequence[str],
    lines: Mapping[str, Sequence[Rate]],
    caption: str,
    alt: str,
    *,
    along: str,
    hollow: Mapping[str, Container[str]] | None = None,
) -> None:
    """Display lines of protection rates with 95 % intervals and, dashed, the clean error at each place.

    Args:
        places: What stands along the horizontal axis, in order; distances between them mean nothing.
        lines: By name, a rate for each place.
        caption: As for ``show``.
        alt: As for ``show``.
        along: What the places are.
        hollow: By line, the places whose mark is left open: where the trainer runs one of the user's surrogates.
    """
    figure, (axes,) = new_figure(height=4.4 if max(map(len, places)) > 8 else 3.6)
    step = 0.5 / len(lines)
    colours = (BLUE, ORANGE, GREEN, PURPLE, "#a6761d", "#000000")
    for number, ((name, rates), colour, marker) in enumerate(zip(lines.items(), colours, "osD^vP", strict=False)):
        x = [place + (number - (len(lines) - 1) / 2) * step for place in range(len(places))]
        axes.vlines(
            x, [100 * r.low for r in rates], [100 * r.high for r in rates], color=colour, linewidth=2, alpha=0.3
        )
        values = [100 * rate.value for rate in rates]
        axes.plot(x, values, color=colour, linewidth=1, marker=marker, label=name)
        for at, place, value in zip(x, places, values, strict=True):
            if hollow is not None and place in hollow.get(name, ()):
                axes.plot(at, value, marker, color=colour, markerfacecolor="white")
    clean = [100 * (rate.clean_error or rate).value for rate in next(iter(lines.values()))]
    axes.plot(range(len(places)), clean, color=GREY, linestyle="--", label="clean error")
    axes.set_xticks(range(len(places)), list(places), rotation=40 if max(map(len, places)) > 8 else 0)
    for tick in axes.get_xticklabels():
        tick.set_horizontalalignment("right" if max(map(len, places)) > 8 else "center")
    axes.set_xlabel(along)
    axes.set_ylabel("clean probes not recognised, %")
    axes.set_ylim(-4, 104)
    columns = 1 if max(map(len, lines)) > 30 else 3
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=9, frameon=False)
    rows = [
        (name, place, *_rate_numbers(rate))
        for name, rates in lines.items()
        for place, rate in zip(places, rates, strict=True)
    ]
    show(figure, caption, alt, [("", along, *_RATE_COLUMNS), *rows])


Points = Sequence[tuple[float, float]]
"""Of a detector over thresholds: the share of clean pictures flagged, and that of poisoned ones found."""

LEAST = 1e-4  # where the logarithmic axes of detectors end


def draw_detection(curves: Mapping[str, Points], at: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """A figure of detectors: ROC with false alarms on a logarithmic axis, and DET in normal deviates.

    Args:
        curves: By name, points in any order.
        at: By name, a point to mark.
    """
    figure, (roc, det) = new_figure(height=3.6, columns=2)
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    for (name, points), colour, marker in zip(curves.items(), colours, "osD^", strict=False):
        wrong, right = zip(*sorted(points), strict=True)
        roc.plot([max(each, LEAST) for each in wrong], [100 * each for each in right], color=colour, label=name)
        inner = [(w, r) for w, r in sorted(points) if 0 < w < 1 and 0 < r < 1]
        det.plot([_deviate(w) for w, _ in inner], [_deviate(1 - r) for _, r in inner], color=colour)
        if at is not None:
            w, r = at[name]
            roc.plot(max(w, LEAST), 100 * r, marker, color=colour, markersize=8)
            if 0 < w < 1 and 0 < r < 1:
                det.plot(_deviate(w), _deviate(1 - r), marker, color=colour, markersize=8)
    roc.set_xscale("log")
    roc.set_xlim(LEAST, 1)
    roc.set_ylim(-2, 102)
    roc.set_xlabel("clean pictures flagged")
    roc.set_ylabel("poisoned pictures found, %")
    shares = (1e-3, 1e-2, 0.1, 0.5)
    roc.set_xticks([LEAST, *shares[:3], 1.0], ["0.01 %", "0.1 %", "1 %", "10 %", "all"])
    for axis in (det.xaxis, det.yaxis):
        axis.set_ticks([_deviate(share) for share in shares], ["0.1 %", "1 %", "10 %", "50 %"])
    det.set_xlim(_deviate(2e-4), _deviate(0.7))
    det.set_ylim(_deviate(4e-4), _deviate(0.9))
    det.set_xlabel("clean pictures flagged")
    det.set_ylabel("poisoned pictures missed")
    figure.legend(loc="outside upper center", ncols=3 if len(curves) < 4 else 2, fontsize=9, frameon=False)
    return figure


def _deviate(share: float) -> float:
    """The normal deviate of a share between 0 and 1: what DET curves have on their axes (Martin et al., 1997)."""
    return NormalDist().inv_cdf(share)


def show_detection(curves: Mapping[str, Points], caption: str, alt: str) -> None:
    """Display detectors as ``draw_detection`` draws them."""
    numbers = [(name, *point) for name, points in curves.items() for point in sorted(points)]
    show(draw_detection(curves), caption, alt, [("", "clean_flagged", "poisoned_found"), *numbers])


def draw_answers(right: Mapping[str, Sequence[bool]], pixels: Tensor | None) -> Figure:
    """A figure of one user's probes, a column each: the portrait, if given, and for each row right or wrong.

    Args:
        right: By row, whether each probe was given its right name.
        pixels: The probes, uint8 (P, 3, H, W); None where they show real people.
    """
    n = len(next(iter(right.values())))
    row, portrait, column = 0.4, 0.0 if pixels is None else 0.85, 5.6 / n  # inches
    figure, (axes,) = new_figure(7.0, 0.2 + row * len(right) + portrait)
    top, half = portrait / row, min(0.45, portrait / column / 2)
    for place in range(0 if pixels is None else n):
        centre = place + 0.5
        axes.imshow(_for_axes(pixels[place]), extent=(centre - half, centre + half, -0.05, -top))  # type: ignore[index]
    _draw_boxes(axes, right)
    axes.set_ylim(len(right), -top)
    return figure


def draw_poison(before: Tensor, after: Tensor, right: Mapping[str, Sequence[bool]], *, made: bool) -> Figure:
    """A figure of what one user posts, and what the recogniser then makes of the user's probes.

    Args:
        before: A picture, uint8 (1, 3, H, W).
        after: The same as posted.
        right: By row, whether each probe was given its right name.
        made: Whether the person is made; real people appear as answers only.
    """
    figure, axes = new_figure(7.0, 2.9 if made else 0.8, rows=2 if made else 1)
    if made:
        portraits = make_grid(side_by_side(before, after), nrow=3, padding=2, pad_value=255)
        axes[0].imshow(_for_axes(portraits))
        axes[0].set_axis_off()
        axes[0].set_title("as taken, as posted, difference x 6", fontsize=9)
        axes[0].get_gridspec().set_height_ratios([4, 1])  # type: ignore[union-attr]
    _draw_boxes(axes[-1], right)
    return figure


def _for_axes(pixels: Tensor) -> NDArray[Any]:
    """A picture, uint8 (3, H, W), as matplotlib draws it."""
    drawn: NDArray[Any] = pixels.permute(1, 2, 0).cpu().numpy()
    return drawn


def _draw_boxes(axes: Axes, right: Mapping[str, Sequence[bool]]) -> None:
    """A row of boxes for each entry, a column for each probe: named or missed."""
    for line, answers in enumerate(right.values()):
        for place, answer in enumerate(answers):
            colour, word = (BLUE, "named") if answer else (ORANGE, "missed")
            axes.add_patch(Rectangle((place + 0.04, line + 0.08), 0.92, 0.84, color=colour))
            axes.text(place + 0.5, line + 0.5, word, color="white", ha="center", va="center", fontsize=9)
    axes.set_xlim(0, len(next(iter(right.values()))))
    axes.set_ylim(len(right), 0)
    axes.set_aspect("auto")
    axes.set_yticks([line + 0.5 for line in range(len(right))], list(right))
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def progress(what: str) -> Callable[[int, int], None]:
    """A line that counts up while a cell works: what, how many of how many, time so far and time left."""
    start = time.monotonic()
    line = display({"text/plain": what}, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def report(done: int, of: int) -> None:
        spent = time.monotonic() - start
        left = "" if done == of else f", about {spent / done * (of - done):.0f} s left"
        line.update({"text/plain": f"{what}: {done} of {of}, {spent:.0f} s{left}"}, raw=True)

    return report
