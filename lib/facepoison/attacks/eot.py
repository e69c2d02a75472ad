"""EOT, expectation over transformation: surrogates that see each picture changed at random, for lasting poison."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.extractors import Drawing, Extractor

_SMALLEST = 0.5  # of the side, to which a picture may be shrunk before it is enlarged again
_SHIFT = 2  # pixels by which it may be moved, in each direction
_NOISE = 0.04  # standard deviation of what is added, on the network's own scale of about -1 to 1


class _Shaken(Drawing):
    """A network behind a camera that never holds still: every call changes its batch in a way of its own."""

    def __init__(self, network: nn.Module, seed: int) -> None:
        super().__init__()
        self.network = network
        self.seed = seed

    def forward(self, pictures: Tensor) -> Tensor:
        stream = generator(self.seed, "eot", self.calls)  # numbered: sums of pictures differ where rounding does
        self.calls += 1
        size = pictures.shape[-1]
        side = round(size * (_SMALLEST + (1 - _SMALLEST) * torch.rand((), generator=stream).item()))
        down, right = torch.randint(0, 2 * _SHIFT + 1, (2,), generator=stream).tolist()
        small = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)
        back = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)
        wide = F.pad(back, (_SHIFT,) * 4, mode="replicate")
        noise = _NOISE * torch.randn(pictures.shape, generator=stream).to(pictures)
        seen: Tensor = self.network(wide[..., down : down + size, right : right + size] + noise)
        return seen


def eot_surrogate(extractor: Extractor, seed: int) -> Extractor:
    """A surrogate for expectation over transformation: poison made on it survives shrinking, moving and noise.

    An attack that follows its gradient for many steps follows that of the mean over such changes (EOT, Athalye et al.,
    ICML 2018): no attack needs another line for it. A change is drawn by the seed and
    by the number of the call since an attack began, so that runs repeat; a picture's poison depends on its company in
    a batch.

    Args:
        extractor: The surrogate; it stays as it is.
        seed: Of the changes.

    Raises:
        InputError: the surrogate takes pictures too small to be moved.
    """
    if extractor.contract.size <= 2 * _SHIFT:
        raise InputError(f"surrogate '{extractor.name}': {extractor.contract.size} px is too small to be moved")
    shaken = Extractor(
        _Shaken(extractor.network, seed),
        extractor.contract,
        name=f"{extractor.name}, EOT",
        sha256=f"{extractor.sha256} EOT {seed}",
    )
    return shaken.to(extractor.mean.device)
