"""Results cached by content, so that nothing is computed twice and long runs resume.

One rule decides whether what is there may be used again, for results in the store and for the files that long runs
resume from: it was made from the same inputs and parameters, by the same code, library versions and kind of device.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import safetensors
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fingerprint
from facepoison.device import device_kind, versions
from facepoison.errors import InputError

Arrays = dict[str, Tensor]
CACHING = ("fingerprint", __name__, "facepoison.shards")
"""Modules that cache results and make none: whoever imports them for that does not depend on them."""


@dataclass(frozen=True)
class Cached:
    """A result from the store: its tensors, what it took to compute, and whether that was just now."""

    arrays: Arrays
    seconds: float
    computed_now: bool


def root() -> Path:
    """The folder of the store: ``FACEPOISON_STORE``, or ``_build/store`` beside the library."""
    return Path(os.environ.get("FACEPOISON_STORE") or fingerprint.LIB.parent / "_build" / "store")


@runtime_checkable
class Keyed(Protocol):
    """What is too large to be described by all that it holds, and says instead what stands for it."""

    def key_parts(self) -> Mapping[str, object]:
        """Everything that it is decided by, its code aside."""


def describe(value: object) -> object:
    """A value as JSON that stands for its content: tensors and files by hash, dataclasses by their fields."""
    if isinstance(value, Tensor):
        cpu = value.detach().cpu().contiguous()
        digest = hashlib.sha256(cpu.view(torch.uint8).numpy().tobytes() if cpu.numel() else b"").hexdigest()
        return [str(cpu.dtype), list(cpu.shape), digest]
    if isinstance(value, Keyed):
        return [type(value).__name__, describe(value.key_parts())]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {field.name: describe(getattr(value, field.name)) for field in fields(value)}]
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a store key cannot hold a {type(value).__name__}")


def of_weights(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers with their names, as 64 hex digits."""
    weights = {name: describe(weight.flatten()) for name, weight in network.state_dict().items()}
    return fingerprint.of_text(repr(weights))


def _brought_along(value: object) -> set[str]:
    """Names of the modules whose code a value brings along: those of its class, and of all layers of a network."""
    if isinstance(value, nn.Module):
        return {type(layer).__module__ for layer in value.modules()}
    if isinstance(value, Mapping):
        return set().union(*map(_brought_along, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_brought_along, value))
    if is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name) for field in fields(value)]
        return {type(value).__module__}.union(*map(_brought_along, parts))
    return set()


def taking_part(by: Sequence[Callable[..., object]], parts: Mapping[str, object]) -> tuple[str, ...]:
    """Names of the modules that make a result: those of the functions that do the work, and of what they are given."""
    return tuple(sorted({function.__module__ for function in by} | _brought_along(parts)))


def key(name: str, by: Sequence[Callable[..., object]], parts: Mapping[str, object]) -> str:
    """The key of a result: name, code, inputs and parameters, library versions and kind of device, as 64 hex digits.

    Args:
        name: What the result is.
        by: The functions that do the work; the code of their modules, of everything that these import, and of the
            classes of the parts is in the key.
        parts: Everything else that the result depends on: tensors, numbers, names, dataclasses, ``Keyed`` things.

    Raises:
        TypeError: a part is of a kind that nothing here can stand for.
    """
    code = fingerprint.of_modules(*taking_part(by, parts), without=CACHING)
    whole = [name, code, describe(parts), versions(), device_kind()]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def resumable(folder: Path, name: str, suffix: str, *, by: Sequence[Callable[..., object]], **parts: object) -> Path:
    """Where a long run keeps its state in a folder: a file named by the key of its result, so that no other finds it.

    Args:
        folder: Where to.
        name: What the result is, for people who look into the folder.
        suffix: How the file's name ends.
        by: As of ``key``.
        parts: As of ``key``.
    """
    return folder / f"{name.replace(' ', '-').replace('/', '-')}-{key(name, by, parts)[:20]}{suffix}"


