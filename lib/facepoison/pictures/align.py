"""Faces found by MTCNN and laid on the ArcFace template, as extractors of real faces expect them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from torch import Tensor

from facepoison.device import batches, pick_device

SIZE = 112
# left eye, right eye, nose, left and right corner of the mouth, as x, y in 112 x 112 pixels (Deng et al. 2019)
TEMPLATE = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
SMALLEST_FACE = 40  # pixels
SURE = 0.9  # least probability of a face
LONGEST = 1024  # faces are looked for in a copy no longer than this; they are cut out of the original


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    Attributes:
        box: Left, top, right, bottom in pixels.
        points: float32 (5, 2), x and y of the landmarks in the order of ``TEMPLATE``.
        probability: How sure the detector is.
    """

    box: tuple[float, float, float, float]
    points: Tensor
    probability: float

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@cache
def _detector(device: torch.device) -> MTCNN:
    return MTCNN(keep_all=True, min_face_size=SMALLEST_FACE, device=device)


def find_faces(image: Image.Image, device: str = "auto") -> list[Face]:
    """All faces of an RGB picture of which MTCNN (Zhang et al. 2016) is sure, largest first."""
    scale = min(1.0, LONGEST / max(image.size))
    seen = image.resize((round(image.width * scale), round(image.height * scale))) if scale < 1 else image
    if min(seen.size) < SMALLEST_FACE:
        return []
    boxes, probabilities, points = _detector(pick_device(device)).detect(seen, landmarks=True)
    if boxes is None:  # what MTCNN says when it sees no face
        return []
    faces = [
        Face(
            (float(box[0]) / scale, float(box[1]) / scale, float(box[2]) / scale, float(box[3]) / scale),
            torch.from_numpy(np.asarray(five, dtype=np.float32) / np.float32(scale)),
            float(probability),
        )
        for box, probability, five in zip(boxes, probabilities, points, strict=True)
        if probability >= SURE
    ]
    return sorted(faces, key=lambda face: face.area, reverse=True)


def faces_found(pixels: Tensor, device: str = "auto", batch: int = 32) -> Tensor:
    """Whether MTCNN is sure of a face in each of many equally large pictures: uint8 (N, 3, H, W) in, bool (N,) out."""
    found: list[bool] = []
    for some in batches(len(pixels), batch):
        frames = pixels[some].permute(0, 2, 3, 1).contiguous().cpu().numpy()
        _, probabilities = _detector(pick_device(device)).detect(frames)
        found += [any(p is not None and p > SURE for p in each) for each in probabilities]
    return torch.tensor(found)


def middlemost(faces: list[Face], width: int, height: int) -> Face:
    """The face that a picture is of: the largest whose box covers the middle of the picture, else the largest of all.

    Args:
        faces: At least one.
        width: Of the picture, in pixels.
        height: Likewise.
    """
    by_size = sorted(faces, key=lambda face: face.area, reverse=True)
    for face in by_size:
        left, top, right, bottom = face.box
        if left <= width / 2 <= right and top <= height / 2 <= bottom:
            return face
    return by_size[0]


def similarity(points: Tensor, target: Tensor = TEMPLATE) -> Tensor:
    """The similarity that lays points on a target with the least squared error (Umeyama 1991).

    In the plane, turning and scaling is multiplication by one complex number, and least squares gives it directly.

    Args:
        points: float (K, 2), x and y, not all the same.
        target: float (K, 2).

    Returns:
        float64 (2, 3): a point (x, y) goes to ``matrix @ (x, y, 1)``.
    """
    p, q = (torch.view_as_complex(some.double().contiguous()) for some in (points, target))
    centred = p - p.mean()
    factor = (centred.conj() * (q - q.mean())).sum() / centred.abs().square().sum()
    move = q.mean() - factor * p.mean()
    a, b = factor.real, factor.imag
    return torch.stack([torch.stack([a, -b, move.real]), torch.stack([b, a, move.imag])])


def warp(image: Image.Image, matrix: Tensor, size: int = SIZE) -> Tensor:
    """A picture under a similarity, uint8 (3, size, size); pixels outside the picture are black.

    Args:
        image: RGB.
        matrix: float (2, 3) from places in the picture to places in the result; whole numbers are centres of pixels.
        size: Height and width of the result.
    """
    scale = float(torch.linalg.vector_norm(matrix[:, 0]))
    shrunk = (1.0, 1.0)
    if scale < 1:  # shrink with antialiasing first, so that the affine step neither shrinks nor aliases
        small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        shrunk = (small[0] / image.width, small[1] / image.height)
        image = image.resize(small, Image.Resampling.BICUBIC)
    back = torch.linalg.inv(matrix[:, :2].double())
    start = back @ (-0.5 - matrix[:, 2].double()) + 0.5  # Pillow puts centres of pixels at halves
    rows = torch.cat([back, start[:, None]], 1) * torch.tensor(shrunk, dtype=torch.float64)[:, None]
    data = tuple(rows.flatten().tolist())
    out = image.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(out).copy()).permute(2, 0, 1).contiguous()


def align(image: Image.Image, device: str = "auto") -> tuple[Tensor | None, int]:
    """The face that an RGB picture is of, on the ArcFace template.

    Returns:
        uint8 (3, 112, 112), or None where no face is found; and how many faces there were.
    """
    faces = find_faces(image, device)
    if not faces:
        return None, 0
    face = middlemost(faces, image.width, image.height)
    return warp(image, similarity(face.points)), len(faces)
