"""Errors of one line, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

FULL = f"[Errno {errno.ENOSPC}]"


class PressError(Exception):
    """The book cannot be made: which thing, what is wrong, what to do. ``code`` is the command's exit code."""

    code = 1


class UsageError(PressError):
    """Something that was asked for does not exist."""

    code = 2


def why(error: OSError) -> str:
    """An operating system's error in words that say what to do."""
    if error.errno == errno.ENOSPC or FULL in str(error):  # copying a tree gathers its errors in a text
        return "the disk is full: free some space and run again; what was finished is kept"
    return f"{(error.strerror or str(error)).lower()}: mend that and run again; what was finished is kept"


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that nobody ever sees half of it.

    Raises:
        PressError: the disk is full or the folder cannot be written.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(scratch).chmod(0o644)
        os.replace(scratch, path)
    except OSError as error:
        if scratch:
            Path(scratch).unlink(missing_ok=True)
        raise PressError(f"{path}: {why(error)}") from error


def finish_swap(place: Path) -> None:
    """Put a folder back that a killed swap left aside."""
    aside = place.with_name(f".{place.name}-old")
    if aside.is_dir() and not place.exists():
        aside.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


def swap(fresh: Path, place: Path) -> None:
    """Let the folder ``fresh`` take the place of another, which is there whole until the last moment."""
    finish_swap(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(place.with_name(f".{place.name}-old"))
    fresh.rename(place)
    finish_swap(place)
