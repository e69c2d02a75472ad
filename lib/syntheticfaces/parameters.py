"""The numbers behind a synthetic face: those of an identity, those of a picture, and draws of both."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from facepoison.device import generator
from facepoison.errors import InputError


class Parameter(NamedTuple):
    """One number that a picture depends on.

    Attributes:
        name: Its name.
        low: Lower end of the uniform distribution it is drawn from.
        high: Upper end.
        what: What it does; lengths are in half head heights, x and y as seen from the front.
        neutral: Its value at nuisance strength 0.
    """

    name: str
    low: float
    high: float
    what: str
    neutral: float = 0.0


PERSON = (
    Parameter("width", 0.64, 0.82, "half-width of the head"),
    Parameter("jaw", 0.47, 0.76, "half-width at the jaw"),
    Parameter("square", 2.0, 2.7, "exponent of the outline: round to square"),
    Parameter("chin", -0.07, 0.1, "how far the chin reaches down"),
    Parameter("chin_width", 0.12, 0.24, "width of the chin's mound"),
    Parameter("chin_out", 0.0, 0.10, "how far the chin stands out"),
    Parameter("cleft", -0.03, 0.03, "cleft in the chin where positive"),
    Parameter("skull", 0.94, 1.07, "height of the skull over the centre"),
    Parameter("cheek", 0, 0.1, "cheekbones"),
    Parameter("cheek_y", -0.28, -0.12, "height of the cheekbones"),
    Parameter("masculine", 0.0, 1.0, "brow ridge, heavier brows, shorter hair, beard over 0.5"),
    Parameter("eye_x", 0.243, 0.358, "distance of the eyes from the middle"),
    Parameter("eye_y", -0.03, 0.11, "height of the eyes"),
    Parameter("eye_width", 0.115, 0.185, "half-width of an eye"),
    Parameter("eye_height", 0.046, 0.08, "half-height of an open eye"),
    Parameter("eye_tilt", -0.2, 0.28, "slope of the eyes, outer corner up where positive"),
    Parameter("eye_skew", -0.35, 0.35, "where the upper lid is highest, inside to outside"),
    Parameter("socket", 0.02, 0.085, "depth of the sockets"),
    Parameter("crease", 0.0, 1.0, "visibility of the lid's crease"),
    Parameter("iris", 0.0, 1.0, "iris colour: brown, hazel, green, blue, grey"),
    Parameter("iris_size", 0.06, 0.069, "radius of the iris"),
    Parameter("brow_gap", 0.108, 0.205, "height of the brows over the eyes"),
    Parameter("brow_thick", 0.015, 0.046, "half-thickness of the brows"),
    Parameter("brow_arch", 0.0, 0.07, "arch of the brows"),
    Parameter("brow_tilt", -0.22, 0.18, "slope of the brows, outer end up where positive"),
    Parameter("brow_inner", 0.09, 0.19, "where the brows begin"),
    Parameter("brow_dark", 0.55, 1.0, "opacity of the brows"),
    Parameter("nose_length", 0.255, 0.425, "from eye line to tip"),
    Parameter("nose_width", 0.108, 0.22, "half-width at the nostrils"),
    Parameter("nose_height", 0.1, 0.25, "how far the tip stands out"),
    Parameter("bridge", 0.10, 0.50, "height of the bridge as a share of the tip's"),
    Parameter("bridge_width", 0.055, 0.105, "half-width of the bridge"),
    Parameter("hump", -0.25, 0.35, "hump, or hollow, of the bridge"),
    Parameter("tip", 0.06, 0.11, "size of the tip"),
    Parameter("mouth_gap", 0.195, 0.32, "from the nose's tip to the mouth"),
    Parameter("mouth_width", 0.175, 0.33, "half-width of the mouth"),
    Parameter("lip_upper", 0.03, 0.088, "height of the upper lip"),
    Parameter("lip_lower", 0.042, 0.11, "height of the lower lip"),
    Parameter("lip_bow", 0.0, 1.0, "Cupid's bow"),
    Parameter("lip_red", 0.1, 1.0, "redness of the lips"),
    Parameter("mouth_out", 0.0, 0.05, "how far the mouth stands out"),
    Parameter("corner", -0.03, 0.03, "corners of the mouth at rest, up where positive"),
    Parameter("tone", 0, 1, "skin from light to dark"),
    Parameter("undertone", -1.0, 1.0, "skin from pink to yellow"),
    Parameter("freckles", -1.2, 1.0, "freckles where positive"),
    Parameter("mole", -0.025, 0.029, "radius of a mole where positive"),
    Parameter("mole_x", -0.5, 0.5, "place of a mole"),
    Parameter("mole_y", -0.75, 0.45, "place of a mole"),
    Parameter("age", 0.0, 1.0, "folds, lines, bags, grey hair"),
    Parameter("ear", 0.75, 1.2, "size of the ears"),
    Parameter("ear_out", 0.0, 0.09, "how far the ears stand out"),
    Parameter("neck", 0.32, 0.43, "half-width of the neck"),
    Parameter("hair", 0.0, 1.0, "hair colour: black, brown, chestnut, red, blond"),
    Parameter("hairline", 0.54, 0.77, "height of the hairline"),
    Parameter("temples", 0.7, 1.5, "how fast the hairline falls towards the temples"),
    Parameter("recede", 0.0, 1.0, "receding corners of the hairline"),
    Parameter("curl", 0.0, 1.0, "straight to curly hair"),
    Parameter("hair_length", 0.0, 1.0, "usual length of the hair"),
    Parameter("fringed", -1.6, 0.9, "tendency to a fringe"),
    Parameter("beard", 0.0, 1.0, "usual beard of masculine faces over 0.45"),
)

NUISANCE = (
    Parameter("yaw", -0.35, 0.35, "turn of the head to the side, radians"),
    Parameter("pitch", -0.15, 0.15, "nod, radians"),
    Parameter("roll", -0.16, 0.16, "tilt in the picture's plane, radians"),
    Parameter("shift_x", -0.07, 0.07, "shift as a share of the picture's width"),
    Parameter("shift_y", -0.07, 0.07, "shift as a share of the picture's height"),
    Parameter("scale", 0.93, 1.07, "size of the face", 1.0),
    Parameter("smile", -0.25, 0.8, "smile"),
    Parameter("open", -1.0, 0.9, "open mouth where positive", -0.9),
    Parameter("lids", 0.8, 1.08, "opening of the eyes", 1.0),
    Parameter("brows", -0.02, 0.028, "raised brows"),
    Parameter("gaze_x", -0.35, 0.35, "gaze to the side"),
    Parameter("gaze_y", -0.25, 0.25, "gaze up"),
    Parameter("light_x", -0.75, 0.75, "direction of the light, left to right"),
    Parameter("light_y", -0.15, 1.0, "direction of the light, below to above", 0.45),
    Parameter("ambient", 0.4, 0.68, "light from everywhere", 0.45),
    Parameter("red", -0.1, 0.1, "white balance: gain of red"),
    Parameter("blue", -0.12, 0.12, "white balance: gain of blue"),
    Parameter("exposure", -0.3, 0.3, "exposure in stops"),
    Parameter("contrast", -0.12, 0.15, "contrast"),
    Parameter("saturation", 0.6, 1.05, "saturation", 1.0),
    Parameter("ground_r", 0.05, 0.95, "background, red", 0.5),
    Parameter("ground_g", 0.05, 0.95, "background, green", 0.5),
    Parameter("ground_b", 0.05, 0.95, "background, blue", 0.5),
    Parameter("ground_grey", 0.5, 1.0, "how much of the background's colour is lost", 0.9),
    Parameter("ground_slope", -0.45, 0.45, "gradient of the background along x"),
    Parameter("ground_rise", -0.45, 0.45, "gradient of the background along y"),
    Parameter("ground_noise", 0.0, 0.7, "blurred things in the background"),
    Parameter("ground_scale", 0.1, 0.4, "size of the blurred things", 0.3),
    Parameter("ground_x", -1.0, 1.0, "place in the background"),
    Parameter("ground_y", -1.0, 1.0, "place in the background"),
    Parameter("edge_x", -1.8, 1.8, "place of an upright edge in the background", 1.8),
    Parameter("edge_tone", -0.5, 0.5, "brightness beyond the edge"),
    Parameter("cloth_r", 0.05, 0.95, "clothes, red", 0.3),
    Parameter("cloth_g", 0.05, 0.95, "clothes, green", 0.3),
    Parameter("cloth_b", 0.05, 0.95, "clothes, blue", 0.4),
    Parameter("collar", 0.0, 1.0, "neckline: round, V, shirt", 0.1),
    Parameter("glasses", 0.0, 1.0, "glasses over 0.82"),
    Parameter("frame", 0.0, 1.0, "glasses: round to rectangular", 0.5),
    Parameter("frame_tone", 0.0, 1.0, "glasses: colour and thickness of the frame"),
    Parameter("stubble", -0.15, 0.2, "more or less beard than usual"),
    Parameter("length", -0.12, 0.12, "longer or shorter hair than usual"),
    Parameter("volume", 0.2, 0.8, "volume of the hair", 0.5),
    Parameter("fringe", -1.0, 1.0, "fringe, where with the usual one over 0.3", -1.0),
    Parameter("part", -0.15, 0.15, "parting"),
    Parameter("dye", -0.05, 0.05, "lighter or darker hair than usual"),
    Parameter("blur", 0.25, 0.45, "blur of the lens in pixels of a 64 px picture", 0.25),
    Parameter("noise", 0.0, 0.012, "standard deviation of the sensor's noise"),
    Parameter("noise_x", 0.0, 1.0, "which noise"),
    Parameter("noise_y", 0.0, 1.0, "which noise"),
    Parameter("quality", 55.0, 97.0, "quality of the compression, as JPEG counts it", 97.0),
)


@cache
def _ends(table: tuple[Parameter, ...]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor([row.low for row in table]),
        torch.tensor([row.high for row in table]),
        torch.tensor([row.neutral for row in table]),
    )


def _check_counts(population: str, **counts: int) -> None:
    if not isinstance(population, str) or not population:
        raise InputError(f"population must be a name such as 'users', got {population!r}")
    for name, count in counts.items():
        if count < (0 if name == "first" else 1):
            raise InputError(f"{name} is {count}: give at least {0 if name == 'first' else 1}")


def draw_people(population: str, first: int, n: int, seed: int) -> Tensor:
    """Draw identities.

    Args:
        population: Name of the population; identities of different populations are different people.
        first: Number of the first identity.
        n: How many identities.
        seed: Seed; identity ``i`` depends only on seed, population and ``i``.

    Returns:
        Identity parameters, float32 (n, len(PERSON)), each uniform between its ends.

    Raises:
        InputError: no population, or a count out of range.
    """
    _check_counts(population, first=first, n=n)
    low, high, _ = _ends(PERSON)
    rows = [
        torch.rand(len(PERSON), generator=generator(seed, "person", population, i)) for i in range(first, first + n)
    ]
    return low + (high - low) * torch.stack(rows)


def draw_nuisance(population: str, first: int, n: int, per_person: int, seed: int, strength: float = 1.0) -> Tensor:
    """Draw everything that differs between pictures of one identity.

    Args:
        population: Name of the population.
        first: Number of the first identity.
        n: How many identities.
        per_person: Pictures of each identity.
        seed: Seed; picture ``j`` of identity ``i`` depends only on seed, population, ``i`` and ``j``.
        strength: 0 is a frontal, neutral picture in even light, 1 what every experiment of the book uses.

    Returns:
        Nuisance parameters, float32 (n * per_person, len(NUISANCE)), identity by identity.

    Raises:
        InputError: no population, a count out of range, or a strength outside 0 to 1.
    """
    _check_counts(population, first=first, n=n, per_person=per_person)
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}: give a number from 0 (neutral) to 1 (as in the book)")
    low, high, neutral = _ends(NUISANCE)
    rows = [
        torch.rand(len(NUISANCE), generator=generator(seed, "nuisance", population, i, j))
        for i in range(first, first + n)
        for j in range(per_person)
    ]
    return neutral + strength * (low + (high - low) * torch.stack(rows) - neutral)
