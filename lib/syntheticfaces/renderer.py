"""From the numbers of synthetic faces to their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from facepoison.errors import InputError
from syntheticfaces.camera import develop
from syntheticfaces.head import Columns, head, pose
from syntheticfaces.paint import paint
from syntheticfaces.parameters import NUISANCE, PERSON, Parameter

SIZES = (32, 512)  # smallest and largest picture in pixels


def _columns(rows: Tensor, table: Sequence[Parameter], what: str) -> Columns:
    if rows.ndim != 2 or rows.shape[1] != len(table) or rows.dtype != torch.float32:
        got = f"{rows.dtype} {tuple(rows.shape)}"
        raise InputError(f"{what} must be float32 of shape (B, {len(table)}), got {got}: draw them with draw_{what}")
    return Columns([row.name for row in table], rows)


@torch.inference_mode()
def render(people: Tensor, nuisance: Tensor, size: int) -> Tensor:
    """Render one picture for each pair of rows.

    The head is a star-shaped surface whose radius is a map over the directions from its centre; rays meet it after a
    few steps. Light and its soft shadow are computed in the map, skin, eyes, mouth and hair where rays meet the head,
    the rest (ears, neck, clothes, long hair, glasses) from formulas; a camera with lens, sensor and compression
    ends it.

    Args:
        people: Identity parameters (B, len(PERSON)) from `draw_people`.
        nuisance: Nuisance parameters (B, len(NUISANCE)) from `draw_nuisance`, on the same device.
        size: Height and width in pixels, a multiple of 8 from 32 to 512.

    Returns:
        uint8 RGB pictures (B, 3, size, size) on the device of ``people``.

    Raises:
        InputError: parameters of a wrong shape or type, or a size that cannot be rendered.
    """
    if not SIZES[0] <= size <= SIZES[1] or size % 8:
        raise InputError(f"size is {size}: give a multiple of 8 from {SIZES[0]} to {SIZES[1]}")
    person, picture = _columns(people, PERSON, "people"), _columns(nuisance, NUISANCE, "nuisance")
    if len(people) != len(nuisance):
        raise InputError(f"{len(people)} people but {len(nuisance)} rows of nuisance: give one for each picture")
    view = pose(picture, size)
    light = paint(person, picture, view, head(person, picture, view))
    return develop(light, picture)
