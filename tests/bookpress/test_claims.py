import json
import math
from dataclasses import dataclass, replace

import pytest

from bookpress import claims
from bookpress.claims import Registered


@dataclass(frozen=True)
class Rate:
    value: float
    low: float = 0.4
    high: float = 0.9
    n: int = 20


SETTING = {"profile": "fast", "dataset": "procedural", "seed": 1}

TOML = """
[works]
chapter = "01_x"
kind = "rate"
statement = "It works."
test = "at_least"
bound = 0.35
unit = "share"
value = 0.7
tolerance = 0.1
verdict = "supported"
explained = "too few people"

[kept]
chapter = "01_x"
kind = "fact"
statement = "A budget is kept."
test = "at_most"
bound = 15
unit = "levels"
tolerance = 0.5
"""


@pytest.fixture
def displayed(tmp_path, monkeypatch):
    (tmp_path / "claims.toml").write_text(TOML)
    (tmp_path / "protocol.toml").write_text('[registered]\nprofile = "fast"\ndataset = "procedural"\nseed = 1\n')
    monkeypatch.setattr(claims, "DATA", tmp_path)
    shown = []
    monkeypatch.setattr(
        claims, "display", lambda data, **rest: shown.append((data["text/plain"], rest["metadata"]["claim"]))
    )
    return shown


def entry(test, bound, kind="rate"):
    return Registered("01_x", kind, "It is so.", test, bound, "share", 0.1)


@pytest.mark.parametrize(
    ("test", "bound", "low", "high", "verdict"),
    [
        ("at_least", 0.5, 0.6, 0.9, "supported"),
        ("at_least", 0.5, 0.5, 0.9, "supported"),
        ("at_least", 0.5, 0.4, 0.9, "inconclusive"),
        ("at_least", 0.5, 0.4, 0.5, "inconclusive"),
        ("at_least", 0.5, 0.1, 0.4, "not supported"),
        ("at_most", 0.5, 0.1, 0.4, "supported"),
        ("at_most", 0.5, 0.4, 0.6, "inconclusive"),
        ("at_most", 0.5, 0.6, 0.7, "not supported"),
        ("within", 0.1, -0.05, 0.08, "supported"),
        ("within", 0.1, -0.2, 0.05, "inconclusive"),
        ("within", 0.1, -0.2, 0.2, "inconclusive"),
        ("within", 0.1, 0.15, 0.2, "not supported"),
        ("within", 0.1, -0.3, -0.2, "not supported"),
    ],
)
def test_a_verdict_goes_by_the_whole_interval(test, bound, low, high, verdict):
    assert entry(test, bound).judge(low, high) == verdict


def test_a_difference_must_lie_beyond_its_bound_and_a_fact_may_lie_on_it():
    assert entry("at_least", 0.0, "difference").judge(0.0, 0.2) == "inconclusive"
    assert entry("at_least", 0.0, "difference").judge(0.01, 0.2) == "supported"
    assert entry("at_most", 15.0, "fact").judge(15.0, 15.0) == "supported"
    assert entry("at_most", 15.0, "fact").judge(15.1, 15.1) == "not supported"


def test_a_claim_states_measures_and_judges(displayed):
    claims.open_ledger("01_x", **SETTING).claim("works", Rate(0.72), clean_error=0.05)
    text, record = displayed[0]
    statement, measured, verdict = text.split("\n")
    assert statement == "It works."
    assert measured == (
        "measured 72.0 %, n = 20 people, 95 % interval 40.0 % to 90.0 %, clean error 5.0 %, computed here"
    )
    assert verdict == "rate: supported; agrees with the registered 70.0 % within 10.0 %"
    assert (record["kind"], record["verdict"], record["changed"]) == ("rate", "supported", False)
    assert record["registered"]
    assert record["clean_error"] == 0.05


def test_of_several_the_worst_decides(displayed):
    claim = claims.open_ledger("01_x", **SETTING).claim
    claim("works", [Rate(0.7), Rate(0.6, 0.3), Rate(0.5, 0.36)])
    claim("works", [Rate(0.7), Rate(0.6, 0.3), Rate(0.2, 0.1, 0.3)])
    claim("works", [Rate(0.7), Rate(0.6, 0.38)])
    assert [record["verdict"] for _, record in displayed] == ["inconclusive", "not supported", "supported"]
    assert [record["value"] for _, record in displayed] == [0.6, 0.2, 0.6]
    assert "decides among 3" in displayed[0][0]


