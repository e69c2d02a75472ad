"""Face pictures, poisons and the recognisers that meet them: the library under the book *Poisoned Once*.

Rooms are stacked in floors and no import runs upwards: ``device`` and ``store`` at the bottom, then ``pictures``,
``extractors`` and ``attacks``, then ``recognition`` and ``evaluation``, the ``game``, the ``trainer``'s answers, and
``figures`` on top. The public names of them all can be had from here: ``__init__.pyi`` lists them, and a room is
imported when one of its names is first asked for.
"""

import ast
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"


def _listed() -> dict[str, tuple[str, str]]:
    """Module and name there of every public name, from the list that type checkers read.

    It is no part of this code, so that a name more does not make all results that were cached before another's.
    """
    lines = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    imports = (line for line in lines if isinstance(line, ast.ImportFrom))
    return {name.asname or name.name: (str(line.module), name.name) for line in imports for name in line.names}


_LISTED = _listed()
__all__ = sorted(_LISTED)  # noqa: PLE0605


def __getattr__(name: str) -> object:
    if name not in _LISTED:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, there = _LISTED[name]
    value: object = getattr(import_module(module), there)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
