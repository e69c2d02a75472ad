"""Networks of the book's own extractors: each a narrow variant of a published step, made for 64 x 64 pictures.

All of them take normalised pictures (B, 3, 64, 64) and give embeddings (B, 128) that are not normalised. They are small
because a poison needs hundreds of passes through them and must not need a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers.squeeze_excite import SEModule
from timm.models.edgenext import EdgeNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
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


def _convolution(
    inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution that keeps the size at stride 1, with batch normalisation."""
    padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
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
    """The residual block of ArcFace's iResNet: it begins and ends with batch normalisation and strides last.

    With ``excite`` its channels are weighted at the end by squeeze-and-excitation, as in the variant called IR-SE.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, excite: bool = False) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm2d(inputs),
            *_convolution(inputs, outputs, 3),
            PReLU(outputs),
            *_convolution(outputs, outputs, 3, stride),
            *([SEModule(outputs)] if excite else []),
        )
        plain = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if plain else nn.Sequential(*_convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.path(x) + self.shortcut(x)
        return out


def _iresnet(stages: Sequence[tuple[int, int, int]], *, excite: bool = False) -> nn.Module:
    """An iResNet with a strided stem of 16 channels and stages of (channels, blocks, stride) that end at 4 x 4."""
    layers: list[nn.Module] = [*_convolution(3, 16, 3, 2), PReLU(16)]
    inputs = 16
    for outputs, repeats, stride in stages:
        for index in range(repeats):
            layers.append(ImprovedResidual(inputs, outputs, stride if index == 0 else 1, excite=excite))
            inputs = outputs
    return nn.Sequential(*layers, Embedding(inputs, 4))


def iresnet() -> nn.Module:
    """Narrow iResNet, trained with ArcFace (Deng et al. 2019)."""
    return _iresnet(((24, 1, 1), (48, 2, 2), (88, 2, 2), (128, 2, 2)))


def three_stage_iresnet() -> nn.Module:
    """Narrow iResNet of three stages that does most of its work at 8 x 8, trained with MagFace (Meng et al. 2021)."""
    return _iresnet(((32, 2, 2), (64, 3, 2), (128, 2, 2)))


def ir_se() -> nn.Module:
    """Narrow IR-SE network: an iResNet with squeeze-and-excitation, trained with AdaFace (Kim et al. 2022)."""
    return _iresnet(((32, 1, 2), (64, 2, 2), (112, 3, 2)), excite=True)


class TwoScales(nn.Module):
    """The end of a DeepID network: its last two feature maps, flattened, side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.last = nn.Sequential(nn.Conv2d(inputs, outputs, 2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, inputs, H, W) to (B, inputs H W + outputs (H - 1)(W - 1))."""
        return torch.cat([x.flatten(1), self.last(x).flatten(1)], 1)


def deepid() -> nn.Module:
    """DeepID network (Sun et al., CVPR 2014) with softmax: four plain convolutions, three of them max-pooled.

    The numbers of channels are the paper's own, the kernels too. Pictures are whole faces instead of patches, and the
    embedding has 128 dimensions instead of 160.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, kernel in ((20, 4), (40, 3), (60, 3)):
        layers += [nn.Conv2d(inputs, outputs, kernel), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = outputs
    features = 60 * 6 * 6 + 80 * 5 * 5
    return nn.Sequential(*layers, TwoScales(inputs, 80), nn.Linear(features, DIMENSIONS), nn.ReLU())


def _chain(inputs: int, *convolutions: tuple[int, int | tuple[int, int], int]) -> nn.Sequential:
    """Convolutions of (channels, kernel, stride) in a row, each with batch normalisation and ReLU."""
    layers: list[nn.Module] = []
    for outputs, kernel, stride in convolutions:
        layers += [*_convolution(inputs, outputs, kernel, stride), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers)


class InceptionResidual(nn.Module):
    """Branches side by side, projected back and added at a tenth to a fifth of their size (Szegedy et al. 2017)."""

    def __init__(self, channels: int, width: int, branches: Sequence[nn.Module], scale: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.project = nn.Conv2d(width * len(branches), channels, 1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, channels, H, W), shape kept."""
        wide = torch.cat([branch(x) for branch in self.branches], 1)
        return torch.relu(x + self.scale * self.project(wide))


class InceptionReduction(nn.Module):
    """Strided branches beside max-pooling: half the size, more channels (Szegedy et al. 2017)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.MaxPool2d(3, 2, 1), *branches])

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, C + channels of the branches, H / 2, W / 2)."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception_resnet() -> nn.Module:
    """Narrow Inception-ResNet (Szegedy et al. 2017), the network that FaceNet (Schroff et al. 2015) lives on in.

    Its three kinds of blocks stand at 16 x 16, 8 x 8 and 4 x 4. The scales of their sums are those of facenet-pytorch's
    InceptionResnetV1, whose widths cannot be chosen. Trained with FaceNet's triplet loss.
    """
    fine, middle, coarse = 64, 160, 272

    def block_a() -> nn.Module:
        branches = [_chain(fine, *row) for row in ([(16, 1, 1)], [(16, 1, 1), (16, 3, 1)])]
        return InceptionResidual(fine, 16, [*branches, _chain(fine, (16, 1, 1), (16, 3, 1), (16, 3, 1))], 0.17)

    def block_b() -> nn.Module:
        long = _chain(middle, (40, 1, 1), (40, (1, 5), 1), (40, (5, 1), 1))
        return InceptionResidual(middle, 40, [_chain(middle, (40, 1, 1)), long], 0.1)

    def block_c() -> nn.Module:
        long = _chain(coarse, (56, 1, 1), (56, (1, 3), 1), (56, (3, 1), 1))
        return InceptionResidual(coarse, 56, [_chain(coarse, (56, 1, 1)), long], 0.2)

    return nn.Sequential(
        _chain(3, (16, 3, 2), (32, 3, 1), (fine, 3, 2)),
        *[block_a() for _ in range(2)],
        InceptionReduction(_chain(fine, (64, 3, 2)), _chain(fine, (32, 1, 1), (32, 3, 1), (32, 3, 2))),
        *[block_b() for _ in range(3)],
        InceptionReduction(_chain(middle, (48, 1, 1), (64, 3, 2)), _chain(middle, (48, 1, 1), (48, 3, 2))),
        *[block_c() for _ in range(2)],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(coarse, DIMENSIONS, bias=False),
        nn.BatchNorm1d(DIMENSIONS),
    )


