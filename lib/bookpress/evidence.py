"""Evidence tags: what ``[blog]`` and the like mean behind a number, and where they lead."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

from bookpress.files import PressError


def known(root: Path) -> dict[str, dict[str, str]]:
    """Evidence tags from ``data/paper.json``: what each ``means`` and, where it has one, its ``address``.

    Raises:
        PressError: there is an address of a tag that there is not.
    """
    path = root / "data" / "paper.json"
    if not path.is_file():
        return {}
    paper = json.loads(path.read_text())
    addresses = paper.get("addresses", {})
    for name in addresses:
        if name not in paper["evidence"]:
            raise PressError(f"paper.json: address of '{name}', which is no tag under evidence: add it there")
    return {
        name: {"means": means} | ({"address": addresses[name]} if name in addresses else {})
        for name, means in paper["evidence"].items()
    }


def as_list(tags: Mapping[str, Mapping[str, str]]) -> str:
    """What evidence tags stand for, as an HTML list that links to their sources and can be linked to, tag by tag."""

    def source(tag: Mapping[str, str]) -> str:
        means, address = html.escape(tag["means"]), html.escape(tag.get("address", ""))
        return f'<a class="reference external" href="{address}">{means}</a>' if address else means

    items = (f'<li id="evidence-{name}"><b>[{name}]</b> {source(tag)}</li>' for name, tag in tags.items())
    return f"<ul>{''.join(items)}</ul>"


def tagged(name: str, tags: Mapping[str, Mapping[str, str]]) -> str:
    """An evidence tag in brackets, as an HTML link to its ``address`` where ``tags`` knows one."""
    if "address" not in tags.get(name, {}):
        return f"[{html.escape(name)}]"
    address, means = (html.escape(tags[name][part]) for part in ("address", "means"))
    return f'[<a href="{address}" title="{means}">{html.escape(name)}</a>]'


def pattern(tags: Mapping[str, Mapping[str, str]]) -> re.Pattern[str]:
    """Finds evidence tags in a text, one or several in one pair of brackets; nothing where there are no tags."""
    word = "|".join(map(re.escape, tags)) or "(?!)"
    return re.compile(rf"\[(?:{word})(?:, (?:{word}))*\]")


def linked(text: str, tags: Mapping[str, Mapping[str, str]]) -> str:
    """HTML without tags of its own, in which evidence tags became links."""

    def links(place: re.Match[str]) -> str:
        return f"[{', '.join(tagged(name, tags)[1:-1] for name in place[0][1:-1].split(', '))}]"

    return pattern(tags).sub(links, text)
