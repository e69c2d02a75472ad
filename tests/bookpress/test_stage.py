import base64
import json
from pathlib import Path

import pytest
from nbformat import v4
from tiny_book import notebook

import fingerprint
from bookpress import chapters as ch
from bookpress.chapters import text_of
from bookpress.files import PressError
from bookpress.stage import ELSEWHERE, READING, card, edition, figure, ran_on, stage, stage_chapter, table

CLAIM = {
    "id": "works",
    "chapter": "01_one",
    "statement": "It works for < 3 people.",
    "unit": "share",
    "value": 0.75,
    "n": 20,
    "n_of": "people",
    "low": 0.5,
    "high": 0.9,
    "clean_error": 0.05,
    "kind": "rate",
    "verdict": "supported",
    "registered_verdict": "supported",
    "changed": False,
    "n_each": 1,
    "agrees": True,
    "registered": True,
    "registered_value": 0.74,
    "tolerance": 0.1,
    "explained": None,
    "after": None,
    "source": "shipped",
}


def executed(*outputs, name="x"):
    """A chapter as the press leaves it: one cell with these outputs, and the parameters put in."""
    made = notebook(name, "show()")
    made.cells[2]["outputs"] = list(outputs)
    secret = v4.new_code_cell('dataset = "a place"', id="injected", metadata={"tags": ["injected-parameters"]})
    made.cells.insert(2, secret)
    made.metadata["bookpress"] = {
        "prints": {"text": ch.text_print(notebook(name, "show()"))},
        "parameters": {"dataset": "procedural", "profile": "fast", "seed": 1},
        "device": "CPU (x86_64)",
        "versions": {"python": "3.11.2", "torch": "2.15.0", "colorama": "1"},
        "processor": "Some CPU",
        "at_once": 1,
        "seconds": 75.2,
        "date": "2026-11-23T08:00:00+00:00",
    }
    return made


def marked(data, **metadata):
    return v4.new_output("display_data", data, metadata=metadata)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, 'claim-supported" id="claim-works"'),
        ({}, "<dd>rate</dd>"),
        ({}, '"claim-verdict">Supported</p>'),
        ({}, "<dd>75.0 %</dd>"),
        ({}, "50.0 % to 90.0 %"),
        ({}, "20 people"),
        ({}, "<dd>5.0 %</dd>"),
        ({}, "shipped"),
        ({}, "It works for &lt; 3 people."),
        ({"verdict": "not supported"}, 'claim-not-supported" id="claim-works"'),
        ({"verdict": "not supported"}, '"claim-verdict">Not supported</p>'),
        ({"verdict": "inconclusive", "explained": "too few"}, "Inconclusive: too few"),
        ({"n_each": 3}, "<dt>decides among</dt><dd>3</dd>"),
        ({"after": "the table was seen"}, "Written afterwards: the table was seen"),
        ({"kind": "difference"}, "<dd>75.0 points</dd>"),
        ({"agrees": False}, "registered value 74.0 %, outside its tolerance"),
    ],
)
def test_a_card_says_everything(change, words):
    assert words in card(CLAIM | change)


def test_a_card_leaves_out_what_there_is_not():
    said = card(CLAIM | {"kind": "fact", "low": None, "high": None, "clean_error": None})
    assert "interval" not in said
    assert "clean error" not in said
    assert "<dt>95 % interval</dt><dd>none of so few</dd>" in card(CLAIM | {"low": None, "high": None})


def test_the_numbers_behind_a_figure_can_be_downloaded(tmp_path):
    said = {"caption": "Lines.", "alt": "Two lines that cross.", "csv": "x,y\n1,2\n"}
    made = figure(marked({"image/svg+xml": "<svg/>"}, figure=said), "one-1", tmp_path / "pictures")
    assert (tmp_path / "pictures" / "one-1.csv").read_text() == "x,y\n1,2\n"
    assert (tmp_path / "pictures" / "one-1.svg").read_text() == "<svg/>"
    assert "Lines. {download}`Numbers (CSV) <pictures/one-1.csv>`" in made.data["text/markdown"]


def test_a_figure_becomes_a_file_with_caption_and_text(tmp_path):
    data = {"image/png": base64.b64encode(b"pixels").decode(), "text/plain": "x"}
    made = figure(
        marked(data, figure={"caption": "Two\nlines.", "alt": "What it\nshows."}), "01-1", tmp_path / "pictures"
    )
    assert (tmp_path / "pictures" / "01-1.png").read_bytes() == b"pixels"
    said = made.data["text/markdown"]
    assert said.startswith("`````{figure} pictures/01-1.png\n:name: fig-01-1\n:alt: What it shows.\n\nTwo lines.")


def test_a_vector_figure_is_written_as_text(tmp_path):
    figure(marked({"image/svg+xml": "<svg/>"}, figure={"caption": "c", "alt": "a"}), "01-1", tmp_path)
    assert (tmp_path / "01-1.svg").read_text() == "<svg/>"


def test_a_table_scrolls_in_a_named_box():
    made = table(marked({"text/html": "<table></table>"}, table={"caption": 'A "b"'}))
    assert 'aria-label="A &quot;b&quot;"><table></table></div>' in made.data["text/html"]


def test_a_page_says_what_it_ran_on():
    said = ran_on(executed().metadata["bookpress"], {"figures": 2, "claims": 0}).source
    rows = [line.strip("| ") for line in said.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "profile | fast",
        "dataset | procedural",
        "seed | 1",
        "device | CPU (x86_64)",
        "processor | Some CPU",
        "libraries | python 3.11.2, torch 2.15.0",
        "time | 1 min 15 s",
        "date | 2026-11-23",
        "shows | 2 figures, 0 claims",
    ]


