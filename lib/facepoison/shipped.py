"""Results that come with the book because two cores cannot make them in minutes, each with a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

import fingerprint
from facepoison.device import device_kind, versions
from facepoison.errors import InputError
from facepoison.store import Arrays, describe, written_whole

FOLDER = fingerprint.LIB.parent / "data" / "shipped"


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
        "commit": fingerprint.commit(),
        "device": device_kind(),
        "versions": versions(),
        "seconds": round(seconds, 1),
    }
    with written_whole(path.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps(card, indent=1) + "\n")


def _as_json(inputs: Mapping[str, object]) -> object:
    return json.loads(json.dumps({name: describe(value) for name, value in inputs.items()}))
