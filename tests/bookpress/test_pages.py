import json
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from pybtex.database import Entry, Person

from bookpress import pages

LONG = "This is a sentence that is long enough to say what a page is about. "
EVIDENCE = {"blog": {"means": "a post"}, "code": {"means": "the code", "address": "https://example.org/code"}}


def page_of(text):
    return publish_doctree(text, settings_overrides={"doctitle_xform": False})


@pytest.fixture
def app(tmp_path):
    """As much of Sphinx as the extension asks for, with the facts that ``stage`` leaves."""
    facts = {"edition": "Version 1, commit abc", "evidence": EVIDENCE, "told_on": "book/game"}
    (tmp_path / pages.FACTS).write_text(json.dumps(facts))
    builder = SimpleNamespace(get_relative_uri=lambda start, to: f"../{to}.html")
    config = SimpleNamespace(root_doc="book/intro")
    return SimpleNamespace(confdir=tmp_path, outdir=tmp_path, builder=builder, config=config, env=SimpleNamespace())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Short  and\nplain.", "Short and plain."),
        ("As shown [Shan et al., 2020; Li, 2021b], it works [blog].", "As shown, it works [blog]."),
        (LONG * 4, (LONG * 2).strip()),
        ("word " * 60, ("word " * 39).strip() + "…"),
    ],
)
def test_a_description_ends_with_a_sentence_or_a_word(text, said):
    assert pages.shortened(text) == said
    assert len(said) <= pages.LONGEST


def test_a_page_is_described_by_its_first_paragraph_outside_boxes():
    box = f"Title\n=====\n\n.. note::\n\n   In a box. {LONG}\n\n"
    assert pages.description(page_of(f"{box}Short.\n\nOutside. {LONG}")) == f"Outside. {LONG}".strip()
    assert pages.description(page_of(box)) == f"In a box. {LONG}".strip()
    assert pages.description(page_of("Title\n=====\n\nShort.\n")) == ""


def test_a_head_says_what_a_page_is_once():
    said = pages.metatags("<em>One</em> &amp; two", 'A "word".', "book")
    assert '<meta property="og:title" content="One &amp; two" />' in said
    assert '<meta property="og:type" content="book" />' in said
    assert '<meta name="description" content="A &quot;word&quot;." />' in said
    own = '<meta content="Own." name="description" />'
    assert pages.metatags("One", "Other.", "article", own).count('name="description"') == 1
    assert "description" not in pages.metatags("One", "", "article")


def script(filename, **attributes):
    return SimpleNamespace(filename=filename, attributes=attributes)


@pytest.mark.parametrize(("text", "left"), [("Without any.", ["page.js"]), ("With :math:`x^2`.", None)])
def test_mathjax_is_only_where_there_is_mathematics(app, text, left):
    scripts = [script("mathjax/tex.js"), script(None, body="window.MathJax = {}"), script("page.js")]
    context = {"title": "One", "docstitle": "Book", "script_files": scripts[:]}
    pages.complete(app, "book/intro", "page.html", context, page_of(f"Title\n=====\n\n{LONG}{text}"))
    names = [each.filename for each in context["script_files"]]
    assert names == (left or ["mathjax/tex.js", None, "page.js"])
    assert context["edition"] == "Version 1, commit abc"
    assert 'content="book"' in context["metatags"]


@pytest.mark.parametrize(
    ("page", "title", "words"),
    [(None, None, "Search: Book"), (page_of("Short."), "A &amp; <i>B</i>", "A &amp; B: Book")],
)
def test_a_page_without_a_paragraph_is_described_too(app, page, title, words):
    context = {"title": title, "docstitle": "Book", "script_files": []}
    pages.complete(app, "search", "search.html", context, page)
    assert f'<meta name="description" content="{words}" />' in context["metatags"]


def links(app, text):
    page = page_of(f"Title [blog]\n============\n\n{text}")
    pages.link_sources(app, page, "notebooks/one")
    return page, {each.astext(): each["refuri"] for each in page.findall(nodes.reference)}


def test_tags_and_numbers_of_papers_lead_to_their_sources(app):
    page, found = links(app, "Said [blog], read [code], both [blog, code], in arXiv:2106.14851.")
    assert found == {
        "blog": "../book/game.html#evidence-blog",
        "code": "https://example.org/code",
        "arXiv:2106.14851": "https://arxiv.org/abs/2106.14851",
    }
    assert "Said [blog], read [code], both [blog, code], in arXiv:2106.14851." in page.astext()
    assert [each["reftitle"] for each in page.findall(nodes.reference) if "reftitle" in each][:2] == [
        "a post",
        "the code",
    ]


@pytest.mark.parametrize(
    "text", ["``[blog]``", "::\n\n   [blog]", "`[blog] <https://example.org>`_", "[blogs] and [code, x]"]
)
def test_code_links_and_other_words_stay(app, text):
    page, found = links(app, text)
    assert "blog" not in found
    assert "[blog" in page.astext() or "[code, x]" in page.astext()


def test_a_caption_of_a_table_is_text_too(app):
    page = page_of("Text.")
    page += nodes.raw("", '<table title="[blog]"><caption>Said [blog].</caption><td>[blog]</td></table>', format="html")
    pages.link_sources(app, page, "notebooks/one")
    link = '<a href="../book/game.html#evidence-blog" title="a post">blog</a>'
    assert page[-1].astext() == f'<table title="[blog]"><caption>Said [{link}].</caption><td>[blog]</td></table>'


def test_a_book_without_evidence_has_no_tags(app, tmp_path):
    (tmp_path / pages.FACTS).write_text(json.dumps({"edition": "", "evidence": {}, "told_on": ""}))
    assert links(app, "Said [blog].")[1] == {}


def test_search_knows_words_but_neither_code_nor_cells(app, tmp_path):
    page = page_of("One\n===\n\nSome *words*.\n\n::\n\n   secret()\n\nTwo\n---\n\nMore.\n\n- An item\n")
    table = "<div><table><caption>A caption</caption><tbody><tr><td>cell</td></tr></tbody></table><p>a &lt; b</p></div>"
    first = next(page.findall(nodes.section))
    first.insert(2, nodes.raw("", table, format="html"))
    badge = nodes.paragraph(
        "", "", nodes.Text("Held"), nodes.raw("", '<a title="why >">', format="html"), nodes.Text(".")
    )
    first.insert(3, badge)
    pages.keep_texts(app, page, "book/one")
    pages.write_texts(app, None)
    written = (tmp_path / "texts.js").read_text()
    assert written.startswith("const PAGE_TEXTS = ")
    found = json.loads(written.removeprefix("const PAGE_TEXTS = ").rstrip(";\n"))
    assert found == {"book/one": [["one", "One", "Some words. A caption a < b Held."], ["two", "Two", "More. An item"]]}


def test_a_build_that_failed_leaves_no_texts(app, tmp_path):
    pages.write_texts(app, ValueError("no"))
    assert not (tmp_path / "texts.js").exists()


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["Welch, B. L."], "Welch, 1947"),
        (["Bahadur, R. R.", "{van der} Savage, Leonard"], "Bahadur and van der Savage, 1947"),
        (["Shan, Shawn", "Wenger, Emily", "Zhao, Ben Y."], "Shan et al., 1947"),
    ],
)
def test_references_are_named_as_the_text_cites_them(names, label):
    entry = Entry("article", fields={"year": "1947"}, persons={"author": [Person(name) for name in names]})
    assert pages.author_year(entry) == label
