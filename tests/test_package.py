"""The package says what it needs, and that agrees with what the book is made with."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
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


WITHOUT_DATA = """
import facepoison as fp
from facepoison import outcomes, protocol, shipped

print(fp.make_pictures("examples", 1, 1, 32, seed=1).pixels.shape[0], "picture")
crowd = shipped.read_table, outcomes.read_outcomes
wants = [fp.catalogue, protocol.registered, protocol.paper_numbers, lambda: fp.load_extractor("arcface_2019")]
wants += [lambda: fp.load_detector("residual"), *(lambda read=read: read("crowd") for read in crowd)]
for want in wants:
    try:
        want()
    except fp.InputError as error:
        print(error)
"""


def test_a_package_without_its_checkout_says_what_it_lacks(tmp_path):
    site = tmp_path / "site"
    shutil.copytree(ROOT / "lib", site, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    how = {"env": {**os.environ, "PYTHONPATH": str(site)}, "cwd": tmp_path, "capture_output": True, "text": True}
    said = subprocess.run([sys.executable, "-c", WITHOUT_DATA], check=False, **how)
    assert not said.returncode, said.stderr
    made, *refused = said.stdout.splitlines()
    assert made == "1 picture"
    assert len(refused) == 7
    for line in refused:
        path, _, words = line.partition(": ")
        assert path.startswith(str(tmp_path / "data"))
        assert words == "comes with a checkout, not with the package: install from one with pip install -e ."
    listed = subprocess.run([sys.executable, "-m", "facepoison", "extractors"], check=False, **how)
    assert (listed.returncode, listed.stderr) == (2, f"error: {refused[0]}\n")


def test_the_page_that_says_how_to_cite_says_what_the_citation_file_does():
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    page = (ROOT / "book" / "references.md").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^  (\w+) = \{+(.*?)\}+,?$", page, re.MULTILINE))
    released = str(file["date-released"])[:4]
    assert fields == {
        "title": file["title"],
        "author": file["authors"][0]["name"],
        "year": released,
        "version": file["version"],
    }
    (paper,) = file["references"]
    assert f"https://arxiv.org/abs/{paper['identifiers'][0]['value'].removeprefix('arXiv:')}" in page
