"""The one training loop, on a network of three weights."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from facepoison import training
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.training import Curve, Training, learn, learning_rate, seeded

STEPS, BATCH = 12, 6


def some_batch(step):
    rng = generator(1, "batch", step)
    return torch.rand(BATCH, 3, generator=rng), (step, torch.randint(2, (BATCH,), generator=rng).float())


def cross_entropy(said, along):
    return F.binary_cross_entropy_with_logits(said[:, 0], along[1])


def plan(**changes):
    how = {"name": "three weights", "steps": STEPS, "warm_up": 3, "bfloat16": False, "batch": some_batch}
    return Training(**(how | {"loss": cross_entropy, "decided_by": {"seed": 1}} | changes))


def begun(rate=0.1):
    with seeded(1, "weights"):
        network, head = nn.Linear(3, 1), nn.Linear(1, 1)
    groups = [{"params": network.parameters(), "lr": rate}, {"params": head.parameters(), "lr": rate / 2}]
    return network, head, torch.optim.AdamW(groups)


def judged(head, curve):
    """A loss that has weights of its own and keeps a curve."""

    def loss(said, along):
        step, truth = along
        logits = head(said)[:, 0]
        value = F.binary_cross_entropy_with_logits(logits, truth)
        curve.see(step, STEPS, value, (logits > 0) == (truth > 0))
        return value

    return loss


def train(**how):
    """Weights, curve and seconds of a training."""
    network, head, optimiser = begun()
    curve = Curve()
    seconds = learn(plan(loss=judged(head, curve)), network, optimiser, head=head, curve=curve, **how)
    return [*network.parameters(), *head.parameters()], curve, seconds


def test_rates_grow_on_a_line_and_come_to_rest_under_a_cosine():
    rates = [learning_rate(step, 100, 10, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[9] > 0.48
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))
    assert rates[50] == pytest.approx(0.25)
    assert rates[-1] < 1e-3 * 0.5
    assert learning_rate(0, 100, 0, 0.5) == 0.5


def test_every_group_has_its_share_of_the_rate_and_learns_with_it():
    network, head, optimiser = begun()
    before = [weight.clone() for weight in (*network.parameters(), *head.parameters())]
    learn(plan(loss=judged(head, Curve())), network, optimiser, head=head)
    last = learning_rate(STEPS - 1, STEPS, 3, 0.1)
    assert [group["lr"] for group in optimiser.param_groups] == [pytest.approx(last), pytest.approx(last / 2)]
    after = [*network.parameters(), *head.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kills", [(1,), (STEPS - 1,), (3, 4, 9)])
def test_a_killed_training_goes_on_to_the_same_weights_and_curve_and_does_no_step_twice(kills, tmp_path):
    straight, curve, _ = train()
    said = []

    def report(line):
        said.append(line)
        if "pictures/s" in line and int(line.split()[3]) in kills:
            raise KeyboardInterrupt

    for _ in kills:
        with pytest.raises(KeyboardInterrupt):
            train(scratch=tmp_path, report=report, every=0.0)
    weights, again, seconds = train(scratch=tmp_path, report=report, every=0.0)
    assert all(torch.equal(a, b) for a, b in zip(straight, weights, strict=True))
    assert again == curve
    assert curve.step == list(range(1, STEPS + 1))
    assert seconds > 0
    steps = [int(line.split()[3]) for line in said if "pictures/s" in line]
    assert steps == list(range(1, STEPS + 1))
    assert [line for line in said if "goes on" in line] == [
        f"three weights: goes on from step {step} of {STEPS}" for step in kills
    ]
    weights, again, _ = train(scratch=tmp_path, report=said.append, every=0.0)  # nothing was left to do
    assert all(torch.equal(a, b) for a, b in zip(straight, weights, strict=True))
    assert again == curve
    assert "goes on from step 12 of 12" in said[-1]


def test_state_is_kept_under_what_decides_the_training(tmp_path):
    for seed in (1, 2, 1):
        network, _, optimiser = begun()
        learn(plan(decided_by={"seed": seed}), network, optimiser, scratch=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_curve_lines_tell_the_loss_and_how_long_it_takes():
    said = []
    network, _, optimiser = begun()
    learn(plan(), network, optimiser, report=said.append)
    assert len(said) == 1
    assert said[0].startswith("three weights: step 12 of 12, loss 0.")
    assert said[0].endswith(", 0.0 min left")


def test_a_curve_has_a_point_for_every_hundredth_of_the_steps():
    curve, right = Curve(), torch.tensor([True, False, True, True])
    for step in range(1000):
        curve.see(step, 1000, torch.tensor(float(step)), right)
    assert curve.step == list(range(10, 1001, 10))
    assert curve.loss[:2] == [4.5, 14.5]
    assert set(curve.accuracy) == {0.75}
    assert len(curve.step) == training._POINTS


def test_a_training_that_runs_away_is_no_result(tmp_path):
    network, _, optimiser = begun()
    lost = plan(loss=lambda said, along: said.sum() * math.nan)
    with pytest.raises(InputError, match=r"three weights: training ran away \(loss nan\); take smaller rates"):
        learn(lost, network, optimiser, scratch=tmp_path)
    assert not list(tmp_path.iterdir())


def test_seeded_weights_are_the_same_and_leave_other_chance_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first, again = begun()[0], begun()[0]
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first.weight, again.weight)
    with seeded(2, "weights"):
        assert not torch.equal(nn.Linear(3, 1).weight, first.weight)
