import csv
from itertools import pairwise

import pytest
import torch
from tiny import embedded_crowd

from facepoison.errors import InputError
from facepoison.evaluation import (
    Answers,
    Protection,
    Rate,
    apart,
    area_of_people,
    by_person,
    difference,
    median_of_people,
    named_right,
    paired,
    rank_one,
    rate,
    write_answers,
)
from facepoison.intervals import difference_interval, share_interval


def answers(*errors, probes=10):
    """Answers in which user i is wrong on the given share of its probes."""
    user = torch.arange(len(errors)).repeat_interleave(probes)
    wrong = torch.cat([torch.arange(probes) < round(error * probes) for error in errors])
    predicted = torch.where(wrong, user + 1, user)[:, None]
    return Answers(user, torch.arange(len(user)), user.clone(), predicted, torch.zeros(len(user), 1))


def test_rate_averages_users_not_probes():
    user = torch.tensor([0] * 2 + [1] * 18)
    both = Answers(user, torch.arange(20), user, torch.ones(20, 1, dtype=torch.int64), torch.zeros(20, 1))
    assert rate(both).value == 0.5
    assert (rate(both).n, rate(both).probes) == (2, 20)


@pytest.mark.parametrize("n", [1, 5, 20, 100])
def test_at_zero_and_one_the_interval_is_exact_in_users(n):
    bound = 0.025 ** (1 / n)
    assert share_interval(torch.ones(n), 6 * n) == pytest.approx((bound, 1.0))
    assert share_interval(torch.zeros(n), 6 * n) == pytest.approx((0.0, 1 - bound))


def test_interval_of_one_probe_each_is_nearly_binomial():
    """With one probe a user there are no clusters: 12 of 40 by Clopper and Pearson is 0.166 to 0.465."""
    low, high = share_interval(torch.tensor([1.0] * 12 + [0.0] * 28), 40)
    assert (low, high) == pytest.approx((0.166, 0.465), abs=0.005)


def test_interval_counts_users_when_probes_repeat_them():
    """Users who are always or never recognised carry one answer each, however many probes they have."""
    errors = torch.tensor([1.0] * 6 + [0.0] * 14)
    few, many = share_interval(errors, 20), share_interval(errors, 20000)
    assert many[1] - many[0] > 0.9 * (few[1] - few[0])
    alike = share_interval(torch.full((20,), 0.3), 20 * 60)
    assert alike[1] - alike[0] < 0.6 * (many[1] - many[0])


