"""The catalogue of extractors: dated, licensed, hashed; what it names is checked before it is used."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fingerprint
from facepoison.device import pick_device
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing
from facepoison.extractors.architectures import ARCHITECTURES
from facepoison.extractors.formats import IRESNETS, facenet, fill, read_state
from facepoison.extractors.onnx_files import load_onnx, of_onnx
from facepoison.store import from_checkout, written_whole

DATA = fingerprint.LIB.parent / "data"
FILE = DATA / "catalog.toml"
WEIGHTS = DATA / "weights"

Kind = Literal["own", "other"]
Format = Literal["safetensors", "onnx", "timm", "facenet", "iresnet", "dlib"]


@dataclass(frozen=True)
class Entry:
    """What the catalogue says of one extractor.

    Attributes:
        name: Its name in code and results.
        year: Year of the published step that it follows.
        paper: That step.
        architecture: The network; for own ones a key of ``ARCHITECTURES``, for timm files a timm model, for iresnet
            files a key of ``IRESNETS``.
        kind: ``"own"`` ones are trained and shipped here, ``"other"`` ones lie in a folder of the user's.
        format: How the weights are kept.
        file: Name of the file.
        bytes: Its size.
        sha256: Its hash. An own extractor that has not been trained has words there instead, and another's that was
            never loaded here has nothing.
        licence: Terms of the weights.
        source: Where they come from.
        embedding: Number of dimensions of an embedding.
        differentiable: Whether poisons can use it as a surrogate.
        contract: What it expects of its input.
        address: Where its file can be downloaded, if it has an address of its own.
        prefix: For facenet and iresnet files: what every key of its state begins with.
        drop: For these too: beginnings of keys that are left out.
        selftest_colour: Order of the colour channels of ``x`` in the self-test that came with it.
        after: For own ones that were trained further, to see through poison: the one that they started from. They are
            a trainer's answer, and in no timeline.
    """

    name: str
    year: int
    paper: str
    architecture: str
    kind: Kind
    format: Format
    file: str
    bytes: int
    sha256: str
    licence: str
    source: str
    embedding: int
    differentiable: bool
    contract: Preprocessing
    address: str = ""
    prefix: str = ""
    drop: tuple[str, ...] = ()
    selftest_colour: Literal["RGB", "BGR"] = "RGB"
    after: str = ""

    @property
    def hashed(self) -> bool:
        """Whether the catalogue holds a hash of its file; without one nothing opens the file."""
        return len(self.sha256) == 64

    @property
    def trained(self) -> bool:
        """Whether there are weights; an own extractor is in the catalogue as soon as it has a recipe."""
        return self.bytes > 0

    @property
    def fetchable(self) -> bool:
        """Whether ``downloads.fetch`` can get its file."""
        return bool(self.address) or self.format == "dlib"


def _entry(name: str, table: dict[str, Any]) -> Entry:
    """An entry from its table in the file."""
    fields = dict(table)
    contract = {key: fields.pop(key) for key in ("size", "colour", "mean", "std", "alignment")}
    contract |= {"mean": tuple(contract["mean"]), "std": tuple(contract["std"])}
    fields["drop"] = tuple(fields.get("drop", ()))
    entry = Entry(name=name, contract=Preprocessing(**contract), **fields)
    if entry.address and not entry.address.startswith(("https://", "http://")):
        raise ValueError(f"address {entry.address}")
    if entry.kind not in get_args(Kind) or entry.format not in get_args(Format):
        raise ValueError(f"kind {entry.kind}, format {entry.format}")
    return entry


@cache
def _read(file: Path) -> dict[str, Entry]:
    from_checkout(file)
    try:
        tables = tomllib.loads(file.read_text())
        return {name: _entry(name, table) for name, table in tables.items()}
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: the catalogue cannot be read ({error}): correct that entry") from error


def catalogue(file: Path = FILE) -> dict[str, Entry]:
    """All entries by name, in the order of the file: the undefended trainer's extractor first.

    Raises:
        InputError: the file is missing or an entry is not as it should be.

    Example:
        >>> import facepoison as fp
        >>> entry = fp.catalogue()["deepid_2014"]
        >>> entry.kind, entry.year, entry.embedding, entry.contract.size
        ('own', 2014, 128, 64)
    """
    return dict(_read(file))


def find_entry(name: str, file: Path = FILE) -> Entry:
    """The entry of an extractor.

    Raises:
        InputError: the catalogue does not know it.
    """
    entries = _read(file)
    if name not in entries:
        raise InputError(f"extractor '{name}' is unknown: use one of {', '.join(entries)}")
    return entries[name]


def record(name: str, path: Path, file: Path = FILE) -> None:
    """Write size and SHA-256 of an extractor's new weights into the catalogue.

    Raises:
        InputError: the catalogue does not know the name, or cannot be written.
    """
    entry = find_entry(name, file)
    before, table, after = file.read_text().partition(f"[{name}]\n")
    values = {
        "bytes": (str(entry.bytes), str(path.stat().st_size)),
        "sha256": (entry.sha256, fingerprint.of_file(path)),
    }
    for key, (old, new) in values.items():
        quote = '"' if key == "sha256" else ""
        after = after.replace(f"{key} = {quote}{old}{quote}\n", f"{key} = {quote}{new}{quote}\n", 1)
    with written_whole(file) as scratch:
        scratch.write_text(before + table + after)
    _read.cache_clear()


def cache_folder() -> Path:
    """Where downloads are kept: ``FACEPOISON_CACHE``, or ``~/.cache/facepoison``."""
    return Path(os.environ.get("FACEPOISON_CACHE") or Path.home() / ".cache" / "facepoison")


def locate(entry: Entry, folder: Path | None = None) -> Path | None:
    """Where the file of an extractor is, or ought to be.

    Args:
        entry: The extractor.
        folder: Where to look first; own files lie in ``data/weights`` unless this says otherwise.

    Returns:
        The path; None for an extractor that is not the project's own, if neither a folder was given nor the cache of
        downloads holds it.
    """
    if entry.kind == "own":
        return (folder or WEIGHTS) / entry.file
    if folder is not None and (folder / entry.file).is_file():
        return folder / entry.file
    cached = cache_folder() / entry.file
    if cached.is_file():
        return cached
    return None if folder is None else folder / entry.file


def fault(path: Path, entry: Entry) -> str:
    """What keeps a file from being the weights that the catalogue names; empty if nothing does.

    An entry without size or hash asks for nothing there.
    """
    with path.open("rb") as handle:
        head = handle.read(512).lstrip().lower()
    size = path.stat().st_size
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"is a web page, not weights: {_remedy(entry)}"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not weights: run 'git lfs pull' where it comes from"
    if size < entry.bytes:
        return f"is cut short, {size} of {entry.bytes} bytes: {_remedy(entry)}"
    got = of_weights_file(path, entry.format)
    if entry.hashed and got != entry.sha256:
        what = f"its SHA-256 is {got[:12]}…, the catalogue says {entry.sha256[:12]}…"
        return f"is not the file that the catalogue names ({what}): {_remedy(entry)}"
    return ""


def of_weights_file(path: Path, kind: Format) -> str:
    """SHA-256 of a file of weights, with whatever other files hold weights of it, as 64 hex digits.

    Raises:
        InputError: an ONNX file cannot be read, or its other files are not there.
    """
    return of_onnx(path) if kind == "onnx" else fingerprint.of_file(path)


def check_file(path: Path, entry: Entry) -> None:
    """Make sure that a file of weights is the very one that the catalogue names, before anything opens it.

    Raises:
        InputError: it is missing or has not been made yet, the catalogue has no hash of it, or it is a web page, a
            pointer of git-lfs, cut short, or has another hash.
    """
    if entry.kind == "own" and not (entry.trained and entry.hashed):
        raise InputError(f"{path}: {entry.name} has not been trained: run '{entry.source}'")
    if not entry.hashed:
        raise InputError(
            f"extractor '{entry.name}' is unverified, as its file was never loaded here and has no hash in the "
            f"catalogue: run 'python -m facepoison fetch {entry.name}' and write the size and hash that it prints into "
            "its entry"
        )
    if not path.is_file():
        raise InputError(f"{path}: the weights of {entry.name} are not there: {_remedy(entry)}")
    wrong = fault(path, entry)
    if wrong:
        raise InputError(f"{path}: {wrong}")


def _remedy(entry: Entry) -> str:
    """What to do about an extractor's missing or damaged file."""
    if entry.kind == "own":
        return f"restore it from the project, or run '{entry.source}'"
    if entry.address:
        return f"run 'python -m facepoison fetch {entry.name}', or get {entry.address} into the folder of extractors"
    if entry.fetchable:
        return f"run 'python -m facepoison fetch {entry.name}'"
    return f"get {entry.file} ({entry.source}) into the folder of extractors"


