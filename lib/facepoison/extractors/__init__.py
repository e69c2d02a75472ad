"""Extractors: networks that turn a face picture into an embedding, and the contract that says how to feed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facepoison.device import batches
from facepoison.pictures import to_float
from facepoison.pictures.geometry import CROP, CROP_TO_CHIP, lay


@dataclass(frozen=True)
class Preprocessing:
    """What an extractor expects of its input; nobody but its wrapper needs to know.

    Attributes:
        size: Height and width in pixels.
        colour: Order of the colour channels.
        mean: Subtracted from each channel of a picture in [0, 1].
        std: Then divided by: ``mean=(0, 0, 0), std=(1/255,) * 3`` is the range 0 to 255.
        alignment: How faces must lie in the picture: ``"rendered"`` as the book's own faces do, ``"arcface"`` by five
            landmarks on the ArcFace template at 112 x 112, ``"dlib"`` as ``pictures.chips`` cuts them out.
    """

    size: int
    colour: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    alignment: Literal["rendered", "arcface", "dlib"] = "rendered"


class Drawing(nn.Module):
    """A part of a network that draws at random at every call: numbered calls, so that whoever restarts it repeats it.

    Attributes:
        calls: How often it was called since it was made or restarted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def restart(self) -> None:
        """Draw from the beginning again."""
        self.calls = 0


class Extractor(nn.Module):
    """A network behind its preprocessing contract: RGB pictures in [0, 1] go in, embeddings come out.

    The weights are frozen and in evaluation mode; gradients with respect to pictures flow through everything.

    Attributes:
        name: Its name in the catalogue.
        sha256: Hash of its weights; results that depend on the extractor are kept under it.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> network = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())
        >>> own = fp.Extractor(network, fp.Preprocessing(size=8), name="colours", sha256="none")
        >>> own(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 12])
    """

    def __init__(self, network: nn.Module, contract: Preprocessing, *, name: str, sha256: str) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.contract = contract
        self.name = name
        self.sha256 = sha256
        self.register_buffer("mean", torch.tensor(contract.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(contract.std).view(1, 3, 1, 1))
        self.mean: Tensor
        self.std: Tensor

    def key_parts(self) -> Mapping[str, object]:
        """What stands for it in the key of a result: hash of its weights, and how it is fed."""
        return {"sha256": self.sha256, "contract": self.contract}

    def forward(self, pictures: Tensor) -> Tensor:
        """Embeddings (B, D), not normalised, of RGB float pictures (B, 3, H, W) in [0, 1].

        Where the contract wants a face as dlib cuts it out, one of 112 x 112 pixels is taken for one on the ArcFace
        template and laid where it would be there, with its border repeated for what it lacks: that is what an attacker
        does who has no more of the photograph than the face.
        """
        size = self.contract.size
        if self.contract.alignment == "dlib" and pictures.shape[-2:] == (CROP, CROP):
            pictures = lay(pictures, torch.tensor(CROP_TO_CHIP), size, "border")
        if pictures.shape[-2:] != (size, size):
            pictures = F.interpolate(pictures, (size, size), mode="bilinear", antialias=True, align_corners=False)
        if self.contract.colour == "BGR":
            pictures = pictures.flip(1)
        embeddings: Tensor = self.network((pictures - self.mean) / self.std)
        return embeddings


def normalise(embeddings: Tensor) -> Tensor:
    """Embeddings (B, D) at unit Euclidean length."""
    return F.normalize(embeddings, dim=1)


@torch.no_grad()
def embed(extractor: Extractor, pixels: Tensor, batch: int = 128) -> Tensor:
    """Unit-length embeddings, float32 (N, D) on the extractor's device, of uint8 RGB pictures (N, 3, H, W).

    Example:
        >>> import facepoison as fp
        >>> faces = fp.make_pictures("examples", 2, 2, 64, seed=1)
        >>> embeddings = fp.embed(fp.load_extractor("deepid_2014"), faces.pixels)
        >>> embeddings.shape
        torch.Size([4, 128])
        >>> bool((embeddings.norm(dim=1) - 1).abs().max() < 1e-3)
        True
    """
    device = extractor.mean.device
    parts = [normalise(extractor(to_float(pixels[some].to(device)))) for some in batches(len(pixels), batch)]
    return torch.cat(parts)
