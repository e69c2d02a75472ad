"""Puts executed chapters and prose together under ``_build/staged`` as Jupyter Book wants them.

A chapter marks what it displays through the metadata of the output: ``claim`` (the record of a claim), ``figure``
(``caption``, ``alt`` and perhaps ``csv`` of a picture), ``table`` (``caption`` of an HTML table) or ``frames`` (of a
slider). Here these become a card, a figure, a captioned table and a slider of the page.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode as Notebook

import fingerprint
from bookpress import chapters as ch
from bookpress import evidence, generated, verdicts
from bookpress.chapters import text_of
from bookpress.claims import registered_claims, registered_setting, shown
from bookpress.files import PressError
from bookpress.progress import duration

Claim = dict[str, Any]
PAGE_VERSIONS = ("python", "torch", "torchvision", "numpy", "scipy", "timm", "facenet-pytorch")
READING = re.compile(r"(\*\*Time:\*\* \d+ minutes to read)\.")
"""How the head of a chapter ends; what running it took is known when it has run."""
ENDINGS = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}


def card(claim: Mapping[str, Any]) -> str:
    """A claim as HTML: statement, value with interval, n, clean error, where it was computed, verdict."""

    def number(key: str) -> str:
        return shown(claim[key], claim["unit"], claim["tolerance"], claim["kind"])

    rows = [("measured", number("value"))]
    if claim.get("low") is not None:
        rows.append(("95 % interval", f"{number('low')} to {number('high')}"))
    elif claim["kind"] != "fact":
        rows.append(("95 % interval", "none of so few"))
    rows.append(("n", f"{claim['n']} {claim.get('n_of', '')}".strip()))
    if claim.get("n_each", 1) > 1:
        rows.append(("decides among", str(claim["n_each"])))
    if claim.get("clean_error") is not None:
        rows.append(("clean error", number("clean_error")))
    rows += [("kind", claim["kind"]), ("source", str(claim.get("source", "computed here")))]
    verdict = claim["verdict"].capitalize()
    if claim.get("explained") and claim["verdict"] != "supported":
        verdict += f": {claim['explained']}"
    if claim.get("after"):
        verdict += f". Written afterwards: {claim['after']}"
    if claim.get("agrees") is False:
        verdict += f" (registered value {number('registered_value')}, outside its tolerance)"
    cells = "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in rows)
    kind = f'class="claim claim-{verdicts.css(claim["verdict"])}" id="claim-{html.escape(claim["id"])}"'
    return (
        f'<section {kind} aria-label="Claim">'
        f'<p class="claim-statement">{html.escape(claim["statement"])}</p><dl>{cells}</dl>'
        f'<p class="claim-verdict">{html.escape(verdict)}</p></section>'
    )


ELSEWHERE = (
    "```{admonition} Not the book's own run\n:class: warning\n"
    "This page ran on other pictures, or at another setting, than the book's own: the table at its foot says on which. "
    "Figures, tables, claims and verdicts are this run's, unless they are marked *shipped*. Sentences that say what "
    "came out speak of the book's own run.\n```"
)
"""What a chapter says under its head where it ran at another than the registered setting."""


def markdown(text: str) -> Notebook:
    """An output that is rendered as Markdown, directives included."""
    return nbformat.v4.new_output("display_data", {"text/markdown": text})


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())


def figure(output: Notebook, name: str, folder: Path) -> Notebook:
    """A picture with caption and alternative text as a figure of the page; the picture goes into ``folder``."""
    said = output.metadata["figure"]
    kind = next(kind for kind in ENDINGS if kind in output.data)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.{ENDINGS[kind]}"
    content = output.data[kind]
    file.write_bytes(content.encode() if kind == "image/svg+xml" else base64.b64decode(content))
    caption = one_line(said.get("caption", ""))
    if "csv" in said:
        file.with_suffix(".csv").write_text(said["csv"])
        caption += f" {{download}}`Numbers (CSV) <{folder.name}/{name}.csv>`"
    return markdown(
        f"`````{{figure}} {folder.name}/{file.name}\n:name: fig-{said.get('name', name)}\n"
        f":alt: {one_line(said.get('alt', ''))}\n\n{caption}\n`````\n"
    )


def table(output: Notebook) -> Notebook:
    """An HTML table, which brings its caption, in a box that scrolls where the page is narrow."""
    name = html.escape(one_line(output.metadata["table"].get("caption", "")))
    box = f'<div class="table-box" role="region" tabindex="0" aria-label="{name}">{output.data["text/html"]}</div>'
    return nbformat.v4.new_output("display_data", {"text/html": box})


def ran_on(recorded: Notebook, shows: Mapping[str, int]) -> Notebook:
    """The cell at the end of a chapter that says what it ran on, how long and when, and how much of what it shows."""
    versions = [f"{name} {recorded.versions[name]}" for name in PAGE_VERSIONS if name in recorded.versions]
    first = ("profile", "dataset", "seed")
    names = sorted(recorded.parameters, key=lambda name: (name not in first, first.index(name) if name in first else 0))
    rows = {
        **{name: recorded.parameters[name] for name in names},
        "device": recorded.device,
        "processor": generated.hardware(recorded),
        "libraries": ", ".join(versions),
        "time": generated.took(recorded),
        "date": recorded.date[:10],
        "shows": ", ".join(f"{count} {what}" for what, count in shows.items()),
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    text = f"````{{admonition}} What this page ran on\n:class: ran-on\n\n| | |\n|---|---|\n{lines}\n````"
    return nbformat.v4.new_markdown_cell(text, id="what-this-page-ran-on")


def with_time(text: str, recorded: Notebook) -> str:
    """A chapter's text whose head says, after how long it is to read, how long it ran here and on what."""
    ran = f"ran in {duration(recorded.seconds)} on {generated.hardware(recorded)}{generated.kept(recorded)}"
    return READING.sub(lambda found: f"{found[1]}; {ran}.", text)


