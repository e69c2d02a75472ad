"""Checks of a built site: everything is there, nothing comes from the network, nothing tells of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

MACHINE = re.compile(r"(?<![\w.~/:-])/(?:home|root|work|tmp|mnt|srv|Users|private|scratch)/[\w.]")
REMOTE = re.compile(r"^(?:https?:)?//", re.IGNORECASE)
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
LOADED_RELATIONS = {"stylesheet", "icon", "shortcut", "preload", "modulepreload", "prefetch", "preconnect", "manifest"}
LARGEST = 30_000_000
MAIN = "article.bd-article"


def words(tag: Tag | None) -> str:
    """The text of an element with single spaces."""
    return " ".join(tag.get_text(" ").split()) if tag else ""


def loaded(page: BeautifulSoup) -> Iterator[str]:
    """Addresses of everything that a page loads without being asked."""
    for name, attribute in LOADED.items():
        for tag in page.find_all(name):
            if tag.get(attribute):
                yield str(tag[attribute])
    for tag in page.find_all("link", href=True):
        if LOADED_RELATIONS & set(tag.get("rel") or []):
            yield str(tag["href"])


def of_resources(page: BeautifulSoup, path: Path) -> Iterator[str]:
    """Problems of what a page loads."""
    for address in loaded(page):
        if REMOTE.match(address):
            yield f"loads {address} from the network"
        elif not address.startswith("data:") and not (path.parent / unquote(urlsplit(address).path)).is_file():
            yield f"loads {address}, which is not there"
    for script in page.find_all("script", src=False):
        for address in re.findall(r"https?://[^\s\"']+\.(?:m?js|css|woff2?)\b", script.string or ""):
            yield f"may load {address} from the network"


def of_links(page: BeautifulSoup, path: Path, anchors: dict[Path, set[str]]) -> Iterator[str]:
    """Problems of a page's links to pages and anchors of the book."""
    for tag in page.find_all("a", href=True):
        address = urlsplit(str(tag["href"]))
        if address.scheme in ("http", "https", "mailto") or address.netloc or tag["href"] == "#":
            continue
        target = (path.parent / unquote(address.path)).resolve() if address.path else path
        if address.scheme or not target.is_file():
            yield f"links to {tag['href']}, which is not there"
        elif address.fragment and target in anchors and unquote(address.fragment) not in anchors[target]:
            yield f"links to {tag['href']}, but that page has no such place"


def of_figures(page: BeautifulSoup) -> Iterator[str]:
    """Problems of the pictures and result tables in the text of a page."""
    for image in page.select(f"{MAIN} img"):
        name = str(image.get("src"))[-60:]
        alt = " ".join(str(image.get("alt") or "").split())
        if len(alt) < 20 or alt.endswith((".png", ".svg", ".jpg")):
            yield f"picture {name}: alternative text of at least 20 characters is missing (it says '{alt}')"
        holder = image.find_parent("figure")
        if not words(holder.find("figcaption") if holder else None):
            yield f"picture {name}: has no caption"
    for table in page.select(f"{MAIN} .table-box table"):
        if not words(table.find("caption")):
            yield f"table '{words(table)[:40]}': has no caption"


def of_counts(page: BeautifulSoup) -> Iterator[str]:
    """Figures, tables and claims that a chapter made and its page does not show."""
    rows = {words(row.find("td")): words(row.find_all("td")[-1]) for row in page.select(f"{MAIN} .ran-on tr:has(td)")}
    there = {"figures": "figure", "tables": ".table-box table", "claims": ".claim"}
    for count, what in re.findall(r"(\d+) (\w+)", rows.get("shows", "")):
        found = len(page.select(f"{MAIN} {there[what]}"))
        if found != int(count):
            yield f"shows {found} {what}, but the chapter made {count}"


def of_claims(page: BeautifulSoup, claims: list[dict[str, Any]]) -> Iterator[str]:
    """Claims that a page should show and does not."""
    for claim in claims:
        shown = words(page.find(id=f"claim-{claim['id']}"))
        if " ".join(claim["statement"].split()) not in shown:
            yield f"claim '{claim['id']}' is not on the page"


def problems(site: Path, names: list[str], claims: list[dict[str, Any]], root: Path) -> list[str]:
    """Everything that is wrong with a site, one line each; an empty list for a sound one.

    Args:
        site: The folder of the built site.
        names: All pages of the book, without endings.
        claims: The records of ``claims.json``.
        root: Top of the book, whose place must not show.
    """
    site = site.resolve()
    found = [f"{name}: the page is missing" for name in names if not (site / f"{name}.html").is_file()]
    parse = partial(BeautifulSoup, features="html.parser")
    parsed = {path: parse(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    anchors = {
        path: {str(tag.get("id") or tag.get("name")) for tag in page.find_all(True)} for path, page in parsed.items()
    }
    for path, page in parsed.items():
        name = path.relative_to(site).as_posix()
        said = [*of_resources(page, path), *of_links(page, path, anchors), *of_figures(page), *of_counts(page)]
        stem = path.stem
        said += of_claims(page, [claim for claim in claims if claim["chapter"] == stem])
        if "Traceback (most recent call last)" in page.get_text():
            said.append("shows a traceback")
        found += [f"{name}: {line}" for line in said]
    missing = {claim["chapter"] for claim in claims} - {path.stem for path in parsed}
    found += [f"{chapter}: has claims but no page" for chapter in sorted(missing)]
    own = {str(root.resolve()), str(Path.home())} - {"/"}
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".ipynb", ".md", ".txt", ".json") or path.name == "searchindex.js":
            text = path.read_text(encoding="utf-8")
            place = MACHINE.search(text)
            spot = place.start() if place else max(text.find(f"{name}/") for name in own)
            if spot >= 0:
                found.append(f"{path.relative_to(site)}: names a place on this machine: {text[spot : spot + 60]!r}")
        elif path.suffix == ".css":
            for address in re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", path.read_text()):
                found.append(f"{path.relative_to(site)}: loads {address} from the network")
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    if size > LARGEST:
        found.append(f"the site weighs {size / 1e6:.0f} MB; the limit is {LARGEST / 1e6:.0f} MB")
    return found
