"""Extractors made ready for hundreds of passes: the same embeddings but for rounding, and faster gradients.

torch.compile is left out. On a CPU it took half a minute and more for each network, or seconds from its own cache, and
what came out, forwards and backwards, was slower for two surrogates of three.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from facepoison.device import generator
from facepoison.extractors import Drawing, Extractor
from facepoison.extractors.architectures import PReLU

ALIKE = 0.01
"""Largest relative difference of embeddings: float32 stays far below, and a GPU's rounding to TF32 stays below too."""


def _factors(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch normalisation in evaluation mode multiplies each channel by, and what it then adds."""
    scale = (norm.get_buffer("running_var") + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.get_buffer("running_mean") * scale
    return scale, shift + norm.bias if norm.affine else shift


def _with(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    """A layer that also does what the batch normalisation after it does."""
    scale, shift = _factors(norm)
    both = copy.deepcopy(layer)
    both.weight = nn.Parameter(layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    both.bias = nn.Parameter(shift if layer.bias is None else layer.bias * scale + shift)
    return both


class Affine(nn.Module):
    """A batch normalisation in evaluation mode that no layer before can take up: one product, one sum."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale, shift = _factors(norm)
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, channels, H, W), elementwise."""
        return torch.addcmul(self.shift, x, self.scale)


class _Bent(torch.autograd.Function):
    """A parametric ReLU whose slopes stay as they are: one pass forwards, two back, and one map to keep in between."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, slopes: Tensor) -> Tensor:
        """Features (B, channels, ...), with slopes (channels,) or (1,)."""
        ctx.save_for_backward(x, slopes.view(-1, *[1] * (x.ndim - 2)))
        return torch.prelu(x, slopes)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient as it is where x > 0, and times the slope elsewhere."""
        x, slopes = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.ops.aten.threshold_backward(gradient, x, 0).lerp_(gradient, slopes), None


class Bend(nn.Module):
    """A parametric ReLU that learns no more."""

    def __init__(self, layer: PReLU | nn.PReLU) -> None:
        super().__init__()
        slopes = layer.slope if isinstance(layer, PReLU) else layer.weight
        self.register_buffer("slopes", slopes.detach().flatten().clone())
        self.slopes: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, channels, H, W), elementwise."""
        out: Tensor = _Bent.apply(x, self.slopes)
        return out


class _Tracer(fx.Tracer):
    """Follows a network's calls, but not into what is replaced whole, nor into what draws at random.

    The latter would draw once and never again.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Drawing | PReLU) or super().is_leaf_module(m, module_qualified_name)


_PAIRS: list[tuple[type[nn.Module], type[nn.Module]]] = [(nn.Conv2d, nn.BatchNorm2d), (nn.Linear, nn.BatchNorm1d)]


def _settled(layer: nn.Module) -> bool:
    """Whether a layer is a batch normalisation by statistics from training; subclasses may do more than that."""
    return type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) and getattr(layer, "running_mean", None) is not None


@torch.no_grad()
def _folded(network: nn.Module) -> nn.Module:
    """The network with each batch normalisation in the convolution or linear layer before it, or else as ``Affine``.

    One that does more than passing its input from layer to layer is left as it is.
    """
    if isinstance(network, Drawing):
        for name, part in network.named_children():
            setattr(network, name, _folded(part))
        return network
    try:
        traced = fx.GraphModule(network, _Tracer().trace(network))
    except Exception:  # what cannot be followed says so in as many ways as there are of writing a network
        return network
    layers: dict[str, Any] = dict(traced.named_modules())
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and node.all_input_nodes]
    times = Counter(node.target for node in calls)
    for node in calls:
        layer, before = layers[node.target], node.all_input_nodes[0]
        if isinstance(layer, Drawing):
            traced.set_submodule(node.target, _folded(layer))
        if not _settled(layer) or times[node.target] > 1:
            continue
        alone = before in calls and len(before.users) == 1 == times[before.target]
        if alone and (type(layers[before.target]), type(layer)) in _PAIRS:
            traced.set_submodule(before.target, _with(layers[before.target], layer))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
        elif isinstance(layer, nn.BatchNorm2d):
            traced.set_submodule(node.target, Affine(layer))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _quicken(extractor: Extractor) -> None:
    """Let an extractor compute the same in quicker ways; each is exact."""
    for name, part in list(extractor.network.named_modules()):
        if type(part) in (PReLU, nn.PReLU) and name:
            extractor.network.set_submodule(name, Bend(part))
        elif isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.weight.device.type == "cpu":
            # One tap has nothing to be spread, but on one thread torch gives fewer than 16 pictures to oneDNN only if
            # it is, and else to a product that takes up to twice the time, with its gradient.
            part.dilation = (2, 2)
    if bool((extractor.mean == extractor.mean[:, :1]).all()) and bool((extractor.std == extractor.std[:, :1]).all()):
        extractor.mean, extractor.std = extractor.mean[:, :1], extractor.std[:, :1]  # one number is far quicker than 3


@torch.no_grad()
def _answers(extractor: Extractor) -> Tensor:
    """Embeddings of two pictures of noise from two calls, with what draws at random at its beginning before and after.

    Two, since a network that changes from call to call would be followed as it was at the first.
    """
    drawing = [part for part in extractor.modules() if isinstance(part, Drawing)]
    size = extractor.contract.size
    noise = torch.rand(2, 3, size, size, generator=generator(0, "prepared")).to(extractor.mean)
    noise = noise.contiguous(memory_format=torch.channels_last)
    for part in drawing:
        part.restart()
    embeddings = torch.cat([extractor(noise) for _ in range(2)])
    for part in drawing:
        part.restart()
    return embeddings


def prepared(extractor: Extractor) -> Extractor:
    """A copy of an extractor that answers the same up to rounding and takes less time, above all for gradients.

    In evaluation mode a batch normalisation multiplies and adds, so the layer before it can do that on the way; where
    there is none, or padding is in between, it becomes one product and sum. Weights lie with the channels last and want
    no gradients. Parametric ReLUs, 1 x 1 convolutions and the normalisation of pictures go quicker ways, which are in
    ``_quicken``. A network that does more than passing its input from layer to layer is copied as it is. An extractor
    without batch normalisations, or whose copy answers otherwise on a trial, is given back.

    Args:
        extractor: In evaluation mode; it stays as it is, but that parts that draw at random begin anew.
    """
    if not any(map(_settled, extractor.network.modules())):
        return extractor
    ready = copy.deepcopy(extractor).eval()
    ready.network = _folded(ready.network)
    _quicken(ready)
    ready.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    expected, got = _answers(extractor), _answers(ready)
    alike = got.shape == expected.shape and bool((got - expected).norm() <= ALIKE * expected.norm())
    return ready if alike else extractor
