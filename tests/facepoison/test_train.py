"""The training recipe: losses, augmentation, resumption, what it writes."""

import json
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, NTXentLoss
from torch import nn

import fingerprint
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.extractors import train as module
from facepoison.extractors.losses import (
    adaface_quality,
    contrastive_loss,
    magface_margins,
    magface_regulariser,
    margin_logits,
    triplet_loss,
    turned_logits,
)
from facepoison.extractors.recipes import PAIRING, RECIPES, Augmentation, Loss, Recipe, find_recipe
from facepoison.extractors.train import arrange, augment, rank_1, schedule, train_network

TINY = Recipe("tiny", "tiny", 6, 8, 3, "cosface", scale=10.0, margin=0.1, held_out=4, batch=12, warm_up=2)


def tiny_network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 128), nn.BatchNorm1d(128)
    )


@pytest.fixture(autouse=True)
def _tiny_architecture(monkeypatch):
    monkeypatch.setitem(module.ARCHITECTURES, "tiny", tiny_network)


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


class TestTurnedLogits:
    ANGLES = torch.tensor([[0.7, 1.2], [2.0, 0.3]])
    LABELS = torch.tensor([0, 1])

    def test_turns_the_right_angle_and_pushes_its_cosine(self):
        turn, push = torch.tensor([0.4, -0.1]), torch.tensor([0.0, 0.2])
        logits = turned_logits(self.ANGLES.cos(), self.LABELS, turn, push, 10.0)
        expected = torch.tensor([[math.cos(1.1), math.cos(1.2)], [math.cos(2.0), math.cos(0.2) - 0.2]])
        torch.testing.assert_close(logits, 10 * expected)

    def test_is_arcface_and_cosface_where_every_margin_is_the_same(self):
        margin, none = torch.full((2,), 0.3), torch.zeros(2)
        for loss, turn, push in (("arcface", margin, none), ("cosface", none, margin)):
            theirs = margin_logits(self.ANGLES.cos(), self.LABELS, loss, 24.0, 0.3)
            torch.testing.assert_close(turned_logits(self.ANGLES.cos(), self.LABELS, turn, push, 24.0), theirs)

    def test_stays_within_0_and_180_degrees_with_finite_gradients(self):
        cosines = torch.tensor([[1.0, 0.0], [0.0, -1.0]], requires_grad=True)
        logits = turned_logits(cosines, self.LABELS, torch.tensor([-0.2, 0.2]), torch.zeros(2), 1.0)
        torch.testing.assert_close(logits.diagonal(), torch.tensor([1.0, -1.0]))
        logits.sum().backward()
        assert torch.isfinite(cosines.grad).all()

    def test_gradients(self):
        cosines = self.ANGLES.double().cos().requires_grad_()
        turn = torch.tensor([0.4, -0.1], dtype=torch.float64, requires_grad=True)
        push = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda c, t, p: turned_logits(c, self.LABELS, t, p, 3.0), (cosines, turn, push))


