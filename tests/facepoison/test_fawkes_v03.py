from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_extractor, tiny_pictures

from facepoison.attacks import fawkes_v03 as v03
from facepoison.attacks.fawkes_v03 import FAWKES_V03_HIGH, cloak_towards, fawkes_v03
from facepoison.attacks.similarity import change, dssim
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.pictures import Pictures, to_float

QUICK = replace(FAWKES_V03_HIGH, steps=80)
PEOPLE = 24


@pytest.fixture(scope="module")
def public():
    """Two pictures of each of 24 people, not in order, and a name that nobody on the pictures has."""
    who = torch.randperm(2 * PEOPLE, generator=generator(3, "public")) % PEOPLE
    return Pictures(tiny_pictures(2 * PEOPLE, seed=5), who, tuple(f"person {i}" for i in range(PEOPLE + 1)))


@pytest.fixture(scope="module")
def cloaked(clean, surrogates, public):
    return fawkes_v03(clean, surrogates, QUICK, public=public, seed=1)


def raw(extractor, pixels):
    """Features straight from the network, without the package's own way there."""
    with torch.no_grad():
        return extractor.network((pixels.float() / 255 - 0.5) / 0.5)


def ranked(clean, surrogates, public):
    """All identities of the pool, the furthest first, and the mean features of each for each surrogate."""
    means = [
        torch.stack([raw(f, public.pixels[public.identities == i]).mean(dim=0) for i in range(PEOPLE)])
        for f in surrogates
    ]
    far = sum((mean - raw(f, clean).mean(dim=0)).norm(dim=1) for f, mean in zip(surrogates, means, strict=True))
    return sorted(range(PEOPLE), key=lambda i: -float(far[i])), means


def drawn(clean, surrogates, public, seed, furthest=20):
    """The identity that the attack draws."""
    return drawn_at(clean, surrogates, public, v03.own_seed(clean, seed), furthest)


def drawn_at(clean, surrogates, public, seed, furthest=20):
    """The identity that a user's own seed draws."""
    own = [v03.raw_features(f, clean).mean(dim=0) for f in surrogates]
    pairs = [v03.identity_means(v03.raw_features(f, public.pixels), public.identities) for f in surrogates]
    return int(pairs[0][0][v03.choose_target(own, [mean for _, mean in pairs], furthest, seed)])


def aims(clean, surrogates, target):
    """What features are pulled to, given mean features of the target for each surrogate."""
    own = [raw(f, clean) for f in surrogates]
    return [mine + 2 * (mean - mine.mean(dim=0)) for mine, mean in zip(own, target, strict=True)]


def doubles():
    return [tiny_extractor(0).double(), tiny_extractor(1).double()]


def double_aims(clean, networks, length=1.0):
    """Targets in double precision for pictures as they are, towards the features of some other picture."""
    other = to_float(tiny_pictures(1, seed=9)).double()
    with torch.no_grad():
        own = [each(to_float(clean).double()) for each in networks]
        return [length * (f + 2 * (each(other)[0] - f.mean(dim=0))) for f, each in zip(own, networks, strict=True)]


def reference_dssim(a, b):
    taps = torch.exp(-((torch.arange(11).double() - 5) ** 2) / 4.5)
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    x, y = a[:, None], b[:, None]  # channels as batch
    mx, my = F.conv2d(x, kernel), F.conv2d(y, kernel)
    vx, vy = F.conv2d(x * x, kernel) - mx**2, F.conv2d(y * y, kernel) - my**2
    cov = F.conv2d(x * y, kernel) - mx * my
    similarity = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return (1 - similarity.mean()) / 2


