"""Says what is running, the time so far, and when the last chapter should be done, by how fast it went until now."""

from __future__ import annotations

import heapq
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple


class Expected(NamedTuple):
    """What a cell should take: seconds, and whether it took them on this machine when it last ran."""

    seconds: float
    here: bool


Plan = Mapping[str, Expected]
"""What the code cells of a chapter should take, by id and in order."""


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def makespan(running: Iterable[float], waiting: Iterable[float], at_once: int) -> float:
    """Seconds until the last of several chapters is done.

    Args:
        running: Seconds that each of those which run still takes.
        waiting: Seconds of those which follow, in the order in which they start.
        at_once: How many run at once.
    """
    ends = list(running)
    ends += [0.0] * (at_once - len(ends))
    heapq.heapify(ends)
    for seconds in waiting:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


class Progress:
    """Follows the chapters of a run; they are numbered from 0 as their names are."""

    def __init__(
        self,
        names: Sequence[str],
        plans: Sequence[Plan],
        order: Sequence[int],
        at_once: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: names and plans of the chapters, numbers in the order they start, how many run at once, a clock."""
        self.names = names
        self.plans = plans
        self.order = order
        self.at_once = at_once
        self.clock = clock
        self.start = clock()
        self.live = sys.stdout.isatty()
        self.written = False
        self.running: dict[int, tuple[str, float]] = {}
        self.begun: set[int] = set()
        self.took = self.promised = 0.0

    def _leave(self, chapter: int) -> None:
        """Take note of what the cell that a chapter was at has taken."""
        if chapter in self.running:
            cell, since = self.running.pop(chapter)
            expected = self.plans[chapter][cell]
            if expected.seconds and not expected.here:
                self.took += self.clock() - since
                self.promised += expected.seconds

    def _left(self, chapter: int, pace: float) -> float:
        """Seconds that a chapter still takes where this machine takes ``pace`` seconds for one of another's."""
        plan = {cell: seconds * (1 if here else pace) for cell, (seconds, here) in self.plans[chapter].items()}
        if chapter not in self.running:
            return sum(plan.values())
        cell, since = self.running[chapter]
        after = list(plan)[list(plan).index(cell) + 1 :]
        return max(0.0, plan[cell] - (self.clock() - since)) + sum(plan[name] for name in after)

    def outlook(self) -> float | None:
        """Seconds until all is done; None as long as they are known of another machine alone."""
        waiting = [chapter for chapter in self.order if chapter not in self.begun]
        cells = [self.plans[chapter] for chapter in (*self.running, *waiting)]
        strange = any(expected.seconds and not expected.here for plan in cells for expected in plan.values())
        if strange and not self.promised:
            return None
        pace = self.took / self.promised if self.promised else 1.0
        left = [self._left(chapter, pace) for chapter in self.running]
        return makespan(left, [self._left(chapter, pace) for chapter in waiting], self.at_once)

    def where(self, chapter: int) -> str:
        """The cell that a chapter is at, in words."""
        plan = list(self.plans[chapter])
        return f"{self.names[chapter]}, cell {plan.index(self.running[chapter][0]) + 1} of {len(plan)}"

    def begin(self, chapter: int, cell: str) -> None:
        """Announce a cell by its id."""
        if cell not in self.plans[chapter]:  # the cell that papermill puts the parameters into
            return
        self._leave(chapter)
        self.begun.add(chapter)
        self.running[chapter] = (cell, self.clock())
        so_far, left = self.clock() - self.start, self.outlook()
        line = f"chapter {chapter + 1} of {len(self.plans)}: {self.where(chapter)}; {duration(so_far)} so far"
        line += f", about {duration(so_far + left)} in all" if left else ""
        line += "".join(f"; beside {self.where(other)}" for other in self.running if other != chapter)
        if self.live:  # a longer line would wrap and could not be overwritten
            line = f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}"
        print(line, end="" if self.live else "\n", flush=True)
        self.written = True

    def end(self, chapter: int) -> None:
        """A chapter is no longer running."""
        self.begun.add(chapter)
        self._leave(chapter)

    def say(self, line: str) -> None:
        """Print another line, below the one that is being overwritten."""
        self.end_line()
        print(line, flush=True)

    def end_line(self) -> None:
        """Make room for another line where one was being overwritten."""
        if self.live and self.written:
            print(flush=True)
        self.written = False
