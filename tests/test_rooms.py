"""Each room does one job: what may import what, and no circle."""

import ast
import json
from itertools import chain
from pathlib import Path

import pytest

import fingerprint

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"errors", "device"},
    {"store", "shards", "intervals", "odds"},
    {"pictures", "extractors", "training", "attacks", "recognition", "fine_tuning", "detect", "baselines"},
    {"evaluation", "factorial", "protocol", "shipped", "outcomes", "timeline"},
    {"poisoning", "game"},
    {"trainer", "end_to_end", "adapt", "calibration"},
    {"names", "canvas", "tables", "cells", "figures", "widgets"},
    {"shipping", "cli", "__main__"},
)
"""The library's rooms from the ground up: one may import from its own floor and from those below."""
GROUND = {"facepoison", "facepoison.device", "facepoison.errors"}
"""What the renderer needs of the library: seeded generators and the error of bad input."""


def modules(folder, root):
    """Files of a folder by dotted name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


LIBRARY = modules(ROOT / "lib", ROOT / "lib")
STUDIES = modules(ROOT / "studies", ROOT)
KNOWN = LIBRARY | STUDIES
IMPORTS = {
    name: {each for each in fingerprint.imported_modules(path.read_text()) if each in KNOWN} - {name}
    for name, path in KNOWN.items()
}


def of_room(room):
    return {name for name in KNOWN if name.partition(".")[0] == room}


def circle(name, path=()):
    """The modules of a circle of imports through a module, if there is one."""
    if name in path:
        return [*path[path.index(name) :], name]
    return next((found for each in sorted(IMPORTS[name]) if (found := circle(each, (*path, name)))), None)


def test_nothing_imports_itself_in_a_circle():
    reached = set()
    for name in KNOWN:
        if name not in reached:
            assert circle(name) is None
            waiting = [name]
            while waiting:
                each = waiting.pop()
                if each not in reached:
                    reached.add(each)
                    waiting += IMPORTS[each]


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("syntheticfaces", GROUND),
        ("facepoison", {"fingerprint", "syntheticfaces"}),
        ("bookpress", {"fingerprint"}),
        ("fingerprint", set()),
        ("studies", {"fingerprint"} | of_room("facepoison")),
    ],
)
def test_a_room_imports_only_what_it_may_know(room, allowed):
    used = set(chain.from_iterable(IMPORTS[name] for name in of_room(room)))
    assert {name for name in used if name.partition(".")[0] != room} <= allowed
    assert of_room(room), "there is no such room"


def test_no_import_of_the_library_runs_upwards():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    inside = {name: name.split(".")[1] for name in of_room("facepoison") if "." in name}
    assert set(inside.values()) == set(floor)
    upwards = [
        f"{name} imports {each}"
        for name, room in inside.items()
        for each in IMPORTS[name] & set(inside)
        if floor[inside[each]] > floor[room]
    ]
    assert not upwards


LONGEST = 500  # lines of a file
DEEPEST = 8800  # lines of the library that a chapter runs on; 6500 is the aim


@pytest.mark.parametrize("name", KNOWN)
def test_no_file_is_too_long_to_be_read_at_once(name):
    assert len(KNOWN[name].read_text().splitlines()) <= LONGEST


def test_no_public_name_has_two_meanings():
    found = {}
    for name in of_room("facepoison"):
        for node in ast.parse(KNOWN[name].read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.setdefault(node.name, set()).add(name)
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, set()).add(name)
    several = {each: where for each, where in found.items() if len(where) > 1 and not each.startswith("_")}
    assert not several


@pytest.mark.parametrize("chapter", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_a_chapter_runs_on_few_lines(chapter):
    sources = [
        "".join(cell["source"]) for cell in json.loads(chapter.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    files = fingerprint.closure(fingerprint.imported_modules("\n".join(sources)))
    own = [path for path in files if path.is_relative_to(ROOT / "lib" / "facepoison")]
    assert 0 < sum(len(path.read_text().splitlines()) for path in own) <= DEEPEST
