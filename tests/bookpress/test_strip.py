import nbformat
import pytest
from nbformat import v4
from tiny_book import notebook, write

from bookpress import chapters as ch
from bookpress import strip
from bookpress.chapters import text_of
from bookpress.files import PressError


def ran(*sources, tags=None):
    """A notebook as JupyterLab leaves it."""
    made = notebook("x", *sources, tags=tags)
    for count, cell in enumerate(made.cells[1:], 5):
        picture = {"image/png": "aaaa", "text/plain": "<Figure>"}
        cell["outputs"] = [v4.new_output("display_data", picture, metadata={"claim": {"seconds": 3}})]
        cell["outputs"].append(v4.new_output("stream", name="stderr", text="a warning"))
        cell["execution_count"] = count
        cell.metadata["collapsed"] = True
    made.metadata["language_info"]["version"] = "3.11.2"
    return made


def test_only_the_words_of_checked_cells_stay():
    found = strip.stripped(
        ran("print(1)", "claim()", "# NBVAL_CHECK_OUTPUT\nclaim()", tags={1: ["nbval-check-output"]})
    )
    assert [cell.get("execution_count") for cell in found.cells] == [None, None, None, 3, 4]
    assert [len(cell.get("outputs", [])) for cell in found.cells] == [0, 0, 0, 1, 1]
    assert found.cells[3].outputs[0] == {
        "output_type": "display_data",
        "data": {"text/plain": "<Figure>"},
        "metadata": {},
    }
    assert all(set(cell.metadata) <= {"tags"} for cell in found.cells)
    assert found.metadata.language_info == {"name": "python"}
    nbformat.validate(found)


def test_stripping_twice_changes_nothing_and_ids_are_stable(tmp_path):
    made = ran("print(1)", "print(1)")
    made["nbformat_minor"] = 4  # the format before cells had ids
    for cell in made.cells:
        del cell["id"]
    path = tmp_path / "x.ipynb"
    path.write_text(text_of(made))
    assert strip.strip_file(path)
    first = path.read_text()
    assert not strip.strip_file(path)
    path.write_text(text_of(made))
    strip.strip_file(path)
    assert path.read_text() == first
    ids = [cell.id for cell in ch.read(path).cells]
    assert len(set(ids)) == len(ids)


def committed(book, made):
    path = book / "notebooks" / "01_one.ipynb"
    path.write_text(text_of(made))
    return strip.faults(path, {"profile": "fast", "dataset": "procedural", "seed": 1})


def test_faults_of_a_committed_notebook(book):
    sound = strip.stripped(ran("claim()", tags={0: ["nbval-check-output"]}))
    assert committed(book, sound) == []
    assert committed(book, ran("print(1)")) == ["not stripped: run make strip"]

    silent = strip.stripped(sound)
    silent.cells[2]["outputs"] = []
    assert committed(book, silent) == ["cell 'cell-0' is checked, but says nothing to compare with: run make register"]

    other = strip.stripped(sound)
    other.cells[1]["source"] = 'profile = "full"\ndataset = "procedural"'
    assert committed(book, other) == [
        "parameter profile is 'full', not the registered 'fast'",
        "parameter seed is missing",
    ]


def test_register_takes_words_and_times_from_the_executed_chapters(book, tmp_path):
    source = write(book, "01_one", "claim()", tags={0: ["nbval-check-output"]})
    done = ran("claim()", tags={0: ["nbval-check-output"]})
    done.cells.insert(2, v4.new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]}))
    done.metadata["bookpress"] = {"cells": {"parameters": 0.1, "cell-0": 42.4}}
    executed = tmp_path / "executed"
    executed.mkdir()
    (executed / "01_one.ipynb").write_text(text_of(done))
    (executed / "02_two.ipynb").write_text(text_of(done))
    assert list(strip.register(book, executed)) == ["01_one.ipynb: registered", "02_two.ipynb: registered"]
    made = ch.read(source)
    assert made.cells[2].outputs[0].data["text/plain"] == "<Figure>"
    assert [cell.metadata.get("seconds") for cell in made.cells] == [None, None, 40]
    assert list(strip.register(book, executed)) == []

    done.metadata["bookpress"]["cells"]["cell-0"] = 30.0  # another machine, not worth a change
    (executed / "01_one.ipynb").write_text(text_of(done))
    assert list(strip.register(book, executed)) == []

    done.metadata["bookpress"]["kept"] = {"cell-0": 65.0}  # which a first run would have computed
    (executed / "01_one.ipynb").write_text(text_of(done))
    assert list(strip.register(book, executed)) == ["01_one.ipynb: registered"]
    assert ch.read(source).cells[2].metadata["seconds"] == 95

    done.cells[3]["outputs"] = []
    (executed / "01_one.ipynb").write_text(text_of(done))
    with pytest.raises(PressError, match=r"01_one\.ipynb, cell 'cell-0': checked, but"):
        list(strip.register(book, executed))
