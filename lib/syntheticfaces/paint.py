"""Colours of the book's own faces: skin, eyes, mouth, hair, glasses, and everything around the head.

Colours are linear light; what is written down as a colour is its square root, as on a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from syntheticfaces.head import (
    Columns,
    Head,
    View,
    beard_of,
    bell,
    fringe_of,
    hair_length,
    noise,
    smile_of,
    smooth,
)

# from light to dark, from black to blond, from brown to grey, as on a screen
SKIN = ((0.94, 0.80, 0.71), (0.88, 0.71, 0.58), (0.77, 0.57, 0.43), (0.60, 0.41, 0.29), (0.41, 0.27, 0.19))
HAIR = ((0.10, 0.085, 0.08), (0.19, 0.13, 0.10), (0.34, 0.22, 0.14), (0.50, 0.27, 0.13), (0.78, 0.62, 0.38))
IRIS = ((0.22, 0.12, 0.07), (0.40, 0.26, 0.12), (0.36, 0.42, 0.24), (0.28, 0.45, 0.62), (0.48, 0.54, 0.58))
FRAMES = ((0.06, 0.06, 0.07), (0.22, 0.12, 0.08), (0.38, 0.30, 0.22), (0.10, 0.12, 0.25))

LENS = 0.86  # where glasses are worn, towards the nose
OVER_EARS = 0.42  # hair of this length and more hangs down and covers the ears
SHADE = (0.80, 1.0, 1.05)  # shade in skin is warm: less red is taken than green and blue


class Strands(NamedTuple):
    """Texture of the hair, all (B, H, W): single strands, broad waves, and how bright both make it."""

    single: Tensor
    waves: Tensor
    shine: Tensor


class Lamp(NamedTuple):
    """Light on everything that is not the head: from everywhere and from the lamp, both (B, 1, 1, 1)."""

    ambient: Tensor
    strength: Tensor


@cache
def _ramp(colours: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(colours, device=device)


def _pick(colours: tuple[tuple[float, ...], ...], place: Tensor) -> Tensor:
    """Colour (B, 3, 1, 1) at a place (B, 1, 1) from 0 to 1 on a ramp of colours."""
    ramp = _ramp(colours, place.device)
    at = place.flatten().clamp(0, 1) * (len(colours) - 1)
    below = at.floor().clamp_max(len(colours) - 2)
    index = below.long()
    return torch.lerp(ramp[index], ramp[index + 1], (at - below)[:, None])[:, :, None, None]


def _factor(values: Sequence[float], like: Tensor) -> Tensor:
    """Three factors for red, green and blue as a tensor (1, 3, 1, 1)."""
    return torch.tensor(values, device=like.device).view(1, 3, 1, 1)


def _colour(values: Sequence[float], like: Tensor) -> Tensor:
    """A colour in linear light (1, 3, 1, 1)."""
    return _factor(values, like).square()


def _over(picture: Tensor, colour: Tensor, cover: Tensor) -> None:
    """Lay a colour over a picture, in place."""
    picture.lerp_(colour, cover.unsqueeze(1))


def _skin(p: Columns) -> Tensor:
    """Colour of the skin (B, 3, 1, 1)."""
    base = _pick(SKIN, p.tone)
    shift = torch.cat((0.012 - 0.006 * p.undertone, 0.012 * p.undertone, -0.035 * p.undertone), 1).unsqueeze(-1)
    return (base * (1 + shift.view(-1, 3, 1, 1))).square()


def _hair_colour(p: Columns, q: Columns) -> Tensor:
    """Colour of the hair (B, 3, 1, 1)."""
    # dark skin goes with dark hair, age with grey
    place = p.hair * (1 - 0.75 * smooth((p.tone - 0.35) * 2.2)) + q.dye
    grey = smooth((p.age - 0.70) * 4).unsqueeze(1) * 0.85
    base = _pick(HAIR, place).square()
    return base + (0.40 - base) * grey


def _ground(q: Columns, view: View) -> Tensor:
    """The blurred background (B, 3, H, W)."""
    size = view.x.shape[-1]
    at = torch.linspace(-1, 1, size, device=view.x.device)
    x, y = at.expand(len(view.x), size, size), -at[:, None].expand(len(view.x), size, size)
    _, _, clouds = noise(x * q.ground_scale + q.ground_x, y * q.ground_scale + q.ground_y)
    colour = torch.cat((q.ground_r, q.ground_g, q.ground_b), 1).unsqueeze(-1)
    grey = colour.mean(1, keepdim=True)
    colour = colour + (grey - colour) * q.ground_grey.unsqueeze(1)
    beyond = ((x - q.edge_x) * size / 6 + 0.5).clamp(0, 1)
    tone = q.ground_slope * x + q.ground_rise * y + q.ground_noise * 0.28 * clouds + q.edge_tone * beyond
    return (colour * (1 + tone.unsqueeze(1))).clamp(0.02, 1.1).square()


def _face(p: Columns, q: Columns, h: Head, pixel: Tensor, grain: Tensor, clouds: Tensor) -> Tensor:
    """Albedo of skin with brows, eyes, lips and beard on it (B, 3, H, W)."""
    x, y = h.x, h.y
    side = x.abs()
    front = (h.front * 5 - 0.6).clamp(0, 1)
    smile = smile_of(q)
    soft = pixel.clamp_min(0.012)
    skin = _skin(p)
    tip = p.eye_y - p.nose_length
    mouth = tip - p.mouth_gap
    light_skin = 1 - 0.7 * p.tone

    # complexion: mottled, redder at cheeks, nose and chin
    mottle = 1 + 0.025 * clouds
    red = 0.55 * bell(side - 0.40, y + 0.20, 0.20, 0.17) + 0.6 * bell(x, y - tip, 0.13, 0.10) + 0.10 * clouds
    face = skin * mottle.unsqueeze(1)
    blush = _factor((0.05, -0.16, -0.15), x)
    face = face * (1 + blush * (red * (0.7 + 0.5 * light_skin)).unsqueeze(1))
    dark = (p.freckles.clamp_min(0) * light_skin) * ((grain - 0.9) * 1.6).clamp(0, 1)
    dark = dark * bell(side - 0.25, y + 0.10, 0.38, 0.26) * 0.55
    away = torch.sqrt((x - p.mole_x - 0.12 * torch.sign(p.mole_x)).square() + (y - p.mole_y).square())
    dark = dark + 0.75 * (p.mole > 0) * smooth((p.mole - away) / soft + 0.5)

    # age: lines on the forehead, bags and crow's feet
    lines = torch.cos((y - 0.04 * torch.cos(4 * x)) * 58).clamp_min(0).square()
    age = (p.age - 0.3).clamp_min(0)
    dark = dark + 0.30 * age * lines * bell(x, y - p.eye_y - 0.40, 0.36, 0.15)
    feet = torch.cos((y - p.eye_y - 0.10 * (side - p.eye_x)) * 75).clamp_min(0).square()
    dark = dark + 0.28 * age * feet * bell(side - p.eye_x - p.eye_width - 0.09, y - p.eye_y + 0.01, 0.065, 0.09)
    lx = (side - p.eye_x) / p.eye_width
    bag = y - p.eye_y + 1.15 * p.eye_height + 0.05 - 0.035 * lx * lx
    dark = dark + (0.10 + 0.30 * age) * bell(lx, bag, 0.95, 0.028)
    crease = p.nose_width + 0.03 + (tip + 0.02 - y).clamp(0, 0.4) * 0.55
    fold = torch.exp(-((side - crease) / 0.024).square())
    fold = fold * smooth((tip + 0.07 - y) * 9) * smooth((y - mouth + 0.05) * 8)
    dark = dark + (0.02 + 0.22 * p.age + 0.10 * smile.clamp_min(0)) * fold
    # nostrils and the shade around the nose's wings
    nostril = bell(side - 0.42 * p.nose_width, y - tip + 0.035, 0.27 * p.nose_width, 0.026)
    dark = dark + 0.85 * nostril
    wing = bell(side - 1.02 * p.nose_width, y - tip + 0.005, 0.028, 0.06)
    dark = dark + 0.22 * wing
    face = face * (1 - (dark * front).clamp(0, 0.9).unsqueeze(1) * _factor(SHADE, x))

    # beard and stubble
    beard = beard_of(p, q)
    hairs = 1 + (0.24 - 0.14 * beard) * grain
    line = mouth - 0.02 + 1.05 * (side - 0.18).clamp_min(0).square()
    cheeks = smooth((line - y) * 6 + 0.35)
    upper = bell(side - 0.5 * p.mouth_width, y - mouth - p.lip_upper - 0.055, 0.75 * p.mouth_width, 0.055)
    where = torch.maximum(cheeks, smooth(upper * 1.6 - 0.15)) * smooth((h.front + 0.15) * 4)
    cover = where * (beard * (0.35 + 0.6 * beard) * hairs).clamp(0, 0.94)
    hair = _hair_colour(p, q)
    _over(face, hair * 1.15, cover)

    # brows
    along = (side - p.brow_inner) / (p.eye_x + 1.25 * p.eye_width - p.brow_inner)
    height = p.eye_y + p.brow_gap + q.brows + p.brow_tilt * (side - p.eye_x) * 0.8
    height = height + p.brow_arch * (1 - (2 * along - 1.15).square()) - 0.02
    thick = p.brow_thick * (0.65 + 0.55 * p.masculine) * (1.08 - 0.70 * along.clamp(0, 1).square())
    brow = smooth((thick - (y - height).abs()) / (soft + 0.012) + 0.5)
    brow = brow * smooth(along * 5 + 0.6) * smooth((1.06 - along) * 6) * (0.86 + 0.16 * grain).clamp(0, 1)
    _over(face, hair * 0.8 + skin * 0.03, (brow * p.brow_dark * front).clamp(0, 1))

    _eyes(face, p, q, x, y, front, soft)
    _mouth(face, p, q, x, y, front, soft, mouth, skin)
    return face


def _eyes(face: Tensor, p: Columns, q: Columns, x: Tensor, y: Tensor, front: Tensor, soft: Tensor) -> None:
    """Paint both eyes onto the face."""
    side = x.abs()
    along = side - p.eye_x
    lift = y - p.eye_y - p.eye_tilt * along
    n = along / p.eye_width
    n2 = n * n
    dome = (1 - n2).clamp_min(-0.6)
    smile = smile_of(q).clamp_min(0)
    high = p.eye_height * q.lids
    upper = high * dome * (1 + p.eye_skew * n)
    lower = -(0.62 - 0.22 * smile) * p.eye_height * dome * (1 - 0.25 * n)
    inside = torch.minimum(upper - lift, lift - lower) / soft + 0.5
    inside = (inside * 1.2).clamp(0, 1) * front

    # lid: its crease, its shade, the lashes
    crease = lift - upper * 0.9 - 0.036 - 0.012 * p.crease
    shade = (0.20 + 0.42 * p.crease) * bell(n, crease, 1.15, 0.014 + 0.5 * soft)
    shade = shade + 0.14 * bell(n, lift - 0.02, 1.25, 0.10)
    face.mul_(1 - (shade * front).unsqueeze(1) * _factor(SHADE, x))

    # eyeball: white, shaded at the rim and under the upper lid
    white = 0.62 - 0.20 * n2.clamp(0, 1) - 0.42 * smooth(1 - (upper - lift) / (0.55 * high + 0.01)) * 0.6
    tint = _factor((1.0, 0.955, 0.93), x)
    ball = white.clamp_min(0.2).unsqueeze(1) * tint
    cx = torch.sign(x) * along - q.gaze_x * p.eye_width * 0.45
    cy = y - p.eye_y - 0.16 * p.eye_height - q.gaze_y * p.eye_height * 0.5
    r = torch.sqrt(cx * cx + cy * cy)
    iris = _pick(IRIS, p.iris * (1 - 0.85 * smooth((p.tone - 0.3) * 2.5))).square()
    ring = 1 + 0.5 * smooth(1 - (r / p.iris_size - 0.55).abs() * 2.4) - 0.65 * smooth((r / p.iris_size - 0.72) * 3.6)
    bright = ring * (1.0 - 5.0 * cy)
    _over(ball, iris * bright.clamp_min(0.1).unsqueeze(1), ((p.iris_size - r) / soft + 0.5).clamp(0, 1))
    _over(ball, _colour((0.04, 0.035, 0.035), x), ((0.43 * p.iris_size - r) / soft + 0.5).clamp(0, 1))
    _over(face, ball, inside)

    lash = bell(0.82 * n, lift - upper, 1.0, 0.010 + 0.007 * (1 - p.masculine) + 0.35 * soft)
    lash = lash * smooth((1.14 - n.abs()) * 6) * (0.85 - 0.15 * p.masculine)
    under = 0.35 * bell(0.9 * n, lift - lower, 1.0, 0.009 + 0.3 * soft) * smooth((1.08 - n.abs()) * 6)
    _over(face, _colour((0.13, 0.09, 0.08), x), (torch.maximum(lash, under) * front).clamp(0, 1))
    pink = 0.6 * bell(n + 0.93, lift / p.eye_width, 0.11, 0.11) * inside
    _over(face, _colour((0.82, 0.50, 0.46), x), pink)
    spark = bell(cx - 0.02 * torch.sign(q.light_x), cy - 0.024, 0.013 + 0.28 * soft, 0.013 + 0.28 * soft)
    _over(face, _colour((1.0, 1.0, 1.0), x) * 1.3, (spark * 0.95 * inside).clamp(0, 1))


def _mouth(
    face: Tensor, p: Columns, q: Columns, x: Tensor, y: Tensor, front: Tensor, soft: Tensor, mouth: Tensor, skin: Tensor
) -> None:
    """Paint the lips, and what an open mouth shows, onto the face."""
    smile, gap = smile_of(q), q.open.clamp_min(0)
    width = p.mouth_width * (1 + 0.16 * smile - 0.10 * gap)
    n = x / width
    n2 = (n * n).clamp_max(1.6)
    arc = (1 - n2).clamp_min(0)
    middle = mouth + (p.corner + 0.085 * smile) * (n2 - 0.35) - 0.012 * torch.exp(-(n / 0.25).square())
    opened = (0.015 + 0.14 * gap + 0.03 * smile.clamp_min(0)) * gap.clamp(0, 0.12) / 0.12
    roof = middle + 0.22 * opened * arc
    floor = middle - 0.78 * opened * arc.sqrt()
    peaks, dip = torch.exp(-((n.abs() - 0.26) / 0.20).square()), torch.exp(-(n / 0.13).square())
    bow = 1 + p.lip_bow * (0.30 * peaks - 0.22 * dip)
    thin = 1 - 0.22 * smile.clamp_min(0)
    top = roof + p.lip_upper * thin * arc.pow(0.8) * bow
    bottom = floor - p.lip_lower * thin * arc.pow(0.62)
    lips = (torch.minimum(top - y, y - bottom) / (soft + 0.012) + 0.5).clamp(0, 1)
    lips = lips * smooth((1.06 - n.abs()) * 8) * front

    rosy = _factor((0.94, 0.48, 0.50), x)
    red = (0.40 + 0.40 * p.lip_red + 0.25 * (1 - p.masculine)).unsqueeze(1)
    tint = skin * (1 + (rosy - 1) * red) * (0.93 - 0.10 * p.lip_red).unsqueeze(1)
    plump = 1 - 0.20 * smooth((y - roof) / (p.lip_upper + 0.01) + 0.3)
    plump = plump + 0.16 * bell(n, y - floor + 0.5 * p.lip_lower, 0.5, 0.022)
    _over(face, tint * plump.unsqueeze(1), lips * 0.92)

    # inside: dark, with the tongue below and a row of teeth above
    hole = (torch.minimum(roof - y, y - floor) / soft + 0.5).clamp(0, 1)
    hole = hole * (opened > 0) * smooth((1.0 - n.abs()) * 9) * front
    deep = _colour((0.22, 0.07, 0.07), x).expand_as(face).clone()
    tongue = smooth((floor + 0.45 * opened - y) / (0.22 * opened + 0.01)) * bell(n, y - floor, 0.75, 0.2)
    _over(deep, _colour((0.66, 0.31, 0.31), x), tongue * 0.8)
    shown = 0.030 + 0.048 * smooth(smile * 2 + 0.2)
    long = torch.minimum(shown, 0.62 * opened + 0.004) * (1 - 0.55 * n2.clamp(0, 1))
    teeth = ((y - roof + long) / (soft + 0.006) + 0.5).clamp(0, 1) * smooth((0.93 - n.abs()) * 7)
    gaps = 1 - 0.13 * torch.cos(n * width * 95).clamp_min(0.6).sub(0.6) * 2.5
    _over(deep, _colour((0.86, 0.83, 0.77), x) * (gaps * (1 - 0.55 * n2.clamp(0, 1))).unsqueeze(1), teeth)
    _over(face, deep, hole)
    seam = torch.exp(-((y - middle) / (0.008 + 0.35 * soft)).square()) * smooth((1.10 - n.abs()) * 7)
    seam = (0.62 * seam * (1 - (opened * 40).clamp(0, 1)) + 0.4 * bell(n.abs() - 1.02, y - middle, 0.05, 0.016)) * front
    _over(face, _colour((0.24, 0.09, 0.08), x) + skin * 0.08, seam.clamp(0, 1))


def _round(place: Tensor, lean: float, view: View, depth: float = 1.0) -> Tensor:
    """Lamp light on something round and upright, at a place from -1 to 1 across it; it leans up where positive."""
    return _lit((place, lean + 0 * place, torch.sqrt(1 - place * place) * depth), view)


def _lit(normal: tuple[Tensor, Tensor, Tensor], view: View) -> Tensor:
    """Lamp light, 0 to 1, on a surface with this normal in the camera's frame."""
    lx, ly, lz = view.sun
    return ((normal[0] * lx + normal[1] * ly + normal[2] * lz + 0.12) / 1.12).clamp(0, 1)


