"""What is to be made: the chapters in the order of ``_toc.yml``, the parameters of a run, and their fingerprints."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode as Notebook

import fingerprint
from bookpress.files import PressError, UsageError


def pages(root: Path) -> list[str]:
    """Names of all pages of the book in order, without their endings, as ``_toc.yml`` gives them.

    Raises:
        PressError: there is no ``_toc.yml``.
    """

    def named(entry: object) -> Iterator[str]:
        if isinstance(entry, list):
            for item in entry:
                yield from named(item)
        elif isinstance(entry, dict):
            for key, item in entry.items():
                if key in ("root", "file"):
                    yield str(item).removesuffix(".md").removesuffix(".ipynb")
                else:
                    yield from named(item)

    toc = root / "_toc.yml"
    if not toc.is_file():
        raise PressError(f"{toc.name}: not found in {root}: run this from the top of the book")
    return list(named(yaml.safe_load(toc.read_text())))


def chapters(root: Path) -> list[Path]:
    """The notebooks of the book in order.

    Raises:
        PressError: a page is missing, or a notebook is not in ``_toc.yml``.
    """
    names = pages(root)
    for name in names:
        if not any((root / f"{name}{ending}").is_file() for ending in (".md", ".ipynb")):
            raise PressError(f"{name}: named in _toc.yml, but there is no such page: add it or take it out")
    found = [path for name in names if (path := root / f"{name}.ipynb").is_file()]
    stray = sorted(path.name for path in (root / "notebooks").glob("*.ipynb") if path not in found)
    if stray:
        raise PressError(f"notebooks/{stray[0]}: not in _toc.yml: add it there or take it away")
    return found


def read(path: Path) -> Notebook:
    """A notebook from a file.

    Raises:
        PressError: it is not there or not a notebook.
    """
    try:
        notebook: Notebook = nbformat.read(path, as_version=4)
        return notebook
    except FileNotFoundError as error:
        raise PressError(f"{path.name}: not found") from error
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, TypeError, ValueError) as error:
        raise PressError(f"{path.name}: not a notebook: restore it or make it anew in JupyterLab") from error


def text_of(notebook: Notebook) -> str:
    """A notebook as Jupyter writes it to a file."""
    return str(nbformat.writes(notebook).rstrip("\n") + "\n")


def tags(cell: Notebook) -> list[str]:
    """The tags of a cell."""
    return list(cell.metadata.get("tags", []))


def title(notebook: Notebook) -> str:
    """The first heading of a chapter."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "without a title")