def stage_chapter(executed: Notebook, chapter: str, figures: Path) -> tuple[Notebook, list[Claim]]:
    """An executed chapter as the site shows it, and its claims as ``claims.json`` records them.

    Args:
        executed: The chapter with its outputs.
        chapter: Its name without ending.
        figures: Folder that its pictures are written to.
    """
    recorded = executed.metadata["bookpress"]
    common = {name: recorded.parameters.get(name) for name in ("profile", "dataset", "seed")}
    common |= {
        "device": recorded.device,
        "versions": {name: recorded.versions[name] for name in PAGE_VERSIONS if name in recorded.versions},
    }
    claims: list[Claim] = []
    cells: list[Notebook] = []
    shows = dict.fromkeys(("figures", "tables", "claims"), 0)
    for cell in executed.cells:
        if "injected-parameters" in ch.tags(cell):
            continue
        for place, output in enumerate(cell.get("outputs", [])):
            marks = output.get("metadata", {})
            if "claim" in marks:
                shows["claims"] += 1
                claims.append({"chapter": chapter, **common, **marks["claim"]})
                cell.outputs[place] = nbformat.v4.new_output("display_data", {"text/html": card(claims[-1])})
            elif "figure" in marks:
                shows["figures"] += 1
                cell.outputs[place] = figure(output, f"{chapter}-{shows['figures']}".replace("_", "-"), figures)
            elif "table" in marks:
                shows["tables"] += 1
                cell.outputs[place] = table(output)
            elif "frames" in marks:
                shows["figures"] += 1
                # on the page there is no kernel that could compute
                cell.outputs[place] = nbformat.v4.new_output("display_data", {"text/html": output.data["text/html"]})
        if cell.cell_type == "markdown":
            cell.source = with_time(cell.source, recorded)
        cell.metadata.pop("papermill", None)
        cells.append(cell)
    usual = registered_setting().items() <= recorded.parameters.items() and not recorded.parameters.get("extractors")
    if not usual:
        cells.insert(1, nbformat.v4.new_markdown_cell(ELSEWHERE, id="not-the-books-own-run"))
    metadata = {"kernelspec": executed.metadata.kernelspec, "language_info": executed.metadata.language_info}
    staged = nbformat.v4.new_notebook(cells=[*cells, ran_on(recorded, shows)], metadata=metadata)
    return staged, claims


