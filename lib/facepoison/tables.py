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

ARMS = {
    "none": "not trained",
    "control": "clean pictures (control)",
    "fawkes_v1_high": "Fawkes v1.0 high",
    "lowkey": "LowKey",
    "lowkey_mse": "LowKey (MSE)",
    "both": "both attacks",
}
"""What the arms of studies of the adaptive trainer were trained on."""

WAYS = {
    "accurate": "no answer to poison",
    "robust_control": "trained further on clean pictures (control)",
    "robust_fawkes_v1_high": "trained on Fawkes v1.0 high",
    "robust_lowkey_mse": "trained on LowKey (MSE)",
    "robust_both": "trained on both attacks",
    "top two": "Top-2: no answer to poison, and trained on both",
    "fall back": "trained on both where the nearest picture is far",
    "drop": "flagged pictures dropped",
    "set aside": "flagged pictures set aside for the one trained on both",
}
"""What a trainer does in the study ``costs``."""

REPLY = {
    "lowkey": "LowKey",
    "lowkey that evades": "LowKey that evades",
    "lowkey_mse": "LowKey (MSE)",
    "lowkey_mse that evades": "LowKey (MSE) that evades",
}
"""What users post in the study ``evading``."""


def agrees(row: Row, **how: object) -> bool:
    """Whether a row's columns are what is asked."""
    return all(row[column] == value for column, value in how.items())


def where(rows: Iterable[Row], **how: object) -> list[Row]:
    """The rows whose columns are what is asked."""
    return [row for row in rows if agrees(row, **how)]


def only(rows: Iterable[Row], **how: object) -> Row:
    """The one row whose columns are what is asked.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = where(rows, **how)
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows with {how}: ask for what only one has")
    return found[0]


def series(rows: Iterable[Row], attacks: Iterable[str], along: str, **how: object) -> dict[str, dict[Any, Rate]]:
    """Protection by attack and by what is varied, in ascending order, all else being fixed.

    Args:
        rows: Of a study.
        attacks: The attacks wanted.
        along: What is varied: a column.
        how: What the other columns must be.
    """
    some = sorted((row for row in rows if agrees(row, **how)), key=lambda row: row[along])
    return {attack: {row[along]: row["protection"] for row in some if row["attack"] == attack} for attack in attacks}


def whole(rows: Iterable[Row], asked: Mapping[str, Any]) -> list[Row]:
    """Of the study ``adaptive``: the untrained extractor, and every arm's first training on all that it is given."""
    full = {"people": max(asked["curve_people"]), "draws": max(asked["curve_draws"]), "seed": asked["seeds"][0]}
    return [row for row in rows if row["arm"] == "none" or agrees(row, **full, precision="bfloat16")]


def by_training(rows: Iterable[Row], asked: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, dict[str, Rate]]:
    """Of the study ``adaptive``: protection by training and attack, from none to the longest on the most poisons.

    Trainings with both attacks are shown, and the control; others' seeds and precisions are left out. Attacks are
    called by their ``names``.
    """
    chosen: dict[str, tuple[tuple[int, ...], dict[str, Rate]]] = {}
    for row in rows:
        if row["arm"] not in ("none", "control", "both"):
            continue
        if not agrees(row, seed=asked["seeds"][0], precision="bfloat16"):
            continue
        n = row["people"] * asked["pictures"] * len(asked["attacks"]) if row["arm"] == "both" else 0
        name = f"{f'{n:,} poisons' if n else 'no poison'}, {row['draws']:,} draws" if row["draws"] else ARMS["none"]
        chosen.setdefault(name, ((row["draws"] > 0, n, row["draws"]), {}))[1][names[row["attack"]]] = row["protection"]
    return {name: rates for name, (_, rates) in sorted(chosen.items(), key=lambda item: item[1][0])}


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
