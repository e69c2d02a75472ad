"""Makes a built site light: one style sheet of the rules that its pages can use, and no file that none of them loads.

Names of classes are not looked up where they are used but as words anywhere in pages and scripts, so that what a script
puts together or puts in later is kept too.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import tinycss2

import fingerprint

SHEET = re.compile(r'\s*<link\b[^>]*\brel="stylesheet"[^>]*>')
ADDRESS = re.compile(r'\bhref="([^"?]*)')
WORD = re.compile(r"[\w-]+")
LOCAL = re.compile(r"""url\(\s*(["']?)(?!data:|#|/|[a-z]+:)([^"')]+)\1\s*\)""")
IMPORT = re.compile(r"""@import\s+(?:url\()?\s*["']?(?![a-z]+:|/)([^"')\s]+)["']?\s*\)?\s*;""")
GROUPS = ("media", "supports", "layer", "container")
"""Rules that hold other rules."""


def words(texts: Iterable[str]) -> frozenset[str]:
    """Everything in pages and scripts that may be the name of a class; ``x-`` stands for all that begin so."""
    return frozenset(word for text in texts for word in WORD.findall(text))


def pruned(css: str, known: Collection[str]) -> str:
    """A style sheet without comments, spare room, and the rules whose classes and ids are not ``known``."""
    begins = tuple(word for word in known if len(word) > 2 and word.endswith("-") and word.strip("-"))
    return "".join(_rules(tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True), known, begins))


def _rules(rules: Iterable[Any], known: Collection[str], begins: tuple[str, ...]) -> Iterator[str]:
    """The rules that may apply, as text."""
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = [each for each in _split(rule.prelude) if _applies(each, known, begins)]
            if selectors:
                yield f"{','.join(_text(each) for each in selectors)}{{{_text(rule.content)}}}"
        elif rule.type == "at-rule" and rule.at_keyword in GROUPS and rule.content is not None:
            inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            kept = "".join(_rules(inner, known, begins))
            if kept:
                yield f"@{rule.at_keyword} {_text(rule.prelude)}{{{kept}}}"
        elif rule.type == "at-rule" and rule.at_keyword != "charset":
            yield f"@{rule.at_keyword} {_text(rule.prelude)}" + (f"{{{_text(rule.content)}}}" if rule.content else ";")


def _split(tokens: Iterable[Any]) -> Iterator[list[Any]]:
    """Selectors between the commas of a list of them."""
    part: list[Any] = []
    for token in tokens:
        if token.type == "literal" and token.value == ",":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _applies(selector: Iterable[Any], known: Collection[str], begins: tuple[str, ...]) -> bool:
    """Whether every class and id that a selector names is known; what stands in brackets is passed over."""
    before = None
    for token in selector:
        is_name = token.type == "hash" or (token.type == "ident" and before == ".")
        if is_name and token.value not in known and not token.value.startswith(begins):
            return False
        before = token.value if token.type == "literal" else None
    return True


def _text(tokens: Iterable[Any]) -> str:
    """Tokens as text on one line."""
    kept = [token for token in tokens if token.type != "comment"]
    return re.sub(r"\s+", " ", tinycss2.serialize(kept)).strip()


def moved(css: str, start: str, end: str) -> str:
    """A style sheet of the folder ``start`` whose relative addresses are right when it lies in the folder ``end``."""

    def new(found: re.Match[str]) -> str:
        return f"url({found[1]}{posixpath.relpath(posixpath.join(start, found[2]), end)}{found[1]})"

    return LOCAL.sub(new, css)


def whole(sheet: Path, end: Path) -> str:
    """A style sheet with those that it imports in their places, as it reads in the folder ``end``."""
    pieces = IMPORT.split(sheet.read_text(encoding="utf-8"))
    for place in range(0, len(pieces), 2):
        pieces[place] = moved(pieces[place], sheet.parent.as_posix(), end.as_posix())
    for place in range(1, len(pieces), 2):
        pieces[place] = whole((sheet.parent / pieces[place]).resolve(), end)
    return "".join(pieces)


def lighten(site: Path) -> None:
    """Put the style sheets of all pages into one and let go of what none loads: those sheets, icon fonts, source maps.

    Scripts of MathJax make no elements of the page's own, so that their words do not count.
    """
    site = site.resolve()
    shutil.rmtree(site / "_static" / "vendor", ignore_errors=True)
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    scripts = [path for path in site.rglob("*.js") if "mathjax" not in path.parts and path.name != "searchindex.js"]
    known = words([*pages.values(), *(path.read_text(encoding="utf-8") for path in scripts)])
    made: dict[tuple[Path, ...], Path] = {}
    for page, text in pages.items():
        links = SHEET.findall(text)
        sheets = tuple((page.parent / address).resolve() for link in links for address in ADDRESS.findall(link))
        if not sheets:
            continue
        if sheets not in made:
            static = site / "_static"
            rules = "".join(pruned(whole(sheet, static), known) for sheet in sheets)
            made[sheets] = static / f"site-{fingerprint.of_text(rules)[:8]}.css"
            made[sheets].write_text(rules, encoding="utf-8")
        address = posixpath.relpath(made[sheets].as_posix(), page.parent.as_posix())
        first, rest = text[: text.index(links[0])], text[text.index(links[0]) :]
        page.write_text(f'{first}\n<link rel="stylesheet" href="{address}">{SHEET.sub("", rest)}', encoding="utf-8")
    for path in [*site.rglob("*.css"), *site.rglob("*.map")]:
        if path not in made.values():
            path.unlink()
