import math

import numpy as np
import pytest
import torch
from tiny import tiny_pictures

from facepoison.baselines import baseline_scores, statistics, train_baseline
from facepoison.detect import area
from facepoison.errors import InputError
from facepoison.pictures import resize, to_float

KINDS = ["linear baseline", "boosted trees"]


def smooth(n, seed):
    return resize(tiny_pictures(n, 16, seed), 32)


def checker(pixels, level=3):
    sign = (torch.arange(pixels.shape[-2])[:, None] + torch.arange(pixels.shape[-1])) % 2 * 2 - 1
    return (pixels.int() + level * sign).clamp(0, 255).to(torch.uint8)


def reference(picture):
    """The 36 statistics of one picture (3, H, W), in double precision by slices."""
    r, g, b = picture.double().numpy()
    found = []
    for weights in ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081)):
        c = weights[0] * r + weights[1] * g + weights[2] * b
        own = c[1:-1, 1:-1]
        right, below, diagonal = c[1:-1, 2:] - own, c[2:, 1:-1] - own, c[2:, 2:] - own
        laplacian = c[1:-1, 2:] + c[1:-1, :-2] + c[2:, 1:-1] + c[:-2, 1:-1] - 4 * own
        for left in (right, below, diagonal, laplacian):
            variance = left.var(ddof=1) + 1e-3
            fourth = ((left - left.mean()) ** 4).mean() / variance**2
            found += [math.log(np.abs(left).mean() + 1e-3), math.log(variance), math.log1p(fourth)]
    return torch.tensor(found)


def test_statistics_are_what_slices_give():
    pixels = tiny_pictures(3, 25)
    expected = torch.stack([reference(picture) for picture in pixels])
    found = statistics(pixels)
    assert (found.shape, found.dtype) == ((3, 36), torch.float32)
    torch.testing.assert_close(found, expected.float(), atol=1e-3, rtol=1e-3)


def test_steps_of_four_levels_to_the_right_are_counted_as_four():
    pixels = torch.tensor([100, 104], dtype=torch.uint8).repeat(9).expand(1, 3, 18, 18)
    right, below, diagonal, laplacian = statistics(pixels)[0, :12].view(4, 3)[:, 0].tolist()
    assert right == pytest.approx(math.log(4.001), abs=1e-4)
    assert below == pytest.approx(math.log(0.001), abs=0.1)
    assert diagonal == pytest.approx(math.log(4.001), abs=1e-4)
    assert laplacian == pytest.approx(math.log(8.001), abs=1e-4)
    for colour in statistics(pixels)[0, 12:].view(2, 12):  # grey has no colour differences
        assert colour[0].item() == pytest.approx(math.log(0.001), abs=0.1)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (17, 130, 244)])
def test_flat_pictures_have_finite_statistics(colour):
    pixels = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    assert bool(statistics(pixels).isfinite().all())


def test_a_picture_alone_has_the_same_statistics_as_in_company(monkeypatch):
    pixels = tiny_pictures(7, 20)
    alone = torch.cat([statistics(pixels[[place]]) for place in range(7)])
    torch.testing.assert_close(statistics(pixels), alone, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr("facepoison.baselines._AT_A_TIME", 3)
    torch.testing.assert_close(statistics(pixels), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_find_a_faint_pattern_and_none_where_none_is(kind):
    clean, others, unseen, poisoned = (smooth(n, seed) for seed, n in enumerate((64, 64, 120, 120)))
    found = train_baseline(kind, clean, {"checker": checker(others)}, transformed=0.3, times=2, seed=1)
    assert area(baseline_scores(found, unseen), baseline_scores(found, checker(poisoned))) > 0.9
    blind = train_baseline(kind, clean, {"other pictures": others}, transformed=0.3, times=2, seed=1)
    assert 0.3 < area(baseline_scores(blind, unseen), baseline_scores(blind, poisoned)) < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_scores_are_one_a_picture(kind):
    clean, poisons = smooth(40, 1), {"checker": checker(smooth(40, 2), 1)}
    one, again, other = (
        baseline_scores(train_baseline(kind, clean, poisons, transformed=1.0, times=1, seed=seed), smooth(9, 3))
        for seed in (1, 1, 2)
    )
    assert (one.shape, one.dtype) == ((9,), torch.float32)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_what_makes_no_baseline_is_one_line():
    pixels = smooth(4, 1)
    with pytest.raises(InputError, match="baseline 'forest' of 1 attacks: use linear baseline or boosted trees"):
        train_baseline("forest", pixels, {"toy": pixels}, transformed=0.0, times=1, seed=1)
    with pytest.raises(InputError, match="of 0 attacks"):
        train_baseline("linear baseline", pixels, {}, transformed=0.0, times=1, seed=1)
    with pytest.raises(InputError, match="float32"):
        statistics(to_float(pixels))