def test_a_staged_chapter_shows_no_parameters_of_the_machine(tmp_path):
    made, claims = stage_chapter(executed(marked({"text/plain": "t"}, claim=CLAIM)), "01_one", tmp_path)
    assert "a place" not in text_of(made)
    assert made.cells[-1].source.startswith("````{admonition} What this page ran on")
    assert 'id="claim-works"' in made.cells[2].outputs[0].data["text/html"]
    assert claims[0]["profile"] == "fast"
    assert claims[0]["versions"] == {"python": "3.11.2", "torch": "2.15.0"}
    assert claims[0]["value"] == 0.75


@pytest.mark.parametrize("other", [{"dataset": "folder"}, {"seed": 2}, {"extractors": "folder"}])
def test_a_chapter_says_under_its_head_where_it_is_not_the_books_own_run(tmp_path, other):
    made = executed()
    usual, _ = stage_chapter(made, "01_one", tmp_path)
    assert "own run" not in text_of(usual)
    made = executed()
    made.metadata["bookpress"]["parameters"] |= other
    staged, _ = stage_chapter(made, "01_one", tmp_path)
    assert staged.cells[0].source.startswith("# ")
    assert staged.cells[1].source == ELSEWHERE
    assert len(staged.cells) == len(usual.cells) + 1


def test_the_head_of_a_chapter_says_how_long_it_ran_on_what(tmp_path):
    made = executed()
    made.cells[0]["source"] = "# x\n\n**You need** nothing. **Time:** 15 minutes to read.\n"
    made.metadata["bookpress"] |= {"kept": {"cell-0": 100.0, "cell-1": 5.0}, "at_once": 2}
    staged, _ = stage_chapter(made, "01_one", tmp_path)
    assert staged.cells[0].source.endswith(
        "**Time:** 15 minutes to read; ran in 1 min 15 s on Some CPU, beside another chapter "
        "(results kept from before once took 1 min 45 s).\n"
    )


@pytest.mark.parametrize("path", ch.chapters(Path(__file__).parents[2]), ids=lambda path: path.stem)
def test_every_chapter_leaves_the_press_to_say_what_running_it_takes(path):
    head = ch.read(path).cells[0].source
    assert len(READING.findall(head)) == 1
    assert " to run" not in head


def stage_book(book, *outputs):
    folder = book / "executed"
    folder.mkdir(exist_ok=True)
    for name in ("01_one", "02_two"):
        (folder / f"{name}.ipynb").write_text(text_of(executed(*outputs, name=name)))
    return stage(book, folder, book / "_build" / "staged")


def test_staging_needs_every_chapter_and_leaves_the_sources_alone(book, capsys):
    with pytest.raises(PressError, match="01_one: not executed in"):
        stage(book, book / "executed", book / "_build" / "staged")
    before = {path: path.read_bytes() for path in (book / "notebooks").iterdir()}
    assert stage_book(book) == []
    assert (book / "_build" / "staged" / "notebooks" / "02_two.ipynb").is_file()
    assert (book / "_build" / "staged" / "book" / "intro.md").is_file()
    assert {path: path.read_bytes() for path in (book / "notebooks").iterdir()} == before
    assert "01_one: edited since it was executed" in capsys.readouterr().out


def test_staging_says_what_pages_must_know(book, monkeypatch):
    (book / "data" / "paper.json").write_text(json.dumps({"evidence": {"blog": "a post"}}))
    (book / "book" / "game.md").write_text("# Game\n\n<!-- generated: evidence -->\n")
    stage_book(book)
    staged = book / "_build" / "staged"
    facts = json.loads((staged / "press.json").read_text())
    assert facts["evidence"] == {"blog": {"means": "a post"}}
    assert facts["told_on"] == "book/game"
    assert '<li id="evidence-blog">' in (staged / "book" / "game.md").read_text()


@pytest.mark.parametrize(
    ("commit", "words"),
    [
        ("0123456789", "Version 0.2, commit 0123456"),
        ("0123456789+changes", "Version 0.2, commit 0123456, changed since"),
        ("", "Version 0.2"),
    ],
)
def test_an_edition_is_a_version_and_a_commit(book, monkeypatch, commit, words):
    (book / "pyproject.toml").write_text('[project]\nversion = "0.2"\n')
    monkeypatch.setattr(fingerprint, "commit", lambda: commit)
    assert edition(book) == words
    (book / "pyproject.toml").unlink()
    assert edition(book) == words.removeprefix("Version 0.2").removeprefix(", ")


def test_a_claim_is_made_once(book):
    with pytest.raises(PressError, match="claim 'works': made more than once"):
        stage_book(book, marked({"text/plain": "t"}, claim=CLAIM))


def test_a_notebook_that_make_did_not_execute_is_refused(book):
    folder = book / "executed"
    folder.mkdir()
    (folder / "01_one.ipynb").write_text(text_of(notebook("x", "1")))
    with pytest.raises(PressError, match="01_one: what is in"):
        stage(book, folder, book / "_build" / "staged")


def test_a_chapter_counts_what_it_shows_and_leaves_what_computes_out(tmp_path):
    drawn = marked({"image/svg+xml": "<svg/>"}, figure={"caption": "A line.", "alt": "A line that rises."})
    live = {"text/html": "<figure></figure>", "application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    outputs = [drawn, marked(live, frames={"caption": "c"}), marked({"text/html": "<table></table>"}, table={})]
    staged, _ = stage_chapter(executed(*outputs), "01_one", tmp_path)
    assert "| shows | 2 figures, 1 tables, 0 claims |" in staged.cells[-1].source
    assert "application/vnd.jupyter.widget-view+json" not in text_of(staged)