class TestMagFace:
    def test_margins_grow_with_length_between_its_bounds(self):
        margins = magface_margins(torch.tensor([1.0, 5.0, 30.0, 55.0, 90.0]), 0.8)
        torch.testing.assert_close(margins, torch.tensor([0.45, 0.45, 0.625, 0.8, 0.8]))

    def test_regulariser_falls_until_the_largest_length(self):
        torch.testing.assert_close(magface_regulariser(torch.tensor([10.0])), torch.tensor(1 / 10 + 10 / 3025))
        values = torch.stack([magface_regulariser(length) for length in torch.linspace(5, 55, 50)[:, None]])
        assert (values.diff() < 0).all()

    def test_gradients(self):
        lengths = torch.tensor([7.0, 12.0, 40.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(magface_regulariser, lengths)
        assert torch.autograd.gradcheck(lambda a: magface_margins(a, 0.5), lengths)


def test_adaface_takes_long_embeddings_for_good_pictures():
    quality = adaface_quality(torch.tensor([10.0, 12.0, 7.0, 30.0, 1.0]), torch.tensor(10.0), torch.tensor(1.999))
    torch.testing.assert_close(quality, torch.tensor([0.0, 0.33, -0.495, 1.0, -1.0]))


def on_circle(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], 1)


def some_embeddings(*labels):
    """Random unit embeddings for labels."""
    rng = generator(0, "embeddings")
    return F.normalize(torch.randn(len(labels), 5, dtype=torch.float64, generator=rng)), torch.tensor(labels)


class TestTripletLoss:
    def test_takes_the_nearest_negative_that_is_farther_than_the_positive(self):
        def squared(degrees):
            return 2 - 2 * math.cos(math.radians(degrees))

        # From 0 and from 40 degrees the other is 40 away. From 0, the negatives are at 20 (too near), 50 and 110; from
        # 40 they are at 20, 10 (too near) and 70. The negatives are people of one picture, thus nobody's anchors.
        loss = triplet_loss(on_circle(0, 40, -20, 50, 110), torch.tensor([0, 0, 1, 2, 3]), 0.5)
        first = squared(40) - squared(50) + 0.5
        second = max(0.0, squared(40) - squared(60) + 0.5)
        assert loss.item() == pytest.approx((first + second) / 2)

    def test_takes_the_farthest_negative_where_none_is_farther_than_the_positive(self):
        loss = triplet_loss(on_circle(0, 90, 30, 50), torch.tensor([0, 0, 1, 2]), 0.2)
        first = 2.0 - (2 - 2 * math.cos(math.radians(50))) + 0.2
        second = 2.0 - (2 - 2 * math.cos(math.radians(60))) + 0.2
        assert loss.item() == pytest.approx((first + second) / 2)

    def test_agrees_with_its_definition_picture_by_picture(self):
        embeddings, labels = some_embeddings(0, 1, 2, 0, 1, 2, 0, 1, 3)
        distances = torch.cdist(embeddings, embeddings).square()
        terms = []
        for anchor in range(9):
            for positive in range(9):
                if anchor == positive or labels[anchor] != labels[positive]:
                    continue
                near = distances[anchor, positive]
                others = [distances[anchor, other] for other in range(9) if labels[other] != labels[anchor]]
                negative = min((far for far in others if far > near), default=max(others))
                terms.append(max(0.0, float(near - negative) + 0.2))
        assert triplet_loss(embeddings, labels, 0.2).item() == pytest.approx(sum(terms) / len(terms))

    def test_gradients(self):
        embeddings, labels = some_embeddings(0, 1, 2, 0, 1, 2)
        assert torch.autograd.gradcheck(lambda x: triplet_loss(x, labels, 0.2), embeddings.requires_grad_())


class TestContrastiveLoss:
    def test_by_hand(self):
        # Two people whose pictures are 60 degrees apart, at right angles to each other's other picture.
        loss = contrastive_loss(on_circle(0, 60, 90, 150), torch.tensor([4, 4, 9, 9]), torch.tensor(2.0))
        rows = -math.log(math.e / (math.e + math.exp(2 * math.cos(math.radians(150)))))
        cross = -math.log(math.e / (math.e + math.exp(2 * math.cos(math.radians(30)))))
        assert loss.item() == pytest.approx((rows + cross) / 2)

    def test_order_does_not_matter_and_nobody_is_held_against_themselves(self):
        embeddings, labels = some_embeddings(3, 1, 1, 3, 2, 3, 2, 3)
        loss = contrastive_loss(embeddings, labels, torch.tensor(5.0))
        pairs = [(1, 2), (4, 6), (0, 3), (5, 7)]
        total = 0.0
        for a, b in pairs:
            for this, that, side in ((a, b, 1), (b, a, 0)):
                others = [pair[side] for pair in pairs if labels[pair[0]] != labels[a]] + [that]
                cosines = torch.stack([embeddings[this] @ embeddings[other] for other in others])
                total += float((5 * cosines).logsumexp(0) - 5 * cosines[-1])
        assert loss.item() == pytest.approx(total / 8)

    def test_gradients(self):
        embeddings, labels = some_embeddings(0, 1, 2, 0, 1, 2)
        scale = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda x, s: contrastive_loss(x, labels, s), (embeddings.requires_grad_(), scale)
        )


