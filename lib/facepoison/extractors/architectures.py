"""Networks of the book's own extractors: each a narrow variant of a published step, made for 64 x 64 pictures.

All of them take normalised pictures (B, 3, 64, 64) and give embeddings (B, 128) that are not normalised. They are small
because a poison needs hundreds of passes through them and must not need a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

DIMENSIONS = 128


class PReLU(nn.Module):
    """Parametric ReLU with a slope for each channel; on a CPU several times as fast backwards as ``nn.PReLU``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((channels, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, channels, H, W), elementwise."""
        return torch.lerp(torch.relu(x), x, self.slope.to(x.dtype))


class Embedding(nn.Sequential):
    """The end that ArcFace settled on: normalise, flatten, project linearly, normalise (Deng et al. 2019, option E)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Linear(channels * side * side, DIMENSIONS, bias=False),
            nn.BatchNorm1d(DIMENSIONS),
        )


def se_resnet() -> nn.Module:
    """Narrow SE-ResNet with global average pooling.

    The step: ResNets with squeeze-and-excitation (Hu et al. 2018), trained with softmax on VGGFace2 (Cao et al. 2018).
    """
    network = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm annotates an instance where it takes the class
        layers=(1, 2, 2, 1),
        channels=(16, 32, 64, 128),
        stem_type="deep",
        stem_width=8,
        num_classes=DIMENSIONS,
        block_args={"attn_layer": "se"},
    )
    network.maxpool = nn.Identity()  # type: ignore[assignment]  # made for 224 pixels: at 64 it would leave 2 x 2
    return nn.Sequential(network, nn.BatchNorm1d(DIMENSIONS))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size at stride 1, with batch normalisation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project; PReLU instead of ReLU6, as MobileFaceNet has it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.path = nn.Sequential(
            *_convolution(inputs, wide, 1),
            PReLU(wide),
            *_convolution(wide, wide, 3, stride, groups=wide),
            PReLU(wide),
            *_convolution(wide, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.path(x)
        return x + out if self.adds else out


def mobilefacenet() -> nn.Module:
    """Narrow MobileFaceNet (Chen et al. 2018): inverted residuals and a global depthwise convolution at the end.

    Trained with CosFace (Wang et al. 2018).
    """
    layers: list[nn.Module] = [
        *_convolution(3, 24, 3, 2),
        PReLU(24),
        *_convolution(24, 24, 3, groups=24),
        PReLU(24),
    ]
    inputs = 24
    for expansion, outputs, repeats, stride in (
        (2, 40, 3, 2),
        (4, 64, 1, 2),
        (2, 64, 4, 1),
        (4, 96, 1, 2),
        (2, 96, 2, 1),
    ):
        for index in range(repeats):
            layers.append(InvertedResidual(inputs, outputs, stride if index == 0 else 1, expansion))
            inputs = outputs
    layers += [
        *_convolution(inputs, 320, 1),
        PReLU(320),
        nn.Conv2d(320, 320, 4, groups=320, bias=False),
        nn.BatchNorm2d(320),
        nn.Flatten(),
        nn.Linear(320, DIMENSIONS, bias=False),
        nn.BatchNorm1d(DIMENSIONS),
    ]
    return nn.Sequential(*layers)


class PlainResidual(nn.Module):
    """Two convolutions, each followed by a PReLU, around a plain shortcut, as SphereFace's networks have them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            *_convolution(channels, channels, 3),
            PReLU(channels),
            *_convolution(channels, channels, 3),
            PReLU(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, channels, H, W), shape kept."""
        out: Tensor = x + self.path(x)
        return out


def sphereface() -> nn.Module:
    """Narrow SphereFace network (Liu et al. 2017) as CosFace took it over (Wang et al. 2018), and trained with CosFace.

    Each of four stages begins with a strided convolution. Batch normalisation is added: without it narrow networks do
    not train at this batch size.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, repeats in ((16, 1), (32, 1), (64, 2), (128, 1)):
        layers += [*_convolution(inputs, outputs, 3, 2), PReLU(outputs)]
        layers += [PlainResidual(outputs) for _ in range(repeats)]
        inputs = outputs
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(inputs * 16, DIMENSIONS, bias=False), nn.BatchNorm1d(DIMENSIONS)
    )


class ImprovedResidual(nn.Module):
    """The residual block of ArcFace's iResNet: it begins and ends with batch normalisation and strides last."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm2d(inputs),
            *_convolution(inputs, outputs, 3),
            PReLU(outputs),
            *_convolution(outputs, outputs, 3, stride),
        )
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.path(x) + self.shortcut(x)
        return out


def iresnet() -> nn.Module:
    """Narrow iResNet, trained with ArcFace (Deng et al. 2019)."""
    layers: list[nn.Module] = [*_convolution(3, 16, 3, 2), PReLU(16)]
    inputs = 16
    for outputs, repeats, stride in ((24, 1, 1), (48, 2, 2), (88, 2, 2), (128, 2, 2)):
        for index in range(repeats):
            layers.append(ImprovedResidual(inputs, outputs, stride if index == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, Embedding(inputs, 4))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "narrow SE-ResNet": se_resnet,
    "narrow MobileFaceNet": mobilefacenet,
    "narrow iResNet": iresnet,
    "narrow SphereFace network": sphereface,
}
