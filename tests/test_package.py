"""The package says what it needs, and that agrees with what the book is made with."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"facepoison", "bookpress", "syntheticfaces", "fingerprint"}


def named(lines):
    """Requirements by name."""
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


NEEDED = named(PROJECT["dependencies"])
EXTRAS = {extra: named(lines) for extra, lines in PROJECT["optional-dependencies"].items()}
PINNED = named(
    line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
)


def imported(room):
    """Names of the distributions whose modules a room imports anywhere."""
    found = set()
    for path in (ROOT / "lib" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    known = packages_distributions()
    return {canonicalize_name(known[name][0]) for name in found - OWN - set(sys.stdlib_module_names)}


@pytest.mark.parametrize(("room", "extras"), [("facepoison", ["train", "cluster"]), ("bookpress", ["book"])])
def test_what_a_room_imports_is_declared(room, extras):
    declared = set(NEEDED).union(*(EXTRAS[extra] for extra in extras))
    assert imported(room) <= declared


def test_nothing_is_declared_twice_or_for_nothing():
    rooms = [NEEDED, *EXTRAS.values()]
    assert sum(map(len, rooms)) == len(set().union(*rooms))
    assert set(NEEDED) <= imported("facepoison")


def test_what_the_book_is_made_with_is_what_the_package_allows():
    for name, wanted in NEEDED.items() | {item for extra in EXTRAS.values() for item in extra.items()}:
        if name in PINNED:
            (pin,) = PINNED[name].specifier
            assert wanted.specifier.contains(pin.version), wanted
    assert set(PINNED) - {"uv"} <= set(NEEDED).union(*EXTRAS.values())
