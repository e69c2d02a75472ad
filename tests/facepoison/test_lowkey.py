from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_extractor

from benchmarks.calibrate_lowkey import weight_for
from facepoison.attacks.base import input_gradient, squared_distance, start_noise
from facepoison.attacks.lowkey import (
    LOWKEY,
    LOWKEY_MSE,
    PERCEPTUAL,
    ascend,
    blur,
    features,
    lowkey,
    mirrored,
)
from facepoison.attacks.similarity import change
from facepoison.errors import InputError
from facepoison.extractors import normalise
from facepoison.pictures import to_float, to_uint8

TINY = replace(LOWKEY_MSE, weight=100.0)  # tiny extractors are less easily moved than trained ones
LIMIT = 255 * (LOWKEY.start + LOWKEY.steps * LOWKEY.step)


@pytest.fixture(scope="module")
def poisoned(clean, surrogates):
    return lowkey(clean, surrogates, TINY, seed=1)


def feature(extractor, pictures):
    """What the attack looks at of one batch."""
    return features(extractor, mirrored(pictures), len(pictures))[0]


def moved(extractor, clean, poisoned, smooth=False):
    """Squared distance of the attack's features, of the poisoned pictures as they are or blurred."""
    after = to_float(poisoned)
    reference = normalise(feature(extractor, to_float(clean)))
    return (normalise(feature(extractor, blur(after, LOWKEY) if smooth else after)) - reference).square().sum(dim=1)


def reference_blur(picture):
    """7 x 7 Gaussian of sigma 3, reflected at the borders, on a (3, H, W) double tensor, tap by tap."""
    offsets = np.arange(-3, 4)
    taps = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / 18)
    taps /= taps.sum()
    size = picture.shape[-1]
    mirror = np.pad(np.arange(size), 3, mode="reflect")
    padded = picture[:, mirror][:, :, mirror]
    total = torch.zeros_like(picture)
    for down in range(7):
        for right in range(7):
            total = total + taps[down, right] * padded[:, down : down + size, right : right + size]
    return total


def reference_step(clean, start, networks, weight):
    """One step of LowKey with the mean squared error on one picture in double precision."""

    def feature(network, picture):
        f = network((picture[None] - 0.5) / 0.5)[0] + network((picture.flip(2)[None] - 0.5) / 0.5)[0]
        return f / f.norm()

    picture = (clean + start).requires_grad_()
    gain = 0.0
    for network in networks:
        own = feature(network, clean).detach()
        gain = gain + ((feature(network, picture) - own) ** 2).sum()
        gain = gain + ((feature(network, reference_blur(picture)) - own) ** 2).sum()
    objective = gain / (2 * len(networks)) - weight * ((picture - clean) ** 2).mean()
    (gradient,) = torch.autograd.grad(objective, picture)
    return torch.clamp(picture.detach() + 0.0025 * torch.sign(gradient), 0, 1)


@pytest.mark.parametrize("weight", [0.0, 400.0])
def test_it_is_the_published_attack_step_by_step(clean, weight):
    doubles = [tiny_extractor(0).double(), tiny_extractor(1).double()]
    pictures, start = to_float(clean).double(), start_noise(clean, LOWKEY.start, 1, "lowkey").double()
    expected = [
        reference_step(picture, begin, [each.network for each in doubles], weight)
        for picture, begin in zip(pictures, start, strict=True)
    ]
    once = replace(LOWKEY_MSE, steps=1, weight=weight)
    got = ascend(pictures, start, doubles, once, PERCEPTUAL["mse"])
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=0)


def test_blur_is_gaussian_with_reflected_borders(clean):
    pictures = to_float(clean).double()
    expected = torch.stack([reference_blur(picture) for picture in pictures])
    torch.testing.assert_close(blur(pictures, LOWKEY), expected)


def test_feature_is_the_sum_with_the_mirror_image(clean, surrogates):
    pictures, others = to_float(clean), to_float(clean.flip(0))
    got = features(surrogates[0], mirrored(pictures, others), len(pictures))
    for row, batch in zip(got, (pictures, others), strict=True):
        torch.testing.assert_close(row, surrogates[0](batch) + surrogates[0](batch.flip(3)))


def test_worst_case_is_start_plus_steps(clean, surrogates, poisoned):
    assert poisoned.dtype == torch.uint8
    assert poisoned.shape == clean.shape
    assert (change(clean, poisoned).mean > 0.5).all()
    free = change(clean, lowkey(clean, surrogates, replace(LOWKEY_MSE, weight=0.0), seed=1))
    assert (free.largest <= LIMIT + 0.5).all()
    assert (free.largest > 0.9 * LIMIT).all()


def test_features_move_further_with_more_steps(clean, surrogates, poisoned):
    few = lowkey(clean, surrogates, replace(TINY, steps=2), seed=1)
    for surrogate in surrogates:
        assert (moved(surrogate, clean, few) > 0).all()
        assert (moved(surrogate, clean, poisoned) > 3 * moved(surrogate, clean, few)).all()


