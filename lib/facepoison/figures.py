"""Figures and tables as the book shows them: one style, a caption and a text for those who cannot see them."""

from __future__ import annotations

import html
import math
import textwrap
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.utils import make_grid

from facepoison.canvas import BLUE, EITHER, GREEN, GREY, ORANGE, PURPLE, WIDTH, new_figure, show
from facepoison.names import titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from facepoison.evaluation import Protection, Rate

_RATE_COLUMNS = ("value", "low", "high", "users", "probes", "clean_error")


def _rate_numbers(rate: Rate) -> tuple[object, ...]:
    """A rate as numbers, in the order of ``_RATE_COLUMNS``."""
    clean = None if rate.clean_error is None else rate.clean_error.value
    return rate.value, rate.low, rate.high, rate.n, rate.probes, clean


def show_pictures(
    pixels: Tensor,
    caption: str,
    alt: str,
    *,
    columns: int = 8,
    labels: Sequence[str] = (),
    heads: Sequence[str] = (),
) -> None:
    """Display a sheet of pictures, row by row.

    Args:
        pixels: uint8, shape (N, 3, H, W).
        caption: As for ``show``.
        alt: As for ``show``.
        columns: Pictures in a row.
        labels: One for each row, written at its left.
        heads: One for each column, written above it.
    """
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    margin = 0.2 + 0.09 * max(map(len, labels)) if labels else 0.0
    head = 0.2 * max((each.count("\n") + 1 for each in heads), default=0)
    height = (WIDTH - margin) * rows / columns * pixels.shape[2] / pixels.shape[3]
    figure, (axes,) = new_figure(height=height + head)
    _draw_sheet(axes, pixels, columns, labels, heads)
    show(figure, caption, alt)


