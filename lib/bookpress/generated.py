"""What pages say of the run itself: the paper's findings beside ours, the main numbers, times, the first page's figure.

A page asks for one of these with a line ``<!-- generated: NAME -->``.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from nbformat import NotebookNode
from nbformat import NotebookNode as Notebook

from bookpress import evidence, verdicts
from bookpress.claims import shown
from bookpress.files import PressError
from bookpress.progress import duration

PLACE = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
FRONT = ("value", "low", "high", "n", "clean_error", "test", "bound", "verdict", "id")
"""What of a claim goes into the CSV behind the first page's figure."""
COLOURS = {"supported": "#005a9c", "inconclusive": "#8a5a00", "not supported": "#a8321a"}
"""Of verdicts in that figure, each dark enough to be read as text on white."""


def outcome(claims: Sequence[Mapping[str, Any]]) -> str:
    """What became of a finding of the paper, by the verdicts on the claims of ours that bear on it."""
    found = {claim["verdict"] for claim in claims}
    if not found:
        return "not tested"
    if found == {"supported"}:
        return "reproduced"
    if "supported" in found:
        return "reproduced in part"
    return "undecided" if "inconclusive" in found else "not reproduced"


def counts(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims there are by kind and verdict, and how many wrong verdicts to expect, as two sentences.

    A 95 % interval leaves 2.5 % on either side: that often at most, a verdict other than inconclusive lies on the wrong
    side of its bound.
    """
    kinds = Counter(claim["kind"] for claim in claims)
    judged = [claim for claim in claims if claim["kind"] != "fact"]
    found = Counter(claim["verdict"] for claim in judged)
    decided = len(judged) - found["inconclusive"]
    return (
        f"This site makes {len(claims)} claims: {kinds['fact']} facts, {kinds['rate']} rates and {kinds['difference']} "
        f"differences. Of the rates and differences {found['supported']} are supported, {found['not supported']} not "
        f"supported and {found['inconclusive']} inconclusive. Each of the {decided} that were decided is wrong with a "
        f"chance of at most one in forty, so that up to {decided / 40:.0f} of them must be expected to be. (A claim "
        "about each of several is supported wrongly more rarely, and refuted wrongly more often; claims about the same "
        "people are wrong together.)"
    )


def html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a caption in a box that scrolls where the page is narrow; cells are HTML."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for first, *cells in rows
    )
    label = html.escape(caption)
    return (
        f'<div class="table-box" role="region" tabindex="0" aria-label="{label}"><table><caption>{label}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def beside(
    findings: Sequence[Mapping[str, Any]],
    claims: Mapping[str, Mapping[str, Any]],
    registered: Container[str],
    tags: Mapping[str, Mapping[str, str]],
) -> str:
    """The paper's findings beside the claims of this run, as an HTML table.

    Args:
        findings: Statement, evidence, and the ids of the claims that bear on it.
        claims: The claims of the run by id; a run on other pictures may not make them all.
        registered: The ids of all claims of the book.
        tags: What evidence tags mean and where they lead, see ``evidence.known``.

    Raises:
        PressError: a finding names a claim that is not registered.
    """

    def told(claim: Mapping[str, Any]) -> str:
        link = f"../notebooks/{claim['chapter']}.html#claim-{claim['id']}"
        value = shown(claim["value"], claim["unit"], claim["tolerance"], claim["kind"])
        return f'<li><a href="{link}">{html.escape(claim["statement"])}</a> {value}: {verdicts.badge(claim)}</li>'

    rows = []
    for finding in findings:
        ours = _made(finding["claims"], claims, registered, f"paper.json: finding '{finding['statement']}'")
        cells = "<ul>" + "".join(map(told, ours)) + "</ul>" if ours else "not asked"
        said = f"{html.escape(finding['statement'])} {evidence.tagged(finding['evidence'], tags)}"
        rows.append((said, outcome(ours), cells))
    return html_table("The paper's findings and ours.", ("the paper", "here", "our claims"), rows)


def _made(
    names: Sequence[str], claims: Mapping[str, Mapping[str, Any]], registered: Container[str], where: str
) -> list[Mapping[str, Any]]:
    """Those of some named claims that the run made.

    Raises:
        PressError: one is not registered; the line begins with ``where``.
    """
    for name in names:
        if name not in registered:
            raise PressError(f"{where}: there is no claim '{name}'")
    return [claims[name] for name in names if name in claims]


def chosen(pages: Path) -> dict[str, list[str]]:
    """The claims of the summary by the question that they answer, from ``summary.toml`` beside the pages."""
    return tomllib.loads((pages / "summary.toml").read_text(encoding="utf-8"))


def summary(
    questions: Mapping[str, Sequence[str]], claims: Mapping[str, Mapping[str, Any]], registered: Container[str]
) -> str:
    """The main numbers of the run as Markdown: each question is a heading above a list of claims.

    Args:
        questions: The ids of the claims that answer each question; one whose claims the run did not make is left out.
        claims: The claims of the run by id; a run on other pictures may not make them all.
        registered: The ids of all claims of the book.

    Raises:
        PressError: a claim is named that is not registered.
    """

    def told(claim: Mapping[str, Any]) -> str:
        keys = [key for key in ("value", "low", "high", "clean_error") if claim[key] is not None]
        said = {key: shown(claim[key], claim["unit"], claim["tolerance"], claim["kind"]) for key in keys}
        said = {key: value.replace(" ", "&nbsp;") for key, value in said.items()}
        beside = [f"{said['low']} to {said['high']}"] if "low" in said else []
        beside.append(f"{claim['n']:,} {html.escape(claim['n_of'])}")
        if "clean_error" in said:
            beside.append(f"clean error {said['clean_error']}")
        statement, badge = html.escape(claim["statement"]), verdicts.badge(claim, "../notebooks/")
        return f"<li>{statement} <strong>{said['value']}</strong> ({'; '.join(beside)}) {badge}</li>"

    parts = []
    for question, names in questions.items():
        if ours := _made(names, claims, registered, f"summary.toml: '{question}'"):
            parts.append(f"## {question}\n\n<ul>\n" + "\n".join(map(told, ours)) + "\n</ul>")
    return "\n\n".join(parts)


def kept(run: Mapping[str, Any]) -> str:
    """How long what a chapter found in the store once took, as words in brackets; empty where it found nothing."""
    seconds = sum(run.get("kept", {}).values())
    return f" (results kept from before once took {duration(seconds)})" if round(seconds) else ""


def took(run: Mapping[str, Any]) -> str:
    """How long a chapter ran, in words."""
    return f"{duration(run['seconds'])}{kept(run)}"


def hardware(run: Mapping[str, Any]) -> str:
    """What a chapter ran on, in words: the processor, and whether another chapter ran beside it."""
    name = str(run.get("processor") or run["device"])
    return f"{name}, beside another chapter" if run.get("at_once", 1) > 1 else name


def times(runs: Mapping[str, Notebook], cards: Mapping[str, Mapping[str, Any]]) -> str:
    """What each chapter and each shipped study took and on what, as two HTML tables.

    Args:
        runs: What ``execute`` recorded of each chapter, by title.
        cards: Cards of the shipped studies by name.
    """
    ran = [
        (html.escape(title), took(run), html.escape(hardware(run)), html.escape(run.date[:10]))
        for title, run in runs.items()
    ]
    total = NotebookNode(
        seconds=sum(run.seconds for run in runs.values()),
        kept={title: sum(run.get("kept", {}).values()) for title, run in runs.items()},
    )
    ran.append(("all chapters, added up", took(total), "", ""))
    studies = [
        (
            html.escape(name),
            duration(card["seconds"]),
            html.escape(card["device"]),
            f"torch {html.escape(card['versions']['torch'])}",
            f"<code>{html.escape(card['commit'][:7])}</code>",
            f"<code>{html.escape(card['command'])}</code>",
        )
        for name, card in sorted(cards.items())
    ]
    return "\n\n".join(
        [
            html_table("The chapters of this site.", ("chapter", "time", "processor", "date"), ran),
            html_table(
                "Results that come with the book. What the store held already, poisons mostly, is not in the times.",
                ("result", "time", "device", "version", "commit", "command"),
                studies,
            ),
        ]
    )


def front(claims: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> tuple[str, str]:
    """The figure on the first page: claims that are rates, each with its interval, as SVG; and what it shows, in words.

    Args:
        claims: The claims of the run.
        labels: What the figure calls them, by id, in its order; a claim that the run did not make is left out.

    Raises:
        PressError: a claim has no interval.
    """
    found = _labelled(claims, labels)
    plain = [claim["id"] for _, claim in found if claim["low"] is None]
    if plain:
        raise PressError(f"claim '{plain[0]}': is no rate, so the first page cannot show it: take its label away")
    with plt.rc_context({"svg.hashsalt": "front", "figure.constrained_layout.use": True, "font.size": 10}):
        figure, axes = plt.subplots(figsize=(5.8, 0.9 + 0.48 * len(found)))
        for row, (label, claim) in enumerate(found):
            colour = COLOURS[claim["verdict"]]
            axes.plot([100 * claim["low"], 100 * claim["high"]], [row, row], color=colour, linewidth=4, alpha=0.4)
            axes.plot(100 * claim["value"], row, "o", color=colour, markersize=7)
            axes.plot([100 * claim["bound"]] * 2, [row - 0.25, row + 0.25], color="black", linewidth=1.2)
            axes.text(106, row, claim["verdict"], va="center", color=colour)
            axes.text(-2, row - 0.33, label, va="bottom")  # above its row: beside it long labels leave no room
        axes.set_yticks([])
        axes.set_ylim(len(found) - 0.5, -0.9)
        axes.set_xlim(-4, 104)
        axes.set_xlabel("clean pictures not recognised, %")
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
        file = io.StringIO()
        figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    plt.close(figure)
    words = "; ".join(
        f"{label}: {100 * claim['value']:.0f} %, {claim['test'].replace('_', ' ')} {100 * claim['bound']:.0f} % is "
        f"{claim['verdict']}"
        for label, claim in found
    )
    return file.getvalue(), f"{words}."


def _labelled(claims: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Those of the run's claims that have a label, in the labels' order."""
    known = {claim["id"]: claim for claim in claims}
    return [(label, known[name]) for name, label in labels.items() if name in known]


def front_figure(folder: Path, claims: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """Write the first page's figure into a folder of the staged book and give the lines that show it."""
    drawing, words = front(claims, labels)
    (folder / "front.svg").write_text(drawing)
    with (folder / "front.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["", *FRONT])
        table.writerows([label, *(claim[key] for key in FRONT)] for label, claim in _labelled(claims, labels))
    return (
        "```{figure} front.svg\n:name: fig-front\n"
        f":alt: Share of a poisoning user's clean pictures that are not recognised. {words}\n\n"
        "What poisoning is worth, trainer by trainer: the share of a user's later, clean pictures that are not "
        "recognised, with 95 % intervals over users. Every row is a claim of a chapter. The short line is its bound, "
        "at least or at most so much; the word says whether the whole interval lies on the right side of it. "
        "{download}`Numbers (CSV) <front.csv>`\n```"
    )


def findings(root: Path) -> list[dict[str, Any]]:
    """The paper's findings, from ``data/paper.json``."""
    return list(json.loads((root / "data" / "paper.json").read_text())["findings"])


def studies(root: Path) -> dict[str, dict[str, Any]]:
    """Cards of everything that comes with the book, by what it is."""
    data = root / "data"
    tables = {path.stem: json.loads(path.read_text())["card"] for path in data.glob("results/*.json")}
    return tables | {path.stem: json.loads(path.read_text()) for path in data.glob("shipped/*.json")}


def fill(page: Path, parts: Mapping[str, Callable[[], str]]) -> None:
    """Put parts where a page asks for them, each made when it is asked for.

    Raises:
        PressError: it asks for something that there is not.
    """
    text = page.read_text()
    for name in PLACE.findall(text):
        if name not in parts:
            raise PressError(f"{page.name}: asks for generated '{name}': there is only {', '.join(sorted(parts))}")
    new = PLACE.sub(lambda match: parts[match[1]](), text)
    if new != text:
        page.write_text(new)
