"""The timeline of extractors: which there are, by year, and how well each tells people apart.

That is measured on people whom neither its training nor the choice of its recipe has seen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from facepoison.device import synchronise
from facepoison.evaluation import Rate, rank_one, share
from facepoison.extractors import Extractor, embed
from facepoison.extractors.cards import REPEATS, read_card, read_file
from facepoison.extractors.catalog import WEIGHTS, Entry, catalogue, count_macs, load_extractor, locate
from facepoison.pictures.splits import split
from facepoison.protocol import Setting, synthetic_people


def entries(setting: Setting) -> list[Entry]:
    """Entries of a run's timeline by year: all of its kind whose file is there, so that none is picked by its results.

    They are the book's own ones or, where a folder of other people's was given, those in it.
    """
    kind = "own" if setting.extractors is None else "other"

    def there(entry: Entry) -> bool:
        path = locate(entry) if setting.extractors is None else setting.extractors / entry.file
        return entry.hashed and path is not None and path.is_file()

    found = [entry for entry in catalogue().values() if entry.kind == kind and not entry.after and there(entry)]
    return sorted(found, key=lambda entry: (entry.year, entry.name))


def timeline(setting: Setting) -> dict[str, Extractor]:
    """The extractors of ``entries`` by name, on the device that computes."""
    return {entry.name: load_extractor(entry.name, folder=setting.extractors) for entry in entries(setting)}


def robust(setting: Setting) -> dict[str, Extractor]:
    """The book's extractors trained on poison, and their control, by name; none where other people's are used."""
    return {name: load_extractor(name) for name in robust_cards()} if setting.extractors is None else {}


def robust_cards(folder: Path = WEIGHTS) -> dict[str, dict[str, Any]]:
    """Cards of the book's extractors that continue another's training, by name, in the catalogue's order.

    Raises:
        InputError: a card is damaged.
    """
    after = {entry.name: entry for entry in catalogue().values() if entry.kind == "own" and entry.after}
    return {name: card for name, entry in after.items() if (card := read_card(entry, folder))}


def own_cards(folder: Path = WEIGHTS) -> dict[str, dict[str, Any]]:
    """Cards of the book's own extractors by name, in order of years; those not trained yet have none.

    Raises:
        InputError: a card is damaged.
    """
    own = sorted(catalogue().values(), key=lambda entry: (entry.year, entry.name))
    return {entry.name: card for entry in own if not entry.after and (card := read_card(entry, folder))}


def recipe_rows(cards: Mapping[str, Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """For each card: name, year, what it follows, network, loss, people, pictures of each, passes, million weights."""
    rows: list[tuple[object, ...]] = []
    for name, card in cards.items():
        entry, recipe = catalogue()[name], card["recipe"]
        numbers = (recipe["identities"], recipe["per_person"], recipe["epochs"], f"{card['parameters'] / 1e6:.2f}")
        rows.append((name, entry.year, entry.paper, entry.architecture, recipe["loss"], *numbers))
    return rows


def tested(card: Mapping[str, Any], what: Literal["rank_1", "tar"]) -> Rate:
    """What a card says of its test: ``"rank_1"``, or ``"tar"`` at the protocol's rate of false accepts."""
    said = card["test"][what]
    return Rate(said["value"], said["n"], said["probes"], said["low"], said["high"])


def cost(extractor: Extractor, n: int = 128) -> tuple[float, float]:
    """What a picture costs: million multiply-adds, and milliseconds on the device that computes, in batches of ``n``.

    The milliseconds are the fastest of three batches after one to warm up.
    """
    size, device = extractor.contract.size, extractor.mean.device
    pixels = torch.zeros(n, 3, size, size, dtype=torch.uint8)
    embed(extractor, pixels, n)
    seconds = []
    for _ in range(3):
        synchronise(device)
        start = time.perf_counter()
        embed(extractor, pixels, n)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return count_macs(extractor.network, size) / 1e6, 1e3 * min(seconds) / n


