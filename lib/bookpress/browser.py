"""A Chromium for the tests of the site: one that is there, else one that can be installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from bookpress.files import PressError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WHAT_TO_DO = (
    "install one ('apt-get install chromium'), name it in CHROMIUM=, or leave these tests out with BROWSER=skip"
)
WRONG = re.compile(r"\berror\b|\bfailed\b|^E: ", re.IGNORECASE)
"""Marks lines that say what went wrong; what comes after them may be a list of where."""
LONGEST = 900
"""Seconds after which an installation is given up."""


def named() -> str | None:
    """The browser that ``CHROMIUM`` names, as a path; None where it names none.

    Raises:
        PressError: it names something that cannot be run.
    """
    name = os.environ.get("CHROMIUM")
    found = shutil.which(name) if name else None
    if name and not found:
        raise PressError(f"CHROMIUM={name}: there is no such program: name another, or none")
    return found


def of_playwright() -> str:
    """Where playwright keeps its own Chromium, whether it is there or not."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def there() -> Iterator[str]:
    """Paths of browsers on this machine: those on the PATH, then playwright's own."""
    yield from filter(None, map(shutil.which, NAMES))
    yield from filter(None, [shutil.which(of_playwright())])


def starts(path: str) -> bool:
    """Whether a browser runs at all: one that was downloaded may lack libraries of the system."""
    return failure([path, "--version"]) is None


def failure(command: Sequence[str]) -> str | None:
    """Run a command in silence; None where it succeeds, else its last words on what went wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    wrong = list(dict.fromkeys(line for line in lines if WRONG.search(line)))
    return None if done.returncode == 0 else " / ".join((wrong or lines)[-3:]) or f"exit code {done.returncode}"


def as_root() -> list[str] | None:
    """What goes before a command that only root may run; None where that takes a password."""
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if shutil.which("sudo") and failure(["sudo", "-n", "true"]) is None else None


def installers() -> Iterator[tuple[str, list[list[str]]]]:
    """Ways to install a browser, the least intrusive first: what it is in words, and the commands."""
    yield "playwright's Chromium into your cache", [[sys.executable, "-m", "playwright", "install", "chromium"]]
    before = as_root() if shutil.which("apt-get") else None
    if before is not None:
        apt = [*before, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
        yield "the system's package chromium", [[*apt, "update", "-qq"], [*apt, "install", "-y", "-qq", "chromium"]]


def find(say: Callable[[str], None]) -> str:
    """The path of a Chromium: ``CHROMIUM``, one on the PATH, playwright's own, else one that is installed now.

    Args:
        say: Told what is about to be installed.

    Raises:
        PressError: ``CHROMIUM`` names nothing, or there is none and none can be installed: why not, and what to do.
    """
    found = named() or next(filter(starts, there()), None)
    if found:
        return found
    said = []
    for what, commands in installers():
        say(f"no Chromium is here: installing {what}")
        failed = next(filter(None, map(failure, commands)), None)
        found = next(filter(starts, there()), None)
        if found:
            return found
        said.append(f"\n  {what}: {failed or 'installed, but it does not start'}")
    raise PressError(f"there is no Chromium, and none could be installed:{''.join(said)}\n  {WHAT_TO_DO}")
