"""Runs the chapters in order with papermill: only those whose fingerprint changed, each written whole when it is done."""

from __future__ import annotations

import datetime
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

from bookpress import chapters as ch
from bookpress.chapters import Notebook, Run
from bookpress.files import PressError, write_whole

PLAIN = re.compile(r"\x1b\[[0-9;]*m")


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def text_of(notebook: Notebook) -> str:
    """A notebook as Jupyter writes it to a file."""
    return str(nbformat.writes(notebook).rstrip("\n") + "\n")  # type: ignore[no-untyped-call]


def folder_of(root: Path, run: Run) -> Path:
    """Where the executed chapters of a run are kept."""
    return root / "_build" / "executed" / run.name


def recorded(path: Path) -> Notebook:
    """What this press wrote into an executed chapter when it last ran; empty where it never did."""
    if not path.is_file():
        return nbformat.from_dict({})  # type: ignore[no-untyped-call, no-any-return]
    return ch.read(path).metadata.get("bookpress", nbformat.from_dict({}))  # type: ignore[no-untyped-call, no-any-return]


def expected(notebook: Notebook, before: Notebook) -> dict[str, float]:
    """Seconds by cell id, from the last run, else from the whole chapter's time at the registered setting."""
    code = [cell.id for cell in notebook.cells if cell.cell_type == "code"]
    whole = float(notebook.metadata.get("bookpress", {}).get("seconds", 0))
    return {name: float(before.get("cells", {}).get(name, whole / len(code))) for name in code}


class Progress:
    """Says which chapter and cell is running, the time so far, and the time expected."""

    def __init__(self, plan: list[dict[str, float]]) -> None:
        self.plan = plan
        self.start = time.monotonic()
        self.live = sys.stdout.isatty()

    def say(self, chapter: int, name: str, cell: str, order: list[str]) -> None:
        """Announce a cell of the chapter with a number counted from 0."""
        so_far = time.monotonic() - self.start
        left = sum(self.plan[chapter][later] for later in order[order.index(cell) :])
        left += sum(sum(later.values()) for later in self.plan[chapter + 1 :])
        where = f"chapter {chapter + 1} of {len(self.plan)} ({name}), cell {order.index(cell) + 1} of {len(order)}"
        outlook = f", about {duration(so_far + left)} in all" if left else ""
        line = f"{where}: {duration(so_far)} so far{outlook}"
        print(f"\r\x1b[K{line}" if self.live else line, end="" if self.live else "\n", flush=True)

    def done(self) -> None:
        """Finish the line that is being overwritten."""
        if self.live:
            print("\r\x1b[K", end="", flush=True)


def papermill_engine(announce: Callable[[str], None]) -> None:
    """Register an engine with papermill that tells ``announce`` the id of each code cell before it runs."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Announcing(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
            begin = nb_man.cell_start

            def cell_start(cell: Notebook, cell_index: int | None = None, **more: Any) -> None:
                if cell.cell_type == "code":
                    announce(cell.id)
                begin(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    papermill_engines.register("bookpress", Announcing)


def run_notebook(source: Path, parameters: dict[str, Any], announce: Callable[[str], None]) -> Notebook:
    """Execute one notebook in a fresh kernel of this environment, in the notebook's own folder.

    Raises:
        PressError: a cell failed or the kernel died; what ran is kept in ``_build/failed``.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    papermill_engine(announce)
    failed = source.parent.parent / "_build" / "failed" / source.name
    failed.parent.mkdir(parents=True, exist_ok=True)
    running = {"cell": "?"}

    try:
        return papermill.execute_notebook(
            source,
            failed,
            parameters,
            engine_name="bookpress",
            kernel_name="python3",
            progress_bar=False,
            request_save_on_cell_execute=False,
            cwd=source.parent,
        )
    except papermill.PapermillExecutionError as error:
        marked = [line for line in map(str.rstrip, PLAIN.sub("", "\n".join(error.traceback)).splitlines())]
        arrow = next((line.split(maxsplit=2)[2:] for line in marked if re.match(r"-+> \d+ ", line)), [])
        line = f"\n  at: {arrow[0]}" if arrow else ""
        what = f"{error.ename}: {PLAIN.sub('', str(error.evalue)).strip()}"
        raise PressError(
            f"{source.stem}, cell {error.exec_count} failed{line}\n  {what}\n  (what ran is in _build/failed/{source.name})"
        ) from error
    except DeadKernelError as error:
        raise PressError(f"{source.stem}: its kernel died in cell {running['cell']}: perhaps out of memory") from error
