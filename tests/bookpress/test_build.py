import json
import shutil
import sys
from pathlib import Path

import pytest
from nbformat import v4
from test_stage import CLAIM, executed, marked
from tiny_book import notebook

from bookpress import build, cli
from bookpress.chapters import text_of
from bookpress.files import PressError

ROOT = Path(__file__).parents[2]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FIGURE = {"caption": "One pixel, $x^2$.", "alt": "A single pixel, and nothing beside it."}


def put(book, name, *outputs):
    """An executed chapter of the book that is up to date."""
    (book / "notebooks" / f"{name}.ipynb").write_text(text_of(notebook(name, "show()")))
    folder = book / "_build" / "executed" / "fast-procedural-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.ipynb").write_text(text_of(executed(*outputs, name=name)))
    return folder


@pytest.fixture
def press(book, monkeypatch):
    """Builds the book with pages that hold each chapter's HTML outputs, which is quicker than Jupyter Book."""

    def quick(root, staged, output):
        site = output / "_build" / "html"
        shutil.copytree(staged, site)
        (site / "_sources" / "notebooks").mkdir(parents=True)
        (site / "book" / "intro.html").write_text("<p>intro</p>")
        for path in (site / "notebooks").glob("*.ipynb"):
            cells = json.loads(path.read_text())["cells"]
            data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
            words = ["".join(item.get("text/html", "")) for item in data]
            path.with_suffix(".html").write_text(f'<article class="bd-article">{"".join(words)}</article>')
            path.unlink()

    monkeypatch.setattr(build, "jupyter_book", quick)
    put(book, "01_one", marked({"text/plain": "t"}, claim=CLAIM))
    return lambda: build.build(book, put(book, "02_two"))


def test_the_site_and_its_claims_are_built_once(book, press, capsys):
    assert press() == book / "_build" / "html" / "index.html"
    assert "building the site" in capsys.readouterr().out
    claims = json.loads((book / "_build" / "claims.json").read_text())
    assert [claim["id"] for claim in claims] == ["works"]
    assert build.check_built(book) == "the site is sound: 3 pages, 1 claims"
    press()
    assert "building" not in capsys.readouterr().out
    (book / "_build" / "claims.json").unlink()  # as after a kill between the two
    press()
    assert json.loads((book / "_build" / "claims.json").read_text()) == claims
    (book / "book" / "intro.md").write_text("# Other\n")
    press()
    assert "building the site" in capsys.readouterr().out
    (book / "lib" / "tool.py").write_text('"""What a page shows of the library."""\n')
    press()
    assert "building the site" in capsys.readouterr().out


def test_readers_download_the_committed_chapter(book, press):
    press()
    given = book / "_build" / "html" / "_sources" / "notebooks" / "01_one.ipynb"
    assert given.read_bytes() == (book / "notebooks" / "01_one.ipynb").read_bytes()


def test_parameters_of_a_signature_are_no_definitions(book):
    (book / "site" / "_sources" / "notebooks").mkdir(parents=True)
    page = book / "site" / "page.html"
    ends = '<dl class="py"><dt class="sig">f(', ")</dt><dd>Does it.</dd></dl>"
    lines = "\n".join(f'<dd><em class="sig-param">{name}</em>,</dd>' for name in "ab")
    page.write_text(f"{ends[0]}<dl>\n{lines}\n</dl>{ends[1]}")
    build.tidy(book, book / "site")
    better = "\n".join(f'<div><em class="sig-param">{name}</em>,</div>' for name in "ab")
    assert page.read_text() == f'{ends[0]}<div class="sig-parameters">\n{better}\n</div>{ends[1]}'


