from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_extractor

from facepoison.attacks.base import from_tanh, input_gradient, squared_distance, start_noise, to_tanh
from facepoison.attacks.fawkes_v1 import (
    FAWKES_V1_HIGH,
    FAWKES_V1_LOW,
    FAWKES_V1_MID,
    cloak,
    fawkes_v1,
    next_weight,
)
from facepoison.attacks.similarity import change
from facepoison.errors import InputError
from facepoison.extractors import embed, normalise
from facepoison.pictures import to_float

QUICK = replace(FAWKES_V1_HIGH, steps=40)


@pytest.fixture(scope="module")
def cloaked(clean, surrogates):
    return fawkes_v1(clean, surrogates, QUICK, seed=1)


def moved(extractor, clean, poisoned):
    return (embed(extractor, clean) - embed(extractor, poisoned)).square().sum(dim=1)


def reference_dssim(a, b):
    taps = torch.exp(-((torch.arange(11).double() - 5) ** 2) / 4.5)
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    x, y = a[:, None], b[:, None]  # channels as batch
    mx, my = F.conv2d(x, kernel), F.conv2d(y, kernel)
    vx, vy = F.conv2d(x * x, kernel) - mx**2, F.conv2d(y * y, kernel) - my**2
    cov = F.conv2d(x * y, kernel) - mx * my
    similarity = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return (1 - similarity.mean()) / 2


def reference_cloak(clean, start, networks, mode):
    """Fawkes v1.0 on one picture in double precision, Adadelta and schedule written out."""

    def feature(network, picture):
        f = network((picture[None] - 0.5) / 0.5)[0]
        return f / f.norm()

    constant = 2 - 1e-6
    own = [feature(network, clean).detach() for network in networks]
    modifier, seen, moves = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    weight, outside, best, best_far = 1.0, 1, None, -1.0
    for iteration in range(1, mode.steps + 1):
        modifier.requires_grad_()
        picture = torch.tanh(torch.atanh((clean - 0.5) * constant) + modifier) / constant + 0.5
        picture = clean + torch.clamp(picture - clean, -15 / 255, 15 / 255)
        unlike = reference_dssim(picture, clean)
        far = sum(((feature(network, picture) - f) ** 2).sum() for network, f in zip(networks, own, strict=True))
        loss = 1e6 * torch.clamp(unlike - mode.threshold, min=0) ** 2 - weight * far
        (gradient,) = torch.autograd.grad(loss, modifier)
        modifier = modifier.detach()
        if unlike <= 1.1 * mode.threshold and far > best_far:
            best, best_far = picture.detach(), float(far.detach())
        seen = 0.95 * seen + 0.05 * gradient**2
        move = -torch.sqrt(moves + 1e-7) / torch.sqrt(seen + 1e-7) * gradient
        moves = 0.95 * moves + 0.05 * move**2
        modifier = modifier + mode.rate * move
        if iteration == 1:
            modifier = modifier - 0.01 * torch.sign(gradient)
        if unlike <= 0.9 * mode.threshold and weight <= 129:
            weight, outside = (1.0 if outside == -1 else weight * 2), 1
        elif unlike >= 1.1 * mode.threshold and weight >= 1 / 129:
            weight, outside = (1.0 if outside == 1 else weight / 2), -1
        else:
            weight, outside = 1.0, 0
    return best


@pytest.mark.parametrize(("steps", "threshold"), [(2, 0.017), (12, 0.004)])
def test_it_is_the_published_attack_step_by_step(clean, surrogates, steps, threshold):
    """Twelve steps at a tight threshold cross the band both ways, so penalty, schedule and cut all take part."""
    mode = replace(FAWKES_V1_HIGH, steps=steps, threshold=threshold)
    doubles = [tiny_extractor(0).double(), tiny_extractor(1).double()]
    pictures = to_float(clean).double()
    start = start_noise(clean, mode.start, 1, "fawkes v1.0").double()
    expected = [
        reference_cloak(picture, begin, [each.network for each in doubles], mode)
        for picture, begin in zip(pictures, start, strict=True)
    ]
    torch.testing.assert_close(cloak(pictures, start, doubles, mode), torch.stack(expected), atol=1e-5, rtol=0)


def test_single_precision_publishes_nearly_the_same_picture(clean, surrogates):
    mode = replace(FAWKES_V1_HIGH, steps=2)
    start = start_noise(clean, mode.start, 1, "fawkes v1.0")
    single = cloak(to_float(clean), start, surrogates, mode)
    doubles = [tiny_extractor(0).double(), tiny_extractor(1).double()]
    double = cloak(to_float(clean).double(), start.double(), doubles, mode)
    assert ((single - double).abs() < 1e-5).double().mean() > 0.99  # the sign of a vanishing slope may differ


def test_budgets_are_kept_and_used(clean, cloaked):
    assert cloaked.dtype == torch.uint8
    assert cloaked.shape == clean.shape
    size = change(clean, cloaked)
    assert (size.largest > 5).all()
    assert (size.largest <= 15.001).all()
    assert (size.dssim <= 1.1 * QUICK.threshold * 1.01).all()
    assert (size.dssim >= 0.9 * QUICK.threshold).all()  # the band's lower edge


