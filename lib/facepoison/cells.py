"""Cells and rows of tables: rates, differences and what studies found, as people read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from facepoison.attacks.similarity import Change
from facepoison.evaluation import Estimate, Protection, Rate

_Value = TypeVar("_Value")


def possible(values: Iterable[_Value], fits: Callable[[_Value], bool], why: str) -> list[_Value]:
    """Those of the values that a cell asks for which a run's pictures allow; a line says which do not, and why.

    Args:
        values: Which the protocol asks for.
        fits: Whether a value is possible here.
        why: What the others fail for, as the end of a sentence.
    """
    found = list(values)
    left_out = ", ".join(str(value) for value in found if not fits(value))
    if left_out:
        print(f"Left out: {left_out}, since {why}.")
    return [value for value in found if fits(value)]


def percent(rate: Rate, digits: int = 0) -> str:
    """A rate in per cent with its 95 % interval, as a table shows it, in one piece, with digits after the point."""
    value, low, high = (f"{100 * each:.{digits}f}" for each in (rate.value, rate.low, rate.high))
    return f"{value}\N{NO-BREAK SPACE}[{low},\N{NO-BREAK SPACE}{high}]"


def percentage_points(effect: Estimate, digits: int = 0) -> str:
    """A difference of shares in percentage points with its 95 % interval, as a table shows it, in one piece."""
    space = "\N{NO-BREAK SPACE}"
    value, low, high = (
        f"{100 * each:+.{digits}f}" if round(100 * each, digits) else "0"
        for each in (effect.value, effect.low, effect.high)
    )
    return f"{value}{space}[{low},{space}{high}]"


def rate_cells(rate: Rate) -> tuple[object, ...]:
    """A rate and its clean error in per cent with intervals, users, probes: the last columns of ``protection_rows``."""
    return percent(rate), percent(rate.clean_error or rate), rate.n, rate.probes


def field_rows(*presets: object) -> list[tuple[str, ...]]:
    """Fields of presets (frozen dataclasses) side by side: a row for each field, a dash where a preset has none."""
    values = [asdict(preset) for preset in presets]  # type: ignore[call-overload]
    names = dict.fromkeys(name for fields in values for name in fields)

    def cell(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return [(name, *(cell(fields.get(name, "–")) for fields in values)) for name in names]


def change_row(name: str, change: Change) -> tuple[str, ...]:
    """How large a poison is, averaged over its pictures (the largest change: over all), as a table shows it."""
    ssim = 1 - 2 * change.dssim.mean()
    return name, f"{change.mean.mean():.1f}", f"{change.largest.max():.0f}", f"{change.psnr.mean():.1f}", f"{ssim:.2f}"


def original_rows(paper: Mapping[str, Mapping[str, Any]], attacks: Iterable[str]) -> list[tuple[str, ...]]:
    """How large the poison of the original tools is, in the columns of ``change_row``."""
    kinds = (("mean", ".1f"), ("linf", ".0f"), ("psnr", ".1f"), ("ssim", ".2f"))
    return [
        (
            f"original {paper[f'size-psnr-{attack}']['statement'].partition(':')[0]}",
            *(f"{paper[f'size-{kind}-{attack}']['value']:{form}}" for kind, form in kinds),
        )
        for attack in attacks
    ]


def protection_rows(results: Mapping[tuple[str, ...], Protection]) -> list[tuple[object, ...]]:
    """A row for each result: the parts of its key, rate and clean error in per cent with intervals, users, probes."""
    return [(*key, *rate_cells(result.rate)) for key, result in results.items()]


def _found_cells(rows: Mapping[str, Mapping[str, Any]], attacks: Iterable[str]) -> tuple[str, ...]:
    """What a detector finds of attacks, in per cent with intervals, from a study's row for each attack."""
    return tuple(percent(rows[attack]["found"]) for attack in attacks)


def quarantine_rows(rows: Iterable[Mapping[str, Any]], names: Callable[[str], str]) -> list[tuple[object, ...]]:
    """Of the study ``sifting``: attack, policy, leak, protection, clean error, what all others pay (points)."""
    return [
        (
            names(row["attack"]),
            row["policy"],
            row["leak"],
            *rate_cells(row["protection"])[:2],
            percentage_points(row["paid"]),
        )
        for row in rows
    ]


def reply_rows(rows: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> list[tuple[object, ...]]:
    """Of the study ``evading``: posted, detector, found, false alarms, protection (per cent), PSNR (dB)."""
    return [
        (
            names[row["posted"]],
            row["detector"],
            percent(row["found"]),
            percent(row["false_alarms"], 1),
            percent(row["protection"]),
            f"{row['psnr']:.1f}",
        )
        for row in rows
    ]


def transformed_rows(
    table: Mapping[tuple[Any, ...], Mapping[str, Mapping[str, Any]]], attacks: Iterable[str]
) -> list[tuple[object, ...]]:
    """For each detector and transformation: both names, what is found of each attack, and false alarms, per cent."""
    attacks = list(attacks)
    return [
        (*key, *_found_cells(rows, attacks), percent(rows[attacks[0]]["false_alarms"], 1))
        for key, rows in table.items()
    ]


def in_words(rates: Mapping[str, Rate]) -> str:
    """Rates as a sentence, for alternative texts."""
    return ", ".join(f"{name} {rate.value:.0%}" for name, rate in rates.items()).replace("%", " %") + "."