def test_a_failing_check_leaves_the_site_that_stood(book, press):
    press()
    before = {
        path: path.read_bytes() for path in (book / "_build").rglob("*") if path.is_file() and "html" in path.parts
    }
    claims = (book / "_build" / "claims.json").read_bytes()
    put(book, "01_one", marked({"text/html": '<img src="lost.png">'}))
    with pytest.raises(PressError) as error:
        press()
    assert "lost.png" in str(error.value)
    assert (book / "_build" / "claims.json").read_bytes() == claims
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("change", "stops"),
    [
        ({}, False),
        ({"verdict": "inconclusive", "registered_verdict": "inconclusive"}, False),
        ({"verdict": "inconclusive"}, True),
        ({"verdict": "supported", "registered_verdict": "inconclusive"}, True),
        ({"registered_verdict": None}, True),
        ({"verdict": "not supported", "registered": False}, False),
    ],
)
def test_a_verdict_that_changed_at_the_registered_setting_stops_the_book(book, press, change, stops, capsys):
    put(book, "01_one", marked({"text/plain": "t"}, claim=CLAIM | change))
    if stops:
        with pytest.raises(PressError, match="claim 'works' of 01_one: "):
            press()
        assert not (book / "_build" / "html").exists()
    else:
        press()
        said = "claim 'works' of 01_one: not supported (supported)" in capsys.readouterr().out
        assert said == (change.get("registered") is False)


def test_without_a_site_there_is_nothing_to_check(book):
    with pytest.raises(PressError, match="there is no site yet: run make book"):
        build.check_built(book)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check"], 1, "_build/html: there is no site yet: run make book"),
        (["--profile", "huge", "book"], 2, "profile 'huge' is unknown: use one of fast, full"),
        (["--set", "users=3", "book"], 2, "parameter 'users': no chapter knows it"),
        (["--seed", "2", "register"], 1, "register: runs at the registered setting"),
        (["site"], 1, "01_one: not executed in"),
        (["strip", "notebooks/99.ipynb"], 1, "99.ipynb: not found"),
    ],
)
def test_commands_fail_with_one_line_and_a_code(book, monkeypatch, capsys, arguments, code, words):
    monkeypatch.setattr(sys, "argv", ["bookpress", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.app()
    assert end.value.code == code
    said = capsys.readouterr().err.strip()
    assert said.startswith(words)
    assert "\n" not in said


def test_a_build_folder_that_cannot_be_is_named(book, monkeypatch, capsys):
    put(book, "01_one")
    put(book, "02_two")
    (book / "_build" / "staged").write_text("in the way")
    monkeypatch.setattr(sys, "argv", ["bookpress", "site"])
    with pytest.raises(SystemExit) as end:
        cli.app()
    assert end.value.code == 1
    said = capsys.readouterr().err.strip()
    assert said.endswith("mend that and run again; what was finished is kept")
    assert "\n" not in said


@pytest.mark.slow
def test_jupyter_book_makes_figures_claims_and_tables_of_it_offline(book):
    shutil.copy(ROOT / "_config.yml", book)
    for folder in ("assets", "templates"):
        shutil.copytree(ROOT / "book" / folder, book / "book" / folder)
    (book / "book" / "references.bib").write_text("")
    (book / "book" / "intro.md").write_text("# Tiny\n\n$x^2$, and [one](../notebooks/01_one.ipynb).\n")
    html = "<table><caption>A table.</caption><tr><td>1</td></tr></table>"
    put(
        book,
        "01_one",
        marked({"image/png": PIXEL, "text/plain": "t"}, figure=FIGURE),
        marked({"text/plain": "t"}, claim=CLAIM),
        marked({"text/html": html}, table={"caption": "A table."}),
        v4.new_output("stream", name="stderr", text="a warning of a library"),
    )
    build.build(book, put(book, "02_two"))
    page = (book / "_build" / "html" / "notebooks" / "01_one.html").read_text()
    for words in ('alt="A single pixel', "<figcaption>", "claim-works", "<caption>A table.</caption>", "ran-on"):
        assert words in page
    assert "a warning of a library" not in page
    assert "thebe" not in page
    assert '<meta name="description" content=' in page
    assert "mathjax/tex" in page  # the caption of the figure
    assert "mathjax/tex" not in (book / "_build" / "html" / "notebooks" / "02_two.html").read_text()
    assert build.check_built(book).startswith("the site is sound")

    (book / "book" / "intro.md").write_text("# Tiny\n\n[lost](nowhere.md)\n")
    with pytest.raises(PressError) as error:
        build.build(book, put(book, "02_two"))
    assert "intro.md:3: WARNING" in str(error.value)
    assert (book / "_build" / "html" / "notebooks" / "01_one.html").read_text() == page