def stage(root: Path, executed: Path, staged: Path) -> list[Claim]:
    """Write everything that the site is made of into a fresh folder.

    Args:
        root: Top of the book.
        executed: Folder of the executed chapters.
        staged: The folder to make.

    Returns:
        The claims of all chapters.

    Raises:
        PressError: a chapter was not executed, a claim is made twice, or prose names a verdict that is not the claim's.
    """
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, staged)
    shutil.copytree(root / "book", staged / "book")
    _copy_mathjax(staged / "book" / "assets" / "mathjax")
    claims: list[Claim] = []
    runs: dict[str, Notebook] = {}
    for source in ch.chapters(root):
        if not (executed / source.name).is_file():
            raise PressError(f"{source.stem}: not executed in {executed}: run make execute (or make book) first")
        chapter = ch.read(executed / source.name)
        if "bookpress" not in chapter.metadata:
            raise PressError(f"{source.stem}: what is in {executed} was not executed by make: run make execute")
        if chapter.metadata.bookpress.prints.text != ch.text_print(ch.read(source)):
            print(f"{source.stem}: edited since it was executed; the page shows it as it ran", flush=True)
        place = staged / source.relative_to(root)
        notebook, said = stage_chapter(chapter, source.stem, place.parent / "pictures")
        place.parent.mkdir(exist_ok=True)
        place.write_text(text_of(notebook))
        claims += said
        runs[ch.title(chapter)] = chapter.metadata.bookpress
    names = [claim["id"] for claim in claims]
    for name in names:
        if names.count(name) > 1:
            raise PressError(f"claim '{name}': made more than once: make it in one place")
    facts = {"edition": edition(root), "evidence": evidence.known(root), "told_on": _told_on(staged)}
    (staged / "press.json").write_text(json.dumps(facts))
    _fill_pages(root, staged / "book", claims, runs)
    verdicts.fill(staged, claims)
    return claims


def edition(root: Path) -> str:
    """Version of the book, and the commit that it was built at, as far as either is known here."""
    project = root / "pyproject.toml"
    version = tomllib.loads(project.read_text())["project"]["version"] if project.is_file() else ""
    commit, changed = fingerprint.commit().partition("+")[::2]
    said = (version and f"Version {version}", commit and f"commit {commit[:7]}", changed and "changed since")
    return ", ".join(filter(None, said))


def _told_on(staged: Path) -> str:
    """The page that says what evidence tags mean, as Sphinx names it; empty where none does."""
    pages = sorted((staged / "book").glob("*.md"))
    found = [page for page in pages if "<!-- generated: evidence -->" in page.read_text()]
    return f"book/{found[0].stem}" if found else ""


def _copy_mathjax(folder: Path) -> None:
    """Put MathJax from its package beside the book's own files, so that pages need no network."""
    script = distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax/tex-svg-full.js")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(str(script), folder)


def _fill_pages(root: Path, pages: Path, claims: list[Claim], runs: Mapping[str, Notebook]) -> None:
    """Write what the pages of prose say of the run itself."""
    made = {claim["id"]: claim for claim in claims}

    def beside() -> str:
        told = f"{_told_on(root)}.html#evidence-".removeprefix("book/")
        tags = {name: {"address": f"{told}{name}"} | tag for name, tag in evidence.known(root).items()}
        return generated.beside(generated.findings(root), made, registered_claims(root / "data" / "claims.toml"), tags)

    def summary() -> str:
        return generated.summary(generated.chosen(pages), made, registered_claims(root / "data" / "claims.toml"))

    def front() -> str:
        registered = registered_claims(root / "data" / "claims.toml")
        labels = {name: entry.front for name, entry in registered.items() if entry.front}
        return generated.front_figure(pages, claims, labels)

    parts = {
        "beside": beside,
        "counts": lambda: generated.counts(claims),
        "summary": summary,
        "times": lambda: generated.times(runs, generated.studies(root)),
        "front": front,
        "evidence": lambda: evidence.as_list(evidence.known(root)),
    }
    for page in sorted(pages.glob("*.md")):
        generated.fill(page, parts)