def result_rows(cards: Mapping[str, Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """For each card: name, rank-1 and TAR (as ``Rate``), megabytes, minutes of rendering and training."""
    return [
        (
            name,
            tested(card, "rank_1"),
            tested(card, "tar"),
            f"{card['bytes'] / 1e6:.1f}",
            f"{card['seconds']['rendering'] / 60:.0f} + {card['seconds']['training'] / 60:.0f}",
            card["device"],
        )
        for name, card in cards.items()
    ]


def repeats(folder: Path = REPEATS) -> dict[str, dict[int, dict[str, Any]]]:
    """Cards of extractors that were trained from several seeds, by name and seed; the shipped one's seed is 0.

    Raises:
        InputError: a card is damaged.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name, card in own_cards().items():
        others = [read_file(path) for path in sorted(folder.glob(f"{name}-seed*.json"))]
        if others:
            found[name] = {each["recipe"]["seed"]: each for each in (card, *others)}
    return found


def accepted(embeddings: Tensor, labels: Tensor, false_accepts: float) -> tuple[Rate, float]:
    """TAR at FAR: how many pairs of one person are accepted where a given share of pairs of two people is.

    Args:
        embeddings: As of ``accepted_pairs``.
        labels: Likewise.
        false_accepts: Likewise.

    Returns:
        The share of pairs of the same person, averaged over people, whose cosine is above the threshold; its interval
        takes the threshold as given. And the threshold, a cosine.
    """
    hits, people, threshold = accepted_pairs(embeddings, labels, false_accepts)
    return share(hits, people), threshold


def accepted_pairs(embeddings: Tensor, labels: Tensor, false_accepts: float) -> tuple[Tensor, Tensor, float]:
    """Which pairs of pictures of one person are accepted where a given share of pairs of two people is.

    Args:
        embeddings: Of unit length (N, D).
        labels: Who is on the pictures, int64 (N,), several pictures of each.
        false_accepts: The share of pairs of two different people that the threshold lets through.

    Returns:
        Whether each pair of pictures of the same person is accepted, bool (P,), whose pair it is, int64 (P,), both on
        the CPU, and the threshold, a cosine.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    cosines = (embeddings @ embeddings.T)[first, second]
    alike = labels[first] == labels[second]
    wrong = cosines[~alike]
    threshold = wrong.kthvalue(max(1, len(wrong) - int(false_accepts * len(wrong)))).values
    return (cosines[alike] > threshold).cpu(), labels[first[alike]].cpu(), float(threshold)


def measure_unseen(setting: Setting, extractor: Extractor) -> dict[str, object]:
    """Rank-1 and TAR at FAR on the people whom the protocol keeps for this alone, as a card holds them.

    Rank-1 is the share of probes whose nearest gallery picture shows the right person. Both are averages over people,
    with 95 % intervals that count people as independent.
    """
    asked = setting.protocol["unseen"]
    pictures = synthetic_people(setting, "unseen", asked["people"], asked["pictures"], extractor.contract.size)
    embeddings, labels = embed(extractor, pictures.pixels).cpu(), pictures.identities
    gallery, probes = split(pictures, setting.seed, setting.gallery_share)
    rank = rank_one(embeddings[gallery], labels[gallery], embeddings[probes], labels[probes])
    tar, threshold = accepted(embeddings, labels, asked["false_accepts"])
    return {
        "identities": asked["people"],
        "pictures_each": asked["pictures"],
        "rank_1": _short(rank),
        "tar": _short(tar) | {"far": asked["false_accepts"], "threshold": round(threshold, 4)},
    }


def _short(rate: Rate) -> dict[str, float]:
    return {
        "value": round(rate.value, 4),
        "low": round(rate.low, 4),
        "high": round(rate.high, 4),
        "n": rate.n,
        "probes": rate.probes,
    }
