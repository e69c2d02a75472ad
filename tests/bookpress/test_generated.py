from pathlib import Path

import pytest
from nbformat import NotebookNode

from bookpress import generated
from bookpress.claims import registered_claims
from bookpress.files import PressError

ROOT = Path(__file__).parents[2]


def claim(name, verdict="supported", low=0.1):
    return {
        "id": name,
        "chapter": "05_x",
        "statement": f"{name} <is> so.",
        "value": 0.25,
        "unit": "share",
        "tolerance": 0.0005,
        "kind": "rate",
        "test": "at_least",
        "bound": 0.2,
        "verdict": verdict,
        "low": low,
        "n": 20,
        "n_of": "people",
        "clean_error": None,
        "high": 0.5,
    }


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([], "not tested"),
        (["not supported", "not supported"], "not reproduced"),
        (["not supported", "inconclusive"], "undecided"),
        (["supported", "not supported"], "reproduced in part"),
        (["supported", "inconclusive"], "reproduced in part"),
        (["supported", "supported"], "reproduced"),
    ],
)
def test_a_finding_is_what_its_claims_make_of_it(found, word):
    assert generated.outcome([claim("a", each) for each in found]) == word


def test_claims_are_counted_and_so_are_the_wrong_verdicts_to_expect():
    made = [claim(str(number)) for number in range(80)] + [claim("b", "inconclusive"), claim("c") | {"kind": "fact"}]
    said = generated.counts(made)
    assert "82 claims: 1 facts, 81 rates and 0 differences" in said
    assert "80 are supported, 0 not supported and 1 inconclusive" in said
    assert "Each of the 80 that were decided" in said
    assert "up to 2 of them" in said


def test_findings_stand_beside_links_to_the_claims_that_bear_on_them():
    finding = {"statement": "A & B", "evidence": "blog", "claims": ["a", "b", "c"]}
    ours, tags = {"a": claim("a"), "b": claim("b", "inconclusive")}, {"blog": {"means": "a post", "address": "x.html"}}
    page = generated.beside([finding], ours, {"a", "b", "c"}, tags)
    assert 'A &amp; B [<a href="x.html" title="a post">blog</a>]' in page
    assert '<a href="../notebooks/05_x.html#claim-a">a &lt;is&gt; so.</a> 25.0 %: <span' in page
    assert 'so.</a> 25.0 %: <span class="verdict verdict-inconclusive">inconclusive</span>' in page
    assert "<td>reproduced in part</td>" in page


def test_a_finding_with_an_unknown_claim_is_refused():
    with pytest.raises(PressError, match="there is no claim 'typo'"):
        generated.beside([{"statement": "A", "evidence": "blog", "claims": ["typo"]}], {}, {"a"}, {})


def test_the_summary_answers_questions_with_claims_and_leaves_out_what_was_not_made():
    questions = {"Does it?": ["b", "a"], "And now?": ["gone"]}
    made = {"a": claim("a"), "b": claim("b", "inconclusive") | {"low": None, "high": None, "clean_error": 0.05}}
    heading, _, before, second, first, after = generated.summary(questions, made, {"a", "b", "gone"}).split("\n")[:6]
    assert (heading, before, after) == ("## Does it?", "<ul>", "</ul>")
    assert second.startswith("<li>b &lt;is&gt; so. <strong>25.0&nbsp;%</strong> (20 people; clean error 5.0&nbsp;%) <a")
    assert first.startswith(
        "<li>a &lt;is&gt; so. <strong>25.0&nbsp;%</strong> (10.0&nbsp;% to 50.0&nbsp;%; 20 people) <a"
    )
    assert 'class="verdict verdict-supported" href="../notebooks/05_x.html#claim-a"' in first
    assert "And now?" not in generated.summary(questions, made, {"a", "b", "gone"})


def test_a_summary_with_an_unknown_claim_is_refused(tmp_path):
    (tmp_path / "summary.toml").write_text('"Does it?" = ["typo"]\n', encoding="utf-8")
    with pytest.raises(PressError, match=r"summary.toml: 'Does it\?': there is no claim 'typo'"):
        generated.summary(generated.chosen(tmp_path), {}, {"a"})


def test_the_books_summary_names_registered_claims_and_none_twice():
    names = [name for each in generated.chosen(ROOT / "book").values() for name in each]
    assert len(names) == len(set(names))
    assert set(names) <= set(registered_claims())


def test_times_are_added_up():
    run = NotebookNode(seconds=60.0, device="cpu", date="2026-01-02T03:04")
    card = {"seconds": 5.0, "device": "cpu", "versions": {"torch": "2.9"}, "commit": "0123456789", "command": "make x"}
    page = generated.times({"1 Faces": run, "2 More": run}, {"poison": card})
    assert page.count("<caption>") == 2
    assert '<th scope="row">all chapters, added up</th><td>2 min 00 s</td>' in page
    assert "<code>0123456</code>" in page
    assert "2026-01-02<" in page


def test_a_time_says_what_was_kept_and_what_ran_beside_it():
    run = NotebookNode(seconds=60.4, device="CPU (x86_64)", date="2026-01-02T03:04")
    assert generated.took(run) == "1 min 00 s"
    assert generated.hardware(run) == "CPU (x86_64)"
    run |= {"kept": {"a": 90.0, "b": 30.0}, "processor": "Some CPU", "at_once": 2}
    assert generated.took(run) == "1 min 00 s (results kept from before once took 2 min 00 s)"
    assert generated.hardware(run) == "Some CPU, beside another chapter"
    total = generated.times({"1 Faces": run, "2 More": run}, {})
    assert "<td>2 min 01 s (results kept from before once took 4 min 00 s)</td>" in total


def test_the_first_page_draws_the_claims_that_have_a_label(tmp_path):
    lines = generated.front_figure(tmp_path, [claim("a"), claim("b")], {"b": "Second", "gone": "Gone"})
    assert "Second: 25 %, at least 20 % is supported." in lines
    assert "Gone" not in lines
    assert "<svg" in (tmp_path / "front.svg").read_text()
    header, row = (tmp_path / "front.csv").read_text().splitlines()
    assert header.startswith(",value,low,high,n")
    assert row.startswith("Second,")
    assert row.endswith(",b")
    with pytest.raises(PressError, match="claim 'a': is no rate"):
        generated.front([claim("a", low=None)], {"a": "First"})


def test_a_page_gets_what_it_asks_for_and_nothing_else_is_made(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- generated: one -->\nafter\n")
    generated.fill(page, {"one": lambda: "a \\1 part", "two": lambda: pytest.fail("nobody asked")})
    assert page.read_text() == "Before\na \\1 part\nafter\n"
    page.write_text("<!-- generated: three -->\n")
    with pytest.raises(PressError, match="asks for generated 'three'"):
        generated.fill(page, {"one": lambda: ""})
