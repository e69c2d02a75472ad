import pytest

from bookpress import check

HEAD = '<html><head><link rel="stylesheet" href="book.css"></head><body><article class="bd-article">'
FIGURE = '<figure><img src="a.png" alt="A line that rises to the right"><figcaption>A line.</figcaption></figure>'
RAN_ON = '<div class="ran-on"><table><tr><td>shows</td><td>2 figures, 0 tables</td></tr></table></div>'
CLAIM = {"id": "works", "chapter": "one", "statement": "It works."}
CARD = '<section id="claim-works"><p>It\nworks.</p></section>'


@pytest.fixture
def problems(tmp_path):
    """What the checks say of a site of two pages, the first of which has the given content."""
    site = tmp_path / "site"
    site.mkdir()

    def of(content=FIGURE, *, claims=(), css="p { color: red }", pages=("one", "two")):
        (site / "a.png").write_bytes(b"x")
        (site / "book.css").write_text(css)
        (site / "one.html").write_text(f"{HEAD}{content}</article></body></html>")
        (site / "two.html").write_text(f'{HEAD}<p id="place">text</p></article></body></html>')
        return check.problems(site, list(pages), list(claims), tmp_path / "somewhere")

    return of


def test_a_sound_site_has_no_problems(problems):
    links = (
        '<a href="two.html#place">a</a><a href="https://example.org">b</a><a href="#">c</a><a href="mailto:a@b.c">d</a>'
    )
    assert problems(FIGURE + links + CARD, claims=[CLAIM]) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('<a href="three.html">x</a>', "one.html: links to three.html, which is not there"),
        ('<a href="two.html#nowhere">x</a>', "one.html: links to two.html#nowhere, but that page has no such place"),
        ('<a href="#nowhere">x</a>', "links to #nowhere"),
        ('<a href="file:///a">x</a>', "links to file:///a"),
        ('<script src="https://cdn.example.org/x.js"></script>', "loads https://cdn.example.org/x.js from the network"),
        ('<script src="//cdn.example.org/x.js"></script>', "from the network"),
        ('<script>load("https://unpkg.com/thebe/index.js")</script>', "may load https://unpkg.com/thebe/index.js"),
        ('<script src="lost.js"></script>', "loads lost.js, which is not there"),
        (FIGURE.replace("A line that rises to the right", "A line"), "alternative text of at least 20 characters"),
        (FIGURE.replace("A line that rises to the right", "../_images/0123456789.png"), "alternative text"),
        (FIGURE.replace("A line.", " "), "a.png: has no caption"),
        ('<img src="a.png" alt="A line that rises to the right">', "a.png: has no caption"),
        ('<div class="table-box"><table><tr><td>1</td></tr></table></div>', "table '1': has no caption"),
        (FIGURE + RAN_ON, "shows 1 figures, but the chapter made 2"),
        ("<pre>Traceback (most recent call last)</pre>", "shows a traceback"),
        ("<p>see /" + "home/someone/x</p>", "names a place on this machine"),
        ("<p>'/" + "tmp/x'</p>", "names a place on this machine"),
    ],
)
def test_each_fault_is_found(problems, content, words):
    found = problems(content)
    assert len(found) == 1
    assert words in found[0]


def test_the_places_of_this_book_and_of_its_owner_are_found(problems, tmp_path):
    assert "names a place" in problems(f"<p>{tmp_path}/somewhere/data</p>")[0]


def test_words_that_only_look_like_places_are_passed_over(problems):
    assert problems("<p>at home/work, ./tmp/x, https://example.org/home/x, data/work/a</p>") == []


def test_pages_and_claims_must_be_there(problems):
    assert problems(pages=("one", "three")) == ["three: the page is missing"]
    assert problems(claims=[CLAIM]) == ["one.html: claim 'works' is not on the page"]
    assert problems(CARD.replace("works.", "fails."), claims=[CLAIM]) == ["one.html: claim 'works' is not on the page"]
    assert problems(claims=[CLAIM | {"chapter": "four"}]) == ["four: has claims but no page"]


def test_styles_may_not_ask_the_network(problems):
    assert "fonts.example.org" in problems(css="@import 'https://fonts.example.org/a.css';")[0]
    assert "fonts.example.org" in problems(css="a { src: url(//fonts.example.org/a.woff) }")[0]


def test_a_heavy_site_is_refused(problems, monkeypatch):
    monkeypatch.setattr(check, "LARGEST", 100)
    assert "the site weighs" in problems()[0]
