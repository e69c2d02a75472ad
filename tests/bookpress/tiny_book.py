"""Notebooks of a few words, and what a book needs beside them."""

import nbformat
from nbformat import v4

from bookpress.chapters import text_of

PARAMETERS = 'profile = "fast"\ndataset = "procedural"\nseed = 1'
PROTOCOL = """
[registered]
profile = "fast"
dataset = "procedural"
seed = 1
[datasets]
builtin = ["procedural"]
[profiles.fast]
[profiles.full]
"""
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook(title, *sources, tags=None):
    """A notebook with a parameters cell and one code cell for each source; ``tags`` by number of the source."""
    tags = tags or {}
    cells = [v4.new_markdown_cell(f"# {title}", id="title")]
    cells.append(v4.new_code_cell(PARAMETERS, id="parameters", metadata={"tags": ["parameters"]}))
    for number, source in enumerate(sources):
        metadata = {"tags": tags[number]} if number in tags else {}
        cells.append(v4.new_code_cell(source, id=f"cell-{number}", metadata=metadata))
    return v4.new_notebook(cells=cells, metadata=nbformat.from_dict(KERNEL))


def write(book, name, *sources, tags=None):
    path = book / "notebooks" / f"{name}.ipynb"
    path.write_text(text_of(notebook(name, *sources, tags=tags)))
    return path
