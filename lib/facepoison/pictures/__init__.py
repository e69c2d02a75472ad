"""Pictures of people: the one container that carries them everywhere, and the rooms that fill it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from facepoison.errors import InputError


@dataclass(frozen=True)
class Pictures:
    """A batch of face pictures with the people in them.

    Attributes:
        pixels: uint8 RGB, shape (N, 3, H, W), 0 to 255.
        identities: int64, shape (N,): index into ``names``.
        names: One name for each identity.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> pixels = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
        >>> pictures = fp.Pictures(pixels, torch.tensor([0, 1, 1]), ("Ada", "Grace"))
        >>> len(pictures), pictures.size, len(pictures.of(1))
        (3, 32, 2)
    """

    pixels: Tensor
    identities: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            got = f"{self.pixels.dtype} {tuple(self.pixels.shape)}"
            raise InputError(f"pixels must be uint8 of shape (N, 3, H, W), got {got}")
        if self.identities.dtype != torch.int64 or self.identities.shape != self.pixels.shape[:1]:
            raise InputError("identities must be int64, one for each picture")
        if len(self.identities) and not 0 <= int(self.identities.min()) <= int(self.identities.max()) < len(self.names):
            raise InputError("identities must be indices into names")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> int:
        """Height and width of the (square) pictures in pixels."""
        return int(self.pixels.shape[-1])

    @property
    def people(self) -> tuple[int, ...]:
        """Who is on them, in the order of first appearance."""
        return tuple(dict.fromkeys(self.identities.tolist()))

    def take(self, index: Tensor) -> Pictures:
        """The pictures at some places (int64 indices or a bool mask); identities keep their numbers."""
        return Pictures(self.pixels[index], self.identities[index], self.names)

    def of(self, identity: int) -> Pictures:
        """All pictures of one identity."""
        return self.take(self.identities == identity)


def check_pictures(pixels: Tensor, what: str = "pictures", least: int = 1) -> None:
    """Refuse what is no batch of pictures.

    Args:
        pixels: What was given.
        what: What to call it.
        least: Pixels that a side must have.

    Raises:
        InputError: not uint8 RGB (N, 3, H, W), none at all, or too small.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels):
        got = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise InputError(f"{what}: {got}; give at least one as uint8 levels 0 to 255, (N, 3, H, W)")
    if min(pixels.shape[-2:]) < least:
        raise InputError(f"{what}: {tuple(pixels.shape[-2:])} px is too small; give at least {least} px a side")


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pictures 0 to 255 as float32 in [0, 1]."""
    return pixels.to(torch.float32) / 255


def to_uint8(pictures: Tensor) -> Tensor:
    """Float pictures in [0, 1] rounded to uint8, as every picture is before anyone looks at it."""
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)


def resize(pixels: Tensor, size: int) -> Tensor:
    """uint8 pictures (N, 3, H, W) at another size, smoothed before they are made smaller."""
    return to_uint8(F.interpolate(to_float(pixels), (size, size), mode="bilinear", antialias=True, align_corners=False))