def reference_cloak(clean, targets, networks, threshold, steps, rate):
    """Fawkes v0.3 on one picture in double precision, everything written out.

    Returns the kept picture, the DSSIM of every iterate, and the learning rate of every step.
    """
    constant = 2 - 1e-6
    modifier, seen, moves = (torch.zeros_like(clean) for _ in range(3))
    kept, least, sizes, rates = None, float("inf"), [], []
    for iteration in range(steps + 1):
        modifier.requires_grad_()
        picture = torch.tanh(torch.atanh((clean - 0.5) * constant) + modifier) / constant + 0.5
        unlike = reference_dssim(picture, clean)
        loss = 1e6 * torch.clamp(unlike - threshold, min=0) ** 2
        for network, target in zip(networks, targets, strict=True):
            gap = target - network((picture[None] - 0.5) / 0.5)[0]
            loss = loss + torch.sqrt((gap**2).sum()) / torch.sqrt((target**2).sum())
        sizes.append(float(unlike.detach()))
        if loss < least:
            kept, least = picture.detach(), float(loss.detach())
        if iteration == steps:
            break
        (gradient,) = torch.autograd.grad(loss, modifier)
        if iteration * 3 >= 2 * steps:
            rates.append(rate * 0.64)
        elif iteration * 3 >= steps:
            rates.append(rate * 0.8)
        else:
            rates.append(rate)
        seen = 0.95 * seen + 0.05 * gradient**2
        move = -torch.sqrt(moves + 1e-7) / torch.sqrt(seen + 1e-7) * gradient
        moves = 0.95 * moves + 0.05 * move**2
        modifier = modifier.detach() + rates[-1] * move
    return kept, sizes, rates


@pytest.mark.parametrize(("steps", "threshold"), [(1, 0.008), (15, 0.0005)])
def test_it_is_the_published_attack_step_by_step(clean, steps, threshold):
    """Fifteen steps at a tight threshold take the penalty and both drops of the learning rate in."""
    mode = replace(FAWKES_V03_HIGH, steps=steps, threshold=threshold)
    networks, pictures = doubles(), to_float(clean).double()
    targets = double_aims(clean, networks)
    kept, sizes, rates = zip(
        *(
            reference_cloak(picture, aim, [each.network for each in networks], threshold, steps, mode.rate)
            for picture, *aim in zip(pictures, *targets, strict=True)
        ),
        strict=True,
    )
    torch.testing.assert_close(cloak_towards(pictures, targets, networks, mode), torch.stack(kept), atol=1e-5, rtol=0)
    assert (torch.stack(kept) - pictures).abs().amax() > 1 / 255
    if steps > 1:
        assert all(max(size) > 1.2 * threshold for size in sizes)
        assert rates[0] == [10.0] * 5 + [8.0] * 5 + [6.4] * 5


def test_the_learning_rate_falls_at_each_third():
    assert [round(v03.rate_at(step, FAWKES_V03_HIGH), 9) for step in (0, 166, 167, 333, 334, 499)] == [
        10, 10, 8, 8, 6.4, 6.4,
    ]  # fmt: skip
    assert [round(v03.rate_at(step, replace(FAWKES_V03_HIGH, steps=2, rate=35.0)), 9) for step in (0, 1)] == [35, 28]


def test_targets_are_the_papers(clean, surrogates, public, monkeypatch):
    """What the public function hands to the attack, for pictures in two batches and two surrogates."""
    asked = []

    def listen(pictures, targets, networks, preset):
        asked.append(targets)
        return pictures

    monkeypatch.setattr(v03, "cloak_towards", listen)
    fawkes_v03(clean, surrogates, public=public, seed=1, batch=3)
    _, means = ranked(clean, surrogates, public)
    chosen = drawn(clean, surrogates, public, seed=1)
    for number, expected in enumerate(aims(clean, surrogates, [mean[chosen] for mean in means])):
        got = torch.cat([targets[number] for targets in asked])
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        assert (got.norm(dim=1) - 1).abs().min() > 0.01  # raw features, not of unit length


def test_budget_is_kept_and_used(clean, cloaked):
    assert cloaked.dtype == torch.uint8
    assert cloaked.shape == clean.shape
    size = change(clean, cloaked).dssim
    assert (size < 1.1 * QUICK.threshold).all()
    assert (size > 0.8 * QUICK.threshold).all()


