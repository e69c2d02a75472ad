import json
import re
from pathlib import Path

import pytest
from nbformat import v4

from bookpress import chapters as ch
from bookpress import verdicts
from bookpress.chapters import text_of
from bookpress.claims import registered_claims
from bookpress.files import PressError

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "book").glob("*.md"))
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def claim(name, verdict="supported", registered=True):
    return {
        "id": name,
        "chapter": "05_x",
        "statement": f"{name} <is> so.",
        "verdict": verdict,
        "registered": registered,
    }


CLAIMS = {"a": claim("a"), "b": claim("b", "not supported")}


def test_a_mark_becomes_links_in_the_words_of_the_run():
    text, wrong = verdicts.filled(
        "It works. <!-- verdicts: a = supported; b = supported -->\nMore.", CLAIMS, "../n/", "page"
    )
    first, more = text.split("\n")
    assert first.startswith('It works. <a class="verdict verdict-supported" href="../n/05_x.html#claim-a"')
    assert 'title="a &lt;is&gt; so.">supported</a>' in first
    assert 'class="verdict verdict-not-supported"' in first
    assert ">not supported</a>" in first
    assert more == "More."
    assert wrong == ["page: says that 'b' is supported; it is not supported"]


def test_a_claim_that_the_run_does_not_make_is_named():
    text, wrong = verdicts.filled("It works. <!-- verdicts: c = supported -->", CLAIMS, "", "page")
    assert text == "It works."
    assert wrong == ["page: names the claim 'c', which this run does not make"]


def test_a_definition_may_rest_on_nothing():
    assert verdicts.filled("A word. <!-- verdicts: none -->", CLAIMS, "", "page") == ("A word.", [])


@pytest.mark.parametrize("mark", ["a", "a =", "a supported", "nonsense"])
def test_a_mark_of_another_form_is_refused(mark):
    with pytest.raises(PressError, match="write it as CLAIM = WORD"):
        verdicts.filled(f"<!-- verdicts: {mark} -->", CLAIMS, "", "page")


@pytest.fixture
def staged(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "intro.md").write_text("So. <!-- verdicts: a = supported -->\n")
    cell = v4.new_markdown_cell("Thus. <!-- verdicts: b = not supported -->", id="x")
    (tmp_path / "notebooks" / "05_x.ipynb").write_text(text_of(v4.new_notebook(cells=[cell])))
    return tmp_path


def test_pages_and_chapters_are_filled(staged):
    verdicts.fill(staged, list(CLAIMS.values()))
    assert 'href="../notebooks/05_x.html#claim-a"' in (staged / "book" / "intro.md").read_text()
    chapter = json.loads((staged / "notebooks" / "05_x.ipynb").read_text())
    assert 'href="05_x.html#claim-b"' in "".join(chapter["cells"][0]["source"])


def test_a_verdict_that_changed_stops_the_book_where_claims_are_registered_and_is_said_elsewhere(staged, capsys):
    with pytest.raises(PressError, match="05_x: says that 'b' is not supported; it is inconclusive"):
        verdicts.fill(staged, [claim("a"), claim("b", "inconclusive")])
    (staged / "book" / "intro.md").write_text("So. <!-- verdicts: a = supported -->\n")
    verdicts.fill(staged, [claim("a", "inconclusive", registered=False), claim("b", "not supported", registered=False)])
    assert (
        "intro: says that 'a' is supported; it is inconclusive (this is not the registered" in capsys.readouterr().out
    )


def texts():
    for path in PAGES:
        yield path.stem, path.read_text(encoding="utf-8")
    for path in CHAPTERS:
        yield path.stem, "\n\n".join(cell.source for cell in ch.read(path).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize(("where", "text"), [pytest.param(*each, id=each[0]) for each in texts()])
def test_prose_names_the_registered_verdicts(where, text):
    known = registered_claims()
    for name, word in verdicts.named(text):
        assert name in known, f"{where}: there is no claim '{name}'"
        assert word == known[name].verdict, f"{where}: says that '{name}' is {word}"


def bullets(text):
    """The points of a list, each with its further lines."""
    return re.findall(r"(?m)^- .*(?:\n  .*)*", text)


@pytest.mark.parametrize("path", [ROOT / "book" / "intro.md", *CHAPTERS], ids=lambda path: path.stem)
def test_the_first_page_and_what_is_to_be_taken_away_say_what_they_rest_on(path):
    if path.suffix == ".md":
        part = path.read_text(encoding="utf-8").split("<!-- generated: front -->")[1].split("```")[0]
    else:
        cells = [cell.source for cell in ch.read(path).cells if "To take away" in cell.source]
        if not cells and path.stem.startswith("a"):
            return  # an appendix has nothing to take away
        (part,) = cells
    found = bullets(part)
    assert found
    for point in found:
        assert "<!-- verdicts: " in point, point
