import errno
import os
import subprocess
import sys
import time

import pytest
import torch

from facepoison import store
from facepoison.attacks.lowkey import lowkey
from facepoison.errors import InputError


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def counted(calls):
    def compute():
        calls.append(1)
        return {"x": torch.arange(3)}

    return compute


def test_second_call_reads_what_the_first_computed():
    calls = []
    first = store.cached("thing", counted(calls), seed=1)
    second = store.cached("thing", counted(calls), seed=1)
    assert len(calls) == 1
    assert first.computed_now
    assert not second.computed_now
    assert torch.equal(first.arrays["x"], second.arrays["x"])
    assert second.seconds == first.seconds


def test_every_part_enters_the_key():
    calls = []
    tensor = torch.zeros(2, 2)
    for parts in (
        {"seed": 1},
        {"seed": 2},
        {"seed": 1, "x": tensor},
        {"seed": 1, "x": tensor + 1},
        {"seed": 1, "x": tensor.view(4)},
    ):
        store.cached("thing", counted(calls), **parts)
    assert len(calls) == 5


def test_library_versions_and_device_enter_the_key(monkeypatch):
    before = store.key("thing", [], {})
    monkeypatch.setattr(store, "versions", lambda: {"torch": "99"})
    assert store.key("thing", [], {}) != before
    monkeypatch.undo()
    monkeypatch.setattr(store, "device_kind", lambda: "cuda of another kind")
    assert store.key("thing", [], {}) != before


def test_code_enters_the_key():
    assert store.key("thing", [lowkey], {}) != store.key("thing", [], {})


def test_failure_leaves_nothing_behind(own_store):
    def fail():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        store.cached("thing", fail)
    assert not list(own_store.rglob("*.safetensors"))


def test_damaged_file_is_computed_again(own_store):
    calls = []
    store.cached("thing", counted(calls))
    (file,) = own_store.rglob("*.safetensors")
    file.write_bytes(b"cut off")
    assert store.cached("thing", counted(calls)).computed_now
    assert len(calls) == 2


def test_full_disk_is_one_clear_line_and_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with (
        pytest.raises(InputError, match=r"kept\.txt.*the disk is full") as caught,
        store.written_whole(path) as scratch,
    ):
        scratch.write_text("new")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_interruption_leaves_no_half_file(tmp_path):
    def interrupted():
        with store.written_whole(tmp_path / "file.txt") as scratch:
            scratch.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not os.listdir(tmp_path)


def test_unknown_kinds_of_parts_are_refused():
    with pytest.raises(TypeError, match="store key"):
        store.key("thing", [], {"part": object()})


ANOTHER = """
import sys, time
from pathlib import Path
import torch
from facepoison import store

notes = Path(sys.argv[1])

def inner():
    return {"x": torch.arange(3)}

def compute():
    store.cached("inner", inner)
    with notes.open("a") as file:
        file.write("computed\\n")
    time.sleep(float(sys.argv[2]))
    return {"x": torch.arange(3)}

print(store.cached("thing", compute, by=()).computed_now, flush=True)
"""


def another(notes, seconds):
    """A process that wants the result "thing", and takes so long where it computes it."""
    environment = {**os.environ, "PYTHONPATH": str(store.fingerprint.LIB)}
    command = [sys.executable, "-c", ANOTHER, str(notes), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait_for(path):
    for _ in range(600):
        if path.is_file() and path.read_text():
            return
        time.sleep(0.1)
    raise TimeoutError(path)


@pytest.mark.slow
def test_two_processes_that_want_the_same_compute_it_once(tmp_path, own_store):
    notes = tmp_path / "notes"
    first = another(notes, 2)
    wait_for(notes)
    assert not list(own_store.glob("thing/*.safetensors"))  # the first is still at it
    second = another(notes, 2)
    said = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert said == ["True\n", "False\n"]
    assert notes.read_text() == "computed\n"


@pytest.mark.slow
def test_what_a_killed_process_was_computing_can_be_computed(tmp_path):
    killed = another(tmp_path / "killed", 600)
    wait_for(tmp_path / "killed")
    killed.kill()
    killed.communicate()
    assert another(tmp_path / "next", 0).communicate(timeout=60)[0] == "True\n"


def test_another_result_is_not_waited_for(tmp_path):
    calls = []
    with store.held(tmp_path / "store" / "thing" / "other.safetensors"):
        store.cached("thing", counted(calls))
    assert calls


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="cannot be written"), store.held(tmp_path / "file" / "x.safetensors"):
        pass


def test_what_was_asked_for_and_what_that_saved_is_noted(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("FACEPOISON_STORE_LOG", str(log))
    first = store.cached("thing", counted([]))
    store.cached("thing", counted([]))
    (name, computed), (again, saved) = (line.split(" ") for line in log.read_text().splitlines())
    assert name == again
    assert name.startswith("thing/")
    assert float(computed) == 0
    assert float(saved) == first.seconds > 0