def test_a_larger_budget_is_used_too(clean, surrogates, public):
    sizes = [
        change(clean, fawkes_v03(clean, surrogates, replace(mode, steps=60), public=public, seed=1)).dssim.mean()
        for mode in (replace(FAWKES_V03_HIGH, threshold=budget) for budget in (0.003, 0.005, 0.008))
    ]
    assert sizes[0] < sizes[1] < sizes[2]


def test_features_come_nearer_to_the_target_and_leave_their_own_with_more_steps(clean, surrogates, public, cloaked):
    _, means = ranked(clean, surrogates, public)
    target = [mean[drawn(clean, surrogates, public, seed=1)] for mean in means]
    few = fawkes_v03(clean, surrogates, replace(QUICK, steps=2), public=public, seed=1)
    for surrogate, aim in zip(surrogates, aims(clean, surrogates, target), strict=True):
        gaps = [(raw(surrogate, pixels) - aim).norm(dim=1) for pixels in (clean, few, cloaked)]
        assert (gaps[2] < gaps[1]).all()
        assert (gaps[1] < gaps[0]).all()
        moved = [(raw(surrogate, pixels) - raw(surrogate, clean)).norm(dim=1) for pixels in (few, cloaked)]
        assert (moved[0] > 0).all()
        assert (moved[1] > 2 * moved[0]).all()
    for surrogate, aim in zip(surrogates, target, strict=True):
        nearness = [F.cosine_similarity(raw(surrogate, pixels), aim[None]).mean() for pixels in (clean, cloaked)]
        assert nearness[1] > nearness[0] + 0.05


def test_every_surrogate_takes_part(clean, surrogates, public, cloaked):
    alone = fawkes_v03(clean, surrogates[:1], QUICK, public=public, seed=1)
    moved = [(raw(surrogates[1], pixels) - raw(surrogates[1], clean)).norm(dim=1) for pixels in (alone, cloaked)]
    assert (moved[1] > 1.5 * moved[0]).all()


def test_the_gradient_is_not_zero_at_the_picture_itself(clean):
    """The start adds no noise, so the distance alone must lead away from it."""
    networks, pictures = doubles(), to_float(clean).double().requires_grad_()
    targets = double_aims(clean, networks)
    distance = v03.feature_distance(pictures, targets, [aim.norm(dim=1) for aim in targets], networks)
    (slope,) = torch.autograd.grad(distance.sum(), pictures)
    assert (slope.flatten(1).norm(dim=1) > 1e-3).all()
    assert slope.ne(0).double().mean() > 0.9


def test_the_kept_iterate_has_the_least_objective(clean):
    """From a start that is already where it should be, every step is a step away: the picture stays as it is."""
    networks, pictures = doubles(), to_float(clean).double()
    targets = [each(pictures) for each in networks]
    kept = cloak_towards(pictures, targets, networks, replace(QUICK, steps=3))
    torch.testing.assert_close(kept, pictures, atol=1e-5, rtol=0)
    torch.testing.assert_close(dssim(kept, pictures), torch.zeros(len(clean)).double(), atol=1e-6, rtol=0)


def test_the_target_is_among_the_furthest(clean, surrogates, public):
    order, _ = ranked(clean, surrogates, public)
    assert {drawn(clean, surrogates, public, seed) for seed in range(300)} == set(order[:20])
    assert {drawn(clean, surrogates, public, seed, furthest=1) for seed in range(5)} == {order[0]}
    few = public.take(public.identities < 3)
    assert {drawn(clean, surrogates, few, seed) for seed in range(60)} == {0, 1, 2}


