import os

import pytest
from tiny_book import notebook, write

from bookpress import chapters as ch
from bookpress.files import PressError, UsageError


def test_order_is_that_of_the_contents(book):
    toc = book / "_toc.yml"
    toc.write_text("root: book/intro\nparts:\n- chapters:\n  - file: notebooks/02_two\n  - file: notebooks/01_one\n")
    assert ch.pages(book) == ["book/intro", "notebooks/02_two", "notebooks/01_one"]
    assert [path.stem for path in ch.chapters(book)] == ["02_two", "01_one"]


def test_pages_and_contents_must_agree(book):
    write(book, "03_three", "1")
    with pytest.raises(PressError, match=r"03_three\.ipynb: not in _toc\.yml"):
        ch.chapters(book)
    (book / "notebooks" / "03_three.ipynb").unlink()
    (book / "notebooks" / "02_two.ipynb").unlink()
    with pytest.raises(PressError, match=r"02_two: named in _toc\.yml"):
        ch.chapters(book)


@pytest.mark.parametrize("content", ["{", "<html>", '{"cells": 3}', "{}", "[]", "\\x00", ""])
def test_a_broken_notebook_is_named(book, content):
    path = book / "notebooks" / "01_one.ipynb"
    path.write_text(content)
    with pytest.raises(PressError, match=r"01_one\.ipynb: not a notebook"):
        ch.read(path)


def test_defaults_are_those_of_the_parameters_cell(book):
    found = ch.defaults(notebook("x", "other = 5"))
    assert found == {"profile": "fast", "dataset": "procedural", "seed": 1}


def test_nothing_given_is_the_registered_setting(book):
    run = ch.plan_run(book)
    assert run.parameters == run.shown == {"profile": "fast", "dataset": "procedural", "seed": 1}
    assert run.name == "fast-procedural-1"
    assert ch.plan_run(book, profile="full", seed="7").name == "full-procedural-7"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"profile": "huge"}, "profile 'huge' is unknown: use one of fast, full"),
        ({"dataset": "nowhere"}, "dataset 'nowhere' is unknown: there is no such folder; use procedural, or a folder"),
        ({"extractors": "."}, "parameter 'extractors': no chapter knows it"),
        ({"others": ("users=3",)}, "parameter 'users': no chapter knows it: use one of dataset, profile, seed"),
        ({"others": ("users",)}, "parameter 'users': write it as name=value"),
        ({"seed": "-1"}, "seed '-1': use a whole number, 0 or more"),
        ({"seed": "one"}, "seed 'one': use a whole number, 0 or more"),
    ],
)
def test_what_is_unknown_is_refused_in_one_line(book, asked, words):
    with pytest.raises(UsageError) as error:
        ch.plan_run(book, **asked)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_a_folder_is_passed_whole_and_shown_as_a_word(book):
    (book / "faces").mkdir()
    run = ch.plan_run(book, dataset="faces")
    assert run.parameters["dataset"] == str(book / "faces")
    assert run.shown["dataset"] == "folder"
    assert run.name.startswith("fast-folder-1-")
    (book / "others").mkdir()
    assert ch.plan_run(book, dataset="others").name != run.name


def test_a_chapter_gets_only_the_parameters_it_knows(book):
    path = write(book, "02_two", "print(users)")
    text = path.read_text().replace("seed = 1", "seed = 1\\nusers: int = 20")
    path.write_text(text)
    run = ch.plan_run(book, others=("users=3",))
    assert ch.parameters_for(ch.read(path), run)["users"] == 3
    assert "users" not in ch.parameters_for(ch.read(book / "notebooks" / "01_one.ipynb"), run)
    assert run.name != ch.plan_run(book).name


def changed(before, after):
    return [name for name in before if before[name] != after[name]]


def test_fingerprints_say_what_changed(book):
    run = ch.plan_run(book)
    one, two = (ch.read(path) for path in ch.chapters(book))
    before = ch.prints(book, one, run), ch.prints(book, two, run)

    one.cells[2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "words"}]
    assert ch.prints(book, one, run) == before[0]
    one.cells[2].metadata["tags"] = ["hide-input"]
    assert changed(before[0], ch.prints(book, one, run)) == ["text"]
    del one.cells[2].metadata["tags"]

    (book / "lib" / "tool.py").write_text("VALUE = 4\n")
    assert changed(before[0], ch.prints(book, one, run)) == ["code"]
    assert ch.prints(book, two, run) == before[1]

    (book / "data" / "claims.toml").write_text("")
    assert changed(before[1], ch.prints(book, two, run)) == ["data"]
    assert "parameters" in changed(before[1], ch.prints(book, two, ch.plan_run(book, seed="2")))


def test_fingerprint_of_a_folder_follows_its_files(book):
    picture = book / "faces" / "ann" / "1.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_text("a")
    run = ch.plan_run(book, dataset="faces")
    two = ch.read(book / "notebooks" / "02_two.ipynb")
    before = ch.prints(book, two, run)
    os.utime(picture, ns=(1, 1))
    assert changed(before, ch.prints(book, two, run)) == ["parameters"]

    elsewhere = book / "elsewhere" / "bob"
    elsewhere.mkdir(parents=True)
    (elsewhere / "1.jpg").write_text("b")
    (book / "faces" / "bob").symlink_to(elsewhere)
    linked = ch.prints(book, two, run)
    (elsewhere / "2.jpg").write_text("c")
    assert changed(linked, ch.prints(book, two, run)) == ["parameters"]


def test_imports_pass_over_lines_for_ipython():
    assert ch.imports(notebook("x", "%matplotlib inline\n!ls\nimport tool.part", "def broken(:")) == {"tool.part"}
