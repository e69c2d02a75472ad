"""Raw outcomes of studies, scores of detectors and answers of recognisers, and what chapters work out from them.

A file holds a tensor for each key, a tuple of words. Scores stand under detector, transformation and set, one row for
each person and one column for each picture; where people have different numbers of pictures, one for each picture, and
who is on them stands under ``person`` and the set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_curve
from torch import Tensor

import fingerprint
from facepoison.errors import InputError
from facepoison.evaluation import Answers, Rate, rate, share
from facepoison.shipped import RESULTS, Provenance, card_of
from facepoison.store import from_checkout, written_whole

Key = tuple[str, ...]

_BETWEEN = " | "  # words of a key in a file


@dataclass(frozen=True)
class Outcomes:
    """What a study found: tensors by key, float32 or int64, and the card that says where they come from."""

    arrays: Mapping[Key, Tensor]
    card: Mapping[str, Any]


def write_outcomes(
    name: str,
    arrays: Mapping[Key, Tensor],
    *,
    command: str,
    inputs: Mapping[str, object],
    began: Provenance,
    folder: Path = RESULTS,
) -> Path:
    """Write raw outcomes with a card beside them, whole or not at all: numbers as float16, integers as int16.

    Args:
        name: Of the file, without ending.
        arrays: By key.
        command: What makes them again.
        inputs: Everything that they were decided by.
        began: What computing began with.
        folder: Where to.

    Raises:
        InputError: a number is too large for that, or a file cannot be written.
    """
    path, small = folder / f"{name}.safetensors", {}
    for key, array in arrays.items():
        kept = array.to(torch.float16 if array.is_floating_point() else torch.int16).contiguous()
        if (kept.double() - array).abs().nan_to_num(0.0).gt(1e-3 + 1e-3 * array.abs()).any():
            raise InputError(f"{name}: {_BETWEEN.join(key)}: a number is too large for two bytes")
        small[_BETWEEN.join(key)] = kept
    with written_whole(path) as scratch:
        save_file(small, scratch)
    with written_whole(path.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps({"card": card_of(command, inputs, began, path)}, indent=1) + "\n")
    return path


def read_outcomes(name: str, folder: Path = RESULTS) -> Outcomes:
    """The raw outcomes of a study.

    Raises:
        InputError: they are not there, damaged, or not those that their card describes.
    """
    path = from_checkout(folder / f"{name}.safetensors")
    try:
        card, found = json.loads(path.with_suffix(".json").read_text())["card"], load_file(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}): restore it and its card from the project") from error
    if fingerprint.of_file(path) != card["sha256"]:
        raise InputError(f"{path}: is not the file that its card describes: restore both from the project")
    whole = {key: each.float() if each.is_floating_point() else each.long() for key, each in found.items()}
    return Outcomes({tuple(key.split(_BETWEEN)): each for key, each in whole.items()}, card)


def pack_answers(answers: Mapping[Key, Answers]) -> dict[Key, Tensor]:
    """Answers to the same probes as tensors by key: who was asked, and under each key the first ``k`` answers.

    Raises:
        InputError: they are about different probes.
    """
    first = next(iter(answers.values()))
    arrays: dict[Key, Tensor] = {("user",): first.user, ("probe",): first.probe, ("true",): first.true}
    for key, each in answers.items():
        if not (torch.equal(each.user, first.user) and torch.equal(each.probe, first.probe)):
            raise InputError(f"{_BETWEEN.join(key)}: is about other probes; keep it in a file of its own")
        arrays |= {(*key, "predicted"): each.predicted[:, : each.k], (*key, "distance"): each.distance[:, : each.k]}
    return arrays


def unpack_answers(outcomes: Outcomes, key: Key) -> Answers:
    """The answers under a key, as ``pack_answers`` was given them; ``Answers.top`` says how many of each count."""
    user, probe, true = (outcomes.arrays[name,] for name in ("user", "probe", "true"))
    return Answers(user, probe, true, outcomes.arrays[*key, "predicted"], outcomes.arrays[*key, "distance"])


def rate_of(outcomes: Outcomes, key: Key, clean: Key) -> Rate:
    """The protection rate by the answers under a key, beside the clean error by those under another."""
    return rate(unpack_answers(outcomes, key), unpack_answers(outcomes, clean))


def share_of(hits: Tensor) -> Rate:
    """How often something happens to people's pictures: the mean over people, with its interval; see ``share``.

    Args:
        hits: Whether it happened, bool (people, pictures).
    """
    people, pictures = hits.shape
    return share(hits.flatten(), torch.arange(people).repeat_interleave(pictures))


def every_threshold(clean: Tensor, poisoned: Tensor) -> list[tuple[float, float]]:
    """A detector's ROC curve over every threshold: FPR and TPR at its corners, from none flagged to all.

    Args:
        clean: Scores of clean pictures, any shape.
        poisoned: Scores of poisoned ones, any shape.
    """
    label = torch.cat([torch.zeros(clean.numel()), torch.ones(poisoned.numel())])
    wrong, right, _ = roc_curve(label.numpy(), torch.cat([clean.flatten(), poisoned.flatten()]).numpy())
    return list(zip(wrong.tolist(), right.tolist(), strict=True))
