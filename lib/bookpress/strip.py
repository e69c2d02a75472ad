"""Notebooks as they are committed: no outputs but those of checked cells, and nothing that changes from run to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode as Notebook

import fingerprint
from bookpress import chapters as ch
from bookpress.chapters import text_of
from bookpress.execute import recorded
from bookpress.files import PressError, write_whole

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def is_checked(cell: Notebook) -> bool:
    """Whether nbval compares what a cell says with what is committed."""
    marked = any(line.strip().lstrip("# ") == "NBVAL_CHECK_OUTPUT" for line in cell.source.splitlines())
    return cell.cell_type == "code" and (marked or "nbval-check-output" in ch.tags(cell))


def kept(outputs: list[Notebook]) -> list[Notebook]:
    """The words of a checked cell's outputs: printed text and the plain text of what it displays."""
    words: list[Notebook] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stdout":
            words.append(nbformat.v4.new_output("stream", name="stdout", text=output.text))
        elif "text/plain" in output.get("data", {}):
            data = {"text/plain": output.data["text/plain"]}
            words.append(nbformat.v4.new_output("display_data", data))
    return words


def stripped(notebook: Notebook) -> Notebook:
    """A notebook in the form in which it is committed.

    Checked cells keep their words and get execution counts in their order (nbval passes a cell without a count by);
    all other cells lose both. Cells keep their ids; a missing one is made from the cell's text.
    """
    cells: list[Notebook] = []
    code = 0
    for cell in notebook.cells:
        new = nbformat.from_dict({"cell_type": cell.cell_type, "metadata": {}})
        for name in ("tags", "seconds", "mystnb", "slideshow"):
            if cell.metadata.get(name):
                new.metadata[name] = cell.metadata[name]
        new["source"] = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        new["id"] = cell.get("id") or fingerprint.of_text(new.source, str(len(cells)))[:8]
        if cell.cell_type == "code":
            code += 1
            checked = is_checked(cell)
            new["execution_count"] = code if checked else None
            new["outputs"] = kept(cell.outputs) if checked else []
        if cell.get("attachments"):
            new["attachments"] = cell.attachments
        cells.append(new)
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    fields = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    notebook = nbformat.from_dict(fields)
    return notebook


def strip_file(path: Path) -> bool:
    """Bring a notebook file into the committed form; says whether that changed it."""
    text = text_of(stripped(ch.read(path)))
    if text == path.read_text():
        return False
    write_whole(path, text)
    return True


def faults(path: Path, registered: Mapping[str, object]) -> list[str]:
    """What keeps a notebook from being committed, one line each.

    Args:
        path: The notebook.
        registered: The parameters that claims are registered at; a regression test runs a notebook at its defaults.
    """
    notebook = ch.read(path)
    found = [] if text_of(stripped(notebook)) == path.read_text() else ["not stripped: run make strip"]
    defaults = ch.defaults(notebook)
    for name, value in registered.items():
        if name not in defaults:
            found.append(f"parameter {name} is missing")
        elif defaults[name] != value:
            found.append(f"parameter {name} is {defaults[name]!r}, not the registered {value!r}")
    for cell in filter(is_checked, notebook.cells):
        if not kept(cell.outputs):  # nbval passes over such a cell without a word
            found.append(f"cell '{cell.id}' is checked, but says nothing to compare with: run make register")
    return found


def steady(took: float, before: int) -> int:
    """Seconds to keep for a cell: 0 for a quick one, and the ones before unless they are off by half."""
    if before and 0.5 * before < took < 1.5 * before:
        return before
    return round(took / 5) * 5


def register(root: Path, executed: Path) -> Iterator[str]:
    """Write the words of checked cells and the times of all from executed chapters into ``notebooks``.

    Yields:
        One line for each notebook that changed.

    Raises:
        PressError: a checked cell says nothing, so that nothing could ever be compared.
    """
    for source in ch.chapters(root):
        notebook, done = ch.read(source), ch.read(executed / source.name)
        said = {cell.id: cell for cell in done.cells}
        for cell in filter(is_checked, notebook.cells):
            cell["outputs"] = said[cell.id].outputs
            if not kept(cell.outputs):
                raise PressError(f"{source.name}, cell '{cell.id}': checked, but it prints and displays no text")
        ran = recorded(executed / source.name)
        for cell in notebook.cells:
            took = ran.cells.get(cell.id, 0) + ran.get("kept", {}).get(cell.id, 0)  # as from an empty store
            cell.metadata["seconds"] = steady(took, cell.metadata.get("seconds", 0))
        text = text_of(stripped(notebook))
        if text != source.read_text():
            write_whole(source, text)
            yield f"{source.name}: registered"
