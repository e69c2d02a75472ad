"""The shape of the book's own faces: a star-shaped head, how light falls on it, and where rays meet it.

The head's surface is its radius over the directions from its centre, on a square map (Lambert's equal-area
projection around the direction of the nose). Lengths are in half head heights; x points to the picture's right, y up,
z to the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from facepoison.device import generator

REACH = 1.78  # half-width of the map; 2 would be the back of the head
SPAN = 0.39  # half a head's height as a share of the picture's
RISE = -0.035  # height of the picture's middle over the head's centre
BOUND = 1.27  # no point of a head is further from its centre
DEEPEST = -0.6  # no ray is followed further behind the head's centre
STEPS = 11  # of a ray towards the head


class Columns:
    """Rows of parameters as named columns, each of shape (B, 1, 1)."""

    def __init__(self, names: Sequence[str], rows: Tensor) -> None:
        self._columns = dict(zip(names, rows.T[:, :, None, None].unbind(0), strict=True))

    def __getattr__(self, name: str) -> Tensor:
        return self._columns[name]


class View(NamedTuple):
    """Where the camera's rays run: pixel coordinates, and the same rays in the head's own frame.

    Attributes:
        x: Picture coordinates (B, H, W) around the head's centre, upright with the head.
        y: The same, upwards.
        origin: The points (x, y, 0) in the head's frame, three tensors (B, H, W).
        ray: Direction towards the camera in the head's frame, three tensors (B, 1, 1).
        light: Direction towards the light in the head's frame, three tensors (B, 1, 1).
        sun: The same in the camera's frame.
        turn: Cosine and sine of yaw, then of pitch.
        pixel: Size of a pixel, (B, 1, 1).
    """

    x: Tensor
    y: Tensor
    origin: tuple[Tensor, Tensor, Tensor]
    ray: tuple[Tensor, Tensor, Tensor]
    light: tuple[Tensor, Tensor, Tensor]
    sun: tuple[Tensor, Tensor, Tensor]
    turn: tuple[Tensor, Tensor, Tensor, Tensor]
    pixel: Tensor


class Head(NamedTuple):
    """What rays find at the head, all (B, H, W).

    Attributes:
        cover: Share of the pixel that the head covers.
        z: Depth of the surface, towards the camera.
        diffuse: Light that arrives, 0 to 1, without what comes from everywhere.
        cavity: How open the place is to light from everywhere, about 1.
        gloss: Mirrored light.
        hair: Signed distance into the hairy part of the scalp.
        x: Place on the face as seen from the front, before nose, lips and hair were put on.
        y: The same, upwards.
        front: The same, towards the nose.
    """

    cover: Tensor
    z: Tensor
    diffuse: Tensor
    cavity: Tensor
    gloss: Tensor
    hair: Tensor
    x: Tensor
    y: Tensor
    front: Tensor


def smooth(x: Tensor) -> Tensor:
    """Smooth step from 0 at 0 to 1 at 1."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def bell(x: Tensor, y: Tensor, wide: Tensor | float, high: Tensor | float) -> Tensor:
    """Gaussian bump of height 1 with half-widths ``wide`` and ``high``."""
    return torch.exp(-((x / wide).square() + (y / high).square()))


