"""Claims: every number that the book's prose rests on, stated, measured and judged by one helper.

The statement, its bound, and the registered value and verdict stand in ``data/claims.toml``; the measured value with
its interval comes from the chapter. A verdict goes by the whole interval: *supported* where all of it lies on the
statement's side of the bound, *not supported* where all of it lies on the other side, *inconclusive* where the bound
lies inside. What is displayed keeps the measured value on a line of its own, so that a regression test compares
statement and verdicts and leaves rounding alone.
"""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from IPython.display import display

from fingerprint import LIB

DATA = LIB.parent / "data"
UNITS = {
    "share": (100, " %", 1),
    "dB": (1, " dB", 1),
    "levels": (1, "/255", 1),
    "number": (1, "", 3),
    "MB": (1, " MB", 1),
}
"""How values are shown: factor, suffix and digits after the point."""
Kind = Literal["fact", "rate", "difference"]
Test = Literal["at_least", "at_most", "within"]
Verdict = Literal["supported", "not supported", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Measured(Protocol):
    """A measured rate: what a claim needs to know of it."""

    @property
    def value(self) -> float:
        """The rate."""

    @property
    def n(self) -> int:
        """How many independent units (people) stand behind it."""

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""


@dataclass(frozen=True)
class Registered:
    """What ``data/claims.toml`` says of one claim.

    Attributes:
        chapter: The notebook that makes it, without its ending.
        kind: ``"fact"`` where another sample of people could not change it (a budget kept, a size), ``"rate"`` for a
            share or a mean over people, ``"difference"`` for one of those less another.
        statement: One sentence, true or false.
        test: How value and bound decide: ``"at_least"``, ``"at_most"``, or ``"within"`` it on both sides of zero.
        bound: The number in the statement.
        unit: A key of ``UNITS``; of a difference of shares ``"share"``, shown in points.
        value: The value once measured at the registered setting; None before the first run.
        tolerance: How far another machine's value may lie from it.
        verdict: The verdict at the registered setting; None before the first run.
        explained: Where the statement was not supported, or not decided, what the book says about it.
        after: Where statement and bound were not written before everything else, what had been seen.
        front: What the figure on the first page calls it; None where it is not shown there.
    """

    chapter: str
    kind: Kind
    statement: str
    test: Test
    bound: float
    unit: str
    tolerance: float
    value: float | None = None
    verdict: Verdict | None = None
    explained: str | None = None
    after: str | None = None
    front: str | None = None

    def judge(self, low: float, high: float) -> Verdict:
        """The verdict on an interval; a fact's has no width. A difference must lie beyond its bound, not on it."""
        least, most = self.spared(low, high)
        if least > 0 or (least == 0 and self.kind != "difference"):
            return "supported"
        return "inconclusive" if most >= 0 else "not supported"

    def spared(self, low: float, high: float) -> tuple[float, float]:
        """By how much the least and the most favourable value of an interval keep the bound; negative: miss it."""
        if self.test == "at_least":
            return low - self.bound, high - self.bound
        nearest = max(low, -high, 0.0) if self.test == "within" else low  # to zero, of all values in between
        furthest = max(abs(low), abs(high)) if self.test == "within" else high
        return self.bound - furthest, self.bound - nearest

    def agrees(self, value: float) -> bool:
        """Whether a measured value lies within the tolerance of the registered one."""
        return self.value is not None and abs(value - self.value) <= self.tolerance


def registered_claims(path: Path | None = None) -> dict[str, Registered]:
    """All claims of the book by id.

    Raises:
        ValueError: an entry has a field too many, too few, or an unknown unit, test, kind or verdict.
    """
    path = path or DATA / "claims.toml"
    entries: dict[str, Registered] = {}
    for name, fields in tomllib.loads(path.read_text()).items():
        try:
            entries[name] = Registered(**fields)
        except TypeError as error:
            raise ValueError(f"{path.name}: claim '{name}': {error}") from error
        entry = entries[name]
        if entry.unit not in UNITS or entry.test not in get_args(Test) or entry.kind not in get_args(Kind):
            raise ValueError(f"{path.name}: claim '{name}': unknown unit, test or kind")
        if entry.verdict not in (None, *VERDICTS):
            raise ValueError(f"{path.name}: claim '{name}': verdict is none of {', '.join(VERDICTS)}")
    return entries


def registered_setting() -> dict[str, object]:
    """Profile, data set and seed that claims are registered at."""
    return dict(tomllib.loads((DATA / "protocol.toml").read_text())["registered"])


def shown(value: float, unit: str, tolerance: float = 0.0, kind: str = "rate") -> str:
    """A value with its unit, as people read it: ``0.974`` of unit share is ``97.4 %``, as a difference ``97.4 points``.

    Where a tolerance is given that the usual digits would show as nothing, there are more of them.
    """
    factor, suffix, digits = UNITS[unit]
    while tolerance and not float(f"{tolerance * factor:.{digits}f}"):
        digits += 1
    return f"{value * factor:.{digits}f}{' points' if unit == 'share' and kind == 'difference' else suffix}"


@dataclass(frozen=True)
class Ledger:
    """The claims of one chapter in one run.

    Attributes:
        chapter: The notebook's name without its ending.
        ran_on: Profile, data set, seed, device and versions of this run.
        opened: When the chapter began, in seconds since the epoch.
    """

    chapter: str
    ran_on: Mapping[str, object]
    opened: float

    def claim(
        self,
        name: str,
        measured: Measured | Sequence[Measured] | float,
        *,
        n: int | None = None,
        of: str = "people",
        clean_error: float | None = None,
        source: Literal["computed here", "shipped"] = "computed here",
    ) -> None:
        """Display a claim with its value and verdict, and record it for ``claims.json``.

        What the book explains and has registered holds of the registered setting and of shipped results. Elsewhere a
        claim is judged all the same, but what was computed is compared with nothing and explained by nothing.

        Args:
            name: The claim's id in ``data/claims.toml``.
            measured: For a rate or a difference what has n and interval, or several where the statement is about each
                of them: it is supported where all are, not supported where one is not; the one that decides is shown.
                For a fact a plain number.
            n: How many units a fact was looked for in.
            of: What n counts.
            clean_error: The same error without poison, beside a protection rate.
            source: Whether the number was computed in this run or comes from a shipped result.

        Raises:
            ValueError: the claim is unknown or belongs to another chapter, a fact comes without n, or anything else
                without an interval.
        """
        entry = registered_claims().get(name)
        if entry is None or entry.chapter != self.chapter:
            raise ValueError(f"claim '{name}' is not registered for {self.chapter}: add it to data/claims.toml")
        record: dict[str, Any] = {"id": name, **asdict(entry), "registered_value": entry.value}
        record |= {"registered_verdict": entry.verdict, "n": n, "low": None, "high": None, "n_each": 1}
        if entry.kind == "fact":
            if not isinstance(measured, int | float) or n is None:
                raise ValueError(f"claim '{name}': a fact needs a plain number, and n, how many it was looked for in")
            record |= {"value": float(measured), "verdict": entry.judge(measured, measured)}
        else:
            if isinstance(measured, int | float):
                raise ValueError(f"claim '{name}': a {entry.kind} needs an interval: give what has one, not a number")
            several = measured if isinstance(measured, Sequence) else [measured]
            decides = deciding(entry, several)
            record |= {"value": decides.value, "n": decides.n}
            if math.isfinite(decides.low) and math.isfinite(decides.high):
                record |= {"low": decides.low, "high": decides.high}
            record |= {"verdict": entry.judge(decides.low, decides.high), "n_each": len(several)}
        here = {key: self.ran_on[key] for key in ("profile", "dataset", "seed")} == registered_setting()
        compared = here and entry.value is not None
        record |= {
            "explained": entry.explained if here or source == "shipped" else None,
            "n_of": of,
            "clean_error": clean_error,
            "agrees": entry.agrees(record["value"]) if compared else None,
            "changed": here and entry.verdict is not None and record["verdict"] != entry.verdict,
            "registered": here,
            **self.ran_on,
            "seconds": round(time.time() - self.opened, 1),
            "source": source,
        }
        display({"text/plain": as_text(record)}, raw=True, metadata={"claim": record})  # type: ignore[no-untyped-call]


def deciding(entry: Registered, measured: Sequence[Measured]) -> Measured:
    """Of several, all of which a statement is about, the one that its verdict hangs on: the furthest of the worst."""
    worst = {"not supported": 0, "inconclusive": 1, "supported": 2}
    return min(measured, key=lambda each: (worst[entry.judge(each.low, each.high)], entry.spared(each.low, each.high)))


def as_text(record: Mapping[str, Any]) -> str:
    """A claim as three lines: statement, measured value, verdict. Only the second differs between machines."""
    unit, tolerance, kind = record["unit"], record["tolerance"], record["kind"]

    def number(key: str) -> str:
        return shown(record[key], unit, tolerance, kind)

    parts = [f"measured {number('value')}", f"n = {record['n']} {record['n_of']}"]
    if record["low"] is not None:
        parts.append(f"95 % interval {number('low')} to {number('high')}")
    elif kind != "fact":
        parts.append("no 95 % interval of so few")
    if record["n_each"] > 1:
        parts.append(f"decides among {record['n_each']}")
    if record["clean_error"] is not None:
        parts.append(f"clean error {number('clean_error')}")
    parts.append(record["source"])
    verdict = f"{kind}: {record['verdict']}"
    if record["changed"]:
        verdict += f", CHANGED from the registered verdict, {record['registered_verdict']}"
    if record["explained"] and record["verdict"] != "supported":
        verdict += f"; {record['explained']}"
    if record["agrees"] is not None:
        agrees = "agrees" if record["agrees"] else "DISAGREES"
        verdict += f"; {agrees} with the registered {number('registered_value')} within {number('tolerance')}"
    return f"{record['statement']}\n{', '.join(parts)}\n{verdict}"


def open_ledger(chapter: str, **ran_on: object) -> Ledger:
    """Begin a chapter's claims.

    Args:
        chapter: The notebook's name without its ending.
        ran_on: ``profile``, ``dataset`` and ``seed``, and whatever else describes the run (device, versions).
    """
    missing = {"profile", "dataset", "seed"} - set(ran_on)
    if missing:
        raise ValueError(f"a ledger needs {', '.join(sorted(missing))}")
    return Ledger(chapter, ran_on, time.time())
