"""The site that ``make book`` built, beyond what ``bookpress check`` looks at."""

import json
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from bookpress import build, chapters, evidence
from bookpress.claims import registered_claims

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
CHAPTERS = chapters.chapters(ROOT)
PAGES = chapters.pages(ROOT)
FIELDS = {
    *(
        "id",
        "chapter",
        "statement",
        "value",
        "n",
        "low",
        "high",
        "clean_error",
        "kind",
        "verdict",
        "explained",
        "profile",
    ),
    *("profile", "dataset", "seed", "device", "versions", "seconds", "source"),
}


def page_of(path):
    return BeautifulSoup((SITE / path.relative_to(ROOT)).with_suffix(".html").read_text(), "html.parser")


def test_the_site_is_sound():
    assert build.check_built(ROOT).startswith("the site is sound")


def test_every_claim_is_recorded_with_all_that_belongs_to_it():
    claims = json.loads((ROOT / "_build" / "claims.json").read_text())
    assert claims
    for claim in claims:
        assert set(claim) >= FIELDS, claim["id"]
        assert claim["source"] in ("computed here", "shipped")
        assert claim["kind"] in ("fact", "rate", "difference")
        assert claim["verdict"] in ("supported", "not supported", "inconclusive")
        assert claim["kind"] == "fact" or claim["low"] <= claim["value"] <= claim["high"]
        assert claim["n"] > 0
    assert claims == json.loads((SITE / "claims.json").read_text())
    if all(claim["registered"] for claim in claims):
        assert {claim["id"] for claim in claims} == set(registered_claims())


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_says_what_it_ran_on_and_can_be_downloaded(path):
    page = page_of(path)
    rows = dict(tuple(cell.get_text() for cell in row.find_all("td")) for row in page.select(".ran-on tbody tr"))
    assert {"profile", "dataset", "seed", "device", "libraries", "time", "date"} <= set(rows)
    link = page.find("a", href=lambda address: address and address.endswith(path.name))
    assert (SITE / path.parent.name / link["href"]).resolve().read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_shows_figures_and_no_warnings(path):
    page = page_of(path)
    assert page.select("article figure img")
    assert not page.select(".stderr")


def test_search_knows_every_page_and_its_words():
    index, texts = (SITE / "searchindex.js").read_text(), (SITE / "texts.js").read_text()
    for name in PAGES:
        assert f'"{name}"' in index
        assert f'"{name}":[["' in texts
    assert len(texts.encode()) < 400_000
    assert "<a " not in texts
    loaders = [path.name for path in SITE.rglob("*.html") if "texts.js" in path.read_text()]
    assert loaders == ["search.html"]


@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_a_page_paints_within_two_seconds_of_a_slow_line(name):
    path = SITE / f"{name}.html"
    page = BeautifulSoup(path.read_text(), "html.parser")
    sheets = [(path.parent / link["href"]).resolve() for link in page.find_all("link", rel="stylesheet")]
    assert len(sheets) == 1
    assert not page.head.find_all("script", src=True)
    assert not page.head.find_all("link", rel="preload")
    # the page and its sheet share the line, and each is asked for once: 200 KB/s, 150 ms
    assert 2 * sheets[0].stat().st_size / 200_000 + 2 * 0.15 < 2


@pytest.mark.parametrize("name", PAGES)
def test_mathjax_is_loaded_where_there_is_mathematics(name):
    page = BeautifulSoup((SITE / f"{name}.html").read_text(), "html.parser")
    loads = any("mathjax" in str(script.get("src")) for script in page.find_all("script"))
    assert loads == bool(page.select("article .math"))


def test_icons_are_drawn_and_no_font_is_there():
    assert not [path for path in SITE.rglob("*") if path.suffix in (".woff2", ".ttf", ".map")]
    (sheet,) = (SITE / "_static").glob("site-*.css")
    drawn = set(re.findall(r"\.(fa-[a-z-]+)\b[^{}]*\{ ?--icon", sheet.read_text()))
    used = set()
    for path in SITE.rglob("*.html"):
        for words in re.findall(r'class="[^"]*\b(?:fas|fa-solid) ([^"]*)"', path.read_text()):
            used |= {word for word in words.split() if word.startswith("fa-")} - {"fa-lg"}
    assert used
    assert used <= drawn


def test_paper_has_margins():
    (sheet,) = (SITE / "_static").glob("site-*.css")
    assert re.search(r"@page \{ ?margin: ?\d+mm", sheet.read_text())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_is_and_of_which_edition(name):
    page = BeautifulSoup((SITE / f"{name}.html").read_text(), "html.parser")
    said = {tag.get("name") or tag.get("property"): tag.get("content") for tag in page.find_all("meta")}
    assert 40 <= len(said["description"]) <= 200
    assert said["og:description"] == said["description"]
    assert said["og:title"] == page.find("h1").get_text().rstrip("#")
    assert said["og:type"] == ("book" if name == PAGES[0] else "article")
    assert page.find("link", rel="canonical") is None
    assert re.match(r"Version \d+\.\d+", page.select_one(".component-edition").get_text())


@pytest.mark.parametrize("name", PAGES)
def test_evidence_tags_lead_to_their_sources(name):
    page = BeautifulSoup((SITE / f"{name}.html").read_text(), "html.parser")
    for tag in page.select("article :is(pre, code, a, [id^=evidence-])"):
        tag.decompose()
    tags = "|".join(evidence.known(ROOT))
    assert not re.findall(rf"\[(?:{tags})(?:, (?:{tags}))*\]", page.select_one("article").get_text())


def test_every_tag_has_a_place_that_says_what_it_means():
    page = BeautifulSoup((SITE / "book" / "the_game.html").read_text(), "html.parser")
    linked = {link.get_text(): link["href"] for link in page.select("article p a[title]")}
    for name, tag in evidence.known(ROOT).items():
        assert tag["means"] in page.find(id=f"evidence-{name}").get_text()
        assert linked.get(name, "") in ("", tag.get("address", f"#evidence-{name}"), f"the_game.html#evidence-{name}")
    assert "blog" in linked


def test_references_are_named_by_author_and_year():
    page = BeautifulSoup((SITE / "book" / "references.html").read_text(), "html.parser")
    labels = [label.get_text() for label in page.select(".citation .label")]
    assert "[Radiya-Dixit et al., 2022]" in labels
    names = [re.split(r"[ ,]", label.lower())[0] for label in labels]
    assert names == sorted(names)
    assert page.select_one('.citation a[href="https://arxiv.org/abs/2106.14851"]')
