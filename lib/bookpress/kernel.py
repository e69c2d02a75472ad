"""One chapter in a process of its own: papermill changes the folder it is in, and its engines are for a process."""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from nbformat import NotebookNode as Notebook

from bookpress.chapters import text_of
from bookpress.files import PressError, write_whole

PLAIN = re.compile(r"\x1b\[[0-9;]*m")
LOG = "FACEPOISON_STORE_LOG"
"""Names the file in which the library's store notes what it was asked for."""


@dataclass(frozen=True)
class Job:
    """One chapter to run.

    Attributes:
        source: The notebook.
        parameters: Names and values, all known to it.
        failed: Where to leave what ran, should it fail.
        one_thread: Whether its computations keep to one thread, because another chapter runs beside it.
    """

    source: Path
    parameters: dict[str, Any]
    failed: Path
    one_thread: bool


@dataclass(frozen=True)
class Done:
    """What became of it.

    Attributes:
        text: The executed notebook as a file has it.
        seconds: What it took.
        kept: By cell id, the seconds that were once spent on results which the store held before.
    """

    text: str
    seconds: float
    kept: dict[str, float]


def kept_seconds(log: Path) -> float:
    """Seconds that the store saved, by its notes: of each result once, and none for what was computed meanwhile."""
    first: dict[str, float] = {}
    for line in log.read_text().splitlines():
        name, seconds = line.rsplit(" ", 1)
        first.setdefault(name, float(seconds))
    return sum(first.values())


def papermill_engine(announce: Callable[[str], None]) -> list[Notebook]:
    """Register an engine with papermill that tells ``announce`` the id of each code cell before it runs.

    Returns:
        Empty; the notebook appears in it when it begins to run, and can be looked at should it fail.
    """
    from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

    running: list[Notebook] = []

    class Announcing(NBClientEngine):  # type: ignore[misc]
        @classmethod
        def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **kwargs: object) -> None:
            begin = nb_man.cell_start
            running.append(nb_man.nb)

            def cell_start(cell: Notebook, cell_index: int | None = None, **more: object) -> None:
                if cell.cell_type == "code":
                    announce(cell.id)
                begin(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    papermill_engines.register("bookpress", Announcing)
    return running


def place_of(notebook: Notebook, cell: str) -> str:
    """Which of its code cells, the parameters that papermill put in aside, one is in a chapter."""
    own = [each.id for each in notebook.cells if each.cell_type == "code" and not is_injected(each)]
    return f"cell {own.index(cell) + 1} of {len(own)}" if cell in own else "its parameters"


def is_injected(cell: Notebook) -> bool:
    """Whether papermill put a cell in."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def run_notebook(job: Job, announce: Callable[[str], None]) -> Done:
    """Execute one notebook in a fresh kernel of this environment, in the notebook's own folder.

    Args:
        job: What to run.
        announce: Told the id of every code cell before it runs.

    Raises:
        PressError: a cell failed or the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    marks: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        os.environ[LOG] = str(log)

        def begins(cell: str) -> None:
            marks.append((cell, kept_seconds(log)))
            announce(cell)

        running = papermill_engine(begins)
        start = time.monotonic()

        def where() -> str:
            place = f", {place_of(running[0], marks[-1][0])}" if marks else ""
            return f"{job.source.stem}{place}"

        try:
            notebook: Notebook = papermill.execute_notebook(
                job.source,
                None,
                job.parameters,
                engine_name="bookpress",
                kernel_name="python3",
                progress_bar=False,
                request_save_on_cell_execute=False,
                cwd=job.source.parent,
                extra_arguments=["--log-level=50"],
            )
        except papermill.PapermillExecutionError as error:
            write_whole(job.failed, text_of(running[0]))
            trace = PLAIN.sub("", "\n".join(error.traceback))
            arrow = re.search(r"^-+> \d+ (.*)$", trace, re.MULTILINE)
            line = f"\n  in:   {arrow.group(1).strip()}" if arrow else ""
            what = f"{error.ename}: {PLAIN.sub('', str(error.evalue)).strip()}"
            kept = f"_build/{job.failed.parent.name}/{job.failed.name}"
            raise PressError(f"{where()} failed{line}\n  says: {what}\n  what ran is in {kept}") from error
        except DeadKernelError as error:
            raise PressError(
                f"{where()}: the kernel died, perhaps out of memory: give it more and run again"
            ) from error
        seconds = time.monotonic() - start
        marks.append(("", kept_seconds(log)))
    job.failed.unlink(missing_ok=True)
    saved = {cell: after - before for (cell, before), (_, after) in itertools.pairwise(marks)}
    return Done(text_of(notebook), seconds, saved)


def end_with(press: Connection) -> None:
    """Stop this process, its kernel first, when the press stops or closes its end of the connection."""

    def stop(*_: object) -> None:
        logging.disable()  # what waits for the kernel would complain, at some length, that it died
        raise KeyboardInterrupt

    def watch() -> None:
        wait([press])  # nothing is ever sent this way: it can only end
        signal.pthread_kill(main, signal.SIGTERM)  # to this thread, which may be waiting for the kernel

    main = threading.get_ident()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal: the press stops us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch, daemon=True).start()


def work(job: Job, press: Connection) -> None:
    """Run a chapter and tell the press of each cell, by its id, and what became of it: a ``Done`` or an error."""
    try:
        end_with(press)
        if job.one_thread and "OMP_NUM_THREADS" not in os.environ:
            os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            outcome: Done | PressError | OSError = run_notebook(job, press.send)
        except (PressError, OSError) as error:
            outcome = error
        press.send(outcome)
    except KeyboardInterrupt:
        sys.exit(130)