def test_the_blurred_view_takes_part(clean, surrogates, poisoned):
    """Without it (a window of one pixel) a blur undoes more of the poison."""
    plain = lowkey(clean, surrogates, replace(TINY, blur_size=1), seed=1)
    for surrogate in surrogates:
        with_view = moved(surrogate, clean, poisoned, smooth=True).mean()
        assert with_view > 1.1 * moved(surrogate, clean, plain, smooth=True).mean()


def test_the_start_gives_every_picture_a_gradient_in_both_views(clean, surrogates):
    pictures = to_float(clean)
    for surrogate in surrogates:
        own = normalise(feature(surrogate, pictures))
        for view in (lambda each: each, lambda each: blur(each, LOWKEY)):
            place = (pictures + start_noise(clean, LOWKEY.start, 1, "lowkey")).requires_grad_()
            slope = input_gradient(squared_distance(feature(surrogate, view(place)), own), place).flatten(1)
            assert slope.norm(dim=1).min() > 1e-4
            assert slope.ne(0).double().mean() > 0.95


def test_every_surrogate_takes_part(clean, surrogates, poisoned):
    alone = lowkey(clean, surrogates[:1], TINY, seed=1)
    assert (moved(surrogates[1], clean, poisoned) > 2 * moved(surrogates[1], clean, alone)).all()


@pytest.mark.parametrize("name", sorted(set(PERCEPTUAL) - {"lpips"}))  # which test_lpips has
def test_the_perceptual_term_holds_the_attack_back(clean, surrogates, name):
    sizes = [
        change(
            clean, lowkey(clean, surrogates, replace(LOWKEY_MSE, perceptual=name, weight=weight), seed=1)
        ).psnr.mean()
        for weight in (0.0, 30.0, 3000.0)
    ]
    assert sizes[0] + 0.1 < sizes[1] < sizes[2] - 1


def test_a_perceptual_distance_can_be_given(clean, surrogates):
    asked = []

    def unlike(others):
        asked.append(others.shape)
        return lambda pictures: (pictures - others).abs().flatten(1).sum(dim=1)

    held = lowkey(clean, surrogates, LOWKEY, seed=1, perceptual=unlike)
    assert asked == [clean.shape]
    assert (change(clean, held).mean < 1.5).all()
    with pytest.raises(InputError, match="'none': unknown"):
        lowkey(clean, surrogates, replace(LOWKEY, perceptual="none"), seed=1)


def test_weight_of_the_original_is_that_of_the_summed_formula(clean, surrogates):
    """Averaged over 512 dimensions with 0.05, or summed with 25.6: the same direction of steepest ascent."""
    assert LOWKEY.weight == pytest.approx(25.6)
    a, b = torch.randn(5, 512).double(), torch.randn(5, 512).double()
    assert ((a - b) ** 2).mean(1) * 512 - 25.6 == pytest.approx(512 * (((a - b) ** 2).mean(1) - 0.05))


def test_a_picture_alone_is_poisoned_as_in_any_batch(clean):
    doubles = [tiny_extractor(0).double(), tiny_extractor(1).double()]
    pictures, start = to_float(clean).double(), start_noise(clean, LOWKEY.start, 1, "lowkey").double()
    together = ascend(pictures, start, doubles, TINY, PERCEPTUAL["mse"])
    alone = [ascend(pictures[[i]], start[[i]], doubles, TINY, PERCEPTUAL["mse"]) for i in range(len(clean))]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=0)


def test_batches_change_no_more_than_rounding_does(clean, surrogates, poisoned):
    one_by_one = lowkey(clean.flip(0), surrogates, TINY, seed=1, batch=1).flip(0)
    assert (one_by_one.int() - poisoned.int()).ne(0).double().mean() < 0.1
    torch.testing.assert_close(change(clean, one_by_one).psnr, change(clean, poisoned).psnr, atol=0.1, rtol=0)


def test_the_seed_decides(clean, surrogates, poisoned):
    assert torch.equal(lowkey(clean, surrogates, TINY, seed=1), poisoned)
    assert not torch.equal(lowkey(clean, surrogates, TINY, seed=2), poisoned)


def test_calibration_reaches_the_target(clean, surrogates):
    for beginning in (4.0, 4e3):
        found = weight_for(clean, surrogates, replace(LOWKEY_MSE, weight=beginning), seed=1, target=26.0)
        reached = change(clean, lowkey(clean, surrogates, found, seed=1)).psnr.mean().item()
        assert reached == pytest.approx(26.0, abs=0.051)
        assert replace(found, weight=1.0) == replace(LOWKEY_MSE, weight=1.0)
    with pytest.raises(InputError, match="no weight"):
        weight_for(clean[:1], surrogates[:1], replace(TINY, steps=1), seed=1, target=5.0)


def test_bad_input_is_one_line(clean, surrogates):
    with pytest.raises(InputError, match="uint8 levels"):
        lowkey(to_float(clean), surrogates, seed=1)
    with pytest.raises(InputError, match="none given"):
        lowkey(clean, [], seed=1)
    assert to_uint8(to_float(clean)).equal(clean)
