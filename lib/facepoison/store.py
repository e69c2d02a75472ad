"""Results kept by content, so that nothing is computed twice and long runs resume."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import fingerprint
from facepoison.device import device_kind, versions
from facepoison.errors import InputError

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Kept:
    """A result from the store: its tensors, what it took to compute, and whether that was just now."""

    arrays: Arrays
    seconds: float
    computed_now: bool


def root() -> Path:
    """The folder of the store: ``FACEPOISON_STORE``, or ``_build/store`` beside the library."""
    return Path(os.environ.get("FACEPOISON_STORE") or fingerprint.LIB.parent / "_build" / "store")


def describe(value: object) -> object:
    """A value as JSON that stands for its content: tensors and files by hash, dataclasses by their fields."""
    if isinstance(value, Tensor):
        cpu = value.detach().cpu().contiguous()
        digest = hashlib.sha256(cpu.view(torch.uint8).numpy().tobytes() if cpu.numel() else b"").hexdigest()
        return [str(cpu.dtype), list(cpu.shape), digest]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, describe(asdict(value))]
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a store key cannot hold a {type(value).__name__}")


def key(name: str, code: str, parts: Mapping[str, object]) -> str:
    """The key of a result: name, code, inputs and parameters, library versions and kind of device."""
    whole = [name, code, describe(parts), versions(), device_kind()]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


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
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        what = "the disk is full: free some space" if full else f"cannot be written ({error})"
        raise InputError(f"{path}: {what}, then run again; nothing was lost") from error
    finally:
        scratch.unlink(missing_ok=True)


def remember(
    name: str, compute: Callable[[], Arrays], *, by: Sequence[Callable[..., object]] = (), **parts: object
) -> Kept:
    """The result of ``compute``, from the store where it holds one, else computed and kept.

    Args:
        name: What the result is, for people who look into the store.
        compute: Takes nothing and returns named tensors.
        by: The functions that do the work; the code of their modules, and of everything that these import, is part of
            the key. By default ``compute`` itself.
        parts: Everything that the result depends on: tensors, numbers, names, dataclasses.

    Returns:
        The tensors (on the CPU) with the seconds that computing them took, whenever that was.

    Raises:
        InputError: the store cannot be written.
    """
    code = fingerprint.of_modules(*sorted({function.__module__ for function in by or (compute,)}))
    path = root() / name / f"{key(name, code, parts)}.safetensors"
    if path.is_file():
        try:
            with safetensors.safe_open(path, "pt") as handle:
                seconds = float(handle.metadata()["seconds"])
            return Kept(load_file(path), seconds, computed_now=False)
        except safetensors.SafetensorError:
            path.unlink()  # a damaged file is computed again
    start = time.perf_counter()
    arrays = {label: array.detach().cpu().contiguous() for label, array in compute().items()}
    seconds = time.perf_counter() - start
    with written_whole(path) as scratch:
        save_file(arrays, scratch, metadata={"seconds": repr(seconds), "name": name})
    return Kept(arrays, seconds, computed_now=True)
