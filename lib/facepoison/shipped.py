"""Results that come with the book because two cores cannot make them in minutes, each with a card.

Tensors lie in ``data/shipped``, tables of numbers in ``data/results``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

import fingerprint
from facepoison.device import device_kind, versions
from facepoison.errors import InputError
from facepoison.evaluation import Estimate, Rate
from facepoison.protocol import PROTOCOL
from facepoison.store import Arrays, describe, from_checkout, written_whole

FOLDER = fingerprint.LIB.parent / "data" / "shipped"
RESULTS = fingerprint.LIB.parent / "data" / "results"


@dataclass(frozen=True)
class Shipped:
    """A shipped result: its tensors, and the card that says where they come from."""

    arrays: Arrays
    card: Mapping[str, Any]


def find(name: str, inputs: Mapping[str, object], folder: Path = FOLDER) -> Shipped | None:
    """The shipped result of a name, if there is one and it was made from just these inputs.

    Args:
        name: Of the file, without ending.
        inputs: Everything that the result was decided by, as ``ship`` was told; code and versions are not among them,
            because ``make shipped`` and its checked sample say whether those still give the same.
        folder: Where shipped results are.

    Raises:
        InputError: the file is not the one that its card describes.
    """
    path = folder / f"{name}.safetensors"
    if not path.with_suffix(".json").is_file():
        return None
    card = json.loads(path.with_suffix(".json").read_text())
    if card["inputs"] != _as_json(inputs):
        return None
    if not path.is_file() or fingerprint.of_file(path) != card["sha256"]:
        raise InputError(f"{path}: is not the file that its card describes: restore both, or run make shipped")
    return Shipped(load_file(path), card)


def ship(
    name: str, inputs: Mapping[str, object], arrays: Arrays, seconds: float, pictures: Tensor, folder: Path = FOLDER
) -> None:
    """Write a result with its card, both whole or not at all.

    Args:
        name: Of the file, without ending.
        inputs: What ``find`` will ask for.
        arrays: The result, tensors on the CPU.
        seconds: What computing it took.
        pictures: What it was made from; the card holds their hash.
        folder: Where to.

    Raises:
        InputError: a file cannot be written.
    """
    path = folder / f"{name}.safetensors"
    with written_whole(path) as scratch:
        save_file({label: array.contiguous() for label, array in arrays.items()}, scratch)
    card = {
        "command": "make shipped",
        "inputs": _as_json(inputs),
        "pictures": describe(pictures),
        "sha256": fingerprint.of_file(path),
        "bytes": path.stat().st_size,
    } | begin().card(seconds)
    with written_whole(path.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps(card, indent=1) + "\n")


@dataclass(frozen=True)
class Provenance:
    """What a computation began with; all of it may change while it runs.

    Attributes:
        commit: Of the code.
        protocol: Hash of the protocol.
        at: When, in seconds since the epoch.
    """

    commit: str
    protocol: str
    at: float

    def card(self, seconds: float | None = None) -> dict[str, object]:
        """What every card says of how a result was computed: code, protocol, device, versions, and the time so far."""
        return {
            "commit": self.commit,
            "protocol": self.protocol,
            "device": device_kind(),
            "versions": versions(),
            "seconds": round(time.time() - self.at if seconds is None else seconds, 1),
        }


def begin() -> Provenance:
    """What a computation that is to have a card begins with: call it first."""
    return Provenance(fingerprint.commit(), fingerprint.of_file(PROTOCOL)[:12], time.time())


def card_of(
    command: str, inputs: Mapping[str, object], began: Provenance, file: Path | None = None
) -> dict[str, object]:
    """A result's card: what makes it again, what decided it, its file if it lies in one, and how it was computed."""
    beside = {"sha256": fingerprint.of_file(file), "bytes": file.stat().st_size} if file else {}
    return {"command": command, "inputs": _as_json(inputs)} | beside | began.card()


@dataclass(frozen=True)
class Table:
    """A shipped table of numbers: a mapping for each row, and the card that says where they come from."""

    rows: tuple[Mapping[str, Any], ...]
    card: Mapping[str, Any]


def write_table(
    name: str,
    rows: Iterable[Mapping[str, object]],
    *,
    command: str,
    inputs: Mapping[str, object],
    began: Provenance,
    folder: Path = RESULTS,
) -> Path:
    """Write a table with its card as one JSON file, whole or not at all.

    Args:
        name: Of the file, without ending.
        rows: Dataclasses in them, such as rates, are written as mappings of their fields.
        command: What makes the table again.
        inputs: Everything that the numbers were decided by.
        began: What computing began with.
        folder: Where to.

    Raises:
        InputError: the file cannot be written.
    """
    plain = [{key: asdict(cell) if _is_record(cell) else cell for key, cell in row.items()} for row in rows]  # type: ignore[call-overload]
    path, whole = folder / f"{name}.json", {"card": card_of(command, inputs, began), "rows": plain}
    with written_whole(path) as scratch:
        scratch.write_text(json.dumps(whole, indent=1) + "\n")
    return path


def read_table(name: str, folder: Path = RESULTS) -> Table:
    """A shipped table; what was written from a rate or a difference is one again.

    Raises:
        InputError: it is not there or damaged.
    """
    path = from_checkout(folder / f"{name}.json")
    try:
        content = json.loads(path.read_text())
        rows = tuple({key: _revived(cell) for key, cell in row.items()} for row in content["rows"])
        return Table(rows, content["card"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}): restore it from the project") from error


def _revived(cell: object) -> object:
    """A rate or a difference from the mapping of its fields; anything else as it is."""
    keys = cell.keys() if isinstance(cell, dict) else set()
    if isinstance(cell, dict) and keys == {field.name for field in fields(Rate)}:
        return Rate(**cell | {"clean_error": _revived(cell["clean_error"])})
    if isinstance(cell, dict) and keys == {field.name for field in fields(Estimate)}:
        return Estimate(**cell)
    return cell


def _is_record(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _as_json(inputs: Mapping[str, object]) -> object:
    return json.loads(json.dumps({name: describe(value) for name, value in inputs.items()}))