def test_verdict_lines_do_not_change_inside_the_tolerance_and_do_outside(displayed):
    claim = claims.open_ledger("01_x", **SETTING).claim
    for measured in (Rate(0.66), Rate(0.74), Rate(0.81), Rate(0.66, 0.3), Rate(0.2, 0.1, 0.3)):
        claim("works", measured)
    verdicts = [text.split("\n")[2] for text, _ in displayed]
    assert verdicts[0] == verdicts[1]
    assert "DISAGREES" in verdicts[2]
    assert verdicts[3].startswith("rate: inconclusive, CHANGED from the registered verdict, supported; too few people")
    assert verdicts[4].startswith("rate: not supported, CHANGED")
    assert [record["changed"] for _, record in displayed] == [False, False, False, True, True]


@pytest.mark.parametrize("other", [{"seed": 2}, {"dataset": "folder"}])
def test_elsewhere_nothing_is_compared_with_what_is_registered_or_explained_by_it(displayed, other):
    claim = claims.open_ledger("01_x", **{**SETTING, **other}).claim
    claim("works", Rate(0.6, 0.3))
    claim("works", Rate(0.6, 0.3), source="shipped")
    (text, record), (shipped, _) = displayed
    assert text.split("\n")[2] == "rate: inconclusive"
    assert shipped.split("\n")[2] == "rate: inconclusive; too few people"
    assert not record["registered"]
    assert not record["changed"]
    assert record["agrees"] is None
    assert record["explained"] is None


def test_an_interval_without_end_is_said_in_words_and_decides_nothing(displayed):
    claims.open_ledger("01_x", **SETTING).claim("works", Rate(0.6, -math.inf, math.inf, 2))
    text, record = displayed[0]
    assert text.split("\n")[1] == "measured 60.0 %, n = 2 people, no 95 % interval of so few, computed here"
    assert (record["verdict"], record["low"], record["high"]) == ("inconclusive", None, None)
    json.dumps(record, allow_nan=False)  # as a kernel sends it


def test_a_rate_comes_with_an_interval_and_a_fact_without(displayed):
    claim = claims.open_ledger("01_x", **SETTING).claim
    claim("kept", 15, n=280, of="pictures")
    assert displayed.pop()[0].endswith("fact: supported")
    with pytest.raises(ValueError, match="not registered"):
        claim("fails", Rate(0.3))
    with pytest.raises(ValueError, match="'works': a rate needs an interval"):
        claim("works", 0.3, n=5)
    for wrong in ({"measured": 15}, {"measured": Rate(0.3), "n": 3}):
        with pytest.raises(ValueError, match="'kept': a fact needs a plain number, and n"):
            claim("kept", **wrong)
    with pytest.raises(ValueError, match="not registered for 02_y"):
        claims.open_ledger("02_y", **SETTING).claim("works", Rate(0.3))
    assert not displayed


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ('kind = "share"', "unknown unit, test or kind"),
        ('verdict = "holds"', "verdict is none of supported, not supported, inconclusive"),
        ('colour = "red"', "unexpected keyword argument 'colour'"),
    ],
)
def test_a_damaged_registry_is_refused(tmp_path, change, what):
    key = change.split(" ")[0]
    lines = [line for line in TOML.splitlines() if not line.startswith(f"{key} =")]
    lines.insert(lines.index("[works]") + 1, change)
    (tmp_path / "claims.toml").write_text(
        "\n".join(lines).replace("[kept]", f"[kept]\n{change}" if key == "kind" else "[kept]")
    )
    with pytest.raises(ValueError, match=f"claim 'works': .*{what}"):
        claims.registered_claims(tmp_path / "claims.toml")


@pytest.mark.parametrize(
    ("tolerance", "seen"), [(0.0, "0.2 %"), (0.0005, "0.2 %"), (0.0001, "0.17 %"), (1e-5, "0.172 %")]
)
def test_digits_are_enough_to_show_the_tolerance(tolerance, seen):
    assert claims.shown(0.00172, "share", tolerance) == seen


def test_differences_of_shares_are_points():
    assert claims.shown(0.125, "share", kind="difference") == "12.5 points"
    assert claims.shown(3.0, "dB", kind="difference") == "3.0 dB"


def test_a_ledger_needs_to_know_its_setting():
    with pytest.raises(ValueError, match="dataset"):
        claims.open_ledger("01_x", profile="fast", seed=1)


@pytest.mark.parametrize("name", claims.registered_claims())
def test_what_the_book_did_not_support_or_decide_is_explained_and_nothing_else(name):
    known = claims.registered_claims()[name]
    assert known.value is not None, "run the book and register value and verdict"
    assert (known.verdict == "supported") == (known.explained is None)
    if known.kind == "fact":
        assert known.judge(known.value, known.value) == known.verdict
        assert abs(known.value - known.bound) >= known.tolerance
    else:  # an interval holds its value, so the value's side cannot contradict the verdict
        side = replace(known, kind="rate").judge(known.value, known.value)
        assert known.verdict in (side, "inconclusive")
