"""One photograph twice: in gallery and probes it makes recognition too easy, under two names too hard."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from facepoison.pictures import Pictures

_COPY = 32  # pixels of the copies that are compared
ONE_PHOTOGRAPH = 0.95
"""Correlation from which two aligned faces count as one photograph. Of 3,060 photographs of 344 people, moved by one
pixel in both directions, 99 % are as much like themselves; of their 4.6 million pairs of two people none is above
0.94."""
_GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue, ITU-R BT.601


def near_duplicates(pictures: Pictures, alike: float = ONE_PHOTOGRAPH) -> Tensor:
    """Pairs of pictures that are one photograph, encoded or cut anew.

    Args:
        pictures: Aligned faces, of any size.
        alike: Least correlation between small grey copies of two.

    Returns:
        Their places, int64 (K, 2), the smaller first, in ascending order.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> from facepoison.pictures.duplicates import near_duplicates
        >>> faces = fp.make_pictures("examples", 3, 1, 64, seed=1)
        >>> twice = fp.Pictures(torch.cat([faces.pixels, faces.pixels[:1] // 2]), torch.arange(4), (*"abcd",))
        >>> near_duplicates(twice).tolist()
        [[0, 3]]
    """
    grey = (pictures.pixels.float() * torch.tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    small = F.interpolate(grey, (_COPY, _COPY), mode="area").flatten(1)
    unit = F.normalize(small - small.mean(dim=1, keepdim=True), dim=1)
    return (unit @ unit.T).triu(diagonal=1).ge(alike).nonzero()
