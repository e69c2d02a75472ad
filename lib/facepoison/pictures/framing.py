"""How posted poison comes before whoever looks at it: as posted, cut out of a photograph, as a chip, enlarged.

Attacks poison the aligned crop of a face. What is scraped is a photograph, out of which somebody else cuts the face in
his own way; so that the change arrives interpolated, beside clean pictures that came the same way. A detector which
only ever saw crops pixel for pixel has learnt what poison looks like there, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from facepoison.errors import InputError
from facepoison.pictures import to_float, to_uint8
from facepoison.pictures.chips import carry_over
from facepoison.pictures.geometry import CHIP, CROP, lay

_SCALES = (0.7, 2.25)  # of what is met while training; twice as large lies inside
_TURN = math.radians(6)  # at most, either way: how far landmarks found anew may be off
_HELD = math.radians(20)  # how far a head may be turned in a photograph, which aligning undoes
_ENLARGED = 2.0  # the largest face in a photograph that a change is carried into, beside its crop
_ROOM = 0.04  # least share of half a side by which a picture is moved at most


def _cut_out_anew(clean: Tensor, posted: Tensor, matrices: Tensor) -> Tensor:
    """Aligned crops of photographs into which what changed in a crop was carried.

    The trainer cuts out of the photograph what had been cut out of it before, so that a clean picture comes back as it
    was; what changed was interpolated on its way there and again on its way back.

    Args:
        clean: uint8 (N, 3, H, H), the crops before.
        posted: Likewise, the crops after.
        matrices: float (N, 2, 3), from places in a crop to places in its photograph; such as make it no smaller.

    Returns:
        uint8 (N, 3, H, H), rounded at the end.
    """
    side = clean.shape[-1]
    ends = torch.tensor([[0, 0, 1], [0, side, 1], [side, 0, 1], [side, side, 1]], dtype=torch.float64)
    corners = ends @ matrices.double().mT  # (N, 4, 2)
    first = corners.amin(dim=1).floor() - 1  # of the part of the photograph that holds the crop and a pixel around it
    there = matrices.double() - F.pad(first[:, :, None], (2, 0))
    size = int((corners.amax(dim=1) - first).max()) + 2
    turn = torch.linalg.inv(there[:, :, :2])
    back = torch.cat([turn, -turn @ there[:, :, 2:]], dim=2)
    change = lay(posted.float() - clean.float(), there, size, "zeros")
    # nothing is smoothed on the way back, as what was enlarged holds nothing finer than the crop did
    return (clean.float() + lay(change, back, side, "zeros")).round().clamp(0, 255).to(torch.uint8)


def _enlarged(pixels: Tensor) -> Tensor:
    return to_uint8(F.interpolate(to_float(pixels), scale_factor=2, mode="bicubic", align_corners=False))


FRAMINGS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "as posted": lambda clean, posted, chips, matrices: posted,
    "cut out anew": lambda clean, posted, chips, matrices: _cut_out_anew(clean, posted, matrices),
    "chip": lambda clean, posted, chips, matrices: carry_over(chips, clean, posted, matrices),
    "twice as large": lambda clean, posted, chips, matrices: _enlarged(posted),
}
"""What pictures are asked about in, by the name that tables use.

