import pytest

from bookpress import weight

KNOWN = frozenset({"used", "lead-", "place", "p"})


@pytest.mark.parametrize(
    ("css", "left"),
    [
        (".used { color: red }", ".used{color: red}"),
        (".lost { color: red }", ""),
        (".used, .lost { color: red }", ".used{color: red}"),
        (".used .lost a { color: red }", ""),
        ("#place { color: red } #nowhere { color: red }", "#place{color: red}"),
        ("p > a::before { content: '.lost' }", 'p > a::before{content: ".lost"}'),
        (".used:not(.lost) { color: red }", ".used:not(.lost){color: red}"),
        (":is(.lost, .used) { color: red }", ":is(.lost, .used){color: red}"),
        (".lead-in { color: red }", ".lead-in{color: red}"),
        ("a { width: 1.5em }", "a{width: 1.5em}"),
        ("/* .lost */ a { /* why */ color: red;\n  width: 1em }", "a{color: red; width: 1em}"),
        ("@media print { .used { color: red } .lost { color: red } }", "@media print{.used{color: red}}"),
        ("@media print { .lost { color: red } }", ""),
        (
            "@media print { @supports (display: grid) { .used { top: 0 } } }",
            "@media print{@supports (display: grid){.used{top: 0}}}",
        ),
        ("@keyframes lost { from { top: 0 } }", "@keyframes lost{from { top: 0 }}"),
        ("@page { margin: 1cm }", "@page {margin: 1cm}"),
        ('@charset "utf-8"; a { top: 0 }', "a{top: 0}"),
    ],
)
def test_only_rules_that_may_apply_are_left(css, left):
    assert weight.pruned(css, KNOWN) == left


def test_names_count_wherever_they_are_written():
    known = weight.words(['<p class="one two-three">', "box.classList.add(`four-${side}`)"])
    assert known >= {"one", "two-three", "four-", "add"}


@pytest.mark.parametrize(
    ("address", "new"),
    [
        ("url(a.png)", "url(styles/a.png)"),
        ("url('../fonts/a.woff2')", "url('fonts/a.woff2')"),
        ("url(data:image/svg+xml,x)", "url(data:image/svg+xml,x)"),
        ("url(#mark)", "url(#mark)"),
    ],
)
def test_addresses_are_right_from_the_new_place(address, new):
    assert weight.moved(f"a {{ background: {address} }}", "/site/styles", "/site") == f"a {{ background: {new} }}"


@pytest.fixture
def site(tmp_path):
    """A site of two pages in different folders that load the same two style sheets, one of which imports a third."""
    static = tmp_path / "_static"
    (static / "styles").mkdir(parents=True)
    (static / "vendor").mkdir()
    (static / "vendor" / "icons.js").write_text("const name = 'lost';")
    (static / "styles" / "theme.css").write_text("@import '../basic.css';\n.used { background: url(a.png) }")
    (static / "basic.css").write_text(".base { top: 0 }")
    (static / "book.css").write_text(".late { top: 0 } .lost { top: 0 }")
    (static / "book.css.map").write_text("{}")
    (static / "page.js").write_text("element.className = 'late';")
    (tmp_path / "deep").mkdir()
    for page, up in (("index.html", ""), ("deep/page.html", "../")):
        links = "".join(
            f'<link href="{up}_static/{name}?v=1" rel="stylesheet" />\n' for name in ("styles/theme.css", "book.css")
        )
        (tmp_path / page).write_text(f'<head>{links}<link rel="icon" href="x.svg"></head><p class="used base">')
    (tmp_path / "plain.html").write_text("<p>no style")
    return tmp_path


def test_pages_load_one_sheet_and_what_none_loads_is_gone(site):
    weight.lighten(site)
    (sheet,) = (site / "_static").rglob("*.css")
    assert sheet.read_text() == ".base{top: 0}.used{background: url(styles/a.png)}.late{top: 0}"
    assert (site / "index.html").read_text().count("stylesheet") == 1
    assert f'<link rel="stylesheet" href="_static/{sheet.name}">' in (site / "index.html").read_text()
    assert f'<link rel="stylesheet" href="../_static/{sheet.name}">' in (site / "deep" / "page.html").read_text()
    assert '<link rel="icon" href="x.svg">' in (site / "index.html").read_text()
    assert (site / "plain.html").read_text() == "<p>no style"
    assert not [*site.rglob("*.map"), *site.rglob("vendor")]


def test_pages_with_other_sheets_get_their_own(site):
    other = site / "deep" / "page.html"
    other.write_text('<head><link rel="stylesheet" href="../_static/book.css"></head>')
    weight.lighten(site)
    assert len(list((site / "_static").rglob("*.css"))) == 2
    assert "site-" in other.read_text()
