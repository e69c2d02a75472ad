import json
from dataclasses import asdict, replace

import pytest
import torch
from tiny import tiny_extractor, tiny_pictures
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from facepoison import detect
from facepoison.attacks.lowkey import LOWKEY_MSE, lowkey
from facepoison.attacks.similarity import squared_change, squared_change_to
from facepoison.detect import Detector, DetectorRecipe, area, precision, scores, threshold, train_detector
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.extractors import embed
from facepoison.extractors.cards import write_weights
from facepoison.pictures import resize, to_float
from facepoison.pictures.transforms import TRANSFORMATIONS, noisy, transform

QUICK = DetectorRecipe("quick", residual=True, draws=960, transformed=0.3, batch=16, rate=4e-3, warm_up=0.2)
SHORT = DetectorRecipe("short", draws=96, transformed=0.5, batch=8)


def smooth(n, seed, size=32):
    """Pictures with little that is fine in them."""
    return resize(tiny_pictures(n, size // 2, seed), size)


def checker(pixels, level=3):
    """A faint pattern on pictures, as a toy poison."""
    height, width = pixels.shape[-2:]
    sign = (torch.arange(height)[:, None] + torch.arange(width)) % 2 * 2 - 1
    return (pixels.int() + level * sign).clamp(0, 255).to(torch.uint8)


def scatter(pixels, level=3):
    """A toy poison that is hard to tell from noise: every value up or down."""
    sign = 2 * torch.randint(0, 2, pixels.shape, generator=generator(9)) - 1
    return (pixels.int() + level * sign).clamp(0, 255).to(torch.uint8)


def trained(clean, poisons, recipe, seed=1, **more):
    return train_detector(clean, poisons, recipe, seed=seed, device="cpu", **more)


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untrained(residual):
    """Random weights, and in batch normalisation the statistics of some pictures, so that these score differently."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Detector(residual).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(to_float(tiny_pictures(16, 32)))
    return network.eval()


@pytest.fixture(scope="module")
def clean():
    return smooth(64, 1)


@pytest.fixture(scope="module")
def poison():
    return checker(smooth(64, 2))


@pytest.fixture(scope="module")
def detector(clean, poison):
    return trained(clean, {"checker": poison}, QUICK)


class TestTraining:
    def test_a_faint_pattern_is_found_on_unseen_pictures(self, detector):
        assert area(scores(detector, smooth(120, 3)), scores(detector, checker(smooth(120, 4)))) > 0.95

    def test_where_there_is_no_difference_none_is_found(self, clean):
        blind = trained(clean, {"other pictures": smooth(64, 2)}, QUICK)
        assert 0.3 < area(scores(blind, smooth(150, 3)), scores(blind, smooth(150, 4))) < 0.7

    def test_the_network_on_pictures_finds_a_pattern_too(self, clean):
        recipe = replace(QUICK, residual=False, transformed=0.0)
        found = trained(clean, {"checker": checker(smooth(64, 2), 16)}, recipe)
        assert area(scores(found, smooth(120, 3)), scores(found, checker(smooth(120, 4), 16))) > 0.95

    def test_every_attack_is_learnt_and_the_rarer_no_less(self, clean, poison):
        few = 255 - smooth(4, 5) // 8  # another attack, of which there are four pictures
        both = trained(clean, {"checker": poison, "bright": few}, replace(QUICK, transformed=0.0))
        clean_scores, others = scores(both, smooth(60, 3)), smooth(60, 4)
        assert area(clean_scores, scores(both, checker(others))) > 0.95
        assert area(clean_scores, scores(both, 255 - others // 8)) > 0.95

    def test_bfloat16_learns_as_well_as_float32(self):
        """On poison as fine as noise, which neither finds for certain."""
        clean, others, unseen, poisoned = (
            noisy(smooth(n, seed), 0.03, seed) for seed, n in enumerate((64, 64, 150, 150))
        )
        areas = []
        for bfloat16 in (False, True):
            recipe = replace(QUICK, transformed=0.0, bfloat16=bfloat16)
            made = trained(clean, {"scatter": scatter(others)}, recipe)
            areas.append(area(scores(made, unseen), scores(made, scatter(poisoned))))
        assert 0.75 < areas[0] < 0.98
        assert areas[1] == pytest.approx(areas[0], abs=0.05)

    def test_it_is_frozen_and_no_finer_than_its_file(self, detector):
        assert not detector.training
        assert not any(weight.requires_grad for weight in detector.parameters())
        assert all(torch.equal(weight, weight.half().float()) for weight in detector.parameters())
        assert (detector.name, detector.residual) == ("quick", True)

    @pytest.mark.parametrize("recipe", [SHORT, replace(SHORT, residual=True, bfloat16=False)])
    def test_a_killed_training_resumes_to_the_same_weights(self, tmp_path, recipe):
        clean, poisons = smooth(20, 1, 16), {"a": checker(smooth(10, 2, 16)), "b": checker(smooth(7, 3, 16), 9)}
        whole = trained(clean, poisons, recipe)
        said = []

        def kill(line):
            said.append(line)
            if len(said) in (5, 6):
                raise KeyboardInterrupt

        more = {"scratch": tmp_path, "report": kill, "every": 0}
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                trained(clean, poisons, recipe, **more)
        resumed = trained(clean, poisons, recipe, **more)
        assert len(said) == recipe.draws // recipe.batch  # no step twice
        assert "step 12 of 12" in said[-1]
        assert same(resumed, whole)
        assert resumed.sha256 == whole.sha256
        assert same(trained(clean, poisons, recipe, **more), whole)  # already done
        assert len(said) == recipe.draws // recipe.batch

    def test_a_training_is_kept_once_done_and_is_the_same_from_the_store(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
        clean, poisons = smooth(20, 1, 16), {"a": checker(smooth(10, 2, 16))}
        made = train_detector(clean, poisons, SHORT, seed=1)
        first, other = (detect.trained(clean, poisons, SHORT, seed=seed) for seed in (1, 2))

        def never(*_, **__):
            raise AssertionError("trained once more")

        never.__module__ = detect.__name__  # the key of what is cached names it
        monkeypatch.setattr(detect, "train_detector", never)
        again = detect.trained(clean, poisons, SHORT, seed=1)
        assert made.sha256 == first.sha256 == again.sha256 != other.sha256
        assert same(made, again)
        assert torch.equal(scores(made, clean), scores(again, clean))
        assert not again.training
        assert not any(weight.requires_grad for weight in again.parameters())
        with pytest.raises(AssertionError):
            detect.trained(clean, {"b": poisons["a"]}, SHORT, seed=1)

    def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(self, tmp_path, monkeypatch):
        clean, poisons = smooth(20, 1, 16), {"a": checker(smooth(10, 2, 16))}
        real, done = torch.save, []

        def fails(state, path):
            done.append(state["step"])
            if len(done) == 4:
                path.write_bytes(b"half")
                raise OSError("gone")
            real(state, path)

        monkeypatch.setattr(torch, "save", fails)
        with pytest.raises(InputError, match="nothing was lost"):
            trained(clean, poisons, SHORT, scratch=tmp_path, every=0)
        (file,) = tmp_path.iterdir()
        assert file.suffix == ".pt"
        assert same(trained(clean, poisons, SHORT, scratch=tmp_path), trained(clean, poisons, SHORT))

    def test_a_start_stays_as_it_is(self, detector, clean):
        before = {name: weight.clone() for name, weight in detector.state_dict().items()}
        sha256 = detector.sha256
        stronger = {"strong": checker(smooth(64, 2), 6)}
        further = trained(clean, stronger, replace(QUICK, name="further", draws=64, rate=1e-4), start=detector)
        assert all(torch.equal(weight, before[name]) for name, weight in detector.state_dict().items())
        assert (detector.name, detector.sha256, detector.training) == ("quick", sha256, False)
        assert not any(weight.requires_grad for weight in detector.parameters())
        assert not same(further, detector)
        assert (further.name, further.sha256 == sha256) == ("further", False)
        assert area(scores(further, smooth(60, 3)), scores(further, checker(smooth(60, 4)))) > 0.95  # kept what it knew

    def test_the_seed_decides(self):
        clean, poisons = smooth(20, 1, 16), {"a": checker(smooth(10, 2, 16))}
        one, again, other = (trained(clean, poisons, SHORT, seed) for seed in (1, 1, 2))
        assert same(one, again)
        assert one.sha256 == again.sha256 != other.sha256
        assert not same(one, other)

    def test_chance_outside_is_left_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        trained(smooth(20, 1, 16), {"a": checker(smooth(10, 2, 16))}, replace(SHORT, draws=8))
        assert torch.equal(torch.rand(3), expected)

    @pytest.mark.parametrize(
        ("clean", "poisons", "recipe", "words"),
        [
            (smooth(4, 1), {}, SHORT, "no poison"),
            (smooth(4, 1), {"toy": smooth(4, 1, 24)}, SHORT, r"toy: pictures \(3, 24, 24\), clean \(3, 32, 32\)"),
            (to_float(smooth(4, 1)), {"toy": smooth(4, 1)}, SHORT, "clean pictures: torch.float32"),
            (smooth(4, 1), {"toy": to_float(smooth(4, 1))}, SHORT, "toy: torch.float32"),
            (smooth(4, 1), {"toy": smooth(4, 1)[:0]}, SHORT, r"toy: torch.uint8 \(0, 3, 32, 32\)"),
            (smooth(4, 1)[:, :1], {"toy": smooth(4, 1)}, SHORT, r"clean pictures: torch.uint8 \(4, 1, 32, 32\)"),
            (smooth(4, 1, 14), {"toy": smooth(4, 1, 14)}, SHORT, r"\(14, 14\) px is too small"),
            (smooth(4, 1), {"toy": smooth(4, 1)}, replace(SHORT, draws=7), "short: 7 draws, batches of 8"),
            (smooth(4, 1), {"toy": smooth(4, 1)}, replace(SHORT, batch=9), "even batches"),
        ],
    )
    def test_what_cannot_be_learnt_from_is_one_line(self, clean, poisons, recipe, words):
        with pytest.raises(InputError, match=words):
            trained(clean, poisons, recipe)


class TestNetwork:
    def test_only_the_network_on_residuals_is_blind_to_brightness(self):
        pictures = 0.3 + 0.4 * to_float(tiny_pictures(6, 32))
        for residual in (True, False):
            network = untrained(residual)
            moved = (network(pictures + 0.1) - network(pictures)).abs()
            spread = float(network(pictures).std())
            assert spread > 0.01  # it does look at pictures
            assert (float(moved.max()) < 0.001 * spread) == residual
            assert (float(moved.mean()) > 0.1 * spread) != residual

    @pytest.mark.parametrize("residual", [True, False])
    def test_pictures_of_any_size_have_one_score_each(self, residual):
        network = untrained(residual)
        for height, width in ((16, 16), (17, 17), (25, 25), (16, 31), (33, 20), (112, 112)):
            found = network(torch.rand(2, 3, height, width, generator=generator(1)))
            assert found.shape == (2,)
            assert bool(found.isfinite().all())

    def test_a_missing_row_and_column_repeat_the_last(self):
        pictures = to_float(tiny_pictures(2, 25))
        repeated = torch.cat([pictures, pictures[..., -1:]], dim=3)
        repeated = torch.cat([repeated, repeated[..., -1:, :]], dim=2)
        network = untrained(False)
        torch.testing.assert_close(network(pictures), network(repeated))

    def test_a_picture_alone_scores_as_in_company(self, detector, monkeypatch):
        pixels = smooth(10, 3)
        alone = torch.cat([scores(detector, pixels[[place]]) for place in range(10)])
        torch.testing.assert_close(scores(detector, pixels), alone, atol=1e-4, rtol=1e-4)
        monkeypatch.setattr(detect, "ASKED", 3)
        torch.testing.assert_close(scores(detector, pixels), alone, atol=1e-4, rtol=1e-4)

    def test_scores_are_of_pictures_only(self, detector):
        with pytest.raises(InputError, match="float32"):
            scores(detector, to_float(smooth(2, 1)))
        with pytest.raises(InputError, match="at least 16 px"):
            scores(detector, smooth(2, 1)[..., :15])

    def test_nothing_strays_from_the_device_of_its_input(self):
        """On a GPU that is only pretended; JPEG and noise are left out: what they call sees real pictures only."""
        networks = [Detector(residual).eval() for residual in (True, False)]
        with FakeTensorMode(allow_non_fake_inputs=True):
            pixels = torch.zeros(10, 3, 25, 25, dtype=torch.uint8, device="cuda")
            for network in networks:
                assert network.to("cuda")(to_float(pixels)).device.type == "cuda"
            for name in TRANSFORMATIONS:
                if "JPEG" not in name and name not in ("screenshot", "noise"):
                    assert transform(pixels, name).device.type == "cuda"


class TestThreshold:
    @pytest.mark.parametrize("levels", [3, 40, 100_000])
    def test_no_more_than_the_allowed_share_lies_above_it(self, levels):
        stream = generator(levels)
        for n in (100, 101, 137, 1000):
            clean = torch.randint(levels, (n,), generator=stream).float() / 7  # few levels make ties
            for allowed in (0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 0.99):
                limit = threshold(clean, allowed)
                assert (clean > limit).double().mean() <= allowed
                lower = clean[clean < limit]  # and the next lower one would let too many through
                if len(lower):
                    assert int((clean > lower.max()).sum()) > int(n * allowed)

    def test_without_ties_the_share_is_used_up(self):
        clean = torch.randn(1000, generator=generator(1))
        assert [int((clean > threshold(clean, share)).sum()) for share in (0.001, 0.01, 0.5)] == [1, 10, 500]

    def test_none_allowed_is_the_highest_of_all(self):
        clean = torch.randn(7, generator=generator(3))
        assert threshold(clean, 0.0) == clean.max()

    @pytest.mark.parametrize(("n", "allowed"), [(99, 0.01), (1, 0.5), (0, 0.0), (100, 1.0), (0, 0.5), (10, -0.2)])
    def test_it_needs_a_picture_to_be_set_by(self, n, allowed):
        with pytest.raises(InputError, match=f"of {n} clean pictures is less than one"):
            threshold(torch.zeros(n), allowed)


class TestCounting:
    def test_area_is_how_often_a_poisoned_picture_scores_higher(self):
        assert area(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])) == pytest.approx(3.5 / 4)
        assert area(torch.tensor([3.0]), torch.tensor([1.0, 2.0])) == 0
        assert area(torch.tensor([0.0, 1.0]), torch.tensor([5.0])) == 1

    def test_precision_is_the_share_of_poison_among_what_is_flagged(self):
        assert precision(0.9, 0.01, 0.01) == pytest.approx(0.009 / 0.0189)
        assert precision(1.0, 0.001, 0.001) == pytest.approx(0.001 / 0.001999)
        assert precision(0.5, 0.5, 0.2) == pytest.approx(0.2)
        assert precision(0.9, 0.0, 0.01) == 1
        assert precision(0.0, 0.0, 0.01) == 0

    def test_the_area_is_the_share_of_pairs_in_order(self):
        clean, poisoned = torch.randn(200, generator=generator(1)), torch.randn(150, generator=generator(2)) + 1
        pairs = (poisoned[:, None] > clean).double().mean()
        assert area(clean, poisoned) == pytest.approx(float(pairs))


class TestEvading:
    def test_the_alarm_counts_above_the_margin_only(self, detector):
        clean = to_float(smooth(3, 5))
        loud, logits = to_float(checker(smooth(3, 5))), detector(to_float(checker(smooth(3, 5))))
        margin = 2 - float(logits.min())
        expected = squared_change(loud, clean) + 0.05 / 330 * (logits + margin)
        torch.testing.assert_close(
            detect.Evading(detector, 0.05, 330.0, margin, squared_change_to)(clean)(loud), expected
        )
        silent = detect.Evading(detector, 0.05, 330.0, -float(logits.max()) - 1, squared_change_to)(clean)(loud)
        torch.testing.assert_close(silent, squared_change(loud, clean))

    def test_lowkey_that_evades_is_flagged_less_and_still_moves_embeddings(self, clean):
        surrogate, preset = tiny_extractor(0), replace(LOWKEY_MSE, steps=15, weight=30.0)
        posts = smooth(6, 7)
        usual = lowkey(posts, [surrogate], preset, seed=1)
        poison = {"lowkey": lowkey(clean, [tiny_extractor(1)], preset, seed=1)}
        found = trained(clean, poison, replace(QUICK, draws=1280, transformed=0.0))
        assert area(scores(found, smooth(60, 3)), scores(found, usual)) > 0.95
        alarm = detect.Evading(found, 0.05, preset.weight, 4.0, squared_change_to)
        reply = lowkey(posts, [surrogate], preset, seed=1, perceptual=alarm)
        assert (scores(found, reply) < scores(found, usual) - 3).all()
        assert (scores(found, reply) < 0).all()

        def moved(pixels):
            return float((embed(surrogate, pixels) - embed(surrogate, posts)).norm(dim=1).mean())

        noise = noisy(posts, float((usual.double() - posts).std()) / 255, 1)
        assert moved(reply) > 0.7 * moved(usual)
        assert moved(reply) > 4 * moved(noise)


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path, detector):
        write_weights(tmp_path / "toy.safetensors", detector, {"recipe": asdict(QUICK)}, half=True)
        return tmp_path

    def test_a_detector_comes_back_from_its_file(self, folder, detector):
        loaded = detect.load_detector("toy", folder)
        pixels = torch.cat([smooth(5, 3), checker(smooth(5, 4))])
        torch.testing.assert_close(scores(loaded, pixels), scores(detector, pixels), atol=1e-4, rtol=1e-4)
        assert (loaded.name, loaded.residual, loaded.training) == ("quick", True, False)
        assert loaded.sha256 == json.loads((folder / "toy.json").read_text())["sha256"]
        assert not any(weight.requires_grad for weight in loaded.parameters())

    def test_a_changed_byte_is_refused(self, folder):
        path = folder / "toy.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"toy\.safetensors: is not the file that its card describes"):
            detect.load_detector("toy", folder)

    @pytest.mark.parametrize("missing", ["toy.safetensors", "toy.json"])
    def test_a_missing_file_or_card_is_refused(self, folder, missing):
        (folder / missing).unlink()
        with pytest.raises(InputError, match="no such detector, or no card"):
            detect.load_detector("toy", folder)
