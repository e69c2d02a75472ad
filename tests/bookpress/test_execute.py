import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_book import notebook, write

from bookpress import chapters as ch
from bookpress import execute as execute_module
from bookpress.execute import at_once, execute, expected, folder_of, longest_first
from bookpress.files import PressError
from bookpress.progress import Expected

SLOW = "import os, pathlib, time\npathlib.Path('../{}').write_text(str(os.getpid()))\ntime.sleep(60)"


def text(book, name):
    notebook = ch.read(folder_of(book, ch.plan_run(book)) / f"{name}.ipynb")
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def started(capsys):
    """Chapters whose first cell was announced."""
    lines = capsys.readouterr().out.splitlines()
    first = [line.split("; ")[0] for line in lines if line.startswith("chapter")]
    return sorted(line.split(": ")[1].split(",")[0] for line in first if "cell 1 of" in line)


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
@pytest.mark.parametrize("reaches", ["the press", "all that a terminal runs"])
def test_a_stopped_run_ends_with_130_and_its_kernels(book, reaches):
    pids = [book / "one", book / "two"]
    for name, pid in zip(("01_one", "02_two"), pids, strict=True):
        write(book, name, SLOW.format(pid.name))
    process = subprocess.Popen(
        [sys.executable, "-m", "bookpress", "execute"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # a shell's background jobs ignore it
    )
    running = pids[: execute_module.at_once(2, execute_module.cores(), ch.device())]
    for _ in range(600):
        if all(pid.is_file() and pid.read_text() for pid in running):
            break
        time.sleep(0.1)
    (os.kill if reaches == "the press" else os.killpg)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("stopped: what was finished is kept")
    assert "Traceback" not in said, said
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)
    assert not list((book / "_build").rglob("0*.ipynb"))