def test_more_errors_never_lower_either_end():
    for n, m in ((20, 6), (10, 4)):
        counts = torch.zeros(n)
        ends = [share_interval(counts / m, n * m)]
        for step in range(n * m):  # errors gather in as few users as possible
            counts[step // m] += 1
            ends.append(share_interval(counts / m, n * m))
        for before, after in pairwise(ends):
            assert after[0] >= before[0] - 0.02
            assert after[1] >= before[1] - 0.02


@pytest.mark.parametrize(
    ("mean", "agreement"), [(0.5, 1.0), (0.5, 0.2), (0.1, 1.0), (0.1, 0.2), (0.02, 0.3), (0.97, 0.3), (0.03, 0.02)]
)
def test_interval_covers_the_truth(mean, agreement):
    """Users differ (beta distributed: a small ``agreement`` makes nearly all-or-nothing users) and have 6 probes each.

    Of 600 experiments with 20 users at least 93 % must cover; by chance alone a true 95 % stays above that.
    """
    a, b, experiments, users, probes = mean * agreement, (1 - mean) * agreement, 600, 20, 6
    torch.manual_seed(0)
    chances = torch.distributions.Beta(torch.tensor(a), torch.tensor(b)).sample((experiments, users))
    hits = torch.distributions.Binomial(probes, chances).sample()
    covered = 0
    for row in hits / probes:
        low, high = share_interval(row, users * probes)
        covered += low <= mean <= high
    assert covered / experiments >= 0.93


def test_difference_is_paired_by_user():
    a, b = answers(*[0.9, 0.5, 0.7] * 8), answers(*[0.5, 0.1, 0.3] * 8)
    gap = difference(a, b)
    assert gap.value == pytest.approx(0.4)
    assert gap.low > 0.1  # although the users' own errors overlap widely
    assert difference(b, a).value == pytest.approx(-0.4)
    assert difference(b, a).low == pytest.approx(-gap.high)
    same = difference(a, a)
    assert same.value == 0
    assert same.low == pytest.approx(-same.high)
    assert same.high > 0.1  # 24 users who agree do not prove that all do
    alone = difference(answers(1.0), answers(0.0))
    assert (alone.low, alone.high) == pytest.approx((-0.95, 1))  # at 95 % that is all that one user says


def test_difference_has_the_interval_of_its_gaps():
    gap = difference(answers(0.2, 0.9, 0.4, 1.0), answers(0.8, 0.1, 0.3, 0.0))
    assert (gap.low, gap.high) == pytest.approx(difference_interval([-0.6, 0.8, 0.1, 1.0]), abs=1e-6)


def test_rate_says_what_it_stands_on():
    value = rate(answers(0.5, 1.0), answers(0.0, 0.1))
    assert str(value).startswith("0.750 [")
    assert "n = 2 users, 20 probes, clean error 0.050" in str(value)
    assert value.clean_error.clean_error is None
    assert 0 <= value.low <= value.value <= value.high <= 1


def test_every_answer_is_written_whole_and_without_names(tmp_path):
    result = Protection(answers(0.5, 0.2, probes=2), answers(0.0, 0.0, probes=2))
    path = tmp_path / "tables" / "rows.csv"
    write_answers(path, {("LowKey", "x", "1-NN"): result, ("LowKey", "x", "linear"): result.top(1)}, 3)
    with path.open() as handle:
        rows = list(csv.DictReader(handle))
    columns = "user,probe,true,predicted,distance,attack,extractor,recogniser,seed"
    assert path.read_text().splitlines()[0] == columns
    assert [row["recogniser"] for row in rows] == ["1-NN"] * 4 + ["linear"] * 4
    assert list(rows[0].values()) == ["0", "0", "0", "1", "0.000000", "LowKey", "x", "1-NN", "3"]
    assert list(rows[3].values()) == ["1", "3", "1", "1", "0.000000", "LowKey", "x", "1-NN", "3"]
    with pytest.raises(TypeError):
        write_answers(path, {None: result}, 3)
    assert path.read_text().count("\n") == 9
    assert [file.name for file in path.parent.iterdir()] == ["rows.csv"]


def test_bad_input_is_one_line():
    with pytest.raises(InputError, match="other users"):
        rate(answers(0.5), answers(0.5, 0.5))
    with pytest.raises(InputError, match="different users"):
        difference(answers(0.5), answers(0.5, 0.5))
    with pytest.raises(InputError, match="interval"):
        share_interval(torch.tensor([1.5]), 4)


def test_rank_one_averages_over_people():
    gallery, labels = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    probes, probe_labels = torch.tensor([[0.1], [0.2], [0.9], [0.3]]), torch.tensor([0, 0, 0, 1])
    rate = rank_one(gallery, labels, probes, probe_labels)
    assert (rate.value, rate.n, rate.probes) == (pytest.approx((2 / 3 + 0) / 2), 2, 4)


def test_people_count_alike_however_many_pictures_they_have():
    values, people = torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([4, 4, 4, 9])
    assert by_person(values, people).tolist() == [3.0, 7.0]
    median = median_of_people(values, people)
    assert (median.value, median.n) == (5.0, 2)
    assert (median.low, median.high) == (-float("inf"), float("inf"))
    with pytest.raises(InputError, match="one person each"):
        median_of_people(values, people[1:])


def test_gaps_are_paired_by_person():
    gap = paired([1.0, 0.5, 0.0], torch.tensor([0.5, 0.5, 0.5]))
    assert (gap.value, gap.n) == (0.0, 3)
    assert gap.low < 0 < gap.high
    first, other = answers(0.5, 0.0), answers(1.0, 0.5)
    assert difference(first, other) == paired(first.by_user, other.by_user)
    with pytest.raises(InputError, match="both shares of each"):
        paired([1.0], [1.0, 0.0])


def test_rates_of_which_no_more_is_known_are_put_together_with_care():
    first, second = Rate(0.8, 20, 60, 0.6, 0.9), Rate(0.3, 10, 30, 0.2, 0.5)
    gap = apart(first, second)
    assert (gap.value, gap.n) == (pytest.approx(0.5), 10)
    assert (gap.low, gap.high) == pytest.approx((0.5 - (0.04 + 0.04) ** 0.5, 0.5 + (0.01 + 0.01) ** 0.5))


def test_an_area_counts_people():
    clean, people = torch.arange(8.0), torch.arange(4).repeat_interleave(2)
    apart_wholly = area_of_people(clean, clean + 100, people)
    assert (apart_wholly.value, apart_wholly.n, apart_wholly.high) == (1.0, 4, 1.0)
    assert apart_wholly.low == pytest.approx(0.025**0.25)
    assert area_of_people(clean, clean + 1, people).low < area_of_people(clean, clean + 4, people).low


def test_whom_a_probe_is_nearest_to_is_said_probe_by_probe():
    gallery, labels, probes, asked = embedded_crowd()
    right = named_right(gallery, labels, probes, asked)
    assert rank_one(gallery, labels, probes, asked).value == pytest.approx(float(by_person(right, asked).mean()))
