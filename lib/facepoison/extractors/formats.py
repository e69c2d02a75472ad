"""Networks and weights of other people's extractors as facenet-pytorch, InsightFace, MagFace and AdaFace keep them.

Names of layers are theirs, since the keys of their files are. The networks come without weights; `fill` puts them in.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from facepoison.errors import InputError

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
WIDTHS = (64, 128, 256, 512)
SIDE = 7  # pixels of 112 that four halvings leave


class FlatBlock(nn.Module):
    """A residual block of iResNet with the names that InsightFace and MagFace give its layers."""

    def __init__(self, inputs: int, outputs: int, stride: int, eps: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, eps)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            shorter = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shorter, nn.BatchNorm2d(outputs, eps))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        inner = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out: Tensor = self.bn3(self.conv2(inner)) + self.downsample(x)
        return out


class NestedBlock(nn.Module):
    """The same block as AdaFace keeps it; where the width stays, its shortcut drops pixels instead of convolving."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            shorter = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_layer = nn.Sequential(shorter, nn.BatchNorm2d(outputs))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


def _plan(depth: int) -> list[list[tuple[int, int, int]]]:
    """Widths before and after and stride of every block, stage by stage; each stage's first block halves the size."""
    stages, inputs = [], WIDTHS[0]
    for outputs, blocks in zip(WIDTHS, LAYERS[depth], strict=True):
        stages.append([(inputs, outputs, 2)] + [(outputs, outputs, 1)] * (blocks - 1))
        inputs = outputs
    return stages


def flat_iresnet(depth: int, eps: float = 1e-5, embedding: int = 512) -> nn.Module:
    """An iResNet for 112 x 112 pixels (Deng et al., CVPR 2019) with the keys of InsightFace and MagFace.

    Args:
        depth: A key of ``LAYERS``.
        eps: Added to variances by batch normalisation: 1e-5 for InsightFace, 2e-5 for MagFace.
        embedding: Dimensions of the embedding.
    """
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False),
        "bn1": nn.BatchNorm2d(WIDTHS[0], eps),
        "prelu": nn.PReLU(WIDTHS[0]),
    }
    for number, stage in enumerate(_plan(depth), 1):
        layers[f"layer{number}"] = nn.Sequential(*(FlatBlock(*sizes, eps) for sizes in stage))
    layers |= {
        "bn2": nn.BatchNorm2d(WIDTHS[-1], eps),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(WIDTHS[-1] * SIDE**2, embedding),
        "features": nn.BatchNorm1d(embedding, eps),
    }
    return nn.Sequential(OrderedDict(layers))


def nested_iresnet(depth: int, embedding: int = 512) -> nn.Module:
    """An iResNet for 112 x 112 pixels with the keys of AdaFace (Kim et al., CVPR 2022); ``depth`` as `flat_iresnet`."""
    blocks = [NestedBlock(*sizes) for stage in _plan(depth) for sizes in stage]
    begin = [nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.PReLU(WIDTHS[0])]
    end = [
        nn.BatchNorm2d(WIDTHS[-1]),
        nn.Dropout(0.4),
        nn.Flatten(),
        nn.Linear(WIDTHS[-1] * SIDE**2, embedding),
        nn.BatchNorm1d(embedding, affine=False),
    ]
    parts = {"input_layer": nn.Sequential(*begin), "body": nn.Sequential(*blocks), "output_layer": nn.Sequential(*end)}
    return nn.Sequential(OrderedDict(parts))


def facenet() -> nn.Module:
    """facenet-pytorch's Inception-ResNet v1 for 160 x 160 pixels; its embeddings (B, 512) have unit length."""
    from facenet_pytorch import InceptionResnetV1

    network: nn.Module = InceptionResnetV1(pretrained=None, classify=False)
    return network


IRESNETS = (
    {f"iResNet{depth} of InsightFace": partial(flat_iresnet, depth) for depth in LAYERS}
    | {f"iResNet{depth} of MagFace": partial(flat_iresnet, depth, 2e-5) for depth in LAYERS}
    | {f"iResNet{depth} of AdaFace": partial(nested_iresnet, depth) for depth in LAYERS}
)


def read_state(path: Path, prefix: str = "", drop: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The state dict in a file of torch.save, opened with ``weights_only=True`` so that none of its code runs.

    Args:
        path: The file; a checkpoint that holds the state under ``"state_dict"`` is unwrapped.
        prefix: What every key begins with; it is cut off.
        drop: Beginnings of keys that are left out, such as those of the classifier; looked at before ``prefix``.

    Returns:
        Tensors by key, on the CPU.

    Raises:
        InputError: torch refuses the file, it holds something else than tensors, or a key lacks the prefix.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        what = "torch.load refuses it with weights_only=True, as it is damaged or holds more than weights"
        raise InputError(f"{path}: {what}: ask its publishers for a plain state dict") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{path}: holds no state dict: get the weights, not the whole model or optimiser")
    state = {}
    for key, value in found.items():
        if drop and str(key).startswith(drop):
            continue
        if not isinstance(key, str) or not key.startswith(prefix):
            raise InputError(
                f"{path}: the key '{key}' does not begin with '{prefix}': correct the entry's prefix or drop"
            )
        if not isinstance(value, Tensor):
            raise InputError(f"{path}: '{key}' is a {type(value).__name__}, not a tensor: get a plain state dict")
        state[key.removeprefix(prefix)] = value
    return state


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Put weights into a network, strictly; half-precision weights compute in single precision.

    Args:
        network: Takes the weights.
        state: All of its weights by key; only the counters of batch normalisation, of no use any more, may be missing.
        path: Where they come from, for errors.

    Raises:
        InputError: a key is missing, not expected, or of another shape; the first is named.
    """
    wanted = network.state_dict()
    remedy = "correct the entry's architecture, prefix or drop"
    for key in wanted:
        if key not in state and not key.endswith("num_batches_tracked"):
            raise InputError(f"{path}: the key '{key}' is missing: {remedy}")
    for key, value in state.items():
        if key not in wanted:
            raise InputError(f"{path}: the key '{key}' is not expected: {remedy}")
        if value.shape != wanted[key].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(wanted[key].shape)}"
            raise InputError(f"{path}: '{key}' is of shape {shapes}: correct the entry's architecture")
    network.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    )
    return network