@pytest.mark.slow
def test_a_run_that_is_stopped_as_it_begins_says_no_more_than_that(book):
    process = subprocess.Popen(
        [sys.executable, "-m", "bookpress", "execute"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # as above
    )
    while "02_two: to run" not in process.stdout.readline():
        pass
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "stopped: what was finished is kept, the same command goes on from there"


@pytest.mark.slow
def test_kernels_do_not_outlive_a_press_that_was_killed(book):
    write(book, "01_one", SLOW.format("one"))
    process = subprocess.Popen([sys.executable, "-m", "bookpress", "execute"], stdout=subprocess.DEVNULL)
    pid = book / "one"
    for _ in range(600):
        if pid.is_file() and pid.read_text():
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    for _ in range(200):
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the kernel still runs")


MEET = """
import pathlib, time
pathlib.Path("../{own}").touch()
end = time.monotonic() + 60
while not pathlib.Path("../{other}").exists():
    assert time.monotonic() < end, "nobody came"
    time.sleep(0.05)
import os
print(os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"])
"""


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(execute_module, "cores", lambda: 2)
    monkeypatch.setattr(ch, "device", lambda: "CPU (x86_64)")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_two_chapters_run_at_once_with_one_thread_each(book, two_cores, capsys):
    run = ch.plan_run(book)
    write(book, "01_one", MEET.format(own="a", other="b"))
    write(book, "02_two", MEET.format(own="b", other="a"))
    here = os.getcwd()
    execute(book, run)
    assert os.getcwd() == here
    assert text(book, "01_one") == text(book, "02_two") == "1 1\n"
    assert ch.read(folder_of(book, run) / "01_one.ipynb").metadata.bookpress.at_once == 2
    assert "; beside 0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_chapter_that_runs_alone_has_all_threads(book, two_cores):
    write(book, "01_one", "import os\nprint(os.environ.get('OMP_NUM_THREADS'))")
    write(book, "02_two", "import os\nprint(os.environ.get('OMP_NUM_THREADS'))")
    run = ch.plan_run(book)
    execute(book, run)
    assert text(book, "01_one") == text(book, "02_two") == "1\n"
    write(book, "02_two", "import os\nprint('now', os.environ.get('OMP_NUM_THREADS'))")
    execute(book, run)
    assert text(book, "02_two") == "now None\n"
    assert ch.read(folder_of(book, run) / "02_two.ipynb").metadata.bookpress.at_once == 1


@pytest.mark.slow
def test_threads_that_somebody_asked_for_are_kept(book, two_cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    write(book, "01_one", "import os\nprint(os.environ['OMP_NUM_THREADS'])")
    execute(book, ch.plan_run(book))
    assert text(book, "01_one") == "3\n"


@pytest.mark.slow
def test_what_runs_beside_a_failure_is_finished_and_nothing_else_begun(book, two_cores, capsys):
    toc = book / "_toc.yml"
    toc.write_text(toc.read_text() + "- file: notebooks/03_three\n")
    write(book, "01_one", "import pathlib, time\nwhile not pathlib.Path('../b').exists(): time.sleep(0.05)\n1 / 0")
    write(book, "02_two", "pathlib = __import__('pathlib')\npathlib.Path('../b').touch()", LATER, "print('whole')")
    write(book, "03_three", "print('never')")
    with pytest.raises(PressError, match=r"^01_one, cell 2 of 2 failed\n  in:   1 / 0\n  says: ZeroDivisionError"):
        execute(book, ch.plan_run(book))
    assert text(book, "02_two") == "whole\n"
    assert "01_one failed; 02_two is finished first" in capsys.readouterr().out
    assert not (folder_of(book, ch.plan_run(book)) / "03_three.ipynb").exists()


LATER = "import time\nwhile not pathlib.Path('../_build/failed/01_one.ipynb').exists(): time.sleep(0.05)"


@pytest.mark.slow
def test_two_failures_are_both_told(book, two_cores):
    write(book, "01_one", MEET.format(own="a", other="b"), "1 / 0")
    write(book, "02_two", MEET.format(own="b", other="a"), "[][1]")
    with pytest.raises(PressError) as error:
        execute(book, ch.plan_run(book))
    assert {line for line in str(error.value).splitlines() if "failed" in line and "_build" not in line} == {
        "01_one, cell 3 of 3 failed",
        "02_two, cell 3 of 3 failed",
    }


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_of(book):
    write(book, "01_one", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(5)")
    with pytest.raises(PressError, match="01_one: what ran it ended with code -9"):
        execute(book, ch.plan_run(book))
    assert not (folder_of(book, ch.plan_run(book)) / "01_one.ipynb").exists()


@pytest.mark.slow
def test_a_record_says_what_the_store_saved_by_cell(book):
    note = "import os\nwith open(os.environ['FACEPOISON_STORE_LOG'], 'a') as log: log.write({!r})"
    write(book, "01_one", note.format("a/x 30.0\na/y 0\n"), note.format("a/x 30.0\na/y 20.0\na/z 4.0\n"), "1")
    run = ch.plan_run(book)
    execute(book, run)
    meta = ch.read(folder_of(book, run) / "01_one.ipynb").metadata.bookpress
    assert meta.kept == {"cell-0": 30.0, "cell-1": 4.0}
    assert meta.processor == ch.processor()


def test_two_run_at_once_where_that_is_quicker():
    assert at_once(8, 2, "CPU (x86_64)") == at_once(2, 64, "CPU (aarch64)") == 2
    assert at_once(1, 2, "CPU (x86_64)") == at_once(8, 1, "CPU (x86_64)") == at_once(8, 16, "NVIDIA H100") == 1


def test_long_chapters_start_first_and_equal_ones_in_the_order_of_the_book():
    plans = [{"a": Expected(seconds, here=False)} for seconds in (5, 9, 5, 5)]
    assert longest_first(plans, [{}, {}, {}, {"kept": {"a": 60.0}}]) == [3, 1, 0, 2]


def test_expected_times_come_from_the_last_run_else_from_the_cells():
    def seconds(before):
        return {cell: tuple(took) for cell, took in expected(chapter, before).items()}

    chapter = notebook("x", "1", "2")
    assert seconds({}) == {"parameters": (0, False), "cell-0": (0, False), "cell-1": (0, False)}
    for cell in chapter.cells[2:]:
        cell.metadata["seconds"] = 30
    assert seconds({}) == {"parameters": (0, False), "cell-0": (30, False), "cell-1": (30, False)}
    assert seconds({"cells": {"cell-0": 70.0}})["cell-0"] == (70, True)
    assert seconds({"cells": {"cell-0": 70.0}})["cell-1"] == (30, False)
