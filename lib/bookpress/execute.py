"""Runs the chapters with papermill, two at once where that is quicker: only those whose fingerprint changed.

Each is written whole when it is done.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import nbformat
from nbformat import NotebookNode as Notebook

from bookpress import chapters as ch
from bookpress.chapters import Run, text_of
from bookpress.files import PressError, write_whole
from bookpress.kernel import Done, Job, work
from bookpress.progress import Expected, Plan, Progress


def folder_of(root: Path, run: Run) -> Path:
    """Where the executed chapters of a run are kept."""
    return root / "_build" / "executed" / run.name


def recorded(path: Path) -> Notebook:
    """What this press wrote into an executed chapter when it last ran; empty where it never did."""
    if not path.is_file():
        return nbformat.from_dict({})
    return ch.read(path).metadata.get("bookpress", nbformat.from_dict({}))


def expected(notebook: Notebook, before: Notebook) -> Plan:
    """What code cells should take, from the last run, else from the cells, which keep theirs at the registered setting.

    Args:
        notebook: The chapter.
        before: What was recorded of its last run.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    ran = before.get("cells", {})
    return {
        cell.id: Expected(float(ran[cell.id]), here=True)
        if cell.id in ran
        else Expected(float(cell.metadata.get("seconds", 0)), here=False)
        for cell in code
    }


def longest_first(plans: Sequence[Plan], befores: Sequence[Notebook]) -> list[int]:
    """Numbers of chapters in the order in which to start them: the long ones first, so that none is left to the end.

    What a chapter once found in the store counts too: who runs it again may have to compute it again.
    """
    saved = [sum(before.get("kept", {}).values()) for before in befores]
    whole = [more + sum(cell.seconds for cell in plan.values()) for more, plan in zip(saved, plans, strict=True)]
    return sorted(range(len(plans)), key=lambda number: -whole[number])


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(chapters: int, cores: int, device: str) -> int:
    """How many chapters to run at once: two, unless there is one, one core, or a GPU, whose memory one may fill."""
    return 2 if chapters > 1 and cores > 1 and device.startswith("CPU") else 1


@dataclass(frozen=True)
class Running:
    """A chapter that is running: its number, and the process that runs it."""

    number: int
    process: SpawnProcess


@contextmanager
def processes() -> Iterator[dict[Connection, Running]]:
    """Chapters that run, by the connection to each; at the end of the block those which still do are stopped."""
    running: dict[Connection, Running] = {}
    try:
        yield running
    finally:
        for connection in running:
            connection.close()  # which each of them takes for the sign to stop
        for chapter in running.values():
            chapter.process.join()


def start(job: Job, number: int) -> tuple[Connection, Running]:
    """Begin to run a chapter."""
    ours, theirs = multiprocessing.Pipe()
    # a fresh interpreter: one forked from this would have its threads' locks and no threads
    process = multiprocessing.get_context("spawn").Process(target=work, args=(job, theirs))
    resource_tracker.ensure_running()  # which unblocks signals where it is started later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # held back there until it knows what to do
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, Running(number, process)


def heard(connection: Connection, chapter: Running, name: str) -> str | Done | Exception:
    """The next that a running chapter has to say: a cell's id, or what became of it."""
    try:
        said: str | Done | Exception = connection.recv()
    except (EOFError, ConnectionResetError):
        chapter.process.join()
        code = chapter.process.exitcode
        return PressError(f"{name}: what ran it ended with code {code}, perhaps out of memory: run again")
    return said


def run_all(jobs: Sequence[Job], progress: Progress) -> Iterator[tuple[int, Done]]:
    """Run chapters in the progress' order and as many at once, and give each with its number as soon as it is done.

    After a failure no other is begun, but what runs is finished.

    Raises:
        PressError: at least one failed.
        OSError: a file of one could not be written.
    """
    queue = list(progress.order)
    failures: list[Exception] = []
    with processes() as running:
        while running or (queue and not failures):
            while queue and not failures and len(running) < progress.at_once:
                number = queue.pop(0)
                connection, chapter = start(jobs[number], number)
                running[connection] = chapter
            ready = wait(list(running))
            for connection in [each for each in running if each in ready]:
                number = running[connection].number
                name = jobs[number].source.stem
                said = heard(connection, running[connection], name)
                if isinstance(said, str):
                    progress.begin(number, said)
                    continue
                progress.end(number)
                running.pop(connection).process.join()
                connection.close()
                if isinstance(said, Done):
                    yield number, said
                else:
                    failures.append(said)
                    others = ", ".join(jobs[chapter.number].source.stem for chapter in running.values())
                    if others:
                        progress.say(f"{name} failed; {others} is finished first")
    progress.end_line()
    if len(failures) > 1:
        raise PressError("\n".join(map(str, failures)))
    if failures:
        raise failures[0]


def record(done: Done, now: Mapping[str, str], run: Run, job: Job, beside: int) -> Notebook:
    """An executed chapter with a record of what it was made from, on what, when and how long it took.

    Args:
        done: What became of it.
        now: Its fingerprints.
        run: The run.
        job: What was run.
        beside: How many chapters ran at once.
    """
    notebook: Notebook = nbformat.reads(done.text, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.metadata["bookpress"] = {
        "prints": dict(now),
        "parameters": {name: run.shown[name] for name in job.parameters},
        "device": ch.device(),
        "processor": ch.processor(),
        "at_once": beside,
        "versions": ch.versions(),
        "seconds": round(done.seconds, 1),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cells": {cell.id: cell.metadata.papermill.duration for cell in code},
        "kept": {cell: round(seconds, 1) for cell, seconds in done.kept.items() if round(seconds, 1)},
    }
    return notebook


def execute(root: Path, run: Run) -> Path:
    """Run every chapter whose fingerprint is not that of its executed copy.

    Args:
        root: Top of the book.
        run: The parameters.

    Returns:
        The folder of the executed chapters.

    Raises:
        PressError: a chapter failed; those that were done before it or beside it are kept.
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

    plans = [expected(notebooks[source], before) for source, before, _ in waiting]
    order = longest_first(plans, [before for _, before, _ in waiting])
    beside = at_once(len(waiting), cores(), ch.device())
    failed = root / "_build" / "failed"
    jobs = [
        Job(source, ch.parameters_for(notebooks[source], run), failed / source.name, one_thread=beside > 1)
        for source, _, _ in waiting
    ]
    for number, done in run_all(jobs, Progress([job.source.stem for job in jobs], plans, order, beside)):
        made = record(done, waiting[number][2], run, jobs[number], beside)
        write_whole(folder / jobs[number].source.name, text_of(made))
    return folder
