"""Faces cut out of photographs as dlib cuts them out, for its network of 2017, and poison carried over to them.

dlib turns and scales a face so that its landmarks come close to a mean shape, whose height and width take up two thirds
of a chip of 150 pixels; a quarter of that shape's size is margin on every side. Its landmarks are points of the 68 of
iBUG 300-W, or five of its own. Here they are the five that MTCNN finds, which any aligned picture of this library rests
on, laid on the same mean shape; and pictures are made smaller with antialiasing instead of over a pyramid of halves.
The package face-api cuts out an upright square about the eyes and the mouth instead, without turning it.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from facepoison.errors import InputError
from facepoison.pictures.align import TEMPLATE, find_faces, middlemost, similarity, warp
from facepoison.pictures.folders import Report, list_files, open_picture
from facepoison.pictures.geometry import CHIP, lay
from facepoison.store import Arrays, cached

# of dlib's mean shape: the middles of the six points of each eye, the tip of the nose, the corners of the mouth
_SHAPE = torch.tensor(
    [[0.225492, 0.215990], [0.754761, 0.215990], [0.490127, 0.515625], [0.254149, 0.780233], [0.726104, 0.780233]]
)
_PADDING = 0.25
CHIP_TEMPLATE: Tensor = CHIP * (_SHAPE + _PADDING) / (1 + 2 * _PADDING)
"""Where the landmarks of ``align.TEMPLATE`` lie in a chip: x and y in pixels."""


def crop_to_chip(points: Tensor = TEMPLATE) -> Tensor:
    """The similarity from the aligned crop of a face to its chip.

    Both are a face under the similarity that brings its landmarks nearest to a template. So the one follows from the
    other exactly where the landmarks are known. Where they are not, those of the crop's own template stand for them,
    which is what ``geometry.CROP_TO_CHIP`` is: a crop's landmarks lie close to them.

    Args:
        points: float (5, 2), landmarks in the photograph, or in any picture that is similar to it.

    Returns:
        float64 (2, 3), from places in the crop to places in the chip.
    """
    last = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    crop, chip = (torch.cat([similarity(points, template), last]) for template in (TEMPLATE, CHIP_TEMPLATE))
    both: Tensor = chip @ torch.linalg.inv(crop)
    return both[:2]


def read_chips(root: Path, report: Report, device: str = "auto") -> tuple[Tensor, Tensor]:
    """Chips of the pictures that ``read_folder`` took, in their order, cut out of the photographs themselves.

    Args:
        root: The folder.
        report: What ``read_folder`` said of it.
        device: Where faces are looked for.

    Returns:
        Chips, uint8 (N, 3, 150, 150), and for each the similarity of ``crop_to_chip``, float64 (N, 2, 3).

    Raises:
        InputError: the folder is not as it was.
    """
    left_out = {one.path for one in report.skipped}
    found: list[Arrays] = []
    for _, path in list_files(root):
        if path not in left_out:
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            found.append(cached("chip", partial(_cut, data, device), by=[_cut], sha256=sha256).arrays)
    if len(found) != report.used or any(not len(one["chip"]) for one in found):
        raise InputError(f"{root}: is not as it was when it was read: read it again")
    return torch.stack([one["chip"] for one in found]), torch.stack([one["matrix"] for one in found])


def _cut(data: bytes, device: str) -> Arrays:
    """The chip of the face that a photograph is of, and the similarity; empty where there is none."""
    image = open_picture(data)
    faces = find_faces(image, device)
    if not faces:
        return {"chip": torch.zeros(0, dtype=torch.uint8), "matrix": torch.zeros(0, dtype=torch.float64)}
    points = middlemost(faces, image.width, image.height).points
    return {"chip": warp(image, similarity(points, CHIP_TEMPLATE), CHIP), "matrix": crop_to_chip(points)}


def carry_over(chips: Tensor, clean: Tensor, poisoned: Tensor, matrices: Tensor) -> Tensor:
    """Chips of pictures that were poisoned as aligned crops: what changed in the crops is added to the clean chips.

    Beyond a crop nothing changes: a chip reaches about 11 of 112 pixels further down than the crop.

    Args:
        chips: uint8 (N, 3, 150, 150), of the clean photographs.
        clean: uint8 (N, 3, 112, 112), the crops before.
        poisoned: Likewise, the crops after.
        matrices: float (N, 2, 3) of ``crop_to_chip``, or (2, 3) for all.

    Returns:
        uint8 (N, 3, 150, 150), rounded at the end.
    """
    change = lay(poisoned.float() - clean.float(), matrices, CHIP, "zeros")
    return (chips.float() + change).round().clamp(0, 255).to(torch.uint8)
