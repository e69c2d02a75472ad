"""The committed chapters: stripped, at the registered setting, every checked cell with something to compare."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from nbformat import v4

from bookpress import chapters, strip
from bookpress.chapters import text_of

ROOT = Path(__file__).parents[2]
SETTING = tomllib.loads((ROOT / "data" / "protocol.toml").read_text())["registered"]
CHAPTERS = chapters.chapters(ROOT)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_as_it_should_be_committed(path):
    assert strip.faults(path, SETTING) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_compares_something(path):
    assert any(strip.is_checked(cell) for cell in chapters.read(path).cells)


def nbval(path, printed):
    """Exit code of the regression test of a notebook that prints one thing and was committed with another."""
    cell = v4.new_code_cell(f"print({printed!r})", execution_count=1, metadata={"tags": ["nbval-check-output"]})
    cell["outputs"] = [
        v4.new_output("stream", name="stdout", text="It works.\nmeasured 75.0 %, n = 20\nholds; agrees\n")
    ]
    path.write_text(text_of(v4.new_notebook(cells=[cell])))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    command += ["--nbval-sanitize-with", str(ROOT / "tests" / "notebooks" / "sanitise.cfg"), str(path)]
    return subprocess.run(command, cwd=path.parent, env=dict(os.environ), capture_output=True, check=False).returncode


def test_another_value_with_the_same_verdict_passes(tmp_path):
    assert nbval(tmp_path / "x.ipynb", "It works.\nmeasured 74.9 %, n = 20\nholds; agrees") == 0


def test_another_verdict_fails(tmp_path):
    assert nbval(tmp_path / "x.ipynb", "It works.\nmeasured 75.0 %, n = 20\nholds; DISAGREES") == 1