def _strands(p: Columns, q: Columns, view: View, h: Head, clouds: Tensor) -> Strands:
    """Strands run down from the crown, or to both sides of the parting; curls run nowhere."""
    sx, sy = view.x - 0.5 * torch.sin(q.yaw), view.y + 0.4 * torch.sin(q.pitch)
    down = (sx - q.part * 0.5) / (1.75 - sy.clamp_max(1.5))
    aside = torch.sign(sx - q.part) * (0.55 * sy + 0.8 * (sx - q.part).square())
    combed = (1 - fringe_of(p, q)) * smooth(hair_length(p, q) * 4 - 0.8) * smooth(sy * 1.8 - 0.3)
    single, waves, _ = noise(torch.lerp(down, aside, combed) * 1.6 + p.mole_x, (1.6 - sy) * 0.10 + q.part)
    single = torch.lerp(single, clouds * 0.8, smooth(p.curl * 2.5 - 1.2) * h.cover)
    return Strands(single, waves, 0.80 + 0.26 * single + 0.10 * waves)


def _mane(p: Columns, q: Columns, view: View, strands: Strands, lamp: Lamp) -> tuple[Tensor, Tensor]:
    """Long hair behind the head: its cover (B, H, W), and the light on it (B, 1, H, W)."""
    x, y = view.x + 0.12 * torch.sin(q.yaw), view.y
    long = hair_length(p, q)
    end = -0.25 - 1.9 * (long - OVER_EARS) + 0.05 * strands.waves + 0.022 * strands.single
    wide = p.width + 0.07 + 0.10 * q.volume + 0.03 * strands.waves * (0.4 + p.curl)
    below = (-y).clamp_min(0)
    half = wide * torch.sqrt((1 - (y.clamp_min(0) / (p.skull + 0.08)).square()).clamp_min(0)) + 0.10 * below
    half = half - 0.03 - 0.22 * below * below - 0.10 * smooth((end + 0.22 - y) * 3.5)
    cover = ((half - x.abs()) / view.pixel + 0.5).clamp(0, 1) * smooth((y - end) / (view.pixel + 0.07) + 0.5)
    light = _round((x / (wide + 0.2)).clamp(-0.97, 0.97), 0.15, view) * 0.75
    light = (lamp.ambient * 0.8 + lamp.strength * light.unsqueeze(1)) * strands.shine.unsqueeze(1)
    return cover * (long > OVER_EARS), light


