import pytest
from nbformat import NotebookNode

from bookpress import generated
from bookpress.files import PressError


def claim(name, holds=True, low=0.1):
    return {
        "id": name,
        "chapter": "05_x",
        "statement": f"{name} <is> so.",
        "value": 0.25,
        "unit": "share",
        "tolerance": 0.0005,
        "holds": holds,
        "low": low,
        "n": 20,
        "clean_error": None,
        "high": 0.5,
    }


@pytest.mark.parametrize(
    ("held", "word"),
    [([], "not tested"), ([0, 0], "not reproduced"), ([1, 0], "reproduced in part"), ([1, 1], "reproduced")],
)
def test_a_finding_is_what_its_claims_make_of_it(held, word):
    assert generated.outcome([claim("a", bool(each)) for each in held]) == word


def test_findings_stand_beside_links_to_the_claims_that_bear_on_them():
    finding = {"statement": "A & B", "evidence": "blog", "claims": ["a", "b", "c"]}
    page = generated.beside([finding], {"a": claim("a"), "b": claim("b", holds=False)}, {"a", "b", "c"})
    assert "A &amp; B [blog]" in page
    assert '<a href="../notebooks/05_x.html#claim-a">a &lt;is&gt; so.</a> 25.0 %: holds' in page
    assert "b &lt;is&gt; so.</a> 25.0 %: does not hold" in page
    assert "<td>reproduced in part</td>" in page


def test_a_finding_with_an_unknown_claim_is_refused():
    with pytest.raises(PressError, match="there is no claim 'typo'"):
        generated.beside([{"statement": "A", "evidence": "blog", "claims": ["typo"]}], {}, {"a"})


def test_times_are_added_up():
    run = NotebookNode(seconds=60.0, device="cpu", date="2026-01-02T03:04")
    card = {"seconds": 5.0, "device": "cpu", "versions": {"torch": "2.9"}, "commit": "0123456789", "command": "make x"}
    page = generated.times({"1 Faces": run, "2 More": run}, {"poison": card})
    assert page.count("<caption>") == 2
    assert "all chapters" in page
    assert "<code>0123456</code>" in page
    assert "2026-01-02<" in page


def test_the_first_page_draws_the_claims_that_have_a_label(tmp_path):
    lines = generated.front_figure(tmp_path, [claim("a"), claim("b")], {"b": "Second", "gone": "Gone"})
    assert "Second: 25 %." in lines
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