def _timm(entry: Entry) -> nn.Module:
    """A timm network with an embedding in place of its classifier."""
    network: nn.Module = timm.create_model(entry.architecture, pretrained=False)
    network.reset_classifier(entry.embedding)  # type: ignore[operator]
    return network


def _arrays(path: Path) -> dict[str, Tensor]:
    """The state in an .npz file."""
    with np.load(path, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def build_network(entry: Entry) -> nn.Module:
    """The network of an extractor as its format makes it, without its weights; an ONNX file has none apart from them.

    Raises:
        InputError: the format does not know the architecture.
    """
    known: dict[str, dict[str, Callable[[], nn.Module]]] = {
        "safetensors": ARCHITECTURES,
        "timm": {entry.architecture: lambda: _timm(entry)} if timm.is_model(entry.architecture) else {},
        "facenet": {"InceptionResnetV1": facenet},
        "iresnet": dict(IRESNETS),
        "dlib": {"ResNet of dlib": lambda: import_module("facepoison.extractors.dlib").dlib_resnet()},
    }
    networks = known[entry.format]
    if entry.architecture not in networks:
        names = "a model of timm" if entry.format == "timm" else f"one of {', '.join(networks)}"
        raise InputError(f"extractor '{entry.name}': architecture '{entry.architecture}' is unknown: use {names}")
    return networks[entry.architecture]()


@torch.no_grad()
def count_macs(network: nn.Module, size: int) -> int:
    """Multiply-adds of convolutions and matrix products for one picture 3 x size x size.

    A network on the device ``meta`` is counted without computing anything.
    """
    network.eval()
    where = next(iter([*network.parameters(), *network.buffers()])).device
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size, device=where))
    return int(counter.get_total_flops()) // 2  # an addition and a multiplication each