Each takes clean crops, what is posted of them, uint8 (N, 3, 112, 112), and their chips and matrices, as ``read_chips``
gives them; clean pictures are posted as they are. It gives uint8 (N, 3, S, S): S is 112, 112, 150 and 224 pixels.
"""


def frame_at_random(clean: Tensor, posted: Tensor, chips: Tensor, matrices: Tensor, stream: torch.Generator) -> Tensor:
    """Posted pictures as somebody or other may have cut them out, all of one size: what detectors are trained on.

    A quarter stays as it is; of a quarter the change alone was carried into a photograph, larger and turned by chance,
    and back; a quarter is a window of the chip; a quarter is turned, moved and brought to another size, .7 to 2.25
    times its own, bilinearly or bicubically, where what is larger is cut to a window and what is smaller is mirrored at
    its borders. So batches have one size and no pixel is resampled for that alone, which would take away what is looked
    for. Clean and poisoned pictures are treated alike, mirrored borders and all.

    Args:
        clean: uint8 (N, 3, 112, 112), the crops before.
        posted: Likewise, what is posted: the same for clean pictures.
        chips: uint8 (N, 3, 150, 150), their chips, clean.
        matrices: float (N, 2, 3) of ``chips.crop_to_chip``.
        stream: Where chance comes from.

    Returns:
        uint8 (N, 3, 112, 112), in the same order.

    Raises:
        InputError: the pictures are no such crops and chips, as many of each.
    """
    wanted = {"clean": (clean, CROP), "posted": (posted, CROP), "chips": (chips, CHIP)}
    for name, (pixels, side) in wanted.items():
        if pixels.dtype != torch.uint8 or pixels.shape != (len(clean), 3, side, side):
            got = f"{pixels.dtype} {tuple(pixels.shape)}"
            raise InputError(f"{name}: {got}; give uint8 ({len(clean)}, 3, {side}, {side}), as many of each")
    n, framed = len(posted), posted.clone()
    kind = torch.randint(4, (n,), generator=stream)
    chance = torch.rand(n, 6, generator=stream, dtype=torch.float64)  # of all pictures, whatever befalls each
    some = (kind == 1).nonzero().flatten()
    if len(some):
        framed[some] = _cut_out_anew(clean[some], posted[some], _photographed(chance[some]))
    some = (kind == 2).nonzero().flatten()
    if len(some):
        whole = carry_over(chips[some], clean[some], posted[some], matrices[some])
        corners = (chance[some, :2] * (CHIP - CROP + 1)).long().tolist()
        windows = [one[:, y : y + CROP, x : x + CROP] for one, (y, x) in zip(whole, corners, strict=True)]
        framed[some] = torch.stack(windows)
    for place in (kind == 3).nonzero().flatten().tolist():
        framed[place] = _moved(posted[place], chance[place].tolist())
    return framed


def _photographed(chance: Tensor) -> Tensor:
    """Similarities from crops to photographs, float64 (N, 2, 3), of chances (N, 6): larger, turned, moved."""
    scale, turn = _ENLARGED ** chance[:, 0], _HELD * (2 * chance[:, 1] - 1)
    a, b = scale * turn.cos(), scale * turn.sin()
    rows = [torch.stack([a, -b, chance[:, 2]], dim=1), torch.stack([b, a, chance[:, 3]], dim=1)]
    return torch.stack(rows, dim=1)


def _moved(picture: Tensor, chance: list[float]) -> Tensor:
    """A uint8 picture (3, H, H) as a window of the same size on itself: brought to another size, turned and moved."""
    side = picture.shape[-1]
    low, high = _SCALES
    scale, turn = low * (high / low) ** chance[0], _TURN * (2 * chance[1] - 1)
    mode = "bilinear" if chance[2] < 0.5 else "bicubic"
    seen = to_float(picture)[None]
    if scale < 1:  # smoothed, so that the step that turns it neither shrinks nor aliases
        small = round(scale * side)
        seen = F.interpolate(seen, (small, small), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        scale = 1.0
    reach = (side - 1) / ((seen.shape[-1] - 1) * scale)  # of the window, as a share of the picture that it lies on
    room = max(_ROOM, 1 - reach)
    right, down = (room * (2 * each - 1) for each in chance[3:5])
    a, b = reach * math.cos(turn), reach * math.sin(turn)
    grid = F.affine_grid(torch.tensor([[[a, -b, right], [b, a, down]]]), [1, 3, side, side], align_corners=True)
    return to_uint8(F.grid_sample(seen, grid, mode, "reflection", align_corners=True))[0]