def _neck_half(p: Columns, y: Tensor) -> Tensor:
    """Half-width of the neck, which widens towards the shoulders."""
    return p.neck + 0.5 * (-1.12 - y).clamp_min(0).square() + 0.02


def _body(picture: Tensor, p: Columns, q: Columns, view: View, strands: Strands, lamp: Lamp) -> Tensor:
    """Paint neck and clothes, which follow half of the head's roll and turn; returns the neck's half-width."""
    pitch = torch.sin(q.pitch)
    x, y = view.x + 0.22 * torch.sin(q.yaw) + 0.5 * q.roll * (view.y + 1), view.y + 0.05 * pitch
    soft, side = view.pixel, x.abs()
    half = _neck_half(p, y)
    neck = ((half - side) / soft + 0.5).clamp(0, 1) * (y < -0.4)
    light = _round((x / (half + 0.04)).clamp(-0.97, 0.97), -0.1, view)
    chin = -0.98 - p.chin + 0.25 * x.square() + 0.15 * pitch
    under = 0.30 + 0.70 * smooth((chin + 0.02 - y) / 0.42)
    light = lamp.ambient * (0.4 + 0.6 * under.unsqueeze(1)) + lamp.strength * (light * under).unsqueeze(1)
    _over(picture, _skin(p) * light, neck)

    cloth = torch.cat((q.cloth_r, q.cloth_g, q.cloth_b), 1).unsqueeze(-1)
    cloth = torch.lerp(cloth, cloth.mean(1, keepdim=True), 0.45).square()
    shoulder = -1.17 - 0.10 * side - 0.30 * (side - 0.5).clamp_min(0).square()
    deep = torch.where(q.collar < 0.5, 0.14 * (1 - (x / 0.55).square()), 0.30 * (1 - side / 0.5))
    neckline = -1.17 - deep.clamp_min(0)
    top = torch.minimum(shoulder, torch.where(side < half + 0.06, neckline, shoulder))
    light = _round((x / 1.5).clamp(-0.9, 0.9), 0.25, view, 0.95)
    seam = 1 - 0.35 * torch.exp(-((top - y - 0.05) / 0.02).square())
    light = (lamp.ambient + lamp.strength * light.unsqueeze(1)) * (seam + 0.05 * strands.waves).unsqueeze(1)
    _over(picture, cloth * light, ((top - y) / soft + 0.5).clamp(0, 1))
    return half


