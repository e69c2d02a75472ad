from dataclasses import dataclass

import pytest

from bookpress import claims


@dataclass(frozen=True)
class Rate:
    value: float
    n: int = 20
    low: float = 0.4
    high: float = 0.9


SETTING = {"profile": "fast", "dataset": "procedural", "seed": 1}

TOML = """
[works]
chapter = "01_x"
statement = "It works."
test = "at_least"
bound = 0.5
unit = "share"
value = 0.7
tolerance = 0.1
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


def test_a_claim_states_measures_and_judges(displayed):
    claims.open_ledger("01_x", **SETTING).claim("works", Rate(0.72), clean_error=0.05)
    text, record = displayed[0]
    statement, measured, verdict = text.split("\n")
    assert statement == "It works."
    assert measured == (
        "measured 72.0 %, n = 20 people, 95 % interval 40.0 % to 90.0 %, clean error 5.0 %, computed here"
    )
    assert verdict == "holds; agrees with the registered 70.0 % within 10.0 %"
    assert record["holds"]
    assert record["registered"]
    assert record["clean_error"] == 0.05


def test_verdict_lines_do_not_change_inside_the_tolerance_and_do_outside(displayed):
    claim = claims.open_ledger("01_x", **SETTING).claim
    for value in (0.66, 0.74, 0.81, 0.3):
        claim("works", Rate(value))
    verdicts = [text.split("\n")[2] for text, _ in displayed]
    assert verdicts[0] == verdicts[1]
    assert "DISAGREES" in verdicts[2]
    assert verdicts[3].startswith("does not hold")


def test_elsewhere_nothing_is_compared_with_the_registered_value(displayed):
    claims.open_ledger("01_x", **{**SETTING, "seed": 2}).claim("works", 0.3, n=5)
    text, record = displayed[0]
    assert text.split("\n")[2] == "does not hold"
    assert not record["registered"]
    assert record["agrees"] is None


def test_unknown_claims_and_numbers_without_n_are_refused(displayed):
    claim = claims.open_ledger("01_x", **SETTING).claim
    with pytest.raises(ValueError, match="not registered"):
        claim("fails", 0.3, n=1)
    with pytest.raises(ValueError, match="needs n"):
        claim("works", 0.3)
    with pytest.raises(ValueError, match="not registered for 02_y"):
        claims.open_ledger("02_y", **SETTING).claim("works", 0.3, n=1)
    assert not displayed


@pytest.mark.parametrize(
    ("tolerance", "seen"), [(0.0, "0.2 %"), (0.0005, "0.2 %"), (0.0001, "0.17 %"), (1e-5, "0.172 %")]
)
def test_digits_are_enough_to_show_the_tolerance(tolerance, seen):
    assert claims.shown(0.00172, "share", tolerance) == seen


def test_a_ledger_needs_to_know_its_setting():
    with pytest.raises(ValueError, match="dataset"):
        claims.open_ledger("01_x", profile="fast", seed=1)


@pytest.mark.parametrize("name", claims.registered_claims())
def test_no_verdict_of_the_book_hangs_on_rounding_luck(name):
    entry = claims.registered_claims()[name]
    assert entry.value is not None, "run the book and register the value"
    assert entry.holds(entry.value) == (entry.declared is None)
    assert abs(entry.value - entry.bound) > entry.tolerance
