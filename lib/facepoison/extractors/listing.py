"""What there is to know of every extractor of the catalogue, without training or downloading anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.extractors.cards import read_card
from facepoison.extractors.catalog import (
    FILE,
    WEIGHTS,
    Entry,
    build_network,
    catalogue,
    count_macs,
    load_extractor,
    locate,
)
from facepoison.extractors.catalog import selftest as run_selftest
from facepoison.extractors.onnx_files import BlackBox, differentiable

_TOLERANCE = 1e-4  # largest relative error of a self-test
FINE = ("ready", "not trained", "unverified", "not fetched", "give --folder")


@dataclass(frozen=True)
class Listed:
    """One extractor in the list.

    Attributes:
        name: Its name in the catalogue; ``kind`` to ``format`` are from its entry too.
        status: ``"ready"``: its file is there and the right one. ``"not trained"``: an own one without weights.
            ``"unverified"``: another's that was never loaded here. ``"not fetched"``: another's that can be fetched.
            ``"give --folder"``: another's that lies elsewhere. Anything else says what is wrong.
        parameters: Number of weights; None where only the missing file knows.
        macs: Multiply-adds for one picture at the contract's size, of convolutions and matrix products; None where the
            file is missing or a black box.
        size: Bytes of its file; None while that is not known.
        rank1: Share of right names on people whom nobody has seen, from the card of its training, with the ends of
            the interval (``low``, ``high``) and the number of people (``n``); None where there is no card.
        differentiable: Whether poisons can use it as a surrogate.
        selftest: Relative error against the embeddings that came with it; None where none did.
    """

    name: str
    kind: str
    year: int
    paper: str
    licence: str
    format: str
    status: str
    parameters: int | None
    macs: int | None
    size: int | None
    rank1: float | None
    low: float | None
    high: float | None
    n: int | None
    differentiable: bool
    selftest: float | None

    @property
    def usable(self) -> bool:
        """Whether nothing is wrong; an extractor that is not here yet counts as fine."""
        return self.status in FINE


def measured(entry: Entry, extractor: Extractor | None) -> tuple[int | None, int | None]:
    """Numbers of parameters and of multiply-adds; from the entry alone where the format tells the network."""
    if extractor is None and entry.format == "onnx":
        return None, None
    if extractor is None:
        with torch.device("meta"):
            network = build_network(entry)
    else:
        network = extractor.network
    if isinstance(network, BlackBox):
        return None, None
    weights: list[Tensor] = [*network.parameters()]
    if entry.format == "onnx":
        weights += network.buffers()  # where conversion keeps some of the weights
    return sum(weight.numel() for weight in weights), count_macs(network, entry.contract.size)


def read_rank(entry: Entry, folder: Path = WEIGHTS) -> tuple[float | None, float | None, float | None, int | None]:
    """Rank-1 with low, high and number of people from the card of an own extractor; None where there is none."""
    card = read_card(entry, folder)
    if not card:
        return None, None, None, None
    rank = card["test"]["rank_1"]
    return rank["value"], rank["low"], rank["high"], rank["n"]


def listed(entry: Entry, folder: Path | None, file: Path = FILE) -> Listed:
    """The row of one extractor; its file is checked, loaded and, where a self-test lies beside it, tried.

    Args:
        entry: The extractor.
        folder: Where other people's files lie; None looks only into the cache of downloads.
        file: The catalogue.
    """
    extractor, error = None, None
    rank: tuple[float | None, float | None, float | None, int | None] = (None, None, None, None)
    parameters, macs = None, None
    place = folder if entry.kind == "other" else None
    path = locate(entry, place)
    try:
        if entry.kind == "own" and not (entry.trained and entry.hashed):
            status = "not trained"
        elif not entry.hashed:
            status = "unverified"
        elif entry.fetchable and not (path and path.is_file()):
            status = "not fetched"
        elif path is None:
            status = "give --folder"
        else:
            extractor, status = load_extractor(entry.name, "cpu", place, file), "ready"
            test = path.with_name(f"{entry.name}.selftest.npz")
            error = run_selftest(extractor, test, entry.selftest_colour) if test.is_file() else None
            if error is not None and not error < _TOLERANCE:
                status = f"{path}: its self-test differs by {error:.0e}: correct its contract in the catalogue"
            rank = read_rank(entry)
    except InputError as wrong:
        status = str(wrong)
    try:
        parameters, macs = measured(entry, extractor)
    except InputError as wrong:
        status = str(wrong)
    return Listed(
        name=entry.name,
        kind=entry.kind,
        year=entry.year,
        paper=entry.paper,
        licence=entry.licence,
        format=entry.format,
        status=status,
        parameters=parameters,
        macs=macs,
        size=entry.bytes or None,
        rank1=rank[0],
        low=rank[1],
        high=rank[2],
        n=rank[3],
        differentiable=entry.differentiable if extractor is None else differentiable(extractor),
        selftest=error,
    )


def list_extractors(folder: Path | None = None, file: Path = FILE) -> list[Listed]:
    """A row for every entry of the catalogue, in its order; ``folder`` as in `listed`.

    Raises:
        InputError: the catalogue cannot be read.
    """
    return [listed(entry, folder, file) for entry in catalogue(file).values()]
