import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_book import notebook, write

from bookpress import chapters as ch
from bookpress.execute import Progress, duration, execute, expected, folder_of
from bookpress.files import PressError

SLOW = "import os, pathlib, time\npathlib.Path('../pid').write_text(str(os.getpid()))\ntime.sleep(60)"


def text(book, name):
    notebook = ch.read(folder_of(book, ch.plan_run(book)) / f"{name}.ipynb")
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def started(capsys):
    """Chapters in the order in which their first cell was announced."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split(": ")[1].split(",")[0] for line in lines if line.startswith("chapter") and "cell 1 of" in line]


@pytest.mark.slow
def test_only_what_changed_runs_and_a_failure_keeps_what_was_done(book, capsys):
    run = ch.plan_run(book)
    execute(book, run)
    assert started(capsys) == ["01_one", "02_two"]
    assert text(book, "01_one") == "value 3 seed 1\n"

    execute(book, run)
    assert "nothing to run" in capsys.readouterr().out

    (book / "lib" / "tool.py").write_text("VALUE = 4\n")
    write(book, "02_two", "a = 1", "# now it breaks\nb = a / 0", "print('never')")
    done = folder_of(book, run) / "02_two.ipynb"
    before = done.read_bytes()
    with pytest.raises(PressError) as error:
        execute(book, run)
    assert started(capsys) == ["01_one", "02_two"]
    assert str(error.value).splitlines()[:3] == [
        "02_two, cell 3 of 4 failed",
        "  in:   b = a / 0",
        "  says: ZeroDivisionError: division by zero",
    ]
    assert text(book, "01_one") == "value 4 seed 1\n"
    assert done.read_bytes() == before
    assert (book / "_build" / "failed" / "02_two.ipynb").is_file()

    write(book, "02_two", "print('mended')")
    execute(book, run)
    assert started(capsys) == ["02_two"]
    assert text(book, "02_two") == "mended\n"
    assert not (book / "_build" / "failed" / "02_two.ipynb").exists()
    meta = ch.read(done).metadata.bookpress
    assert meta.parameters == {"profile": "fast", "dataset": "procedural", "seed": 1}
    assert set(meta.cells) > {"parameters", "cell-0"}


@pytest.mark.slow
def test_a_stopped_run_ends_with_130_and_its_kernel(book):
    write(book, "01_one", SLOW)
    process = subprocess.Popen(
        [sys.executable, "-m", "bookpress", "execute"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # a shell's background jobs ignore it
    )
    pid = book / "pid"
    for _ in range(300):
        if pid.is_file() and pid.read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("stopped: what was finished is kept")
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not list((book / "_build").rglob("01_one.ipynb"))


def test_expected_times_come_from_the_last_run_else_from_the_cells():
    chapter = notebook("x", "1", "2")
    assert expected(chapter, {}) == {"parameters": 0, "cell-0": 0, "cell-1": 0}
    for cell in chapter.cells[2:]:
        cell.metadata["seconds"] = 30
    assert expected(chapter, {}) == {"parameters": 0, "cell-0": 30, "cell-1": 30}
    assert expected(chapter, {"cells": {"cell-0": 70.0}}) == {"parameters": 0, "cell-0": 70, "cell-1": 30}


def test_progress_names_chapter_cell_and_times(capsys):
    progress = Progress(["01_one", "02_two"], [{"a": 60.0, "b": 30.0}, {"c": 65.0}])
    progress.say(0, "b")
    assert capsys.readouterr().out == "chapter 1 of 2: 01_one, cell 2 of 2; 0 s so far, about 1 min 35 s in all\n"
    progress.say(0, "injected")
    assert capsys.readouterr().out == ""
    assert duration(59.4) == "59 s"