def from_checkout(path: Path) -> Path:
    """A path to read from, as it is.

    Raises:
        InputError: it lies in the project's ``data``, which packages leave out and which is not here.
    """
    data = fingerprint.LIB.parent / "data"
    if path.is_relative_to(data) and not data.is_dir():
        raise InputError(f"{path}: comes with a checkout, not with the package: install from one with pip install -e .")
    return path


def _unwritable(path: Path, error: Exception) -> InputError:
    """What to say of a file that could not be written, by the error that came of trying."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    what = "the disk is full: free some space" if full else f"cannot be written ({error})"
    return InputError(f"{path}: {what}, then run again; nothing was lost")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that becomes ``path`` on success and disappears on failure.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield scratch
        scratch.chmod(0o644)  # some writers leave files that only their owner can read
        os.replace(scratch, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise _unwritable(path, error) from error
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep every other process from making the file ``path`` until the block ends; waits while another one does.

    The lock is the system's, on a file ``.NAME.lock`` beside it that stays: it ends with the process that holds it,
    however that ends.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.stem}.lock"))
        lock.acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> Cached | None:
    """The result in a file of the store; None where there is none, or none that can be read."""
    try:
        with safetensors.safe_open(path, "pt") as handle:
            seconds = float(handle.metadata()["seconds"])
        return Cached(load_file(path), seconds, computed_now=False)
    except (FileNotFoundError, safetensors.SafetensorError):
        return None  # a damaged file is computed again, and replaced


def _note(path: Path, saved: float) -> None:
    """Add a result that was asked for, and the seconds that its being there saved, to ``FACEPOISON_STORE_LOG``."""
    log = os.environ.get("FACEPOISON_STORE_LOG")
    if log:
        with Path(log).open("a") as file:
            file.write(f"{path.parent.name}/{path.stem} {saved!r}\n")


def _place(name: str, digest: str) -> Path:
    """The file of a result, by its name and key."""
    return root() / name / f"{digest}.safetensors"


def find_cached(name: str, digest: str) -> Cached | None:
    """The result of a name under a key, as ``key`` gives it; None where there is none yet."""
    found = _read(_place(name, digest))
    if found:
        _note(_place(name, digest), found.seconds)
    return found


def add_cached(name: str, digest: str, made: Cached) -> None:
    """Cache what another process made, which may have a store of its own; what is here already stays.

    Raises:
        InputError: the store cannot be written.
    """
    path = _place(name, digest)
    with held(path):
        if _read(path) is None:
            _write(path, name, made.arrays, made.seconds)


def _write(path: Path, name: str, arrays: Arrays, seconds: float) -> None:
    """Write a result with the seconds that it took."""
    with written_whole(path) as scratch:
        save_file(arrays, scratch, metadata={"seconds": repr(seconds), "name": name})


def cached(
    name: str, compute: Callable[[], Arrays], *, by: Sequence[Callable[..., object]] = (), **parts: object
) -> Cached:
    """The result of ``compute``, from the store where it holds one, else computed and cached.

    Of several processes that want the same result at once, one computes it and the others wait for that. ``compute``
    may have results of its own cached, as long as none of them is made from this very result.

    Args:
        name: What the result is, for people who look into the store.
        compute: Takes nothing and returns named tensors.
        by: The functions that do the work, by default ``compute`` itself; see ``key``.
        parts: Everything that the result depends on; see ``key``.

    Returns:
        The tensors (on the CPU) with the seconds that computing them took, whenever that was.

    Raises:
        InputError: the store cannot be written.
    """
    digest = key(name, by or (compute,), parts)
    path, found = _place(name, digest), find_cached(name, digest)
    if found:
        return found
    with held(path):
        _note(path, 0)
        found = _read(path)  # while this process waited, another one may have written it
        if found:
            return found
        start = time.perf_counter()
        arrays = {label: array.detach().cpu().contiguous() for label, array in compute().items()}
        seconds = time.perf_counter() - start
        _write(path, name, arrays, seconds)
    return Cached(arrays, seconds, computed_now=True)