@cache
def _sheet(device: torch.device) -> Tensor:
    """Smooth noise (1, 3, 256, 256), mean 0 and deviation 1: fine grain, and coarse clouds that repeat at the edges."""
    fine = torch.randn(1, 1, 256, 256, generator=generator(0, "grain"))
    fine = F.avg_pool2d(F.pad(fine, (1, 1, 1, 1), mode="circular"), 3, 1)
    clouds = torch.zeros_like(fine)
    for cells, weight in ((16, 1.0), (32, 0.55), (64, 0.3)):
        rough = torch.randn(1, 1, cells, cells, generator=generator(0, "clouds", cells))
        wide = F.interpolate(F.pad(rough, (2, 2, 2, 2), mode="circular"), scale_factor=256 // cells, mode="bicubic")
        cut = 2 * 256 // cells
        clouds += weight * wide[..., cut:-cut, cut:-cut]
        if cells == 16:
            blurred = clouds.clone()
    return torch.cat((fine / fine.std(), clouds / clouds.std(), blurred / blurred.std()), 1).to(device)


def noise(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Grain, clouds and blurred clouds (B, H, W) at places; the sheet spans -1 to 1 and is mirrored beyond."""
    grid = torch.stack((x, y), -1)
    sheet = _sheet(x.device).expand(len(x), -1, -1, -1)
    return F.grid_sample(sheet, grid, padding_mode="reflection", align_corners=True).unbind(1)


def beard_of(p: Columns, q: Columns) -> Tensor:
    """How much beard there is, 0 to 1."""
    usual = (p.beard - 0.45) * 1.8
    return torch.where(p.masculine > 0.5, (usual + q.stubble).clamp(0, 1), torch.zeros_like(usual))


def bald_of(p: Columns) -> Tensor:
    """How bald the top of the head is, 0 to 1: some older men's."""
    return ((p.recede - 0.55) * 4 * (p.masculine - 0.5)).clamp(0, 1) * smooth(p.age * 2 - 0.5)


def hair_length(p: Columns, q: Columns) -> Tensor:
    """How long the hair is: 0 cropped, 0.5 to the ears' lobes, 1 over the shoulders."""
    usual = (0.15 + p.hair_length) * (1.3 - 1.1 * p.masculine) + q.length * (1.1 - p.masculine)
    return (usual * (1 - 0.8 * bald_of(p))).clamp(0, 1)


def fringe_of(p: Columns, q: Columns) -> Tensor:
    """How far the hair falls over the forehead, 0 to 1."""
    return smooth((p.fringed + 0.6 * q.fringe - 0.3) * 2)


def smile_of(q: Columns) -> Tensor:
    """Strength of the smile; corners of the mouth never turn down far."""
    return q.smile.clamp_min(-0.2)


def pose(q: Columns, size: int) -> View:
    """Rays and light of pictures of ``size`` x ``size`` pixels."""
    device = q.yaw.device
    at = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size - 0.5
    right = ((at - q.shift_x) / (q.scale * SPAN)).expand(-1, size, -1)
    up = ((-at[:, None] - q.shift_y) / (q.scale * SPAN)).expand(-1, -1, size)
    c, s = torch.cos(q.roll), torch.sin(q.roll)
    x = c * right + s * up
    y = c * up - s * right + RISE
    cy, sy, cp, sp = torch.cos(q.yaw), torch.sin(q.yaw), torch.cos(q.pitch), torch.sin(q.pitch)

    def to_head(a: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # undo the turn (around y), then the nod (around x)
        e = sy * a + cy * d
        return cy * a - sy * d, cp * b - sp * e, sp * b + cp * e

    zero, one = torch.zeros_like(q.yaw), torch.ones_like(q.yaw)
    # camera x, y, z of the light; the picture's roll is small against its direction
    length = torch.sqrt(q.light_x.square() + q.light_y.square() + 0.81)
    sun = (q.light_x / length, q.light_y / length, 0.9 / length)
    ox, oy, oz = cy * x, cp * y - (sp * sy) * x, sp * y + (cp * sy) * x
    pixel = 1 / (size * SPAN * q.scale)
    return View(x, y, (ox, oy, oz), to_head(zero, zero, one), to_head(*sun), sun, (cy, sy, cp, sp), pixel)


@cache
def _directions(side: int, device: torch.device) -> tuple[Tensor, ...]:
    """Unit vectors of the map's texels (side, side), and the logarithms of their sizes."""
    at = torch.linspace(-REACH, REACH, side)
    u, v = at[None, :].expand(side, side), at[:, None].expand(side, side)
    square = (u * u + v * v).clamp_max(3.96)
    near = torch.sqrt(1 - square / 4)
    x, y, z = u * near, v * near, 1 - square / 2
    norm = torch.sqrt(x * x + y * y + z * z)
    x, y, z = x / norm, y / norm, z / norm
    logs = [torch.log(a.abs().clamp_min(1e-4)) for a in (x, y, z)]
    return tuple(a.to(device) for a in (x, y, z, *logs))


def _lookup(maps: Tensor, x: Tensor, y: Tensor, z: Tensor, r: Tensor) -> Tensor:
    """Values (B, C, H, W) of maps at the directions of points (x, y, z) that are ``r`` from the centre."""
    scale = torch.rsqrt((r * (r + z)).clamp_min(1e-6) * (REACH * REACH / 2))
    return F.grid_sample(maps, torch.stack((x * scale, y * scale), -1), padding_mode="border", align_corners=True)


def _skull(p: Columns, q: Columns, d: tuple[Tensor, ...]) -> Tensor:
    """Radius of the head without features: a superellipsoid whose width follows the height."""
    _, y, z, log_x, log_y, log_z = d
    low = torch.sigmoid((-0.10 - y) * 4.5)
    width = p.width + (p.jaw - 0.05 * (1 - p.masculine) - p.width) * low
    below = torch.sigmoid(-14 * y)
    high = p.skull + (1 + p.chin + 0.055 * q.open.clamp_min(0) - p.skull) * below
    deep = 0.93 - 0.07 * torch.sigmoid(8 * z)
    round_ = 2.25 + (p.square + 0.15 - 2.25) * low
    flat = 2.25 + 0.5 * low
    profile = torch.exp(flat * (log_y - torch.log(high))) + torch.exp(flat * (log_z - torch.log(deep)))
    whole = profile.pow(round_ / flat) + torch.exp(round_ * (log_x - torch.log(width)))
    return torch.exp(torch.log(whole) / -round_)


def _hair(p: Columns, q: Columns, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Signed distance into the hair (positive inside), about right near its edge."""
    long = hair_length(p, q)
    bald = bald_of(p)
    receding = p.recede * p.masculine * (0.4 + 0.6 * p.age)
    line = p.hairline + bald * 0.9 - p.temples * 0.55 * x * x
    line = line + 0.13 * receding * torch.exp(-((x.abs() - 0.33) / 0.17).square())
    fringe = fringe_of(p, q) * (1 - bald) * smooth(long * 5)
    bangs = p.eye_y + p.brow_gap + 0.09 + 0.5 * (x - q.part) ** 2 * (0.3 + q.volume)
    line = line + fringe * (torch.minimum(bangs, line) - line)
    top = y - line
    edge = 0.12 + 0.22 * long - 0.30 * (y - 0.30).abs()
    lobe = -0.06 - 0.30 * smooth(long * 2.5 - 0.5)
    side = torch.minimum(edge - z, y - lobe)
    return 0.5 * (top + side + torch.sqrt((top - side).square() + 0.008)) - 0.01


def _features(p: Columns, q: Columns, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """What stands out from the skull, radially."""
    side = x.abs()
    front = smooth(z * 2.5)
    smile, gap = smile_of(q), q.open.clamp_min(0)
    tip = p.eye_y - p.nose_length
    mouth = tip - p.mouth_gap
    down = (p.eye_y + 0.04 - y) / (p.nose_length + 0.04)
    along = down.clamp(0, 1)
    ridge = p.bridge + (1 - p.bridge) * along * along + p.hump * 0.5 * along * (1 - along)
    ridge = ridge * smooth((down + 0.35) * 1.8) * smooth((1.16 - down) * 4.5) * p.nose_height
    flank = 1.12 * p.bridge_width + (0.68 * p.nose_width - 1.12 * p.bridge_width) * along * along
    out = ridge * torch.exp(-(side / flank).square())
    out += 0.22 * p.nose_height * bell(x, y - tip - 0.015, p.tip, p.tip)
    out += 0.050 * bell(side - 0.66 * p.nose_width, y - tip + 0.005, 0.40 * p.nose_width, 0.065)
    out -= p.socket * bell(side - p.eye_x + 0.02, y - p.eye_y - 0.015, 0.19, 0.105)
    out += 0.030 * bell(side - p.eye_x, y - p.eye_y, 0.85 * p.eye_width, 0.07)
    ridge_y = p.eye_y + p.brow_gap + 0.01
    out += (0.012 + 0.034 * p.masculine) * bell(side - 0.24, y - ridge_y, 0.24, 0.065)
    rise = smile.clamp_min(0) * 0.05
    out += (p.cheek + 0.5 * rise) * bell(side - 0.43, y - p.cheek_y - rise, 0.19, 0.17)
    out -= 0.035 * bell(side - 0.66, y - 0.42, 0.2, 0.25)
    out += (p.mouth_out + 0.012) * bell(x, y - mouth, 0.33, 0.20)
    width = p.mouth_width * (1 + 0.16 * smile)
    lips = torch.exp(-(side / width).square().square())
    out += 0.030 * lips * torch.exp(-((y - mouth - 0.42 * p.lip_upper - 0.01) / (0.6 * p.lip_upper + 0.01)).square())
    lower = mouth - 0.5 * p.lip_lower - 0.11 * gap
    out += 0.038 * lips * torch.exp(-((y - lower) / (0.55 * p.lip_lower + 0.01)).square())
    out -= 0.03 * bell(x, y - lower + 0.9 * p.lip_lower + 0.035, 0.6 * width, 0.05)
    chin = -0.83 - 0.5 * p.chin - 0.055 * gap
    out += (p.chin_out + 0.02) * bell(x, y - chin, p.chin_width + 0.06, 0.11)
    out -= p.cleft.clamp_min(0) * bell(x, y - chin + 0.02, 0.025, 0.08)
    fold = (0.004 + 0.020 * p.age + 0.010 * smile.clamp_min(0)) * front
    crease = p.nose_width + 0.03 + (tip + 0.02 - y).clamp(0, 0.4) * 0.55
    fold = fold * torch.exp(-((side - crease) / 0.05).square())
    out -= fold * smooth((tip + 0.08 - y) * 8) * smooth((y - mouth + 0.08) * 8)
    return out * front


def head(p: Columns, q: Columns, view: View) -> Head:
    """Model the head of every picture, light it, and let the rays meet it."""
    size = view.x.shape[-1]
    side = max(48, size * 15 // 16)
    d = _directions(side, view.x.device)
    dx, dy, dz = d[:3]
    base = _skull(p, q, d)
    x0, y0, z0 = base * dx, base * dy, base * dz
    hair = _hair(p, q, x0, y0, z0)
    long = hair_length(p, q)
    thick = (0.035 + 0.055 * long + 0.075 * q.volume * (0.5 + 0.5 * long)) * (0.75 + 0.4 * y0.clamp(0, 1))
    _, clouds, _ = noise(x0 * 0.55 + p.mole_x, y0 * 0.55 + p.mole_y)
    thick = thick * (1 + (0.12 + 0.45 * p.curl) * clouds)
    radius = base + _features(p, q, x0, y0, z0) + thick * smooth(hair * (7 - 2 * long))
    x, y, z = radius * dx, radius * dy, radius * dz

    # normal of the surface: the cross product of its two tangents
    points = torch.stack((x, y, z))
    tu = F.pad(points[..., 2:] - points[..., :-2], (1, 1, 0, 0), mode="replicate")
    tv = F.pad(points[..., 2:, :] - points[..., :-2, :], (0, 0, 1, 1), mode="replicate")
    nx = tu[1] * tv[2] - tu[2] * tv[1]
    ny = tu[2] * tv[0] - tu[0] * tv[2]
    nz = tu[0] * tv[1] - tu[1] * tv[0]
    unit = torch.rsqrt(nx * nx + ny * ny + nz * nz + 1e-12)
    lx, ly, lz = view.light
    facing = (nx * lx + ny * ly + nz * lz) * unit

    # soft shadow: a few steps towards the light, each compared with the radius there
    maps = radius.unsqueeze(1)
    blocked = torch.zeros_like(radius)
    for reach in (0.05, 0.11, 0.19, 0.30, 0.44):
        sx, sy, sz = x + reach * lx, y + reach * ly, z + reach * lz
        r = torch.sqrt(sx * sx + sy * sy + sz * sz)
        over = _lookup(maps, sx, sy, sz, r).squeeze(1) - r
        blocked = torch.maximum(blocked, over / (0.02 + 0.16 * reach))
    lit = 1 - smooth(blocked + 0.12)
    diffuse = ((facing + 0.18) / 1.18).clamp(0, 1) * (0.25 + 0.75 * lit)
    k = side // 12 * 2 + 1
    around = F.avg_pool2d(F.pad(maps, (k // 2,) * 4, mode="replicate"), k, 1).squeeze(1)
    cavity = (1 - 4.0 * (around - radius + 0.004)).clamp(0.45, 1.12)
    vx, vy, vz = view.ray
    hx, hy, hz = lx + vx, ly + vy, lz + vz
    shine = (nx * hx + ny * hy + nz * hz) * unit * torch.rsqrt(hx * hx + hy * hy + hz * hz)
    gloss = shine.clamp_min(0).pow(22) * lit
    surface = torch.stack((diffuse, cavity, gloss, hair, x0, y0, z0), 1)

    # march the rays inwards from a ball around the head; once a step has gone through the surface, stay between the
    # last point outside and the last one inside
    ox, oy, oz = view.origin
    flat = view.x.square() + view.y.square()
    depth = torch.sqrt((BOUND * BOUND - flat).clamp_min(0))
    outside, inside = depth, torch.full_like(depth, DEEPEST)
    nearest = torch.full_like(depth, 9.0)
    for _ in range(STEPS):
        px, py, pz = ox + depth * vx, oy + depth * vy, oz + depth * vz
        r = torch.sqrt(flat + depth * depth)
        above = r - _lookup(maps, px, py, pz, r).squeeze(1)
        nearest = torch.minimum(nearest, above)
        within = above < 0
        outside, inside = torch.where(within, outside, depth), torch.where(within, depth, inside)
        # on a sphere the ray loses height at the rate depth / r
        step = depth - above * (r / depth.clamp_min(0.05)).clamp_max(2.2)
        middle = 0.5 * (outside + inside)
        depth = torch.where((inside > DEEPEST) & ((step > outside) | (step < inside)), middle, step).clamp_min(DEEPEST)
    px, py, pz = ox + depth * vx, oy + depth * vy, oz + depth * vz
    r = torch.sqrt(flat + depth * depth)
    found = _lookup(surface, px, py, pz, r).unbind(1)
    cover = (1.0 - nearest / view.pixel).clamp(0, 1)
    return Head(cover, depth, *found)
