"""Builds the site beside the one that stands, checks it, and only then lets it take its place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fingerprint
from bookpress import chapters as ch
from bookpress.check import problems
from bookpress.claims import as_text
from bookpress.files import FULL, PressError, finish_swap, swap, write_whole
from bookpress.stage import Claim, stage
from bookpress.weight import lighten

STAMP = ".made-from"
PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')


BETTER_TAGS = {
    '<div class="pst-scrollable-table-container">': (
        '<div class="pst-scrollable-table-container" tabindex="0" role="region" aria-label="Table">'
    ),
    '<div class="math notranslate nohighlight"': '<div tabindex="0" class="math notranslate nohighlight"',
    '<div role="list" class="citation-list">': '<div class="citation-list">',
}


def inputs(root: Path, executed: Path) -> str:
    """Fingerprint of all that the site depends on: prose, configuration, executed chapters, press and libraries.

    A page shows what the library says of itself, so that its sources belong to the prose, words and all.
    """
    files = [path for path in (root / "book").rglob("*") if path.is_file()]
    files += [path for path in (root / "lib").rglob("*") if path.suffix in (".py", ".pyi")]
    files += [root / "_config.yml", root / "_toc.yml", *ch.chapters(root)]
    press = fingerprint.of_modules("bookpress.build", "bookpress.cli")
    runs = fingerprint.of_files((path for path in executed.glob("*.ipynb")), executed)
    return fingerprint.of_text(fingerprint.of_files(files, root), runs, press, repr(ch.versions()))


def judge(claims: list[Claim]) -> None:
    """Refuse claims whose verdict at the registered setting is not the registered one; at others say what differs.

    Raises:
        PressError: at least one verdict changed where claims are registered.
    """
    changed = [claim for claim in claims if claim["verdict"] != claim["registered_verdict"]]
    lines = []
    for claim in changed:
        words = as_text(claim).replace("\n", "\n  ")
        before = claim["registered_verdict"] or "not registered yet"
        lines.append(f"claim '{claim['id']}' of {claim['chapter']}: {claim['verdict']} ({before}):\n  {words}")
    if any(claim["registered"] for claim in changed):
        raise PressError("\n".join([*lines, "  mend the cause, or register the new verdict in data/claims.toml"]))
    if lines:
        print("\n".join([*lines, "  (this is not the registered setting, so the book is built all the same)"]))


def jupyter_book(root: Path, staged: Path, output: Path) -> None:
    """Build the staged book into ``output/_build/html``; every warning is an error.

    Raises:
        PressError: Jupyter Book complained; its words are in ``_build/jupyter-book.log``.
    """
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "-W", "-n", "--keep-going", str(staged)]
    done = subprocess.run([*command, "--path-output", str(output)], capture_output=True, text=True, check=False)
    log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    write_whole(root / "_build" / "jupyter-book.log", log)
    if FULL in log:
        raise OSError(log[log.index(FULL) :].splitlines()[0])
    if done.returncode:
        words = [
            line.replace(f"{staged}/", "") for line in log.splitlines() if re.search(r"WARNING|ERROR|Error:", line)
        ]
        shown = "\n  ".join(words[:20] or log.splitlines()[-5:])
        raise PressError(f"the site was not built:\n  {shown}\n  everything is in _build/jupyter-book.log")


def tidy(root: Path, site: Path) -> None:
    """Give readers the chapters as committed to download, and take out what serves nobody.

    That is the theme's templates, and what weighs on a page without being used (see ``weight``). What scrolls sideways
    is made to scroll by keyboard too, and to assistive technology a list of references is no list without items, nor
    are the parameters of a signature definitions of nothing.
    """
    for template in (site / "_static").glob("*macros.html"):
        template.unlink()
    for page in site.rglob("*.html"):
        text = PARAMETERS.sub(_as_lines, page.read_text(encoding="utf-8"))
        for tag, better in BETTER_TAGS.items():
            text = text.replace(tag, better)
        page.write_text(text, encoding="utf-8")
    lighten(site)
    for source in ch.chapters(root):
        shutil.copy(source, site / "_sources" / source.relative_to(root))


def _as_lines(parameters: re.Match[str]) -> str:
    """The parameters of a signature, one a line, as divisions."""
    lines = parameters[1].replace("<dd>", "<div>").replace("</dd>", "</div>")
    return f'<div class="sig-parameters">\n{lines}</div>'


def is_current(root: Path, executed: Path) -> bool:
    """Whether the site that stands was made from what is there now."""
    stamp = root / "_build" / "html" / STAMP
    return stamp.is_file() and stamp.read_text() == inputs(root, executed)


def build(root: Path, executed: Path) -> Path:
    """Build the site from executed chapters unless it is current, check it, and put it in its place.

    Args:
        root: Top of the book.
        executed: Folder of the executed chapters.

    Returns:
        The page to open.

    Raises:
        PressError: a chapter is missing, a verdict changed, a check fails, or the build does; the site before stays as
            it was.
    """
    made, staged, fresh = root / "_build", root / "_build" / "staged", root / "_build" / ".site-next"
    site = made / "html"
    finish_swap(site)
    if not is_current(root, executed):
        stamp = inputs(root, executed)
        claims = stage(root, executed, staged)
        judge(claims)
        print("building the site", flush=True)
        shutil.rmtree(fresh, ignore_errors=True)
        jupyter_book(root, staged, fresh)
        new = fresh / "_build" / "html"
        tidy(root, new)
        (new / "claims.json").write_text(json.dumps(claims, indent=1) + "\n")
        report(problems(new, ch.pages(root), claims, root))
        (new / STAMP).write_text(stamp)
        swap(new, site)
        shutil.rmtree(fresh, ignore_errors=True)
    said = (site / "claims.json").read_text()
    if not (made / "claims.json").is_file() or (made / "claims.json").read_text() != said:
        write_whole(made / "claims.json", said)
    return site / "index.html"


def report(found: list[str]) -> None:
    """Raise a PressError that lists problems, if there are any."""
    if found:
        more = [f"and {len(found) - 30} more"] if len(found) > 30 else []
        raise PressError("\n  ".join([f"the site has {len(found)} problems:", *found[:30], *more]))


def check_built(root: Path) -> str:
    """Check the site that stands and say how much was checked.

    Raises:
        PressError: there is no site, or it has problems.
    """
    site, said = root / "_build" / "html", root / "_build" / "claims.json"
    if not site.is_dir() or not said.is_file():
        raise PressError("_build/html: there is no site yet: run make book")
    pages, claims = ch.pages(root), json.loads(said.read_text())
    report(problems(site, pages, claims, root))
    return f"the site is sound: {len(pages)} pages, {len(claims)} claims"
