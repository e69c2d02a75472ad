"""Cards: what is known of the training of each of the book's own extractors, beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

import fingerprint
from facepoison.errors import InputError
from facepoison.extractors.catalog import DATA, WEIGHTS, Entry
from facepoison.store import written_whole

REPEATS = DATA / "repeats"
"""Cards of the same trainings from other seeds; their weights are not kept."""


def read_file(path: Path) -> dict[str, Any]:
    """The card in a file.

    Raises:
        InputError: the file is not such a card.
    """
    try:
        card: dict[str, Any] = json.loads(path.read_text())
        if not {"recipe", "sha256", "test"} <= card.keys():
            raise ValueError("recipe, sha256 or test is missing")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: is no card of a training ({error}): restore it, or train that one again") from error
    return card


def read_card(entry: Entry, folder: Path = WEIGHTS) -> dict[str, Any]:
    """The card of an own extractor's training, empty where there is none.

    Raises:
        InputError: the file is not such a card.
    """
    path = folder / f"{entry.name}.json"
    return read_file(path) if entry.kind == "own" and path.is_file() else {}


def write_weights(path: Path, network: nn.Module, said: Mapping[str, object], *, half: bool) -> dict[str, object]:
    """Write a network's weights as safetensors and a card beside them, each file whole or not at all.

    Args:
        path: Of the weights; the card has the ending ``.json`` instead.
        network: Where it stands after training.
        said: What the card says of the training; hash, size and precision of the file are added.
        half: Whether weights are rounded to half precision.

    Returns:
        The card.

    Raises:
        InputError: a file cannot be written.
    """
    state = {
        key: (value.half() if half and value.is_floating_point() else value).cpu().contiguous()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")  # of no use once training is over
    }
    with written_whole(path) as scratch:
        save_file(state, scratch)
    card = dict(said) | {
        "sha256": fingerprint.of_file(path),
        "bytes": path.stat().st_size,
        "precision": "float16" if half else "float32",
        "parameters": sum(weight.numel() for weight in network.parameters()),
    }
    with written_whole(path.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps(card, indent=2) + "\n")
    return card


def amend_card(entry: Entry, **fields: object) -> None:
    """Write fields into the card of an own extractor.

    Raises:
        InputError: there is none, or it cannot be written.
    """
    path = WEIGHTS / f"{entry.name}.json"
    if not path.is_file():
        raise InputError(f"{path}: there is no card: run '{entry.source}'")
    card = json.loads(path.read_text()) | fields
    with written_whole(path) as scratch:
        scratch.write_text(json.dumps(card, indent=2) + "\n")
