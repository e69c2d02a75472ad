"""Raw outcomes: kept and read again, and the rates of studies come out of them."""

import itertools
import time
from dataclasses import replace

import pytest
import torch

from facepoison import detect, outcomes, shipped
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.evaluation import Answers, share
from studies import rates

ASKED = {"users": 4}
KEY = ("net", "untransformed", "thresholds")


def random(*size, seed=0, shift=0.0):
    return 3 * torch.randn(*size, generator=generator(seed, "outcomes")) + shift


def written(folder, arrays):
    began = shipped.Provenance("abc", "0123", time.time())
    outcomes.write_outcomes("t", arrays, command="make t", inputs=ASKED, began=began, folder=folder)
    return outcomes.read_outcomes("t", folder)


def test_scores_come_back_by_their_keys_in_half_precision_and_say_where_they_are_from(tmp_path):
    scores = {KEY: random(5, 3), ("net, other", "JPEG 75", "x"): random(2, 7)}
    found = written(tmp_path, scores)
    assert found.arrays.keys() == scores.keys()
    for key, own in scores.items():
        assert torch.equal(found.arrays[key], own.half().float())
    assert {key: found.card[key] for key in ("command", "inputs", "commit", "protocol")} == {
        "command": "make t",
        "inputs": ASKED,
        "commit": "abc",
        "protocol": "0123",
    }
    assert found.card["bytes"] == (tmp_path / "t.safetensors").stat().st_size


@pytest.mark.parametrize("large", [torch.tensor([[1e5]]), torch.tensor([[40_000]]), torch.tensor([[-70_000.0]])])
def test_what_does_not_fit_into_two_bytes_is_refused(tmp_path, large):
    with pytest.raises(InputError, match=r"t: net \| untransformed \| thresholds: a number is too large"):
        written(tmp_path, {KEY: large})
    assert not list(tmp_path.iterdir())


def test_infinite_distances_are_kept(tmp_path):
    assert written(tmp_path, {KEY: torch.tensor([[torch.inf, 1.0]])}).arrays[KEY].tolist() == [[torch.inf, 1.0]]


def test_damaged_and_missing_outcomes_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"t\.safetensors: cannot be read"):
        outcomes.read_outcomes("t", tmp_path)
    written(tmp_path, {KEY: random(5, 3)})
    path = tmp_path / "t.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not the file that its card describes"):
        outcomes.read_outcomes("t", tmp_path)
    path.write_bytes(content[:40])
    with pytest.raises(InputError, match="cannot be read"):
        outcomes.read_outcomes("t", tmp_path)


def answers(seed):
    who = torch.tensor([3, 3, 1])
    predicted = torch.randint(9, (3, 2), generator=generator(seed, "answers"))
    return Answers(who, torch.tensor([7, 8, 2]), who, predicted, predicted / 8, k=2)


def test_answers_come_back_and_who_was_asked_is_kept_once(tmp_path):
    given = {("lowkey", "drop"): answers(1), ("clean", "drop"): answers(2)}
    found = written(tmp_path, outcomes.pack_answers(given))
    assert len(found.arrays) == 3 + 2 * 2
    for key, own in given.items():
        back = outcomes.unpack_answers(found, key)
        for name in ("user", "probe", "true", "predicted", "distance"):
            assert torch.equal(getattr(back, name), getattr(own, name))
        assert torch.equal(back.top(2).wrong, own.wrong)
    first = written(tmp_path, outcomes.pack_answers({key: own.top(1) for key, own in given.items()}))
    assert torch.equal(outcomes.unpack_answers(first, ("clean", "drop")).predicted, own.predicted[:, :1])
    with pytest.raises(InputError, match="b: is about other probes"):
        outcomes.pack_answers({("a",): answers(1), ("b",): replace(answers(1), probe=torch.tensor([7, 8, 3]))})


