"""What `facepoison` offers is there, is documented, and its examples do what they say."""

import ast
import doctest
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import facepoison

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "lib" / "facepoison"
STUB = (LIBRARY / "__init__.pyi").read_text()
IMPORTS = [line for line in ast.parse(STUB).body if isinstance(line, ast.ImportFrom)]
HOMES = {name.asname or name.name: line.module for line in IMPORTS for name in line.names}
PAGE = ROOT / "book" / "api.md"
NAMES = facepoison.__all__
MATTER = {
    *("Pictures", "make_pictures", "read_folder", "write_folder", "split"),
    *("Extractor", "catalogue", "load_extractor", "embed"),
    *("lowkey", "fawkes_v1", "fawkes_v03", "change"),
    *("nearest", "rank_one", "measure_protection", "rate", "share", "difference"),
    *("adversarial_fine_tuning", "load_detector", "scores", "threshold", "train_detector"),
}
"""Names that a reader of the page wants to see at work."""


def last(dotted):
    return dotted.rpartition(".")[2]


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))


def examples(name):
    """The examples in what is said of a name, without those of its members."""
    text = inspect.getdoc(getattr(facepoison, name)) or ""
    return doctest.DocTestParser().get_doctest(text, {}, name, None, 0)


def run(test):
    said = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
    return result.attempted


@pytest.mark.parametrize("name", [name for name in NAMES if ">>>" in (getattr(facepoison, name).__doc__ or "")])
def test_an_example_does_what_it_says(name):
    assert run(examples(name))


def test_the_names_that_matter_have_an_example():
    assert set(NAMES) >= MATTER
    assert not [name for name in sorted(MATTER) if not examples(name).examples]


def test_what_the_page_begins_with_works():
    text = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert run(doctest.DocTestParser().get_doctest(text, {}, "book/api.md", None, 0)) >= 5


def test_no_name_is_offered_twice_and_none_hides_a_room():
    offered = [name.asname or name.name for line in IMPORTS for name in line.names]
    assert sorted(offered) == sorted(set(offered)) == sorted(NAMES)
    rooms = {path.stem for path in LIBRARY.iterdir()}
    assert not rooms & set(offered), "a name that a room has would be the room as soon as somebody imports it"
    listed = next(line.value for line in ast.parse(STUB).body if isinstance(line, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_there_and_documented(name):
    value = getattr(facepoison, name)
    assert name in dir(facepoison)
    home = inspect.getmodule(value) or import_module(type(value).__module__)
    assert home.__name__.startswith("facepoison.")
    if (callable(value) and inspect.isroutine(value)) or inspect.isclass(value):
        assert inspect.getdoc(value)
        assert not (value.__doc__ or "").startswith(f"{name}("), "what dataclasses write of themselves says nothing"


def test_the_page_has_all_names_in_the_order_of_its_lists_and_no_other():
    blocks = re.findall(r"^```\{eval-rst\}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        entries = re.findall(r"^\.\. auto(?:class|function|data|exception):: (\S+)$", block, re.MULTILINE)
        lists = re.findall(r"^   ~?([\w.]+)$", block, re.MULTILINE)
        assert len(entries) == 1 or [last(name) for name in lists] == [last(name) for name in entries]
        assert all("." not in name or name == f"{HOMES[last(name)]}.{last(name)}" for name in entries)
        found += map(last, entries)
    assert sorted(found) == sorted(NAMES)


def test_an_unknown_name_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'facepoison' has no attribute 'nothing'"):
        _ = facepoison.nothing
    with pytest.raises(ImportError):
        exec("from facepoison import nothing")


@pytest.mark.parametrize("line", ["import facepoison; dir(facepoison)", "import facepoison.cli"])
def test_importing_the_package_imports_nothing_heavy(line):
    code = f"{line}; import sys; print(sorted({{'torch', 'numpy', 'PIL', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