def defaults(notebook: Notebook) -> dict[str, Any]:
    """Names and default values of the parameters that a chapter knows: what its cell tagged ``parameters`` assigns."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in tags(cell):
            for node in ast.parse(cell.source).body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                value = getattr(node, "value", None)
                for target in targets:
                    if isinstance(target, ast.Name) and isinstance(value, ast.expr):
                        found[target.id] = ast.literal_eval(value)
    return found


@dataclass(frozen=True)
class Run:
    """What one run of the chapters is asked to do.

    Attributes:
        parameters: Name and value of every parameter; folders as absolute paths.
        shown: The same as pages show them: no folder of a machine, only the word ``folder``.
        name: The folder of its executed chapters.
    """

    parameters: Mapping[str, Any]
    shown: Mapping[str, Any]
    name: str


def plan_run(
    root: Path,
    *,
    profile: str | None = None,
    dataset: str | None = None,
    seed: str | None = None,
    extractors: str | None = None,
    others: tuple[str, ...] = (),
) -> Run:
    """Check what was asked for against ``data/protocol.toml`` and the chapters; what was not comes from the former.

    Args:
        root: Top of the book.
        profile: A profile of the protocol.
        dataset: A built-in data set of the protocol, or a folder (absolute or from where the command runs).
        seed: Seed of every random choice, 0 or more.
        extractors: A folder with other people's extractors.
        others: Further parameters, each ``name=value``.

    Raises:
        UsageError: unknown profile, data set, folder or parameter.
    """
    protocol = tomllib.loads((root / "data" / "protocol.toml").read_text())
    parameters: dict[str, Any] = dict(protocol["registered"])
    given = {"profile": profile, "dataset": dataset, "seed": seed, "extractors": extractors}
    parameters |= {name: value for name, value in given.items() if value not in (None, "")}
    for item in others:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"parameter '{item}': write it as name=value")
        try:
            parameters[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parameters[name] = value

    if parameters["profile"] not in protocol["profiles"]:
        raise UsageError(f"profile '{parameters['profile']}' is unknown: use one of {', '.join(protocol['profiles'])}")
    if not str(parameters["seed"]).isdecimal():
        raise UsageError(f"seed '{parameters['seed']}': use a whole number, 0 or more")
    parameters["seed"] = int(parameters["seed"])
    known = {name for path in chapters(root) for name in defaults(read(path))}
    for name in parameters:
        if name not in known:
            raise UsageError(f"parameter '{name}': no chapter knows it: use one of {', '.join(sorted(known))}")
    shown = dict(parameters)
    builtin = protocol["datasets"]["builtin"]
    for name in ("dataset", "extractors"):
        asked = parameters.get(name)
        if asked is None or (name == "dataset" and asked in builtin):
            continue
        folder = Path(str(asked)).expanduser().resolve()
        if not folder.is_dir():
            words = (
                f"use {' or '.join(builtin)}, or a folder that exists" if name == "dataset" else "name one that exists"
            )
            raise UsageError(f"{name} '{asked}' is unknown: there is no such folder; {words}")
        parameters[name], shown[name] = str(folder), "folder"
    label = "-".join(str(shown[name]) for name in ("profile", "dataset", "seed"))
    special = {name: value for name, value in parameters.items() if value != shown[name] or name not in given}
    if special:
        label += f"-{fingerprint.of_text(repr(sorted(special.items())))[:8]}"
    return Run(parameters, shown, label)


def parameters_for(notebook: Notebook, run: Run) -> dict[str, Any]:
    """Those parameters of a run that a chapter knows."""
    return {name: run.parameters[name] for name in defaults(notebook) if name in run.parameters}


@cache
def device() -> str:
    """What computations run on, in words that stay the same from run to run."""
    tool = shutil.which("nvidia-smi")
    if tool and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1"):
        ask = [tool, "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split("\n")
        if names[0].strip():
            return names[0].strip()
    return f"CPU ({platform.machine()})"


@cache
def processor() -> str:
    """The name of the GPU or else the CPU that computations run on, as its maker calls it."""
    return fingerprint.cpu_name() if device().startswith("CPU") else device()


@cache
def versions() -> dict[str, str]:
    """Python and every installed library with their versions."""
    installed = {str(item.name).lower(): item.version for item in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **dict(sorted(installed.items()))}


def of_folder(folder: Path) -> str:
    """A folder of other people's files by their names, sizes and times, which is quick for a million pictures.

    It is looked into as deep as a person's pictures may lie, links to other folders included.
    """
    depths = ("*", "*/*", "*/*/*")
    files = sorted(path for depth in depths for path in folder.glob(depth) if path.is_file())
    rows = ((path.relative_to(folder).as_posix(), path.stat()) for path in files)
    return fingerprint.of_text(*(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in rows))


def imports(notebook: Notebook) -> set[str]:
    """Modules that the cells of a notebook import; lines for IPython alone are passed over."""
    found: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            source = re.sub(r"^\s*[%!?].*$", "", cell.source, flags=re.MULTILINE)
            try:
                found |= fingerprint.imported_modules(source)
            except SyntaxError:
                continue  # running the cell says where
    return found


def text_print(notebook: Notebook) -> str:
    """Fingerprint of what a person wrote in a notebook: sources and tags, not outputs."""
    parts = (part for cell in notebook.cells for part in (cell.cell_type, cell.source, *sorted(tags(cell))))
    return fingerprint.of_text(*parts)


def prints(root: Path, notebook: Notebook, run: Run) -> dict[str, str]:
    """Fingerprints of all that an executed chapter depends on, by what it is.

    Cell sources and tags, code under ``lib``, files under ``data``, kept runs under ``benchmarks`` for a chapter that
    names that folder, parameters with the folders they name, library versions, and what it runs on.
    """
    lib, data = root / "lib", root / "data"
    values = parameters_for(notebook, run)
    folders = [of_folder(Path(str(values[name]))) for name in values if run.shown[name] == "folder"]
    files = [path for path in data.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if any('"benchmarks"' in cell.source for cell in notebook.cells):
        files += (root / "benchmarks").rglob("*.json")
    return {
        "text": text_print(notebook),
        "code": fingerprint.of_sources(fingerprint.closure(imports(notebook), lib), lib),
        "data": fingerprint.of_files(files, root),
        "parameters": fingerprint.of_text(repr(sorted(values.items())), *folders),
        "libraries": fingerprint.of_text(repr(versions())),
        "device": device(),
    }
