"""A tiny book of two chapters in a folder of its own."""

import pytest
from tiny_book import PROTOCOL, write


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The book's folder, with chapters ``01_one`` (uses lib/tool.py) and ``02_two``; the working directory is there."""
    for folder in ("notebooks", "book", "data", "lib"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/01_one\n- file: notebooks/02_two\n"
    )
    (tmp_path / "_config.yml").write_text("title: Tiny\n")
    (tmp_path / "book" / "intro.md").write_text("# Tiny\n")
    (tmp_path / "data" / "protocol.toml").write_text(PROTOCOL)
    (tmp_path / "lib" / "tool.py").write_text("VALUE = 3\n")
    tool = "import sys\nsys.path.insert(0, '../lib')\nimport tool\nprint('value', tool.VALUE, 'seed', seed)"
    write(tmp_path, "01_one", tool)
    write(tmp_path, "02_two", "print('two')")
    monkeypatch.chdir(tmp_path)
    return tmp_path
