"""Claims: every number that the book's prose rests on, stated, measured and judged by one helper.

The statement, the bound that decides whether it holds, and the registered value with its tolerance stand in
``data/claims.toml``; the measured value comes from the chapter. What is displayed keeps the measured value on a line of
its own, so that a regression test compares statement and verdicts and leaves rounding alone.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from IPython.display import display

from fingerprint import LIB

DATA = LIB.parent / "data"
UNITS = {"share": (100, " %", 1), "dB": (1, " dB", 1), "levels": (1, "/255", 1), "number": (1, "", 3)}
"""How values are shown: factor, suffix and digits after the point."""


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
        statement: One sentence, true or false.
        test: How value and bound decide: ``"at_least"`` or ``"at_most"``.
        bound: The number in the statement.
        unit: A key of ``UNITS``.
        value: The value once measured at the registered setting; None before the first run.
        tolerance: How far another machine's value may lie from it.
        declared: Where the statement did not reproduce, the reason that the book gives.
        front: What the figure on the first page calls it; None where it is not shown there.
    """

    chapter: str
    statement: str
    test: Literal["at_least", "at_most"]
    bound: float
    unit: str
    tolerance: float
    value: float | None = None
    declared: str | None = None
    front: str | None = None

    def holds(self, value: float) -> bool:
        """Whether a measured value makes the statement true."""
        return value >= self.bound if self.test == "at_least" else value <= self.bound

    def agrees(self, value: float) -> bool:
        """Whether a measured value lies within the tolerance of the registered one."""
        return self.value is not None and abs(value - self.value) <= self.tolerance


def registered_claims(path: Path | None = None) -> dict[str, Registered]:
    """All claims of the book by id.

    Raises:
        ValueError: an entry has a field too many, too few, or an unknown unit or test.
    """
    path = path or DATA / "claims.toml"
    entries: dict[str, Registered] = {}
    for name, fields in tomllib.loads(path.read_text()).items():
        try:
            entries[name] = Registered(**fields)
        except TypeError as error:
            raise ValueError(f"{path.name}: claim '{name}': {error}") from error
        if entries[name].unit not in UNITS or entries[name].test not in ("at_least", "at_most"):
            raise ValueError(f"{path.name}: claim '{name}': unknown unit or test")
    return entries


def registered_setting() -> dict[str, object]:
    """Profile, data set and seed that claims are registered at."""
    return dict(tomllib.loads((DATA / "protocol.toml").read_text())["registered"])


def shown(value: float, unit: str, tolerance: float = 0.0) -> str:
    """A value with its unit, as people read it: ``0.974`` of unit share is ``97.4 %``.

    Where a tolerance is given that the usual digits would show as nothing, there are more of them.
    """
    factor, suffix, digits = UNITS[unit]
    while tolerance and not float(f"{tolerance * factor:.{digits}f}"):
        digits += 1
    return f"{value * factor:.{digits}f}{suffix}"


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
        measured: Measured | float,
        *,
        n: int | None = None,
        of: str = "people",
        clean_error: float | None = None,
        source: Literal["computed here", "shipped"] = "computed here",
    ) -> None:
        """Display a claim with its value and verdict, and record it for ``claims.json``.

        Args:
            name: The claim's id in ``data/claims.toml``.
            measured: A rate with n and interval, or a plain number with ``n`` beside it.
            n: How many units a plain number was measured on.
            of: What n counts.
            clean_error: The same error without poison, beside a protection rate.
            source: Whether the number was computed in this run or comes from a shipped result.

        Raises:
            ValueError: the claim is unknown or belongs to another chapter, or n is missing.
        """
        entry = registered_claims().get(name)
        if entry is None or entry.chapter != self.chapter:
            raise ValueError(f"claim '{name}' is not registered for {self.chapter}: add it to data/claims.toml")
        if isinstance(measured, int | float):
            value, low, high = float(measured), None, None
        else:
            value, low, high, n = measured.value, measured.low, measured.high, measured.n
        if n is None:
            raise ValueError(f"claim '{name}': a plain number needs n, the number of units it was measured on")
        here = {key: self.ran_on[key] for key in ("profile", "dataset", "seed")} == registered_setting()
        record = {
            "id": name,
            **asdict(entry),
            "registered_value": entry.value,
            "value": value,
            "n": n,
            "n_of": of,
            "low": low,
            "high": high,
            "clean_error": clean_error,
            "holds": entry.holds(value),
            "agrees": entry.agrees(value) if here and entry.value is not None else None,
            "registered": here,
            **self.ran_on,
            "seconds": round(time.time() - self.opened, 1),
            "source": source,
        }
        display({"text/plain": as_text(record)}, raw=True, metadata={"claim": record})  # type: ignore[no-untyped-call]


def as_text(record: Mapping[str, object]) -> str:
    """A claim as three lines: statement, measured value, verdict. Only the second differs between machines."""
    unit, tolerance = str(record["unit"]), float(record["tolerance"])  # type: ignore[arg-type]

    def number(key: str) -> str:
        return shown(float(record[key]), unit, tolerance)  # type: ignore[arg-type]

    parts = [f"measured {number('value')}", f"n = {record['n']} {record['n_of']}"]
    if record["low"] is not None:
        parts.append(f"95 % interval {number('low')} to {number('high')}")
    if record["clean_error"] is not None:
        parts.append(f"clean error {number('clean_error')}")
    parts.append(str(record["source"]))
    verdict = "holds" if record["holds"] else "does not hold"
    if record["declared"]:
        verdict += f"; declared: {record['declared']}"
    if record["registered"] and record["registered_value"] is not None:
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
