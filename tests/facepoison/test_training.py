"""The training recipe: losses, augmentation, resumption, what it writes."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import fingerprint
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.extractors import training
from facepoison.extractors.training import RECIPES, Augmentation, Recipe, augment, fit, margin_logits, rank_1, schedule

TINY = Recipe("tiny", "tiny", 6, 8, 3, "cosface", scale=10.0, margin=0.1, held_out=4, batch=12, warm_up=2)


def tiny_network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 128), nn.BatchNorm1d(128)
    )


@pytest.fixture(autouse=True)
def _tiny_architecture(monkeypatch):
    monkeypatch.setitem(training.ARCHITECTURES, "tiny", tiny_network)


def blobs(people=10, each=8):
    """Pictures that a tiny network can tell apart: a pattern for each person, under noise."""
    rng = generator(0, "blobs")
    patterns = torch.rand(people, 1, 3, 8, 8, generator=rng).repeat_interleave(8, 3).repeat_interleave(8, 4)
    noise = 0.3 * torch.randn(people, each, 3, 64, 64, generator=rng)
    return ((patterns + noise).clamp(0, 1) * 255).to(torch.uint8)


class TestMarginLogits:
    def test_arcface_adds_the_margin_to_the_angle(self):
        angles = torch.tensor([[0.3, 1.2], [2.0, 0.7]])
        logits = margin_logits(angles.cos(), torch.tensor([0, 1]), "arcface", 10.0, 0.4)
        expected = torch.tensor([[math.cos(0.7), math.cos(1.2)], [math.cos(2.0), math.cos(1.1)]])
        torch.testing.assert_close(logits, 10 * expected)

    def test_arcface_keeps_falling_beyond_180_degrees(self):
        angles = torch.linspace(0, math.pi, 200)
        cosines = torch.stack([angles.cos(), torch.zeros(200)], 1)
        right = margin_logits(cosines, torch.zeros(200, dtype=torch.int64), "arcface", 1.0, 0.5)[:, 0]
        assert (right.diff() < 0).all()

    def test_cosface_subtracts_the_margin_from_the_cosine(self):
        logits = margin_logits(torch.tensor([[0.5, 0.2, -0.1]]), torch.tensor([1]), "cosface", 2.0, 0.25)
        torch.testing.assert_close(logits, torch.tensor([[1.0, -0.1, -0.2]]))

    def test_gradient_is_finite_at_perfect_agreement(self):
        cosines = torch.tensor([[1.0, -1.0]], requires_grad=True)
        margin_logits(cosines, torch.tensor([0]), "arcface", 24.0, 0.3).sum().backward()
        assert torch.isfinite(cosines.grad).all()


class TestAugment:
    def test_only_flips_at_amount_0(self):
        pictures = torch.rand(16, 3, 64, 64)
        out = augment(pictures, Augmentation(), generator(1), amount=0.0)
        same = (out - pictures).abs().amax((1, 2, 3)) < 1e-4
        flipped = (out - pictures.flip(3)).abs().amax((1, 2, 3)) < 1e-4
        assert (same ^ flipped).all()
        assert 0 < same.sum() < 16

    def test_changes_every_picture_within_range_by_seed(self):
        pictures = torch.rand(12, 3, 64, 64)
        out = augment(pictures, Augmentation(), generator(1))
        assert out.shape == pictures.shape
        assert out.min() >= 0
        assert out.max() <= 1
        assert ((out - pictures).abs().mean((1, 2, 3)) > 0.01).all()
        torch.testing.assert_close(out, augment(pictures, Augmentation(), generator(1)), rtol=0, atol=0)
        assert not torch.equal(out, augment(pictures, Augmentation(), generator(2)))


def test_schedule_warms_up_and_comes_to_rest():
    recipe = replace(TINY, epochs=100, warm_up=50)
    assert schedule(recipe, 0)[0] == pytest.approx(recipe.rate / 50)
    assert schedule(recipe, 60)[0] > 0.9 * recipe.rate
    rate, margin, amount = schedule(recipe, recipe.steps - 1)
    assert rate < 1e-3 * recipe.rate
    assert margin == recipe.margin
    assert amount == pytest.approx(1 / 3, abs=0.01)
    assert schedule(recipe, recipe.steps // 10)[1:] == (0.0, 1.0)


def test_fit_learns_to_tell_people_apart(tmp_path):
    pixels = blobs()
    recipe = replace(TINY, epochs=12)
    untrained = rank_1(training.snapshot(tiny_network(), "untrained"), pixels[6:])
    network, _ = fit(recipe, pixels[:6], tmp_path / "c.pt", torch.device("cpu"), lambda line: None)
    assert rank_1(training.snapshot(network, "tiny"), pixels[6:]) >= max(0.9, untrained)
    assert rank_1(training.snapshot(network, "tiny"), pixels[:6, torch.randperm(8)]) > 0.9


def test_rank_1_is_chance_when_labels_mean_nothing():
    pixels = blobs(people=10, each=10)
    mixed = pixels.flatten(0, 1)[torch.randperm(100, generator=generator(3))].view_as(pixels)
    assert rank_1(training.snapshot(tiny_network(), "tiny"), mixed) < 0.5


@pytest.mark.parametrize("loss", ["softmax", "arcface"])
def test_a_killed_training_resumes_to_the_same_weights(tmp_path, loss):
    pixels, recipe = blobs()[:6], replace(TINY, loss=loss, bfloat16=True)
    device = torch.device("cpu")
    straight, _ = fit(recipe, pixels, tmp_path / "straight.pt", device, lambda line: None)

    reports = []

    def killer(line):
        reports.append(line)
        if len(reports) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(recipe, pixels, tmp_path / "killed.pt", device, killer, every=0.0)
    resumed, _ = fit(recipe, pixels, tmp_path / "killed.pt", device, reports.append, every=0.0)
    assert "goes on from step 5" in reports[6]
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_train_writes_weights_card_and_resumable_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SHARD", 4)
    card = training.train(TINY, tmp_path / "weights", tmp_path / "scratch", "cpu", lambda line: None)
    path = tmp_path / "weights" / "tiny.safetensors"
    assert card["sha256"] == fingerprint.of_file(path)
    assert card == json.loads(path.with_suffix(".json").read_text())
    assert card["command"] == "python -m facepoison train tiny"
    assert set(card["validation"]) == {"identities", "pictures_each", "rank_1", "rank_1_half_precision"}

    shards = sorted((tmp_path / "scratch").rglob("pictures-*"))
    assert len(shards) == 3
    kept = [shard.stat().st_mtime_ns for shard in shards]
    shards[1].unlink()
    again, _ = training.training_pictures(TINY, shards[0].parent, "cpu", lambda line: None)
    assert again.shape == (10, 8, 3, 64, 64)
    renewed = [shard.stat().st_mtime_ns for shard in shards]
    assert [a == b for a, b in zip(kept, renewed, strict=True)] == [True, False, True]
    assert card["pictures_sha256"] == training.hashlib.sha256(again.numpy().tobytes()).hexdigest()


def test_every_recipe_has_identities_of_its_own():
    populations = [recipe.people for recipe in RECIPES.values()]
    assert len(set(populations)) == len(RECIPES)
    assert all(name.startswith("training/") for name in populations)


def test_an_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(InputError, match=r"'resnet' is unknown: use one of arcface_2019, .*mobilefacenet_2018"):
        training.find_recipe("resnet")
