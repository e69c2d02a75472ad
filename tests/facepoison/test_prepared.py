"""Prepared extractors answer alike, and poison made on them is alike."""

import functools
from dataclasses import replace

import pytest
import torch
from tiny import tiny_extractor, tiny_pictures
from torch import nn

from facepoison.attacks import fawkes_v03, fawkes_v1, lowkey
from facepoison.attacks.eot import eot_surrogate
from facepoison.attacks.similarity import change
from facepoison.device import generator
from facepoison.extractors import Drawing, Extractor, Preprocessing, embed
from facepoison.extractors.architectures import ARCHITECTURES
from facepoison.extractors.formats import facenet, nested_iresnet
from facepoison.extractors.prepared import Affine, Bend, prepared
from facepoison.pictures import Pictures
from facepoison.store import of_weights

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def settled(network, size, seed=0):
    """An extractor whose batch normalisations have seen other pictures than noise of mean 0."""
    stream = generator(seed, "settled")
    for layer in network.modules():
        if isinstance(layer, NORMS):
            layer.running_mean.copy_(0.3 * torch.randn(layer.running_mean.shape, generator=stream))
            layer.running_var.copy_(0.5 + torch.rand(layer.running_var.shape, generator=stream))
            if layer.affine:
                layer.weight.data.copy_(0.5 + torch.rand(layer.weight.shape, generator=stream))
                layer.bias.data.copy_(0.3 * torch.randn(layer.bias.shape, generator=stream))
    return Extractor(network, Preprocessing(size), name=f"settled {seed}", sha256=f"settled {seed}")


def small(seed=0):
    """A network with a batch normalisation of each kind: to be folded, before a convolution, before a linear layer."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(16 * 36, 16),
        nn.BatchNorm1d(16),
    )
    extractor = settled(network, 24, seed)
    outputs = network[:-1]((tiny_pictures(64, seed=seed) / 255 - 0.5) / 0.5)
    network[-1].running_mean.copy_(outputs.mean(dim=0))  # so that embeddings point apart, as those of trained ones do
    network[-1].running_var.copy_(outputs.var(dim=0))
    return extractor


def both_ways(extractor, pictures):
    """Embeddings, and their gradient in a fixed direction."""
    pictures = pictures.clone().requires_grad_()
    out = extractor(pictures)
    direction = torch.randn(out.shape, generator=generator(0, "direction")).to(out)
    return out.detach(), torch.autograd.grad(out, pictures, direction)[0]


def kinds(extractor):
    return [type(layer) for layer in extractor.modules()]


NETWORKS = {name: make for name, make in ARCHITECTURES.items() if name != "DeepID network"} | {
    "facenet-pytorch": facenet,
    "nested iResNet18": functools.partial(nested_iresnet, 18),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture_answers_alike_without_batch_normalisation(name):
    torch.manual_seed(0)
    size = 64 if name in ARCHITECTURES else 160 if name == "facenet-pytorch" else 112
    given = settled(NETWORKS[name](), size).double()
    before = of_weights(given)
    ready = prepared(given)
    pictures = torch.rand(1, 3, size, size, generator=generator(0, "pictures")).double()
    for expected, got in zip(both_ways(given, pictures), both_ways(ready, pictures), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8 * float(expected.norm()))
    assert of_weights(given) == before
    assert ready is not given
    assert nn.BatchNorm2d not in kinds(ready)
    assert not any(layer.training for layer in ready.modules())
    assert not any(weight.requires_grad for weight in ready.parameters())
    assert ready.key_parts() == given.key_parts()


def test_what_lies_before_a_batch_normalisation_takes_it_up():
    ready = prepared(small())
    assert nn.BatchNorm1d not in kinds(ready)
    assert kinds(ready).count(Affine) == 1


def test_parametric_relus_and_single_taps_go_quicker_ways():
    """torch's own PReLUs as well, with a slope for each channel or one for all, whatever its sign."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Conv2d(8, 6, 1, stride=2), nn.PReLU(), nn.Flatten()
    )
    network[2].weight.data.copy_(torch.linspace(-0.5, 1.5, 8))
    given = settled(network, 24).double()
    ready = prepared(given)
    assert nn.PReLU not in kinds(ready)
    assert kinds(ready).count(Bend) == 2
    pictures = torch.rand(2, 3, 24, 24).double()
    for expected, got in zip(both_ways(given, pictures), both_ways(ready, pictures), strict=True):
        torch.testing.assert_close(got, expected)
    assert ready.mean.numel() == 1
    assert given.mean.numel() == 3