def _lit_head(p: Columns, q: Columns, h: Head, face: Tensor, scalp: Tensor, strands: Strands, lamp: Lamp) -> Tensor:
    """Skin and hair of the head in their light (B, 3, H, W)."""
    diffuse = h.diffuse.unsqueeze(1)
    # light that skin scatters comes out red where shade begins
    scatter = _factor((0.06, 0.015, 0.0), diffuse)
    light = lamp.strength * (diffuse + scatter * (4 * diffuse * (1 - diffuse))) + lamp.ambient * h.cavity.unsqueeze(1)
    wet = 0.07 * h.gloss.unsqueeze(1) * lamp.strength
    lit = face * light * (0.35 + 0.65 * h.cavity.clamp_max(1).unsqueeze(1)) + wet
    hair = _hair_colour(p, q)
    band = torch.exp(-((h.y - 0.62 - 0.08 * strands.single) / 0.16).square()) * (0.25 + h.diffuse)
    sheen = (hair * 0.55 + 0.012) * (band * (0.6 + 0.4 * strands.single).clamp_min(0)).unsqueeze(1)
    locks = hair * ((lamp.ambient * 0.9 + 0.9 * lamp.strength * diffuse) * strands.shine.unsqueeze(1)) + sheen
    _over(lit, locks, scalp)
    return lit


