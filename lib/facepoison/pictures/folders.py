"""Your own pictures: a folder with one folder for each identity, read, aligned and accounted for."""

from __future__ import annotations

import hashlib
import io
import struct
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from facepoison.errors import InputError
from facepoison.pictures import Pictures
from facepoison.pictures.align import align
from facepoison.store import Arrays, cached

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP")
_MOST_PIXELS = 80_000_000


@dataclass(frozen=True)
class Skipped:
    """A picture that was left out.

    Attributes:
        path: The file.
        reason: Why, in words that are the same for all of its kind.
        detail: What else there is to say.
    """

    path: Path
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What became of the files of a folder.

    Attributes:
        found: Number of files.
        used: Number of pictures that were taken.
        several: How many of these show more than one face.
        skipped: The others.
    """

    found: int
    used: int
    several: int
    skipped: tuple[Skipped, ...]

    def counts(self) -> dict[str, int]:
        """How many files were left out for each reason, most frequent first."""
        return dict(Counter(one.reason for one in self.skipped).most_common())

    def __str__(self) -> str:
        line = f"{self.used} of {self.found} pictures used"
        if self.several:
            line += f", {self.several} of them with several faces, of which the one in the middle was taken"
        if self.skipped:
            line += "; left out: " + ", ".join(f"{count} {reason}" for reason, count in self.counts().items())
        return line


class _UnusableError(Exception):
    """A picture cannot be used, with reason and detail."""


def list_files(root: Path) -> list[tuple[str, Path]]:
    """Name of the identity and path of every file of a folder, sorted; hidden files are left out.

    Each folder in ``root`` is an identity and holds its pictures, or holds them in a folder ``face`` (FaceScrub).

    Raises:
        InputError: there is no such folder, it cannot be read, or it holds no files of identities.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder: give one that holds a folder of pictures for each identity")
    found: list[tuple[str, Path]] = []
    try:
        for identity in sorted(root.iterdir()):
            if identity.is_dir() and not identity.name.startswith("."):
                place = identity / "face" if (identity / "face").is_dir() else identity
                files = (
                    path for path in sorted(place.iterdir()) if not path.is_dir() and not path.name.startswith(".")
                )
                found += [(identity.name, path) for path in files]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}): allow reading it") from error
    if not found:
        raise InputError(f"{root}: holds no pictures: put those of each identity into a folder of its own in it")
    return found


def open_picture(data: bytes) -> Image.Image:
    """An RGB picture from the bytes of a JPEG, PNG or WebP file, turned as its EXIF orientation says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below Pillow's
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise _UnusableError("too large", str(error)) from error
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise _UnusableError("no JPEG, PNG or WebP picture") from error
    if image.width * image.height > _MOST_PIXELS:
        raise _UnusableError(
            "too large", f"{image.width} x {image.height} pixels, at most {_MOST_PIXELS // 10**6} million"
        )
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise _UnusableError("cut short or damaged", str(error)) from error


def _aligned(path: Path, device: str) -> tuple[Tensor, int]:
    """The aligned face of a file and the number of faces in it, from the store where it is known."""
    if path.suffix.lower() not in _SUFFIXES:
        raise _UnusableError("not named as a picture", f"'{path.suffix}' is none of {', '.join(_SUFFIXES)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _UnusableError("cannot be read", str(error.strerror)) from error

    def compute() -> Arrays:
        face, n = align(open_picture(data), device)
        return {"face": torch.zeros(0, dtype=torch.uint8) if face is None else face, "faces": torch.tensor(n)}

    found = cached("aligned", compute, sha256=hashlib.sha256(data).hexdigest()).arrays
    if not int(found["faces"]):
        raise _UnusableError("no face found")
    return found["face"], int(found["faces"])


def read_folder(
    root: Path, *, least: int = 2, device: str = "auto", progress: Callable[[int, int], None] | None = None
) -> tuple[Pictures, Report]:
    """The aligned faces of a folder, and what was left out and why.

    Args:
        root: Holds a folder for each identity, with its pictures in it or in its folder ``face``.
        least: Identities with fewer usable pictures are left out; two are needed for a gallery and a probe.
        device: Where faces are looked for.
        progress: Called with files done and files in all after each.

    Returns:
        Pictures of 112 x 112, identities in the order of their names, and the report.

    Raises:
        InputError: the folder cannot be read, or fewer than two identities are left.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import facepoison as fp
        >>> faces = fp.make_pictures("examples", 2, 2, 112, seed=1)
        >>> with TemporaryDirectory() as scratch:
        ...     fp.write_folder(faces, Path(scratch) / "faces")
        ...     aligned, report = fp.read_folder(Path(scratch) / "faces")
        >>> print(report)
        4 of 4 pictures used
        >>> aligned.names
        ('examples-00000', 'examples-00001')
    """
    files = list_files(root)
    faces: dict[str, list[tuple[Path, Tensor, int]]] = {}
    skipped: list[Skipped] = []
    for done, (name, path) in enumerate(files, 1):
        try:
            faces.setdefault(name, []).append((path, *_aligned(path, device)))
        except _UnusableError as unusable:
            skipped.append(Skipped(path, *map(str, unusable.args)))
        if progress:
            progress(done, len(files))
    for name in [name for name, some in faces.items() if len(some) < least]:
        left = faces.pop(name)
        skipped += [Skipped(path, f"fewer than {least} pictures of its identity") for path, _, _ in left]
    used = [face for some in faces.values() for face in some]
    report = Report(len(files), len(used), sum(n > 1 for _, _, n in used), tuple(skipped))
    if len(faces) < 2:
        raise InputError(f"{root}: {report}; {len(faces)} identities are left: give at least 2 with {least} pictures")
    labels = [index for index, some in enumerate(faces.values()) for _ in some]
    pixels = torch.stack([face for _, face, _ in used])
    return Pictures(pixels, torch.tensor(labels), tuple(faces)), report


def write_folder(pictures: Pictures, root: Path) -> None:
    """Write pictures as PNG files, a folder for each identity, as ``read_folder`` takes them; all or nothing.

    Args:
        pictures: What to write; a slash in an identity's name becomes a hyphen.
        root: The folder, new or empty.

    Raises:
        InputError: it holds something already, or cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import facepoison as fp
        >>> faces = fp.make_pictures("examples", 1, 2, 32, seed=1)
        >>> with TemporaryDirectory() as scratch:
        ...     folder = Path(scratch) / "faces"
        ...     fp.write_folder(faces, folder)
        ...     sorted(str(file.relative_to(folder)) for file in folder.rglob("*.png"))
        ['examples-00000/000.png', 'examples-00000/001.png']
    """
    if root.is_dir() and any(root.iterdir()):
        raise InputError(f"{root}: is not empty: name a new folder, nothing is overwritten")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as scratch:
            whole = Path(scratch) / "whole"
            for number, name in enumerate(pictures.names):
                own = whole / name.replace("/", "-")
                own.mkdir(parents=True)
                for place, pixels in enumerate(pictures.of(number).pixels):
                    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(own / f"{place:03}.png")
            if root.is_dir():
                root.rmdir()
            whole.rename(root)
    except OSError as error:
        raise InputError(f"{root}: cannot be written ({error.strerror or error}): nothing was left behind") from error