def test_the_target_hangs_on_the_users_own_seed_alone(clean, surrogates, public):
    """Which it is in order of distance: neither the user's pictures nor people too near to be drawn move the draw."""
    others = tiny_pictures(3, seed=7)
    order, order_of_others = ranked(clean, surrogates, public)[0], ranked(others, surrogates, public)[0]
    without_the_nearest = public.take(public.identities != order[-1])
    assert order != order_of_others
    for seed in range(5):
        chosen = drawn_at(clean, surrogates, public, seed)
        assert drawn_at(clean.flip(0), surrogates, public, seed) == chosen
        assert drawn_at(others, surrogates, public, seed) == order_of_others[order.index(chosen)]
        assert drawn_at(clean, surrogates, without_the_nearest, seed) == chosen


def test_mean_features_of_each_identity(public):
    features = torch.randn(len(public), 7, generator=generator(1, "features"))
    gap = torch.where(public.identities > 4, public.identities + 3, public.identities)
    present, means = v03.identity_means(features, gap)
    assert present.tolist() == [*range(5), *range(8, PEOPLE + 3)]
    for identity, mean in zip(present, means, strict=True):
        torch.testing.assert_close(mean, features[gap == identity].mean(dim=0))


def test_features_in_batches_are_those_at_once(clean, surrogates):
    torch.testing.assert_close(v03.raw_features(surrogates[0], clean, batch=3), raw(surrogates[0], clean))


def test_a_picture_alone_is_cloaked_as_in_any_batch(clean):
    """In double precision, because rounding in another order of sums is the one thing a batch may change."""
    networks, pictures, mode = doubles(), to_float(clean).double(), replace(QUICK, steps=40)
    targets = double_aims(clean, networks)
    together = cloak_towards(pictures, targets, networks, mode)
    alone = [cloak_towards(pictures[[i]], [aim[[i]] for aim in targets], networks, mode) for i in range(len(clean))]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=0)


def test_batches_change_no_more_than_rounding_does(clean, surrogates, public, cloaked):
    seen = []
    one_by_one = fawkes_v03(
        clean, surrogates, QUICK, public=public, seed=1, batch=1, progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    torch.testing.assert_close(change(clean, one_by_one).dssim, change(clean, cloaked).dssim, atol=0.001, rtol=0)
    for surrogate in surrogates:
        assert (F.cosine_similarity(raw(surrogate, one_by_one), raw(surrogate, cloaked)) > 0.99).all()


def test_users_draw_their_targets_apart_from_one_seed(clean):
    assert v03.own_seed(clean, 1) == v03.own_seed(clean.clone(), 1)
    assert len({v03.own_seed(clean, 1), v03.own_seed(clean, 2), v03.own_seed(255 - clean, 1)}) == 3


def test_the_seed_decides(clean, surrogates, public, cloaked):
    assert drawn(clean, surrogates, public, 1) != drawn(clean, surrogates, public, 2)
    assert torch.equal(fawkes_v03(clean, surrogates, QUICK, public=public, seed=1), cloaked)
    assert not torch.equal(fawkes_v03(clean, surrogates, QUICK, public=public, seed=2), cloaked)


def test_the_preset_is_that_of_the_code():
    mode = FAWKES_V03_HIGH
    assert (mode.threshold, mode.steps, mode.rate, mode.extractors) == (0.008, 500, 10, 1)
    assert (mode.penalty, mode.furthest, mode.pull, mode.drop) == (1e6, 20, 2, 0.8)


def test_bad_input_is_one_line(clean, surrogates, public):
    with pytest.raises(InputError, match="uint8 levels"):
        fawkes_v03(to_float(clean), surrogates, public=public, seed=1)
    with pytest.raises(InputError, match="at least one as"):
        fawkes_v03(clean[:0], surrogates, public=public, seed=1)
    with pytest.raises(InputError, match="none given"):
        fawkes_v03(clean, [], public=public, seed=1)
    with pytest.raises(InputError, match="batch"):
        fawkes_v03(clean, surrogates, public=public, seed=1, batch=0)
    empty = public.take(torch.zeros(len(public), dtype=torch.bool))
    with pytest.raises(InputError, match="public: no pictures") as caught:
        fawkes_v03(clean, surrogates, public=empty, seed=1)
    assert "\n" not in str(caught.value)