def paint(p: Columns, q: Columns, view: View, h: Head) -> Tensor:
    """Linear light (B, 3, H, W) that reaches the lens, painted from the back to the front."""
    x, y, soft = view.x, view.y, view.pixel
    lamp = Lamp((q.ambient * 0.95).unsqueeze(1), (1.20 * (1 - 0.55 * q.ambient)).unsqueeze(1))
    grain, clouds, _ = noise(h.x * 0.9 + p.mole_x, h.y * 0.9 + p.mole_y)
    strands = _strands(p, q, view, h, clouds)
    hair = _hair_colour(p, q)
    picture = _ground(q, view)
    mane, mane_light = _mane(p, q, view, strands, lamp)
    _over(picture, hair * mane_light * 0.8, mane)
    neck_half = _body(picture, p, q, view, strands, lamp)
    _ears(picture, p, q, view, h, lamp)

    fringe = fringe_of(p, q)
    edge = 0.05 + 0.05 * (1 - h.front.clamp(0, 1)) - 0.02 * fringe
    scalp = smooth((h.hair + (0.012 + 0.018 * fringe) * strands.single) / (edge + 0.6 * soft) + 0.4)
    face = _face(p, q, h, soft, grain, clouds)
    _over(picture, _lit_head(p, q, h, face, scalp, strands, lamp), h.cover)

    # long hair falls over the sides of the face, less where the face turns to
    yaw = torch.sin(q.yaw)
    inner = p.width * (0.80 + 0.08 * smooth(0.5 - 3 * y)) + 0.04 * strands.waves + 0.015 * strands.single
    inner = inner + 0.6 * (yaw * torch.sign(x)).clamp_min(0)
    inner = torch.lerp(inner, neck_half + 0.03, smooth(-1.6 * (y + 0.55)))
    fall = mane * smooth(((x - 0.10 * yaw).abs() - inner) / (soft + 0.06) + 0.5)
    fall = fall * smooth((0.72 - y) * 2.5) * smooth((hair_length(p, q) - 0.46) * 12)
    _over(picture, hair * mane_light, fall)
    _glasses(picture, p, q, view, h, scalp)
    return picture.clamp_min_(0)


