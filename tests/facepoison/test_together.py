import pytest
import torch

from facepoison import trainer
from facepoison.errors import InputError
from facepoison.evaluation import Answers, Protection, rate


def answers(predicted, distance, probe=(0, 1, 2, 3)):
    user = torch.tensor([4, 4, 7, 7])
    return Answers(
        user, torch.tensor(probe), user.clone(), torch.tensor(predicted)[:, None], torch.tensor(distance)[:, None]
    )


ACCURATE = answers([4, 1, 7, 1], [0.2, 0.9, 0.3, 0.4])
ROBUST = answers([1, 4, 7, 1], [0.5, 0.6, 0.5, 0.6])


def test_one_of_two_candidates_is_enough():
    both = trainer.top_two(ACCURATE, ROBUST)
    assert both.predicted.tolist() == [[4, 1], [1, 4], [7, 7], [1, 1]]
    assert both.wrong.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("farthest", "predicted"),
    [(-1.0, [1, 4, 7, 1]), (0.35, [4, 4, 7, 1]), (0.4, [4, 4, 7, 1]), (2.0, [4, 1, 7, 1])],
)
def test_the_robust_one_answers_where_the_accurate_one_finds_nobody_near(farthest, predicted):
    both = trainer.cascade(farthest)(ACCURATE, ROBUST)
    assert both.predicted[:, 0].tolist() == predicted
    chosen = torch.where(ACCURATE.distance <= farthest, ACCURATE.distance, ROBUST.distance)
    assert torch.equal(both.distance, chosen)


def test_the_combined_rate_is_that_of_the_combined_answers():
    clean = answers([4, 4, 7, 7], [0.1, 0.1, 0.1, 0.1])
    accurate = Protection(rate(ACCURATE, clean), ACCURATE, clean)
    robust = Protection(rate(ROBUST, clean), ROBUST, clean)
    both = together.together(accurate, robust, trainer.top_two)
    assert both.rate.value == 0.25
    assert both.rate.clean_error.value == 0


def test_the_threshold_lets_a_share_of_clean_probes_through():
    distances = torch.arange(1, 11) / 10
    for share in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        let = float((distances <= trainer.believed(share, distances)).double().mean())
        assert let >= share
        assert let < share + 0.1


@pytest.mark.parametrize(("share", "n"), [(-0.1, 3), (1.1, 3), (0.5, 0)])
def test_a_threshold_needs_a_share_and_distances(share, n):
    with pytest.raises(InputError, match="threshold"):
        trainer.believed(share, torch.ones(n))


@pytest.mark.parametrize("combine", [trainer.top_two, trainer.cascade(0.5)])
def test_answers_to_different_probes_are_not_combined(combine):
    with pytest.raises(InputError, match="different probes"):
        combine(ACCURATE, answers([1, 4, 7, 1], [0.5, 0.6, 0.5, 0.6], probe=(0, 1, 2, 9)))
