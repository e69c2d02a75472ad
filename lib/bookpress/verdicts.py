"""Prose takes its verbs from verdicts: sentences name the verdicts that they rest on, and the build compares.

A sentence of a page or a chapter ends with ``<!-- verdicts: CLAIM = WORD; CLAIM = WORD -->``. The site shows each as a
link to its claim, in the colour of what this run found. Where claims are registered, a word that is not the claim's
verdict fails the build: the sentence has to be read again.

A verdict that nobody stops at takes little room: the claims of a cell stand as rows, each with its verdict, and open
into their cards. Only headlines and surprises are cards from the start.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from bookpress.claims import shown
from bookpress.files import PressError

MARK = re.compile(r"\s*<!-- verdicts: (.*?) -->", re.DOTALL)
NONE = "none"
"""What stands in a mark where a sentence rests on no claim: a definition, say."""


def css(verdict: str) -> str:
    """A verdict as part of the name of a class."""
    return verdict.replace(" ", "-")


def named(text: str) -> Iterator[tuple[str, str]]:
    """Claims and verdicts that a text names, in its order.

    Raises:
        PressError: a mark is not of the form.
    """
    for mark in MARK.findall(text):
        for part in mark.split(";"):
            claim, equals, word = (piece.strip() for piece in part.partition("="))
            if claim == NONE and not equals:
                continue
            if not equals or not word:
                raise PressError(f"verdicts: '{part.strip()}': write it as CLAIM = WORD")
            yield claim, word


def badge(claim: Mapping[str, Any], folder: str | None = None) -> str:
    """A claim's verdict as HTML, a link to it where ``folder`` says where its chapter lies, seen from the page."""
    words = f'class="verdict verdict-{css(claim["verdict"])}"'
    if folder is None:
        return f"<span {words}>{claim['verdict']}</span>"
    link, about = f"{folder}{claim['chapter']}.html#claim-{claim['id']}", html.escape(claim["statement"], quote=True)
    return f'<a {words} href="{link}" title="{about}">{claim["verdict"]}</a>'


def stands_out(claim: Mapping[str, Any]) -> bool:
    """Whether a claim is a headline of the first page, or a surprise: refuted, or other than what is registered."""
    surprise = claim["verdict"] == "not supported" or claim.get("changed") or claim.get("agrees") is False
    return bool(claim.get("front") or surprise)


def row(claim: Mapping[str, Any], card: str) -> str:
    """A claim as a row of HTML, statement, value with interval, and verdict, that opens into its card."""
    value, *ends = (
        shown(claim[key], claim["unit"], claim["tolerance"], claim["kind"])
        for key in ("value", "low", "high")
        if claim.get(key) is not None
    )
    interval = f" <small>{' to '.join(ends)}</small>" if ends else ""
    return (
        f'<details class="claim-row"><summary><span class="claim-said">{html.escape(claim["statement"])}</span> '
        f'<span class="claim-number">{value}{interval}</span> {badge(claim)}</summary>{card}</details>'
    )


_CARD = re.compile(r'<section class="claim [^"]*" id="claim-([^"]+)"')


def grouped(outputs: Sequence[NotebookNode], claims: Mapping[str, Mapping[str, Any]]) -> list[NotebookNode]:
    """The outputs of a cell, with every run of claims as a group of rows and of the cards that stand out.

    Args:
        outputs: As staged: a claim is a card.
        claims: Those of the run by id.
    """
    found: list[NotebookNode] = []
    group: list[tuple[Mapping[str, Any], str]] = []

    def close() -> None:
        parts = (card if stands_out(claim) else row(claim, card) for claim, card in group)
        if group:
            data = {"text/html": f'<div class="claims">{"".join(parts)}</div>'}
            found.append(nbformat.v4.new_output("display_data", data))
        group.clear()

    for output in outputs:
        words = output.get("data", {}).get("text/html", "")
        if card := _CARD.match(words):
            group.append((claims[html.unescape(card[1])], words))
        else:
            close()
            found.append(output)
    close()
    return found


def filled(text: str, claims: Mapping[str, Mapping[str, Any]], folder: str, where: str) -> tuple[str, list[str]]:
    """A text with its marks replaced by links to claims, and what is wrong with them, one line each.

    Args:
        text: Markdown.
        claims: Those of the run by id.
        folder: Where chapters lie, as seen from the page.
        where: The page's name, for the lines.
    """
    wrong = []
    for name, word in named(text):
        if name not in claims:
            wrong.append(f"{where}: names the claim '{name}', which this run does not make")
        elif claims[name]["verdict"] != word:
            wrong.append(f"{where}: says that '{name}' is {word}; it is {claims[name]['verdict']}")

    def shown(mark: re.Match[str]) -> str:
        found = [badge(claims[name], folder) for name, _ in named(mark[0]) if name in claims]
        return f" {' '.join(found)}" if found else ""

    return MARK.sub(shown, text), wrong


def fill(staged: Path, claims: Sequence[Mapping[str, Any]]) -> None:
    """Put links to claims into all staged pages and chapters that name verdicts, and make groups of claims.

    Raises:
        PressError: at the registered setting, a verdict that is named is not the claim's, or there is no such claim.
    """
    known = {claim["id"]: claim for claim in claims}
    wrong: list[str] = []
    for path in sorted((staged / "book").glob("*.md")):
        text, found = filled(path.read_text(encoding="utf-8"), known, "../notebooks/", path.stem)
        path.write_text(text, encoding="utf-8")
        wrong += found
    for path in sorted((staged / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown" and MARK.search(cell.source):
                cell.source, found = filled(cell.source, known, "", path.stem)
                wrong += found
            elif cell.cell_type == "code":
                cell.outputs = grouped(cell.outputs, known)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    if wrong and all(claim.get("registered") for claim in claims):
        more = "read each sentence again and mend it, or the verdict that it names"
        raise PressError("\n  ".join(["prose and verdicts differ:", *wrong, more]))
    for line in wrong:
        print(f"{line} (this is not the registered setting)", flush=True)