def _to_picture(view: View, x: Tensor | float, y: Tensor, z: float) -> tuple[Tensor, Tensor, Tensor]:
    """Place (x, y, and depth z towards the camera) in the picture of a point of the head's frame."""
    cy, sy, cp, sp = view.turn
    t = cp * z - sp * y
    return cy * x + sy * t, cp * y + sp * z, cy * t - sy * x


def _arm(p: Columns, view: View, h: Head, hinge: Tensor, ear: Tensor, thick: Tensor) -> Tensor:
    """Cover of one arm of the glasses: the line from hinge to ear, where the head does not hide it."""
    height = p.eye_y + 0.03
    x0, y0, z0 = _to_picture(view, hinge, height, LENS)
    x1, y1, z1 = _to_picture(view, ear, height, 0.0)
    dx, dy = x1 - x0, y1 - y0
    along = (((view.x - x0) * dx + (view.y - y0) * dy) / (dx * dx + dy * dy + 1e-6)).clamp(0, 1)
    off = torch.sqrt((view.x - x0 - along * dx).square() + (view.y - y0 - along * dy).square() + 1e-9)
    hidden = h.cover * ((h.z - z0 - along * (z1 - z0)) / 0.05).clamp(0, 1)
    return ((thick - off) / view.pixel + 0.5).clamp(0, 1) * (1 - hidden)