def test_the_gradient_of_a_bend_is_right():
    bend = Bend(nn.PReLU(4)).double()
    assert torch.autograd.gradcheck(bend, torch.randn(2, 4, 3, 3).double().requires_grad_())
    assert torch.autograd.gradcheck(bend, torch.randn(2, 4).double().requires_grad_())


class Choosing(nn.Sequential):
    """Looks at its input before it decides what to do."""

    def forward(self, pictures):
        return super().forward(pictures if pictures.mean() > 0 else -pictures)


class Counting(nn.Sequential):
    """Every call is another, which one call cannot tell."""

    seen = 0

    def forward(self, pictures):
        self.seen += 1
        return super().forward(pictures) + self.seen


class Twice(nn.Module):
    """Calls one layer twice, and only once before its batch normalisation."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, pictures):
        return self.norm(self.layer(self.layer(pictures))).flatten(1)


@pytest.mark.parametrize("kind", [Choosing, Counting])
def test_what_cannot_be_followed_stays_as_it_is(kind):
    given = settled(kind(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), 24)
    ready = prepared(given)
    assert kinds(ready) == kinds(given)
    assert (ready is given) == (kind is Counting)


def test_without_batch_normalisations_there_is_nothing_to_do():
    given = tiny_extractor()
    assert prepared(given) is given


def test_a_batch_normalisation_that_learnt_nothing_stays():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
    given = Extractor(network, Preprocessing(24), name="", sha256="")
    assert prepared(given) is given


def test_a_layer_that_is_called_twice_takes_nothing_up():
    given = settled(Twice(), 24)
    ready = prepared(given)
    assert Affine in kinds(ready)
    pictures = torch.rand(2, 3, 24, 24)
    torch.testing.assert_close(ready(pictures), given(pictures))


def test_what_draws_at_random_draws_the_same():
    given = eot_surrogate(small(), seed=3)
    ready = prepared(given)
    assert any(isinstance(part, Drawing) for part in ready.modules())
    assert nn.BatchNorm2d not in kinds(ready)
    pictures = torch.rand(2, 3, 24, 24)
    first = ready(pictures)
    torch.testing.assert_close(first, given(pictures))
    torch.testing.assert_close(ready(pictures), given(pictures))
    assert not torch.allclose(first, ready(pictures), atol=1e-3)


ATTACKS = {
    "LowKey": lambda pixels, on: replace(lowkey.LOWKEY_MSE, weight=50.0)(pixels, on, seed=1),
    "Fawkes v1.0": lambda pixels, on: replace(fawkes_v1.FAWKES_V1_HIGH, steps=40)(pixels, on, seed=1),
    "Fawkes v0.3": lambda pixels, on: fawkes_v03.fawkes_v03(
        pixels,
        on,
        replace(fawkes_v03.FAWKES_V03_HIGH, steps=40),
        public=Pictures(tiny_pictures(4, seed=5), torch.arange(4), tuple("abcd")),
        seed=1,
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_poison_on_prepared_surrogates_is_alike(attack, monkeypatch):
    """DSSIM within 1 %, and pictures moved as far on a surrogate and on an extractor that the attack never saw."""
    pixels, surrogates, unseen = tiny_pictures(12), [small(0), small(1)], small(2)
    made = ATTACKS[attack](pixels, surrogates)
    with monkeypatch.context() as patch:
        for module in (lowkey, fawkes_v1, fawkes_v03):
            patch.setattr(module, "prepared", lambda given: given)
        given = ATTACKS[attack](pixels, surrogates)
    assert float(change(pixels, made).dssim.mean()) == pytest.approx(
        float(change(pixels, given).dssim.mean()), rel=0.01
    )
    for extractor in (surrogates[0], unseen):
        clean = embed(extractor, pixels)
        moved = [float(1 - (embed(extractor, some) * clean).sum(dim=1).mean()) for some in (made, given)]
        assert moved[0] == pytest.approx(moved[1], rel=0.02)
        assert moved[0] > 1e-4
