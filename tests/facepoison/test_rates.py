"""Rows of rates, which studies of real people keep."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_extractor, tiny_pictures

from facepoison import tables
from facepoison.errors import InputError
from facepoison.pictures import Pictures
from studies import rates
from studies.common import Run


def telling(said):
    """A run that does nothing but note its lines."""
    return Run("", said.append, Path())


def levels(pixels):
    """A detector of brightness."""
    return pixels[:, 0, 0, 0].float()


def grey(*shades):
    return torch.tensor(shades, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).clone()


@pytest.fixture
def people():
    return torch.tensor([0, 0, 1, 1])


@pytest.fixture
def answer(people):
    """Of four clean pictures to set thresholds on, four others, and four posted by each of two attacks."""
    clean, other = (Pictures(grey(*shades), people, ("a", "b")) for shades in ((10, 20, 30, 40), (5, 15, 41, 42)))
    posted = {name: Pictures(grey(*shades), people, ("a", "b")) for name, shades in ATTACKS.items()}
    said = []
    found = rates.ask(telling(said), {"level": levels}, clean, other, posted, {"level": ("untransformed",)})
    assert said == ["untransformed: asked"]  # nothing is transformed that nobody is asked about
    return found["level"]


ATTACKS = {"faint": (30, 50, 60, 70), "loud": (90, 91, 92, 93)}


def test_rows_hold_what_lies_above_the_threshold_and_what_really_is_flagged(answer, people):
    who = dict.fromkeys(ATTACKS, people)
    rows = list(rates.rows_of("level", answer, who, people, [0.0, 0.5]))
    found = {(row["attack"], row["allowed"]): (row["found"].value, row["false_alarms"].value) for row in rows}
    assert found == {
        ("faint", 0.0): (0.75, 0.5),
        ("faint", 0.5): (1.0, 0.5),
        ("loud", 0.0): (1.0, 0.5),
        ("loud", 0.5): (1.0, 0.5),
    }
    assert [row["by_user"] for row in rows[:2]] == [[0.5, 1.0], [1.0, 1.0]]
    assert [row["area"] for row in rows[::2]] == [pytest.approx(14 / 16), 1.0]


def test_a_table_holds_the_rows_of_one_detector_after_the_other(answer, people):
    non_poisoning = Pictures(grey(5, 15, 41, 42), people, ("a", "b"))
    posted = {name: Pictures(grey(*shades), people, ("a", "b")) for name, shades in ATTACKS.items()}
    who = dict.fromkeys(ATTACKS, people)
    one, other = (list(rates.rows_of(name, answer, who, people, [0.0])) for name in ("one", "other"))
    assert rates.table_of({"one": answer, "other": answer}, posted, non_poisoning, [0.0]) == one + other


def test_accounts_are_judged_by_all_of_their_pictures(answer, people):
    who = dict.fromkeys(ATTACKS, people)
    low = replace(
        answer,
        thresholds={"untransformed": answer.thresholds["untransformed"] / 10},  # means are of scores cut at 10
        non_poisoning={"untransformed": answer.non_poisoning["untransformed"] / 10},
        posted={"untransformed": {name: scores / 10 for name, scores in answer.posted["untransformed"].items()}},
    )
    rows = list(rates.accounts_of(low, who, people, people, 2, 0.0))
    one, two = (tables.only(rows, attack="faint", pictures=size) for size in (1, 2))
    assert (one["found"].value, one["found"].probes, one["false_alarms"].value) == (0.75, 4, 0.5)
    assert (two["found"].value, two["found"].probes, two["false_alarms"].value) == (1.0, 2, 0.5)


def test_accounts_are_judged_by_means_and_what_is_left_over_is_not():
    logits = torch.tensor([1.0, 20.0, 3.0, -12.0, 7.0, 4.0, 100.0, 5.0, 6.0, 0.0])
    people = torch.tensor([7, 3, 7, 3, 5, 7, 7, 7, 3, 3])
    found, owners = rates.by_account(logits, people, 2)
    assert owners.tolist() == [3, 3, 7, 7]
    assert found.tolist() == [0.0, 3.0, 2.0, 7.0]  # 20 and -12, then 6 and 0; 1 and 3, then 4 and 100 cut to 10
    found, owners = rates.by_account(logits, people, 5)
    assert owners.tolist() == [7]
    assert found.tolist() == [pytest.approx((1 + 3 + 4 + 10 + 5) / 5)]
    assert rates.by_account(logits, people, 1)[1].bincount().tolist() == [0, 0, 0, 4, 0, 1, 0, 5]


def test_accounts_need_somebody_with_enough_pictures():
    with pytest.raises(InputError, match="nobody has 6 pictures"):
        rates.by_account(torch.zeros(10), torch.tensor([7, 3, 7, 3, 5, 7, 7, 7, 3, 3]), 6)


def test_curves_go_from_few_false_alarms_to_all(answer, people):
    who = dict.fromkeys(ATTACKS, people)
    rows = list(rates.curves_of("level", answer, who, people, ["untransformed"]))
    flagged, found = ([row[column].value for row in rows] for column in ("false_alarms", "faint"))
    assert flagged == sorted(flagged)
    assert found == sorted(found)
    assert (flagged[0], flagged[-1], found[-1]) == (0.0, 1.0, 1.0)


def test_one_threshold_is_set_on_clean_pictures_after_everything_or_after_one_transformation(answer, people):
    both = replace(
        answer,
        thresholds=answer.thresholds | {"darker": answer.thresholds["untransformed"] - 8},
        non_poisoning=answer.non_poisoning | {"darker": answer.non_poisoning["untransformed"] - 8},
        posted=answer.posted
        | {"darker": {"faint": answer.posted["untransformed"]["faint"] - 8, "loud": torch.zeros(4)}},
    )
    who = dict.fromkeys(ATTACKS, people)

    def flagged(allowed, set_on):
        rows = rates.flagged_of("level", both, who, people, [allowed], set_on)
        return {(row["posted"], row["transformation"]): row["flagged"].value for row in rows}

    # scores 2, 10, 12, 20, 22, 30, 32, 40 together; 2, 12, 22, 32 of the darker ones alone
    assert flagged(0.25, rates.EVERYTHING) == {
        ("clean", "untransformed"): 0.5,
        ("clean", "darker"): 0.5,
        ("faint", "untransformed"): 0.75,
        ("faint", "darker"): 0.75,
        ("loud", "untransformed"): 1.0,
        ("loud", "darker"): 0.0,
    }
    assert flagged(0.0, "darker")["clean", "untransformed"] == 0.5
    assert flagged(0.0, rates.EVERYTHING)["clean", "darker"] == 0.0


def test_the_reply_is_made_of_the_pictures_that_users_post_and_judged_beside_them(crowd, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    own = crowd.to_publish(crowd.users)
    published = {"black": replace(own, pixels=torch.zeros_like(own.pixels)), "nothing": own}
    thresholds = crowd.pictures.pixels
    detectors = {"dark": lambda pixels: -pixels.float().mean(dim=(1, 2, 3))}
    rows = list(rates.replies(crowd, published, detectors, thresholds, crowd.pictures, tiny_extractor(0), [0.0, 0.5]))
    found = {(row["posted"], row["allowed"]): row["found"].value for row in rows}
    assert found["black", 0.0] == found["black", 0.5] == 1.0
    assert found["nothing", 0.0] == 0.0
    assert [row["false_alarms"].value for row in rows] == [0.0, 0.5] * 2
    assert tables.only(rows, posted="black", allowed=0.0)["protection"].value > 0.0
    assert tables.only(rows, posted="nothing", allowed=0.0)["protection"].value == 0.0


def test_networks_together_count_alike():
    pixels = tiny_pictures(3)
    bright, dark = (lambda pixels, sign=sign: sign * pixels.float().mean(dim=(1, 2, 3)) for sign in (3, -1))
    assert torch.allclose(rates.mean_of(bright, dark)(pixels), pixels.float().mean(dim=(1, 2, 3)))
    assert torch.equal(rates.mean_of(bright)(pixels), bright(pixels))
