"""Downloads of other people's extractors into a folder of their own, checked before they get their names."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

import fingerprint
from facepoison.errors import InputError
from facepoison.extractors import dlib
from facepoison.extractors.catalog import FILE, Entry, cache_folder, fault, find_entry
from facepoison.store import written_whole

WAIT = 30.0  # seconds without an answer after which a server counts as out of reach


@dataclass(frozen=True)
class Fetched:
    """A file of weights in the cache.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Its hash.
        new: Whether it was downloaded just now.
        verified: Whether the catalogue has a hash, which then is this one.
    """

    path: Path
    bytes: int
    sha256: str
    new: bool
    verified: bool


def _parts(entry: Entry) -> Iterator[bytes]:
    """What lies at an entry's address, piece by piece; InputError if it cannot be had, or not all of it."""
    by_hand = f"get {entry.address} by hand and put it at {cache_folder() / entry.file}"
    got, total = 0, 0
    try:
        with urllib.request.urlopen(entry.address, timeout=WAIT) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while part := answer.read(1 << 20):
                got += len(part)
                yield part
    except urllib.error.HTTPError as error:
        raise InputError(f"{entry.address}: is answered with {error.code} {error.reason}: {by_hand}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise InputError(f"{entry.address}: cannot be reached ({reason}): {by_hand}") from error
    if got < total:
        raise InputError(f"{entry.address}: broke off after {got} of {total} bytes: run again, or {by_hand}")


def fetch(name: str, file: Path = FILE) -> Fetched:
    """Put the file of an extractor into the cache of downloads, unless it is there.

    It is downloaded under another name and gets its own only if size and SHA-256 are those of the catalogue. Where the
    catalogue has no hash, the file is kept, but `load_extractor` refuses it until the entry has one. Weights that have
    no file of their own are taken out of a package: see `dlib.published_weights`.

    Args:
        name: The extractor's name in the catalogue.
        file: The catalogue.

    Raises:
        InputError: the name is unknown, the extractor is the project's own or has no address, it cannot be reached, or
            the file is not what the catalogue says; what lies in the cache stays as it is.
    """
    entry = find_entry(name, file)
    if entry.kind == "own":
        raise InputError(f"extractor '{name}' is the project's own: there is nothing to fetch, see '{entry.source}'")
    path = cache_folder() / entry.file
    new = not path.is_file()
    if new and not entry.fetchable:
        raise InputError(f"extractor '{name}' has no address: get it by hand ({entry.source}) and put it at {path}")
    if new:
        with written_whole(path) as scratch:
            if entry.format == "dlib":
                save_file(dlib.published_weights(), scratch)
            else:
                with scratch.open("wb") as out:
                    for part in _parts(entry):
                        out.write(part)
            wrong = fault(scratch, entry)
            if wrong:
                raise InputError(f"{entry.address or entry.source}: what lies there {wrong}")
    else:
        wrong = fault(path, entry)
        if wrong:
            raise InputError(f"{path}: {wrong}, and delete this one")
    return Fetched(path, path.stat().st_size, fingerprint.of_file(path), new, entry.hashed)
