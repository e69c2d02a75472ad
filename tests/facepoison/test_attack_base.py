import math

import pytest
import torch
from tiny import tiny_extractor, tiny_pictures
from torch import nn

from facepoison.attacks import base
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing
from facepoison.pictures import to_float


def test_tanh_space_and_back_is_the_same_picture():
    levels = torch.arange(256) / 255
    points = base.to_tanh(levels)
    assert points.isfinite().all()
    assert points[128].item() == pytest.approx(math.atanh((128 / 255 - 0.5) * (2 - 1e-6)), abs=1e-6)
    torch.testing.assert_close(base.from_tanh(points), levels, atol=1e-6, rtol=0)
    far = base.from_tanh(torch.tensor([-1e3, 1e3]))
    assert far.min() >= -1e-6
    assert far.max() <= 1 + 1e-6


def test_projection_cuts_to_the_radius_and_stops_gradients_there():
    clean = torch.tensor([0.2, 0.5, 0.9])
    moved = torch.tensor([0.25, 0.9, 0.1], requires_grad=True)
    projected = base.project(moved, clean, 0.1)
    torch.testing.assert_close(projected, torch.tensor([0.25, 0.6, 0.8]))
    projected.sum().backward()
    assert moved.grad.tolist() == [1, 0, 0]


def test_adadelta_is_that_of_torch():
    points = torch.rand(3, 5, dtype=torch.float64)
    theirs = points.clone().requires_grad_()
    optimiser, ours = torch.optim.Adadelta([theirs], rho=0.95, eps=1e-7), base.Adadelta(points)
    for number, rate in enumerate((15.0, 15.0, 12.0, 9.6)):
        theirs.grad = torch.randn(3, 5, dtype=torch.float64) * 10.0 ** (3 * number - 6)
        optimiser.param_groups[0]["lr"] = rate
        ours.step(points, theirs.grad, rate)
        optimiser.step()
        torch.testing.assert_close(points, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_sign_step_has_one_size():
    stepped = base.sign_step(torch.zeros(3), torch.tensor([-1e-9, 0.0, 1e9]), 0.25)
    assert stepped.tolist() == [-0.25, 0, 0.25]


def test_start_noise_belongs_to_the_picture():
    pixels = tiny_pictures(4)
    noise = base.start_noise(pixels, 0.01, 7, "test")
    assert noise.abs().max() <= 0.01
    assert noise.abs().mean().item() == pytest.approx(0.005, rel=0.05)
    assert noise.mean().abs() < 0.0005
    assert torch.equal(noise[[2]], base.start_noise(pixels[[2]], 0.01, 7, "test"))
    assert not torch.equal(noise, base.start_noise(pixels, 0.01, 8, "test"))
    assert not torch.equal(noise, base.start_noise(pixels, 0.01, 7, "other"))
    assert not torch.equal(noise[0], noise[1])


def test_poison_rounds_reports_and_keeps_order():
    pixels, seen = tiny_pictures(5), []
    for batch, usual in ((2, 9), (None, 2)):
        half = base.in_batches(
            lambda some: to_float(some) / 2, pixels, torch.device("cpu"), batch, lambda *done: seen.append(done), usual
        )
    assert seen == [(2, 5), (4, 5), (5, 5)] * 2
    assert half.dtype == torch.uint8
    assert (half.int() - pixels / 2).abs().max() <= 0.5 + 1e-4
    with pytest.raises(InputError, match="batch"):
        base.in_batches(to_float, pixels, torch.device("cpu"), 0, None, 2)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (tiny_pictures().float() / 255, "uint8 levels"),
        (tiny_pictures()[0], "at least one"),
        (tiny_pictures()[:0], "at least one"),
        (tiny_pictures()[:, :1], "at least one"),
        (tiny_pictures()[..., :10], "too small"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused(pixels, message):
    with pytest.raises(InputError, match=message) as caught:
        base.check_pixels(pixels)
    assert "\n" not in str(caught.value)


def test_pictures_that_lost_their_range_are_warned_about():
    with pytest.warns(UserWarning, match="cast to uint8"):
        base.check_pixels(to_float(tiny_pictures()).to(torch.uint8))


class Detached(nn.Module):
    def forward(self, pictures):
        return pictures.detach().flatten(1)


class Rounded(nn.Module):
    def forward(self, pictures):
        return (pictures * 255).round().flatten(1)


class Broken(nn.Module):
    def forward(self, pictures):
        return (pictures.flatten(1) - 10).sqrt()


@pytest.mark.parametrize(
    ("network", "message"),
    [(Detached(), "detached"), (Rounded(), "gradient is zero"), (Broken(), "gradient is not finite")],
)
def test_surrogates_without_a_gradient_are_refused(network, message):
    surrogate = Extractor(network, Preprocessing(24), name="bad", sha256="")
    with pytest.raises(InputError, match=f"surrogate 'bad'.*{message}"):
        base.check_surrogates([tiny_extractor(), surrogate], tiny_pictures(1))


def test_surrogates_in_training_mode_or_missing_are_refused():
    training = tiny_extractor()
    training.train()
    with pytest.raises(InputError, match="training mode"):
        base.check_surrogates([training], tiny_pictures(1))
    with pytest.raises(InputError, match="none given"):
        base.check_surrogates([], tiny_pictures(1))


@pytest.mark.parametrize("level", [0, 127, 255])
def test_flat_pictures_are_no_reason_to_refuse(level):
    base.check_surrogates([tiny_extractor()], torch.full((1, 3, 24, 24), level, dtype=torch.uint8))


def test_a_gradient_that_is_not_finite_names_its_picture():
    pictures = torch.rand(3, 3, 4, 4, requires_grad=True)
    factor = torch.tensor([1.0, torch.nan, 1.0])
    with pytest.raises(InputError, match="picture 1 of its batch"):
        base.input_gradient(pictures.flatten(1).sum(1) * factor, pictures)
