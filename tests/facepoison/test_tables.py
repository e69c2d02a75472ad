import numpy as np
import pytest

from facepoison import cells, tables
from facepoison.errors import InputError
from facepoison.evaluation import Rate
from facepoison.intervals import share_interval


def of(value):
    return Rate(value, 4, 8, 0.0, 1.0)


def test_rows_are_crossed_in_the_order_of_the_table():
    rows = [{"attack": a, "trainer": t, "n": a + t} for a in ("y", "x") for t in ("q", "p")]
    found, names = tables.crossed(rows, "attack", "trainer")
    assert list(found) == ["y", "x"]
    assert names == ["q", "p"]
    assert found["x"]["q"]["n"] == "xq"


DETECTED = [
    {"attack": attack, "detector": "net", "transformation": transformation, "found": of(0.5), "false_alarms": of(false)}
    for attack in ("a", "b")
    for transformation, false in (("untransformed", 0.0), ("JPEG 75", 0.5))
]


def test_rows_are_picked_by_their_columns_and_the_only_one_must_be_one():
    assert tables.where(DETECTED, attack="a") == DETECTED[:2]
    assert tables.only(DETECTED, attack="b", transformation="JPEG 75") is DETECTED[3]
    for how in ({"attack": "a"}, {"attack": "c"}):
        with pytest.raises(ValueError, match="ask for what only one has"):
            tables.only(DETECTED, **how)


def test_rows_are_gathered_by_some_columns_and_then_by_attack():
    found = tables.by_attack(DETECTED, "detector", "transformation")
    assert list(found) == [("net", "untransformed"), ("net", "JPEG 75")]
    assert found["net", "JPEG 75"] == {"a": DETECTED[1], "b": DETECTED[3]}


def test_precision_falls_with_false_alarms_and_so_do_its_ends():
    found, false = Rate(0.9, 40, 80, 0.8, 0.95), Rate(0.01, 500, 5000, 0.005, 0.02)
    rare = tables.precision_of_people(found, false, 0.01)
    assert rare.value == pytest.approx(0.009 / (0.009 + 0.0099))
    assert rare.low < rare.value < rare.high
    assert rare.n == 40
    corners = [0.01 * f / (0.01 * f + 0.99 * a) for f, a in ((0.8, 0.02), (0.95, 0.005))]
    assert corners[0] < rare.low < rare.high < corners[1]  # both at their worst at once is rarer than either
    assert tables.precision_of_people(found, Rate(0.01, 500, 5000, 0.0, 0.02), 0.01).high == 1.0
    none = Rate(0.0, 500, 5000, 0.0, 0.01)
    clean = tables.precision_of_people(found, none, 0.01)  # no false alarm seen says that there are few
    assert (clean.value, clean.low, clean.high) == (1.0, pytest.approx(0.008 / (0.008 + 0.0099)), 1.0)
    missed = tables.precision_of_people(none, false, 0.01)
    assert (missed.value, missed.low, missed.high) == (0.0, 0.0, pytest.approx(0.0001 / (0.0001 + 0.99 * 0.005)))
    with pytest.raises(InputError, match="ask more people"):
        tables.precision_of_people(none, none, 0.01)


def test_intervals_of_precision_hold_the_truth_as_often_as_they_say():
    rng, base, hits = np.random.default_rng(1), 0.01, []

    def rate(mean, people, pictures):
        own = (
            rng.binomial(pictures, rng.beta(4 * mean, 4 * (1 - mean), people)) / pictures
        )  # correlation .2 in a person
        return Rate(own.mean(), people, people * pictures, *share_interval(own, people * pictures))

    true = 0.9 * base / (0.9 * base + 0.01 * (1 - base))
    for _ in range(1000):
        found = tables.precision_of_people(rate(0.9, 40, 10), rate(0.01, 500, 5), base)
        hits.append(found.low <= true <= found.high)
    assert np.mean(hits) >= 0.94


def test_points_of_curves_are_found_and_said():
    rows = [
        {"transformation": "untransformed", "false_alarms": of(false), "a": of(found)}
        for false, found in ((0.001, 0.4), (0.01, 0.8), (0.1, 0.9))
    ]
    line = tables.curve_points(rows, "a", transformation="untransformed")
    assert line == [(0.001, 0.4), (0.01, 0.8), (0.1, 0.9)]
    assert tables.curve_points(rows, "a", transformation="noise") == []
    assert "Fawkes 80 %" in tables.at_percent({"Fawkes": line})


def test_precision_is_shown_with_its_interval():
    row = {"found": Rate(0.99, 9, 90, 0.9, 1.0), "false_alarms": Rate(0.01, 9, 90, 0.0, 0.99)}
    assert tables.precision_percent(row, 0.01).split() == ["50", "[1,", "100]"]


def test_what_a_run_does_not_allow_is_left_out_in_one_line(capsys):
    assert cells.possible([0, 1, 2, 5], lambda n: n < 2, "a user has 2 pictures") == [0, 1]
    assert capsys.readouterr().out == "Left out: 2, 5, since a user has 2 pictures.\n"
    assert cells.possible((0.0, 1.0), lambda share: share <= 1, "it is more than all") == [0.0, 1.0]
    assert not capsys.readouterr().out
