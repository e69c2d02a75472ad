"""The own extractors' networks: size, cost, gradients."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from facepoison.extractors.architectures import (
    ARCHITECTURES,
    DIMENSIONS,
    ConvolutionalStem,
    InceptionResidual,
    PReLU,
)


@pytest.fixture(params=ARCHITECTURES)
def network(request):
    torch.manual_seed(0)
    return ARCHITECTURES[request.param]().eval()


def test_embeddings_and_gradients_of_64_pixels(network):
    pictures = torch.randn(2, 3, 64, 64).requires_grad_()
    embeddings = network(pictures)
    assert embeddings.shape == (2, DIMENSIONS)
    (grad,) = torch.autograd.grad(embeddings.square().sum(), pictures)
    assert grad.abs().amax((1, 2, 3)).min() > 0
    assert torch.isfinite(grad).all()


def test_pictures_of_a_batch_do_not_mix(network):
    pictures = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(pictures)[1:2], network(pictures[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("narrow SE-ResNet", 28),
        ("narrow MobileFaceNet", 28),
        ("narrow SphereFace network", 28),
        ("narrow iResNet", 90),
        ("DeepID network", 28),
        ("narrow Inception-ResNet", 45),
        ("narrow three-stage iResNet", 45),
        ("narrow vision transformer", 80),
        ("narrow IR-SE network", 45),
        ("narrow EdgeNeXt", 28),
    ],
)
def test_small_enough_for_a_laptop(name, most):
    network = ARCHITECTURES[name]().eval()
    assert sum(weight.numel() for weight in network.parameters()) <= 1.2e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    assert counter.get_total_flops() / 2e6 < most  # multiply-adds in millions: poisons take hundreds of passes


def test_attention_of_the_vision_transformer_is_the_same_fused():
    torch.manual_seed(0)
    network = ARCHITECTURES["narrow vision transformer"]().eval()
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = network(pictures)
        for block in network[0].blocks:
            assert not block.attn.fused_attn
            block.attn.fused_attn = True
        torch.testing.assert_close(ours, network(pictures), rtol=1e-4, atol=1e-5)


def test_patches_of_the_stem_see_their_own_place():
    torch.manual_seed(0)
    stem = ConvolutionalStem(64, 8, 3, 16).eval()
    pictures = torch.zeros(2, 3, 64, 64)
    pictures[1, :, 24, 40] = 1.0  # the middle of what one patch sees
    with torch.no_grad():
        change = stem(pictures).diff(dim=0)[0].square().sum(1)
    assert change.shape == (64,)
    assert change.argmax() == 3 * 8 + 5
    assert change.view(8, 8)[:2].max() == 0
    with pytest.raises(ValueError, match="8 pixels, not 16"):
        ConvolutionalStem(64, 16, 3, 16)


def test_an_inception_block_adds_its_branches_at_its_scale():
    torch.manual_seed(0)
    block = InceptionResidual(6, 4, [nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, padding=1)], scale=0.2)
    x = torch.randn(2, 6, 5, 5)
    wide = torch.cat([block.branches[0](x), block.branches[1](x)], 1)
    torch.testing.assert_close(block(x), (x + 0.2 * block.project(wide)).clamp(min=0))


def test_prelu_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = PReLU(4), nn.PReLU(4)
    slopes = torch.tensor([0.25, -0.5, 0.0, 1.5])
    ours.slope.data = slopes.view(4, 1, 1).clone()
    theirs.weight.data = slopes.clone()
    x = torch.randn(2, 4, 3, 3)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.randn_like(x)
    torch.testing.assert_close(ours(a), theirs(b))
    ours(a).backward(upstream)
    theirs(b).backward(upstream)
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.slope.grad.flatten(), theirs.weight.grad)
