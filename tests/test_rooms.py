"""Each room does one job: what may import what, and no circle."""

from itertools import chain
from pathlib import Path

import pytest

import fingerprint

ROOT = Path(__file__).parents[1]
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