class TestArrange:
    def test_alone_is_a_random_order(self):
        expected = torch.randperm(40, generator=generator(5))[:36].view(3, 12)
        assert torch.equal(arrange(5, 8, 12, 1, generator(5)), expected)

    @pytest.mark.parametrize(("people", "batch"), [(6, 12), (7, 12), (50, 20)])
    def test_together_everybody_comes_in_fours_and_every_picture_once(self, people, batch):
        order = arrange(people, 8, batch, 4, generator(5))
        assert order.shape == (people * 8 // batch, batch)
        assert len(order.unique()) == order.numel()
        for some in order:
            _, counts = (some // 8).unique(return_counts=True)
            assert (counts % 4 == 0).all()
        assert not torch.equal(order, arrange(people, 8, batch, 4, generator(6)))

    def test_a_person_is_seldom_in_a_batch_twice_and_stands_nowhere_special(self):
        order = arrange(50, 8, 20, 4, generator(5)) // 8
        assert all(len(some.unique()) == 5 for some in order[:10])
        first = order[:, :4]
        assert (first != first[:, :1]).any(1).float().mean() > 0.5


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

    def test_shrunk_pictures_lose_detail_and_the_others_nothing(self):
        pictures = torch.rand(60, 3, 64, 64, generator=generator(0))
        still = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        out, sharp = (augment(pictures, replace(still, shrink=share), generator(1)) for share in (0.5, 0.0))
        shrunk = (out - sharp).abs().amax((1, 2, 3)) > 1e-3
        assert 15 < shrunk.sum() < 45
        roughness = out.diff(dim=3).abs().mean((1, 2, 3)) / sharp.diff(dim=3).abs().mean((1, 2, 3))
        assert roughness[shrunk].max() < 0.5
        torch.testing.assert_close(out[~shrunk], sharp[~shrunk], rtol=0, atol=0)
        torch.testing.assert_close(out.mean((2, 3)), sharp.mean((2, 3)), rtol=0, atol=0.02)


def test_the_margin_grows_and_augmentation_comes_to_rest():
    recipe = replace(TINY, epochs=100, warm_up=50)
    margin, amount = schedule(recipe, recipe.steps - 1)
    assert margin == recipe.margin
    assert amount == pytest.approx(1 / 3, abs=0.01)
    assert schedule(recipe, recipe.steps // 10) == (0.0, 1.0)
    assert schedule(replace(recipe, loss="triplet"), 0)[0] == recipe.margin


@pytest.mark.parametrize("loss", get_args(Loss))
def test_fit_learns_to_tell_people_apart(tmp_path, loss):
    pixels = blobs()
    recipe = replace(TINY, epochs=12, loss=loss, together=2 if loss in PAIRING else 1)
    untrained = rank_1(module.snapshot(tiny_network(), "untrained"), pixels[6:])
    network, *_ = train_network(recipe, pixels[:6], tmp_path, torch.device("cpu"), lambda line: None)
    assert rank_1(module.snapshot(network, "tiny"), pixels[6:]) >= max(0.9, untrained)
    assert rank_1(module.snapshot(network, "tiny"), pixels[:6, torch.randperm(8)]) > 0.9


def test_rank_1_is_chance_when_labels_mean_nothing():
    pixels = blobs(people=10, each=10)
    mixed = pixels.flatten(0, 1)[torch.randperm(100, generator=generator(3))].view_as(pixels)
    assert rank_1(module.snapshot(tiny_network(), "tiny"), mixed) < 0.5


@pytest.mark.parametrize("loss", get_args(Loss))
def test_a_killed_training_resumes_to_the_same_weights(tmp_path, loss):
    pixels = blobs()[:6]
    recipe = replace(TINY, loss=loss, bfloat16=True, together=4 if loss in PAIRING else 1)
    device = torch.device("cpu")
    straight, _, curve = train_network(recipe, pixels, tmp_path / "straight", device, lambda line: None)

    reports = []

    def killer(line):
        reports.append(line)
        if len(reports) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(recipe, pixels, tmp_path / "killed", device, killer, every=0.0)
    resumed, _, again = train_network(recipe, pixels, tmp_path / "killed", device, reports.append, every=0.0)
    assert "goes on from step 6" in reports[6]
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert again == curve
    assert curve.step == list(range(1, recipe.steps + 1))


def measured(extractor):
    return {"measured": extractor.name}


def test_train_writes_weights_card_and_resumable_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD", 4)
    card = module.train(TINY, tmp_path / "weights", tmp_path / "scratch", measured, "cpu", lambda line: None)
    path = tmp_path / "weights" / "tiny.safetensors"
    assert card["sha256"] == fingerprint.of_file(path)
    assert card == json.loads(path.with_suffix(".json").read_text())
    assert card["command"] == "python -m facepoison train tiny"
    assert set(card["validation"]) == {"identities", "pictures_each", "rank_1", "rank_1_half_precision"}
    assert card["test"] == {"measured": "tiny"}
    assert card["curve"]["step"][-1] == TINY.steps

    shards = sorted((tmp_path / "scratch").rglob("pictures-*"))
    assert len(shards) == 3
    kept = [shard.stat().st_mtime_ns for shard in shards]
    shards[1].unlink()
    again, _ = module.training_pictures(TINY, shards[0].parent, "cpu", lambda line: None)
    assert again.shape == (10, 8, 3, 64, 64)
    renewed = [shard.stat().st_mtime_ns for shard in shards]
    assert [a == b for a, b in zip(kept, renewed, strict=True)] == [True, False, True]
    assert card["pictures_sha256"] == module.hashlib.sha256(again.numpy().tobytes()).hexdigest()


def test_another_seed_draws_other_people_and_has_files_of_its_own(tmp_path):
    cards = {}
    for seed in (0, 3):
        recipe = replace(TINY, seed=seed, epochs=1)
        cards[seed] = module.train(recipe, tmp_path, tmp_path / "scratch", measured, "cpu", lambda line: None)
    assert cards[3]["command"] == "python -m facepoison train tiny --seed 3"
    assert cards[3]["sha256"] == fingerprint.of_file(tmp_path / "tiny-seed3.safetensors")
    assert cards[3]["pictures_sha256"] != cards[0]["pictures_sha256"]
    assert find_recipe("deepid_2014", 3) == replace(RECIPES["deepid_2014"], seed=3)


def test_every_recipe_has_identities_of_its_own():
    populations = [recipe.people for recipe in RECIPES.values()]
    assert len(set(populations)) == len(RECIPES)
    assert all(name.startswith("training/") for name in populations)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_are_of_known_networks_and_batches_come_out_even(recipe):
    assert recipe.architecture in module.ARCHITECTURES
    assert recipe.per_person % recipe.together == 0
    assert recipe.batch % recipe.together == 0
    assert (recipe.together > 1) == (recipe.loss in PAIRING)
    assert recipe.together % 2 == 0 or recipe.loss != "contrastive"


def test_an_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(InputError, match=r"'resnet' is unknown: use one of arcface_2019, .*mobilefacenet_2018"):
        find_recipe("resnet")


class TestAgainstPytorchMetricLearning:
    """The losses that a well-kept library has too give what it gives, and the same gradients."""

    EMBEDDINGS, LABELS = some_embeddings(0, 0, 1, 1, 2, 2, 3, 3)

    @pytest.mark.parametrize(
        ("loss", "theirs"),
        [
            ("cosface", lambda: CosFaceLoss(4, 5, margin=0.25, scale=24)),
            ("arcface", lambda: ArcFaceLoss(4, 5, margin=math.degrees(0.3), scale=24)),
        ],
    )
    def test_margin_losses(self, loss, theirs):
        reference, margin = theirs().double(), 0.25 if loss == "cosface" else 0.3
        ours, yours = (self.EMBEDDINGS.clone().requires_grad_() for _ in range(2))
        cosines = F.normalize(ours) @ F.normalize(reference.W, dim=0)
        mine = F.cross_entropy(margin_logits(cosines, self.LABELS, loss, 24.0, margin), self.LABELS)
        other = reference(yours, self.LABELS)
        torch.testing.assert_close(mine, other)
        torch.testing.assert_close(*(torch.autograd.grad(value, by)[0] for value, by in ((mine, ours), (other, yours))))

    def test_contrastive_loss(self):
        left, right = self.EMBEDDINGS[::2], self.EMBEDDINGS[1::2]
        one_way = NTXentLoss(temperature=1 / 16)
        who = self.LABELS[::2]
        expected = (
            sum(one_way(a, who, ref_emb=b, ref_labels=who.clone()) for a, b in ((left, right), (right, left))) / 2
        )
        mine = contrastive_loss(self.EMBEDDINGS, self.LABELS, torch.tensor(16.0, dtype=torch.float64))
        torch.testing.assert_close(mine, expected)
