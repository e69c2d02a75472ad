"""What pages get while Sphinx writes them, as its extension: descriptions, links of evidence tags, texts to search.

The configuration names this module under ``extensions``; what it cannot know, ``stage`` leaves beside the pages.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as Plain
from pybtex.style.labels import BaseLabelStyle

from bookpress import evidence

if TYPE_CHECKING:
    from pybtex.database import Entry
    from sphinx.application import Sphinx
    from sphinx.builders.html._assets import _JavaScript

FACTS = "press.json"
"""What ``stage`` says of the book: ``edition``; ``evidence``, tag to ``means`` and perhaps ``address``; ``told_on``."""
LONGEST = 200
"""Characters of a description; search engines and messengers cut it about there."""
SHORTEST = 40
CITATION = re.compile(r"\s*\[[^\]]*\b(?:19|20)\d\d[a-z]?\]")
TAG = re.compile(r"""<(?:"[^"]*"|'[^']*'|[^'">])*>""")
CAPTION = re.compile(r"(?<=<caption>)[^<]*")
NO_LINKS = (nodes.literal, nodes.literal_block, nodes.title, nodes.reference, nodes.raw, nodes.math, nodes.math_block)
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def shortened(text: str) -> str:
    """A text without citations, cut after a sentence, or else after a word, to at most LONGEST characters."""
    whole = " ".join(CITATION.sub("", text).split())
    if len(whole) <= LONGEST:
        return whole
    end = max((place.end() for place in re.finditer(r"[.?!](?= )", whole[: LONGEST + 1])), default=0)
    return whole[:end] if end >= SHORTEST else whole[: LONGEST - 1].rsplit(" ", 1)[0] + "…"


def plain(node: nodes.Node) -> str:
    """The words of a node without the tags of what is HTML in it."""
    if isinstance(node, nodes.raw):
        return html.unescape(TAG.sub("", node.astext()))
    if not any(node.findall(nodes.raw)):
        return str(node.astext())  # a signature puts its brackets in by itself
    return "".join(map(plain, node.children))


def description(page: nodes.document) -> str:
    """What a page is about: its first paragraph outside boxes that is long enough, else one in a box, if any."""
    found = [each for each in page.findall(nodes.paragraph) if len(plain(each)) >= SHORTEST]
    outside = [each for each in found if isinstance(each.parent, nodes.section)]
    return shortened(plain((outside or found)[0])) if found else ""


def metatags(title: str, about: str, kind: str, given: str = "") -> str:
    """The tags of a page's head that search engines and messengers read.

    Args:
        title: Of the page, as HTML.
        about: Its description; none is written where it is empty.
        kind: What Open Graph calls it, ``book`` or ``article``.
        given: Tags that the page's own front matter made, which stay and are not said twice.
    """
    plain = html.unescape(TAG.sub("", title))
    said = {"og:title": plain, "og:type": kind, "og:description": about, "description": about}
    made = [
        f'<meta {"property" if name.startswith("og:") else "name"}="{name}" content="{html.escape(content)}" />'
        for name, content in said.items()
        if content and f'"{name}"' not in given
    ]
    return "\n".join([*filter(None, [given]), *made])


def facts(app: Sphinx) -> dict[str, Any]:
    """What ``stage`` left beside the pages."""
    return dict(json.loads((Path(app.confdir) / FACTS).read_text(encoding="utf-8")))


def complete(app: Sphinx, name: str, template: str, context: dict[str, Any], page: nodes.document | None) -> None:
    """Give a page its description and edition, and take MathJax off it where it has no mathematics.

    Sphinx keeps MathJax on a page whose sub-pages need it, which the first page's are all.
    """
    title = context.get("title") or "Search"
    about = (description(page) if page else "") or html.unescape(TAG.sub("", f"{title}: {context['docstitle']}"))
    kind = "book" if name == app.config.root_doc else "article"
    context["metatags"] = metatags(title, about, kind, context.get("metatags", ""))
    context["edition"] = facts(app)["edition"]
    if page is None or not any(page.findall(lambda node: isinstance(node, nodes.math | nodes.math_block))):
        context["script_files"][:] = [each for each in context["script_files"] if not _of_mathjax(each)]


def _of_mathjax(script: _JavaScript) -> bool:
    """Whether a script is MathJax or its configuration."""
    return "mathjax" in str(script.filename) or "window.MathJax" in script.attributes.get("body", "")


def link_sources(app: Sphinx, page: nodes.document, name: str) -> None:
    """Turn evidence tags and arXiv numbers in the text of a page into links to what they name.

    A tag without an address leads to the place that says what it means.
    """
    said = facts(app)
    told = f"{app.builder.get_relative_uri(name, said['told_on'])}#evidence-" if said["told_on"] else ""
    tags = {tag: {"address": f"{told}{tag}"} | source for tag, source in said["evidence"].items()}
    for text in list(page.findall(nodes.Text)):
        if _is_prose(text):
            made = list(_linked(str(text), tags))
            if len(made) > 1:
                text.parent.replace(text, made)
    for raw in page.findall(nodes.raw):
        text = CAPTION.sub(lambda found: evidence.linked(found[0], tags), raw.astext())
        if text != raw.astext():
            raw.children = [nodes.Text(text)]


def _is_prose(text: nodes.Text) -> bool:
    """Whether words stand where a link may: not in code, a heading, or a link."""
    node = text.parent
    while node is not None:
        if isinstance(node, NO_LINKS):
            return False
        node = node.parent
    return True


def _linked(text: str, tags: Mapping[str, Mapping[str, str]]) -> Iterator[nodes.Node]:
    """The pieces of a text, links among them."""
    start = 0
    places = [*evidence.pattern(tags).finditer(text), *ARXIV.finditer(text)]
    for place in sorted(places, key=lambda found: found.start()):
        yield nodes.Text(text[start : place.start()])
        start = place.end()
        if place[0].startswith("arXiv"):
            yield nodes.reference("", place[0], refuri=f"https://arxiv.org/abs/{place[1]}", internal=False)
            continue
        for number, tag in enumerate(place[0][1:-1].split(", ")):
            yield nodes.Text(", " if number else "[")
            address, means = tags[tag]["address"], tags[tag]["means"]
            yield nodes.reference("", tag, refuri=address, internal="://" not in address, reftitle=means)
        yield nodes.Text("]")
    yield nodes.Text(text[start:])


def sections(page: nodes.document) -> Iterator[tuple[str, str, str]]:
    """What search finds on a page: anchor, heading and words of each section, without code and tables of results."""
    for section in page.findall(nodes.section):
        words: list[str] = []
        heading = ""
        for node in section.children:
            if isinstance(node, nodes.title):
                heading = node.astext()
            elif not isinstance(node, nodes.section):
                words += _words(node)
        yield section["ids"][0], heading, " ".join(" ".join(words).split())


def _words(node: nodes.Node) -> Iterator[str]:
    """The words of a node, piece by piece."""
    if isinstance(node, nodes.literal_block | nodes.math_block | nodes.comment):
        return
    if isinstance(node, nodes.raw):
        text = node.astext() if "html" in node.get("format", "") else ""
        text = re.sub(r"<(script|style|svg|thead|tbody|dl)\b.*?</\1>", " ", text, flags=re.DOTALL)
        yield html.unescape(TAG.sub(" ", text))  # what is beside one another is not one word
    elif isinstance(node, nodes.TextElement | nodes.Text):
        yield plain(node)
    else:
        for child in node.children:
            yield from _words(child)


def keep_texts(app: Sphinx, page: nodes.document, name: str) -> None:
    """Note what search finds on a page."""
    app.env.__dict__.setdefault("bookpress_texts", {})[name] = list(sections(page))


def write_texts(app: Sphinx, failure: Exception | None) -> None:
    """Write the words of all pages as a script for the search page, which works where nothing can be fetched."""
    if failure is None:
        texts = json.dumps(getattr(app.env, "bookpress_texts", {}), ensure_ascii=False, separators=(",", ":"))
        (Path(app.outdir) / "texts.js").write_text(f"const PAGE_TEXTS = {texts};\n", encoding="utf-8")


def author_year(entry: Entry) -> str:
    """The label of an entry of the bibliography, as the text cites it: one name, two or the first of many; year."""
    people = [" ".join([*person.prelast_names, *person.last_names]) for person in entry.persons["author"]]
    names = [re.sub(r"[{}]", "", each) for each in people]
    who = " and ".join(names) if len(names) <= 2 else f"{names[0]} et al."
    return f"{who}, {entry.fields['year']}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter all this into Sphinx, which calls it."""
    labels = type("Labels", (BaseLabelStyle,), {"format_labels": lambda _, entries: map(author_year, entries)})
    register_plugin("pybtex.style.labels", "author_year", labels)
    style = type("Style", (Plain,), {"default_label_style": "author_year"})
    register_plugin("pybtex.style.formatting", "author_year", style)
    app.connect("doctree-resolved", link_sources)
    app.connect("doctree-resolved", keep_texts, priority=600)
    app.connect("html-page-context", complete, priority=900)
    app.connect("build-finished", write_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
