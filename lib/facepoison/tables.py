"""What chapters read out of the tables of shipped studies: rows turned into lines of figures and cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from facepoison.detect import precision
from facepoison.errors import InputError
from facepoison.evaluation import Estimate, Rate
from facepoison.intervals import of_two

Row = Mapping[str, Any]

REPLY = {
    "lowkey": "LowKey",
    "lowkey that evades": "LowKey that evades",
    "lowkey_mse": "LowKey (MSE)",
    "lowkey_mse that evades": "LowKey (MSE) that evades",
}
"""What users post in the study ``evading``."""


def where(rows: Iterable[Row], **how: object) -> list[Row]:
    """The rows whose columns are what is asked."""
    return [row for row in rows if all(row[column] == value for column, value in how.items())]


def only(rows: Iterable[Row], **how: object) -> Row:
    """The one row whose columns are what is asked.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = where(rows, **how)
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows with {how}: ask for what only one has")
    return found[0]


def crossed(rows: Iterable[Row], first: str, second: str) -> tuple[dict[str, dict[str, Row]], Sequence[str]]:
    """Rows by one column and then by another, and what occurs in the second, both in the order of the table."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row[first], {})[row[second]] = row
    return found, list(next(iter(found.values())))


def by_attack(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], dict[str, Row]]:
    """Rows by some columns together and then by attack, in the order of the table."""
    found: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), {})[row["attack"]] = row
    return found


def curve_points(rows: Iterable[Row], attack: str, **how: object) -> list[tuple[float, float]]:
    """Of the study ``detecting_roc``: shares of clean pictures flagged and of an attack found, from few to many."""
    return [(row["false_alarms"].value, row[attack].value) for row in where(rows, **how)]


def at_percent(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """What curves find with at most 1 % false alarms, as a sentence."""
    best = {name: max(found for false, found in line if false <= 0.01) for name, line in curves.items()}
    said = ", ".join(f"{name} {100 * found:.0f} %" for name, found in best.items())
    return f"With at most 1 % of clean pictures flagged they find: {said}."


def precision_percent(row: Row, base: float) -> str:
    """Precision in per cent where a share ``base`` is poisoned, and its interval."""
    precise = precision_of_people(row["found"], row["false_alarms"], base)
    value, low, high = (100 * each for each in (precise.value, precise.low, precise.high))
    return f"{value:.0f}\N{NO-BREAK SPACE}[{low:.0f},\N{NO-BREAK SPACE}{high:.0f}]"


def precision_of_people(found: Rate, false_alarms: Rate, base: float) -> Estimate:
    """``detect.precision`` with its interval, from rates of two sets of people that have nothing to do with each other.

    Precision falls with the logarithm of false alarms less that of what is found, and so do its ends; see
    ``intervals.of_two``. Where one of the two is 0 there is no such logarithm, and the ends are those of both rates at
    their worst and at their best.

    Raises:
        InputError: nothing was flagged at all.
    """
    if not found.value and not false_alarms.value:
        raise InputError("precision: nothing found and no false alarm; ask more people")
    value, n = precision(found.value, false_alarms.value, base), min(found.n, false_alarms.n)
    if not found.value or not false_alarms.value:
        least = precision(found.low, false_alarms.high, base)
        return Estimate(value, n, least, precision(found.high, false_alarms.low, base))
    logs = [
        tuple(math.log(max(end, 1e-300)) for end in (rate.value, rate.low, rate.high))  # an end may be 0
        for rate in (false_alarms, found)
    ]
    high, low = (1 / (1 + (1 - base) / base * math.exp(end)) for end in of_two(*logs))  # type: ignore[arg-type]
    return Estimate(value, n, low, high)