def _ears(picture: Tensor, p: Columns, q: Columns, view: View, h: Head, lamp: Lamp) -> None:
    """Paint both ears, where hair does not cover them: flat shells beside the head."""
    shown = (hair_length(p, q) < OVER_EARS).float()
    skin = _skin(p)
    for sign in (-1.0, 1.0):
        ex, ey, ez = sign * (p.width - 0.005 + p.ear_out * 0.6), p.eye_y - 0.10, -0.06
        px, py, pz = _to_picture(view, ex, ey, ez)
        wide = (0.055 + 0.55 * p.ear_out + 0.13 * (-sign * torch.sin(q.yaw)).clamp_min(0)) * p.ear
        high = 0.21 * p.ear
        dx, dy = (view.x - px) / wide, (view.y - py) / high
        dx = dx + 0.25 * dy * -sign
        d = torch.sqrt(dx * dx + dy * dy + 1e-9)
        cover = ((1 - d) * wide / view.pixel + 0.5).clamp(0, 1) * shown
        hidden = h.cover * ((h.z - pz - 0.03) / 0.06).clamp(0, 1)
        cover = cover * (1 - hidden)
        light = _lit((0.5 * sign + 0.5 * dx.clamp(-1, 1), 0.3 * dy.clamp(-1, 1), 0.65 + 0 * dx), view)
        shade = 1 - 0.28 * bell(d - 0.62, dy - 0.1, 0.16, 1.2) - 0.3 * bell(dx, dy + 0.05, 0.45, 0.35)
        tone = skin * _factor((1.0, 0.88, 0.86), dx)
        _over(
            picture,
            tone * ((lamp.ambient * 0.8 + 0.85 * lamp.strength * light.unsqueeze(1)) * shade.unsqueeze(1)),
            cover,
        )