class ConvolutionalStem(nn.Module):
    """Strided convolutions in the place of a vision transformer's one wide convolution (Xiao et al. 2021).

    Takes the arguments of timm's ``PatchEmbed``, but can only make patches of 8 pixels.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: object) -> None:
        if patch_size != 8:
            raise ValueError(f"three strides make patches of 8 pixels, not {patch_size}")
        super().__init__()
        self.path = _chain(in_chans, (24, 3, 2), (48, 3, 2), (96, 3, 2))
        self.project = nn.Conv2d(96, embed_dim, 1)
        self.num_patches = (img_size // patch_size) ** 2

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to patches (B, H W / 64, D), in rows from the top left."""
        out: Tensor = self.project(self.path(x))
        return out.flatten(2).transpose(1, 2)


def vision_transformer() -> nn.Module:
    """Narrow vision transformer (Dosovitskiy et al. 2021), trained on pairs of pictures as CLIP is on picture and text.

    Its patches of 8 pixels come out of convolutions: it learns much faster so.
    """
    network = VisionTransformer(
        img_size=64,
        patch_size=8,
        num_classes=DIMENSIONS,
        global_pool="avg",
        embed_dim=128,
        depth=5,
        num_heads=4,
        mlp_ratio=3.0,
        embed_layer=ConvolutionalStem,
    )
    for block in network.blocks:
        attention: Any = block.attn
        attention.fused_attn = False  # in bfloat16 on a CPU the fused one's way back takes more than half of a step
    return nn.Sequential(network, nn.BatchNorm1d(DIMENSIONS))


def edgenext() -> nn.Module:
    """Narrow EdgeNeXt (Maaz et al. 2022), the network of EdgeFace (George et al. 2023) but for its low-rank layers.

    Depthwise convolutions of growing size; at the end of the last three stages attention between channels, which sees
    the whole picture. Its patches of 4 pixels come out of two convolutions instead of one: it learns faster so.
    """
    widths = (32, 64, 112, 144)
    network = EdgeNeXt(
        num_classes=DIMENSIONS,
        dims=widths,
        depths=(2, 2, 4, 2),
        heads=(4, 4, 4, 4),
        expand_ratio=3,
        ls_init_value=1.0,  # timm's 1e-6 is for hundreds of epochs
    )
    network.stem[0] = nn.Sequential(_chain(3, (16, 3, 2)), nn.Conv2d(16, widths[0], 3, 2, 1))
    return nn.Sequential(network, nn.BatchNorm1d(DIMENSIONS))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "narrow SE-ResNet": se_resnet,
    "narrow MobileFaceNet": mobilefacenet,
    "narrow iResNet": iresnet,
    "narrow SphereFace network": sphereface,
    "DeepID network": deepid,
    "narrow Inception-ResNet": inception_resnet,
    "narrow three-stage iResNet": three_stage_iresnet,
    "narrow vision transformer": vision_transformer,
    "narrow IR-SE network": ir_se,
    "narrow EdgeNeXt": edgenext,
}
