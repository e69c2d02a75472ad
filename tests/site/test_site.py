"""The site that ``make book`` built, beyond what ``bookpress check`` looks at."""

import json
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from bookpress import build, chapters
from bookpress.claims import registered_claims

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
CHAPTERS = chapters.chapters(ROOT)
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


def test_search_knows_every_page():
    index = (SITE / "searchindex.js").read_text()
    for name in chapters.pages(ROOT):
        assert f'"{name}"' in index