def _state(path: Path, entry: Entry) -> dict[str, Tensor]:
    """The weights of an extractor by key, as its format keeps them."""
    if entry.format in ("safetensors", "dlib"):
        return load_file(path)
    if entry.format == "timm":
        return _arrays(path)
    drop = ("logits.", *entry.drop) if entry.format == "facenet" else entry.drop  # what classified people in training
    return read_state(path, entry.prefix, drop)


def load_extractor(name: str, device: str = "auto", folder: Path | None = None, file: Path = FILE) -> Extractor:
    """An extractor of the catalogue, its file checked by SHA-256 first.

    Args:
        name: Its name in the catalogue.
        device: Where to compute.
        folder: Where its file lies; own ones lie in ``data/weights`` unless this says otherwise, others may lie in the
            cache of downloads too.
        file: The catalogue.

    Raises:
        InputError: the name is unknown, `check_file` finds something wrong, the file of an extractor that is not the
            project's own is nowhere, or its weights do not fit the network.

    Example:
        >>> import facepoison as fp
        >>> extractor = fp.load_extractor("deepid_2014")
        >>> extractor.name, extractor.contract.size
        ('deepid_2014', 64)
    """
    entry = find_entry(name, file)
    path = locate(entry, folder)
    if path is None:
        if not entry.hashed:
            check_file(Path(entry.file), entry)
        what = f"give the folder that holds {entry.file}"
        if entry.fetchable:
            what += f", or run 'python -m facepoison fetch {name}'"
        raise InputError(f"extractor '{name}' is not part of the project: {what}")
    check_file(path, entry)
    if entry.format == "onnx":
        return load_onnx(path, entry.contract, name=name, device=device)
    network = fill(build_network(entry), _state(path, entry), path)
    network = network.to(memory_format=torch.channels_last)  # faster, on CPU and GPU
    return Extractor(network, entry.contract, name=name, sha256=entry.sha256).to(pick_device(device))


@torch.no_grad()
def selftest(extractor: Extractor, path: Path, colour: Literal["RGB", "BGR"] = "RGB") -> float:
    """Relative error of an extractor against an .npz of inputs ``x`` and the embeddings ``y`` that they must give.

    ``x`` (N, 3, H, W) is normalised as the contract says. It is taken back to a picture in [0, 1] first, so that a
    contract of the wrong range, size or colour order is noticed: such mistakes make no sound otherwise.

    Args:
        extractor: What to try.
        path: The .npz.
        colour: Order of the channels of ``x``, whatever order the network takes.

    Raises:
        InputError: the contract cannot be right, since ``x`` is outside its range or not of its size.
    """
    with np.load(path, allow_pickle=False) as arrays:
        x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    mean, std = extractor.mean.cpu(), extractor.std.cpu()
    x = x.flip(1) if colour == "BGR" else x
    if extractor.contract.colour == "BGR":
        mean, std = mean.flip(1), std.flip(1)
    pictures = x * std + mean
    if pictures.min() < -1e-3 or pictures.max() > 1 + 1e-3:
        low, high = float(pictures.min()), float(pictures.max())
        raise InputError(f"{path}: x reads as {low:.2f} to {high:.2f}, not 0 to 1: correct the contract's mean and std")
    if x.shape[-1] != extractor.contract.size:
        raise InputError(f"{path}: x is {x.shape[-1]} wide, the contract says {extractor.contract.size}: correct it")
    got = extractor(pictures.to(extractor.mean.device)).cpu()
    return float((got - y).norm() / y.norm())