def _glasses(picture: Tensor, p: Columns, q: Columns, view: View, h: Head, scalp: Tensor) -> None:
    """Put glasses on, where there are any: a signed distance in a plane before the eyes."""
    on = (q.glasses > 0.82).float()
    if not bool(on.any()):
        return
    vx, vy, vz = view.ray
    ox, oy, oz = view.origin
    depth = (LENS - oz) / vz
    x, y = ox + depth * vx, oy + depth * vy
    side = x.abs()
    wide, high = p.eye_width + 0.085 + 0.02 * q.frame_tone, 0.150 + 0.03 * (1 - q.frame)
    cx, cy = (side - p.eye_x - 0.01).abs(), (y - p.eye_y + 0.025).abs()
    corner = 0.05 + 0.10 * (1 - q.frame)
    bx, by = (cx - wide + corner).clamp_min(0), (cy - high + corner).clamp_min(0)
    within = torch.maximum(cx - wide + corner, cy - high + corner).clamp_max(0)
    d = torch.sqrt(bx * bx + by * by + 1e-9) - corner + within
    thick = 0.011 + 0.012 * (q.frame_tone * 3 % 1)
    frame = (thick + 0.5 * view.pixel - d.abs()) / view.pixel
    bridge = (thick + 0.5 * view.pixel - (y - p.eye_y - 0.035 + 0.5 * x * x).abs()) / view.pixel
    bridge = torch.where(side < p.eye_x + 0.01 - wide, bridge, torch.zeros_like(bridge))
    arms = [_arm(p, view, h, sign * (p.eye_x + 0.01 + wide), sign * (p.width + 0.02), thick) for sign in (-1.0, 1.0)]
    arm = torch.maximum(*arms) * (1 - scalp * h.cover)
    cover = torch.maximum(torch.maximum(frame, bridge).clamp(0, 1), arm) * on
    glass = ((-d) / view.pixel + 0.5).clamp(0, 1) * on
    glare = 0.02 + 0.06 * smooth(1 - ((x * 0.8 + y - p.eye_y - 0.5 * q.light_x * 0.2) / 0.06).abs())
    _over(picture, _colour((0.9, 0.95, 1.0), x), glass * glare)
    _over(picture, _pick(FRAMES, q.frame_tone).square(), cover * 0.96)