def test_the_start_gives_every_picture_a_gradient(clean, surrogates):
    """The picture itself is the bottom of the distance, where no step would lead anywhere; the noise lifts it off."""
    pictures, start = to_float(clean), start_noise(clean, FAWKES_V1_HIGH.start, 1, "fawkes v1.0")
    for surrogate in surrogates:
        own = normalise(surrogate(pictures))
        slopes = []
        for shift in (torch.zeros_like(start), from_tanh(to_tanh(pictures) + start) - pictures):
            place = (pictures + shift).requires_grad_()
            slopes.append(input_gradient(squared_distance(surrogate(place), own.detach()), place).flatten(1))
        assert slopes[0].norm(dim=1).max() < 1e-6
        assert slopes[1].norm(dim=1).min() > 1e-5
        assert slopes[1].ne(0).double().mean() > 0.9  # the network skips the last row and column


def test_features_move_further_with_more_steps(clean, surrogates, cloaked):
    few = fawkes_v1(clean, surrogates, replace(QUICK, steps=2), seed=1)
    for surrogate in surrogates:
        assert (moved(surrogate, clean, few) > 0).all()
        assert (moved(surrogate, clean, cloaked) > 3 * moved(surrogate, clean, few)).all()


def test_every_surrogate_takes_part(clean, surrogates, cloaked):
    alone = fawkes_v1(clean, surrogates[:1], QUICK, seed=1)
    assert (moved(surrogates[1], clean, cloaked) > 2 * moved(surrogates[1], clean, alone)).all()


def test_a_larger_budget_moves_features_further(clean, surrogates):
    """At equal steps, so that nothing but the threshold and the rate differ."""
    far = [
        moved(surrogates[0], clean, fawkes_v1(clean, surrogates, replace(mode, steps=40), seed=1)).mean()
        for mode in (FAWKES_V1_LOW, FAWKES_V1_MID, FAWKES_V1_HIGH)
    ]
    assert far[0] < far[1] < far[2]


def test_a_picture_alone_is_cloaked_as_in_any_batch(clean):
    """In double precision, because rounding in another order of sums is the one thing a batch may change."""
    doubles = [tiny_extractor(0).double(), tiny_extractor(1).double()]
    pictures, start = to_float(clean).double(), start_noise(clean, QUICK.start, 1, "fawkes v1.0").double()
    together = cloak(pictures, start, doubles, QUICK)
    alone = [cloak(pictures[[i]], start[[i]], doubles, QUICK) for i in range(len(clean))]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=0)


def test_batches_change_no_more_than_rounding_does(clean, surrogates, cloaked):
    one_by_one = fawkes_v1(clean.flip(0), surrogates, QUICK, seed=1, batch=1).flip(0)
    here, there = change(clean, one_by_one), change(clean, cloaked)
    torch.testing.assert_close(here.dssim, there.dssim, atol=0.002, rtol=0)
    for surrogate in surrogates:
        far = moved(surrogate, clean, cloaked)
        torch.testing.assert_close(moved(surrogate, clean, one_by_one), far, atol=0.05, rtol=0.1)


def test_the_seed_decides(clean, surrogates, cloaked):
    assert torch.equal(fawkes_v1(clean, surrogates, QUICK, seed=1), cloaked)
    assert not torch.equal(fawkes_v1(clean, surrogates, QUICK, seed=2), cloaked)


def test_without_an_iterate_inside_the_band_the_least_changed_is_kept(clean, surrogates):
    """A threshold below what the start itself changes: the start is the smallest change there is."""
    mode = replace(FAWKES_V1_HIGH, steps=5, threshold=1e-12, start=0.02, kick=0.3, penalty=0.0)
    start = start_noise(clean, mode.start, 1, "fawkes v1.0")
    kept = cloak(to_float(clean), start, surrogates, mode)
    first = cloak(to_float(clean), start, surrogates, replace(mode, steps=1))
    assert torch.equal(kept, first)
    assert not torch.equal(kept, to_float(clean))


def test_weight_schedule_of_each_picture():
    mode = FAWKES_V1_HIGH
    below, inside, above = 0.5 * mode.threshold, mode.threshold, 2 * mode.threshold

    def run(*places):
        weight, side, history = torch.ones(1), torch.ones(1), []
        for place in places:
            weight, side = next_weight(weight, side, torch.tensor([place]), mode)
            history.append(weight.item())
        return history

    assert run(below, below, below) == [2, 4, 8]
    assert run(*[below] * 9) == [2, 4, 8, 16, 32, 64, 128, 256, 1]  # no doubling past 129: it starts again
    assert run(below, below, inside, below) == [2, 4, 1, 2]
    assert run(below, below, above, above, above) == [2, 4, 1, 0.5, 0.25]
    assert run(above, above, below, below) == [1, 0.5, 1, 2]
    assert run(inside, *[above] * 9) == [1, *[2.0**-i for i in range(1, 9)], 1]
    together, _ = next_weight(torch.tensor([4.0, 4.0]), torch.tensor([1.0, 1.0]), torch.tensor([below, above]), mode)
    assert together.tolist() == [8, 1]


def test_presets_are_those_of_the_code():
    rows = [(mode.threshold, mode.steps, mode.rate) for mode in (FAWKES_V1_LOW, FAWKES_V1_MID, FAWKES_V1_HIGH)]
    assert rows == [(0.004, 40, 25), (0.012, 75, 20), (0.017, 150, 15)]
    assert FAWKES_V1_HIGH.limit * 255 == 15


def test_bad_input_is_one_line(clean, surrogates):
    with pytest.raises(InputError, match="uint8 levels"):
        fawkes_v1(to_float(clean), surrogates, seed=1)
    with pytest.raises(InputError, match="none given"):
        fawkes_v1(clean, [], seed=1)
