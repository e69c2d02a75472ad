import json
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
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


def measured(name, verdict="supported", **more):
    numbers = {"unit": "share", "tolerance": 0.1, "kind": "rate", "value": 0.75, "low": 0.5, "high": 0.9}
    return claim(name, verdict) | numbers | {"front": None, "agrees": True, "changed": False} | more


def output(text):
    return v4.new_output("display_data", {"text/html": text})


def card(name):
    said = f'<section class="claim claim-supported" id="claim-{name}"><p>{name} &lt;is&gt; so.</p></section>'
    return output(said)


@pytest.mark.parametrize(
    ("made", "box"),
    [
        (measured("a"), False),
        (measured("a", "inconclusive"), False),
        (measured("a", "not supported"), True),
        (measured("a", front="LowKey"), True),
        (measured("a", agrees=False), True),
        (measured("a", agrees=None), False),
        (measured("a", changed=True), True),
    ],
)
def test_headlines_and_surprises_are_cards_and_all_others_rows_that_open(made, box):
    (group,) = verdicts.grouped([card("a")], {"a": made})
    page = BeautifulSoup(group.data["text/html"], "html.parser")
    assert page.find(id="claim-a").parent.name == ("div" if box else "details")
    assert len(page.select(".claims .claim")) == 1


def test_a_row_says_statement_value_interval_and_verdict_before_it_is_opened():
    one, other = measured("a", "inconclusive", kind="difference"), measured("b", low=None, high=None)
    (group,) = verdicts.grouped([card("a"), card("b")], {"a": one, "b": other})
    first, second = BeautifulSoup(group.data["text/html"], "html.parser").select("details > summary")
    assert first.get_text(" ").split(" ", 3)[:3] == ["a", "<is>", "so."]
    assert first.select_one(".claim-number").get_text() == "75.0 points 50.0 points to 90.0 points"
    assert first.select_one(".verdict-inconclusive").get_text() == "inconclusive"
    assert second.select_one(".claim-number").get_text() == "75.0 %"


def test_claims_of_a_cell_keep_their_order_around_everything_else():
    shown = [output("<table></table>"), card("a"), card("b"), output("<figure></figure>"), card("c")]
    claims = {name: measured(name) for name in "abc"}
    table, two, figure, one = verdicts.grouped(shown, claims)
    assert (table, figure) == (shown[0], shown[3])
    ids = [re.findall('id="claim-(.)"', group.data["text/html"]) for group in (two, one)]
    assert ids == [["a", "b"], ["c"]]
    printed = v4.new_output("stream", name="stdout", text="words")
    assert verdicts.grouped([printed], claims) == [printed]


def test_staged_chapters_get_their_rows(staged):
    cell = v4.new_code_cell("claim()", outputs=[card("a")])
    (staged / "notebooks" / "05_x.ipynb").write_text(text_of(v4.new_notebook(cells=[cell])))
    (staged / "book" / "intro.md").write_text("So.\n")
    verdicts.fill(staged, [measured("a")])
    (shown,) = json.loads((staged / "notebooks" / "05_x.ipynb").read_text())["cells"][0]["outputs"]
    assert '<details class="claim-row">' in "".join(shown["data"]["text/html"])


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
