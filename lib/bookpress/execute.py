"""Runs the chapters in order with papermill: only those whose fingerprint changed, each written whole when done."""

from __future__ import annotations

import datetime
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode as Notebook

from bookpress import chapters as ch
from bookpress.chapters import Run
from bookpress.files import PressError, write_whole

PLAIN = re.compile(r"\x1b\[[0-9;]*m")


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def text_of(notebook: Notebook) -> str:
    """A notebook as Jupyter writes it to a file."""
    return str(nbformat.writes(notebook).rstrip("\n") + "\n")


def folder_of(root: Path, run: Run) -> Path:
    """Where the executed chapters of a run are kept."""
    return root / "_build" / "executed" / run.name


def recorded(path: Path) -> Notebook:
    """What this press wrote into an executed chapter when it last ran; empty where it never did."""
    if not path.is_file():
        return nbformat.from_dict({})
    return ch.read(path).metadata.get("bookpress", nbformat.from_dict({}))


def expected(notebook: Notebook, before: Notebook) -> dict[str, float]:
    """Seconds by cell id, from the last run, else from the cells, which keep theirs at the registered setting."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return {cell.id: float(before.get("cells", {}).get(cell.id, cell.metadata.get("seconds", 0))) for cell in code}


class Progress:
    """Says which chapter and cell is running, the time so far, and the time expected."""

    def __init__(self, names: list[str], plan: list[dict[str, float]]) -> None:
        self.names = names
        self.plan = plan
        self.start = time.monotonic()
        self.live = sys.stdout.isatty()
        self.where = ""

    def say(self, chapter: int, cell: str) -> None:
        """Announce a cell, by its id, of the chapter with a number counted from 0."""
        order = list(self.plan[chapter])
        if cell not in order:  # the cell that papermill puts the parameters into
            return
        number = order.index(cell)
        so_far = time.monotonic() - self.start
        left = sum(list(self.plan[chapter].values())[number:]) + sum(
            sum(more.values()) for more in self.plan[chapter + 1 :]
        )
        self.where = f"{self.names[chapter]}, cell {number + 1} of {len(order)}"
        outlook = f", about {duration(so_far + left)} in all" if left else ""
        line = f"chapter {chapter + 1} of {len(self.plan)}: {self.where}; {duration(so_far)} so far{outlook}"
        if self.live:  # a longer line would wrap and could not be overwritten
            line = f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}"
        print(line, end="" if self.live else "\n", flush=True)

    def end_line(self) -> None:
        """Make room for another line where one was being overwritten."""
        if self.live and self.where:
            print(flush=True)


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


def run_notebook(source: Path, parameters: dict[str, Any], failed: Path, progress: Progress, number: int) -> Notebook:
    """Execute one notebook in a fresh kernel of this environment, in the notebook's own folder.

    Args:
        source: The notebook.
        parameters: Names and values, all known to it.
        failed: Where to leave what ran, should it fail.
        progress: Told of every cell.
        number: Which chapter this is, from 0.

    Raises:
        PressError: a cell failed or the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    running = papermill_engine(lambda cell: progress.say(number, cell))
    try:
        notebook: Notebook = papermill.execute_notebook(
            source,
            None,
            parameters,
            engine_name="bookpress",
            kernel_name="python3",
            progress_bar=False,
            request_save_on_cell_execute=False,
            cwd=source.parent,
            extra_arguments=["--log-level=50"],
        )
    except papermill.PapermillExecutionError as error:
        progress.end_line()
        write_whole(failed, text_of(running[0]))
        trace = PLAIN.sub("", "\n".join(error.traceback))
        arrow = re.search(r"^-+> \d+ (.*)$", trace, re.MULTILINE)
        line = f"\n  in:   {arrow.group(1).strip()}" if arrow else ""
        what = f"{error.ename}: {PLAIN.sub('', str(error.evalue)).strip()}"
        kept = f"_build/{failed.parent.name}/{failed.name}"
        raise PressError(f"{progress.where} failed{line}\n  says: {what}\n  what ran is in {kept}") from error
    except DeadKernelError as error:
        progress.end_line()
        raise PressError(
            f"{progress.where}: the kernel died, perhaps out of memory: give it more and run again"
        ) from error
    failed.unlink(missing_ok=True)
    return notebook


def execute(root: Path, run: Run) -> Path:
    """Run every chapter whose fingerprint is not that of its executed copy, in order.

    Args:
        root: Top of the book.
        run: The parameters.

    Returns:
        The folder of the executed chapters.

    Raises:
        PressError: a chapter failed; those before it are kept.
    """
    folder = folder_of(root, run)
    sources = ch.chapters(root)
    notebooks = {source: ch.read(source) for source in sources}
    waiting: list[tuple[Path, Notebook, dict[str, str]]] = []
    for source, notebook in notebooks.items():
        if any("id" not in cell for cell in notebook.cells):
            raise PressError(f"{source.name}: its cells have no ids: run make strip")
        before, now = recorded(folder / source.name), ch.prints(root, notebook, run)
        if before.get("prints") != now:
            waiting.append((source, before, now))
            changed = [name for name in now if before and before.prints.get(name) != now[name]]
            print(f"{source.stem}: to run{': changed ' + ', '.join(changed) if changed else ''}", flush=True)
    if not waiting:
        print(f"all {len(sources)} chapters are as they were last run: nothing to run", flush=True)
        return folder

    plan = [expected(notebooks[source], before) for source, before, _ in waiting]
    progress = Progress([source.stem for source, _, _ in waiting], plan)
    for number, (source, _, now) in enumerate(waiting):
        start = time.monotonic()
        parameters = ch.parameters_for(notebooks[source], run)
        done = run_notebook(source, parameters, root / "_build" / "failed" / source.name, progress, number)
        code = [cell for cell in done.cells if cell.cell_type == "code"]
        done.metadata["bookpress"] = {
            "prints": now,
            "parameters": {name: run.shown[name] for name in parameters},
            "device": ch.device(),
            "versions": ch.versions(),
            "seconds": round(time.monotonic() - start, 1),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "cells": {cell.id: cell.metadata.papermill.duration for cell in code},
        }
        write_whole(folder / source.name, text_of(done))
    progress.end_line()
    return folder
