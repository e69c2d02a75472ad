"""Content hashes of code, files and values, the keys of results and chapters; and what computed them."""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

LIB = Path(__file__).resolve().parent
_CPUS = Path("/proc/cpuinfo")


def of_text(*parts: str) -> str:
    """SHA-256 of strings, with their boundaries kept, as 64 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def of_files(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 of the names (relative to ``root``) and bytes of files, whatever their order."""
    return of_text(*(f"{path.relative_to(root)}={of_file(path)}" for path in sorted(paths)))


class _Bare(ast.NodeTransformer):
    """Takes docstrings and annotations out of a syntax tree: people and type checkers read them, nothing runs them."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)  # a field without a value still is one: its name stays
        return ast.Assign([node.target], node.value, lineno=node.lineno) if node.value else ast.Expr(node.target)


def of_code(source: str) -> str:
    """SHA-256 of what a Python source does: its syntax tree without comments, layout, docstrings and annotations."""
    return of_text(ast.dump(_Bare().visit(ast.parse(source))))


def imported_modules(source: str, package: str = "") -> set[str]:
    """Names of all modules that a Python source imports, submodules of ``from`` imports included.

    ``package`` is the dotted package that relative imports start from. A name imported from a module is listed
    as ``module.name`` too, because only the file system can say whether it is a submodule.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def module_file(name: str, lib: Path = LIB) -> Path | None:
    """File of a module that lives under ``lib``; None for everybody else's modules."""
    stem = lib.joinpath(*name.split("."))
    for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def closure(names: Iterable[str], lib: Path = LIB, without: Iterable[str] = ()) -> frozenset[Path]:
    """Files under ``lib`` that the named modules are made of, followed through their imports to the end.

    Modules ``without`` which they are to be taken are passed over, with what these alone import.
    """
    found: set[Path] = set()
    waiting = set(names)
    seen: set[str] = set(without)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if "." in name:  # importing a.b runs a/__init__.py too
            waiting.add(name.rpartition(".")[0])
        file = module_file(name, lib)
        if file is None:
            continue
        found.add(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting |= imported_modules(file.read_text(encoding="utf-8"), package)
    return frozenset(found)


@cache
def of_modules(*names: str, lib: Path = LIB, without: tuple[str, ...] = ()) -> str:
    """SHA-256 of the code that the named modules run, everything they import from ``lib`` included, by ``of_code``."""
    return of_sources(closure(names, lib, without), lib)


def of_sources(files: Iterable[Path], root: Path) -> str:
    """SHA-256 of the names (relative to ``root``) of Python files and of what they do (``of_code``), in any order."""
    parts = (f"{path.relative_to(root)}={of_code(path.read_text(encoding='utf-8'))}" for path in sorted(files))
    return of_text(*parts)


def cpu_name() -> str:
    """The CPU as its maker calls it, or as the system does where that is not told."""
    named = re.search(r"^model name\s*: (.+)$", _CPUS.read_text(), re.MULTILINE) if _CPUS.is_file() else None
    return " ".join((named[1] if named else platform.processor() or platform.machine()).split())


def commit() -> str:
    """The commit that the code stands at, with ``+changes`` where files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(LIB)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return ""
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "."], capture_output=True, check=False)
    return head.stdout.strip() + ("+changes" if changed.returncode else "")