def test_a_curve_goes_through_what_each_threshold_flags_and_finds():
    clean, poisoned = random(20, 4).round(), random(6, 5, seed=1, shift=2.0).round()  # rounding makes ties
    line = outcomes.every_threshold(clean, poisoned)
    assert (line[0], line[-1]) == ((0.0, 0.0), (1.0, 1.0))
    points = {
        (float((clean > limit).double().mean()), float((poisoned > limit).double().mean()))
        for limit in (*clean.unique(), *poisoned.unique())
    }
    assert set(line[1:-1]) <= points
    wrong, right = zip(*line, strict=True)
    for false, true in points:  # what is no corner lies on the line between two
        after = next(place for place, each in enumerate(line) if each[0] >= false and each[1] >= true)
        (a, c), (b, d) = line[after - 1], line[after]
        assert (true - c) * (b - a) == pytest.approx((false - a) * (d - c))
    area = sum((b - a) * (c + d) / 2 for (a, c), (b, d) in itertools.pairwise(line))
    assert area == pytest.approx(detect.area(clean.flatten(), poisoned.flatten()))
    assert list(wrong) == sorted(wrong)
    assert list(right) == sorted(right)


class TestRatesComeOutOfScores:
    """What a chapter computes from scores, beside the rows of rates that studies of real people keep."""

    @pytest.fixture
    def scores(self):
        """Of one detector by transformation and set: people x pictures."""
        sets = {"thresholds": (30, 10, 0.0), "non-poisoning": (25, 8, 0.2), "a": (12, 10, 4.0), "b": (7, 10, 1.0)}
        return {
            (transformation, name): random(people, pictures, seed=place, shift=shift)
            for transformation, place in (("untransformed", 1), ("JPEG 75", 2))
            for name, (people, pictures, shift) in sets.items()
        }

    @pytest.fixture
    def answer(self, scores):
        """The same as the rows' makers take it."""
        after = ("untransformed", "JPEG 75")
        clean, other = (
            {each: scores[each, name].flatten() for each in after} for name in ("thresholds", "non-poisoning")
        )
        return rates.Asked(clean, other, {each: {a: scores[each, a].flatten() for a in "ab"} for each in after})

    @pytest.fixture
    def people(self, scores):
        """Who is on the pictures of each set."""
        return {
            name: torch.arange(len(own)).repeat_interleave(own.shape[1])
            for (after, name), own in scores.items()
            if after == "untransformed"
        }

    def test_what_is_found_and_what_is_flagged_by_mistake(self, scores, answer, people):
        rows = list(rates.rows_of("net", answer, people, people["non-poisoning"], [0.01, 0.1]))
        assert len(rows) == 8
        for row in rows:
            after = row["transformation"]
            limit = detect.threshold(scores[after, "thresholds"].flatten(), row["allowed"])
            assert limit == row["threshold"]
            assert outcomes.share_of(scores[after, row["attack"]] > limit) == row["found"]
            assert outcomes.share_of(scores[after, "non-poisoning"] > limit) == row["false_alarms"]

    def test_accounts(self, scores, answer, people):
        given = (people, people["thresholds"], people["non-poisoning"], 4, 0.1)
        for row in rates.accounts_of(answer, *given):
            after, size = row["transformation"], row["pictures"]
            own = {name: scores[after, name].clamp(-10, 10).unfold(1, size, size).mean(dim=2) for name in people}
            limit = detect.threshold(own["thresholds"].flatten(), 0.1)
            assert outcomes.share_of(own[row["attack"]] > limit) == row["found"]
            assert outcomes.share_of(own["non-poisoning"] > limit) == row["false_alarms"]

    def test_curves(self, scores, answer, people):
        line = outcomes.every_threshold(scores["JPEG 75", "non-poisoning"], scores["JPEG 75", "a"])
        for row in rates.curves_of("net", answer, people, people["non-poisoning"], ["JPEG 75"]):
            false, found = row["false_alarms"].value, row["a"].value
            assert min(each for at, each in line if at >= false - 1e-9) <= found + 1e-9
            assert found <= max(each for at, each in line if at <= false + 1e-9) + 1e-9

    def test_one_threshold_for_all(self, scores, answer, people):
        whole = torch.cat([scores[after, "thresholds"] for after in ("untransformed", "JPEG 75")]).flatten()
        rows = rates.flagged_of("net", answer, people, people["non-poisoning"], [0.05])
        for row in rows:
            name = "non-poisoning" if row["posted"] == "clean" else row["posted"]
            hits = scores[row["transformation"], name] > detect.threshold(whole, 0.05)
            assert outcomes.share_of(hits) == row["flagged"] == share(hits.flatten(), people[name])