def _draw_sheet(
    axes: Axes, pixels: Tensor, columns: int, labels: Sequence[str] = (), heads: Sequence[str] = ()
) -> None:
    """Pictures row by row, with nothing between them; labels and heads as of ``show_pictures``."""
    opaque = torch.full_like(pixels[:, :1], 255)
    grid = make_grid(torch.cat([pixels, opaque], dim=1).cpu(), nrow=columns, padding=2, pad_value=0)
    _, tall, wide = grid.shape
    axes.imshow(_for_axes(grid), interpolation="nearest" if pixels.shape[-1] < 100 else "antialiased")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_anchor("E")  # what room there is goes to the labels
    axes.xaxis.tick_top()
    axes.set_xticks([(column + 0.5) * wide / columns for column in range(len(heads))], heads)
    axes.set_yticks([(row + 0.5) * tall / max(1, -(-len(pixels) // columns)) for row in range(len(labels))], labels)
    axes.tick_params(length=0, labelcolor=EITHER)
    _embolden(axes)


def _embolden(axes: Axes) -> None:
    """Make the words at the axes of a picture bold: thin grey ones are hard to read on a dark page."""
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontweight("bold")


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
    axes.set_xlabel("cosine of a probe and a gallery picture, embedded")
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set_ylabel("density")
    axes.legend(frameon=False)
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
    axes.set_yticks(range(len(rates)), [titled(name) for name in rates])
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
    axes.set_xlabel(_PROTECTION)
    show(figure, caption, alt, numbers)


def show_table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> None:
    """Display a table with a header and a caption; cells stand as ``str`` gives them, extractors by their titles."""
    body = [[str(cell) for cell in row] for row in rows]
    head = "".join(_cell("th", cell, ' scope="col"') for cell in header)
    lines = "".join(
        "<tr>" + _cell("th", row[0], ' scope="row"') + "".join(_cell("td", cell) for cell in row[1:]) + "</tr>"
        for row in body
    )
    parts = f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
    plain = "\n".join(" | ".join(row) for row in [list(header), *body])
    data = {"text/html": f"<table>{parts}</table>", "text/plain": plain}
    display(data, raw=True, metadata={"table": {"caption": caption}})  # type: ignore[no-untyped-call]


def _cell(tag: str, words: str, more: str = "") -> str:
    """A cell of a table; an extractor stands there by its title, and by its name where a pointer rests on it."""
    title = titled(words)
    name = f' title="{html.escape(words)}"' if title != words else ""
    return f"<{tag}{more}{name}>{html.escape(title)}</{tag}>"


def show_tradeoff(points: Mapping[str, tuple[float, Rate]], caption: str, alt: str) -> None:
    """Display protection with its interval against the picture quality (PSNR, dB) that it costs, by attack."""
    figure, (axes,) = new_figure(height=3.4)
    for (name, (quality, rate)), marker in zip(points.items(), "osD^vPX*", strict=False):
        axes.plot([quality] * 2, [100 * rate.low, 100 * rate.high], color=GREY, linewidth=2, alpha=0.6)
        axes.plot(quality, 100 * rate.value, marker, markersize=8, label=name)
    axes.set_xlabel("PSNR of what is posted, dB (to the right: less visible)")
    axes.set_ylabel(_PROTECTION)
    axes.set_ylim(-4, 104)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    rows = [(name, quality, *_rate_numbers(rate)) for name, (quality, rate) in points.items()]
    show(figure, caption, alt, [("", "psnr_db", *_RATE_COLUMNS), *rows])


def show_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], caption: str, alt: str) -> None:
    """Display how trainings went, accuracy on the training pictures by share of the steps, a small plot for each.

    Args:
        curves: By name: ``step`` and ``accuracy`` (0 to 1) of each point.
        caption: As for ``show``.
        alt: As for ``show``.
    """
    rows = -(-len(curves) // 3)
    figure, axes = new_figure(height=0.4 + 1.1 * rows, columns=3, rows=rows, shared=True)
    for place, (name, curve) in zip(axes, curves.items(), strict=False):
        done = [step / curve["step"][-1] for step in curve["step"]]
        place.plot(done, [100 * share for share in curve["accuracy"]], color=BLUE)
        place.set_title(titled(name), fontsize=10)
        place.set_ylim(0, 104)
        place.set_xticks([0, 1], ["start", "end"])
    for place in axes[len(curves) :]:
        place.set_axis_off()
    figure.supylabel("named right, %", fontsize=10)
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
    joined: bool = True,
) -> None:
    """Display protection rates with 95 % intervals, a small plot for each line of them, and clean errors as grey marks.

    Args:
        places: What the rates of a line belong to, in order; distances between them mean nothing.
        lines: By name, a rate for each place.
        caption: As for ``show``.
        alt: As for ``show``.
        along: What the places are.
        hollow: By line, the places whose mark is left open: where the trainer runs one of the user's surrogates.
        joined: Whether the places are amounts, so that a line joins them; otherwise, as for networks that have nothing
            to do with each other, each is a row of its own.
    """
    open_marks = {
        name: [number for number, place in enumerate(places) if hollow and place in hollow.get(name, ())]
        for name in lines
    }
    named = [titled(place) for place in places]
    figure = (_draw_amounts if joined else _draw_rows)(named, lines, open_marks, along)
    rows = [
        (name, place, *_rate_numbers(rate))
        for name, rates in lines.items()
        for place, rate in zip(places, rates, strict=True)
    ]
    show(figure, caption, alt, [("", along, *_RATE_COLUMNS), *rows])


_Lines = Mapping[str, "Sequence[Rate]"]
_PROTECTION = "clean probes not recognised, %"


def _panels(lines: _Lines, columns: int, height: float, room: float) -> tuple[Figure, list[Axes]]:
    """A figure with a small plot for each line, under its name.

    Args:
        lines: As of ``show_series``.
        columns: Most plots in a row.
        height: Inches of a plot, without its title.
        room: Inches that a row leaves at its left.
    """
    columns = min(2 if len(lines) == 4 else columns, len(lines))
    rows, letters = -(-len(lines) // columns), int((WIDTH - room) / columns / 0.085)
    titles = [textwrap.fill(titled(name), letters) for name in lines]
    deepest = max(title.count("\n") + 1 for title in titles)
    tall = 0.9 + rows * (height + 0.2 * deepest)
    figure, axes = new_figure(height=tall, columns=columns, rows=rows, shared=True)
    for place, title in zip(axes, titles, strict=False):
        place.set_title(title, fontsize=10)
    for number, place in enumerate(axes):
        place.tick_params(labelbottom=number + columns >= len(lines))
    for place in axes[len(lines) :]:
        place.set_axis_off()
    return figure, axes


def _draw_rows(places: Sequence[str], lines: _Lines, hollow: Mapping[str, Sequence[int]], along: str) -> Figure:
    """A figure of lines whose places are rows, one below the other."""
    longest = 0.075 * max(map(len, places))
    figure, axes = _panels(lines, 3 if longest < 1.5 else 2, 0.2 * len(places), longest)
    rows = range(len(places))
    for place, (name, rates) in zip(axes, lines.items(), strict=False):
        place.hlines(rows, [100 * r.low for r in rates], [100 * r.high for r in rates], color=BLUE, lw=3, alpha=0.35)
        place.plot(_clean(rates), rows, "|", color=GREY, markersize=9, label="clean error")
        _draw_marks(place, [(100 * rate.value, row) for row, rate in enumerate(rates)], hollow[name])
        place.set_yticks(rows, places)
    axes[0].set_ylim(len(places) - 0.4, -0.6)
    axes[0].set_xlim(-6, 106)
    axes[0].set_xticks([0, 50, 100])
    figure.supxlabel(_PROTECTION, fontsize=10)
    _say_what_is_grey(figure, axes[0], along)
    return figure


def _draw_amounts(places: Sequence[str], lines: _Lines, hollow: Mapping[str, Sequence[int]], along: str) -> Figure:
    """A figure of lines over places that are amounts, each with all others behind it."""
    longest = max(map(len, places))
    figure, axes = _panels(lines, 3 if longest * len(places) < 16 else 2, 1.5, 0.7)
    x = range(len(places))
    for place, (name, rates) in zip(axes, lines.items(), strict=False):
        for other in lines.values():
            place.plot(x, [100 * rate.value for rate in other], color=GREY, lw=1, alpha=0.3)
        place.fill_between(
            x, [100 * r.low for r in rates], [100 * r.high for r in rates], color=BLUE, alpha=0.15, linewidth=0
        )
        place.plot(x, _clean(rates), "_", color=GREY, markersize=9, label="clean error")
        place.plot(x, [100 * rate.value for rate in rates], color=BLUE)
        _draw_marks(place, [(number, 100 * rate.value) for number, rate in enumerate(rates)], hollow[name])
        place.set_xticks(x, places, rotation=90 if longest > 5 or longest * len(places) > 20 else 0)
    axes[0].set_ylim(-6, 106)
    axes[0].set_yticks([0, 50, 100])
    figure.supxlabel(textwrap.fill(along, 56), fontsize=10)
    figure.supylabel("clean probes\nnot recognised, %", fontsize=10)
    _say_what_is_grey(figure, axes[0], "")
    return figure


def _clean(rates: Sequence[Rate]) -> list[float]:
    """The clean error beside each rate in per cent; where there is none, nothing that could be drawn."""
    return [math.nan if rate.clean_error is None else 100 * rate.clean_error.value for rate in rates]


def _say_what_is_grey(figure: Figure, axes: Axes, title: str) -> None:
    """Above the plots of a figure: what its rows are, and what its grey marks are."""
    marks, _ = axes.get_legend_handles_labels()
    more = {"title": textwrap.fill(title, 55), "alignment": "left"} if title else {}
    figure.legend(handles=marks, loc="outside upper left", frameon=False, borderpad=0, handletextpad=0.2, **more)


def _draw_marks(axes: Axes, points: Sequence[tuple[float, float]], hollow: Sequence[int]) -> None:
    """Rates as dots, some of them open."""
    for number, (x, y) in enumerate(points):
        axes.plot(x, y, "o", color=BLUE, markersize=5, markerfacecolor="white" if number in hollow else BLUE)


Points = Sequence[tuple[float, float]]
"""Of a detector over thresholds: the share of clean pictures flagged, and that of poisoned ones found."""

LEAST = 1e-4  # where the logarithmic axes of detectors end


def draw_detection(curves: Mapping[str, Points], at: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """A figure of detectors: ROC with false alarms on a logarithmic axis, and DET in normal deviates.

    Args:
        curves: By name, points in any order.
        at: By name, a point to mark.
    """
    figure, (roc, det) = new_figure(height=3.0 + 0.2 * len(curves), columns=2)
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
    roc.set_xticks([LEAST, *shares[:3], 1.0], ["0.01 %", "", "1 %", "", "all"])
    for axis, second in ((det.xaxis, ""), (det.yaxis, "1 %")):
        axis.set_ticks([_deviate(share) for share in shares], ["0.1 %", second, "10 %", "50 %"])
    det.set_xlim(_deviate(2e-4), _deviate(0.7))
    det.set_ylim(_deviate(4e-4), _deviate(0.9))
    det.set_xlabel("clean pictures flagged")
    det.set_ylabel("poisoned pictures missed")
    figure.legend(loc="outside upper left", ncols=2 if max(map(len, curves)) < 20 else 1, frameon=False)
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
    row, portrait, column = 0.6, 0.0 if pixels is None else 0.35, 3.6 / n  # inches
    figure, (axes,) = new_figure(height=0.2 + row * len(right) + portrait)
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
    figure, axes = new_figure(height=2.6 if made else 0.7, rows=2 if made else 1)
    if made:
        _draw_sheet(axes[0], side_by_side(before, after), 3, heads=["before", "after", "difference × 6"])
        axes[0].get_gridspec().set_height_ratios([3, 1])  # type: ignore[union-attr]
    _draw_boxes(axes[-1], right)
    return figure


def _for_axes(pixels: Tensor) -> NDArray[Any]:
    """A picture, uint8 (3, H, W), as matplotlib draws it."""
    drawn: NDArray[Any] = pixels.permute(1, 2, 0).cpu().numpy()
    return drawn


def _draw_boxes(axes: Axes, right: Mapping[str, Sequence[bool]]) -> None:
    """A row of boxes for each entry, a column for each probe: named or missed, upright where there are many."""
    turned = 90 if len(next(iter(right.values()))) > 6 else 0
    for line, answers in enumerate(right.values()):
        for place, answer in enumerate(answers):
            colour, word = (BLUE, "named") if answer else (ORANGE, "missed")
            axes.add_patch(Rectangle((place + 0.04, line + 0.08), 0.92, 0.84, color=colour))
            axes.text(place + 0.5, line + 0.5, word, color="white", ha="center", va="center", rotation=turned)
    axes.set_xlim(0, len(next(iter(right.values()))))
    axes.set_ylim(len(right), 0)
    axes.set_aspect("auto")
    axes.set_yticks([line + 0.5 for line in range(len(right))], list(right))
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=EITHER)
    _embolden(axes)


def progress(what: str) -> Callable[[int, int], None]:
    """A line that counts up while a cell works: what, how many of how many, time so far and time left."""
    start = time.monotonic()
    line = display({"text/plain": what}, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def report(done: int, of: int) -> None:
        spent = time.monotonic() - start
        left = "" if done == of else f", about {spent / done * (of - done):.0f} s left"
        line.update({"text/plain": f"{what}: {done} of {of}, {spent:.0f} s{left}"}, raw=True)

    return report
