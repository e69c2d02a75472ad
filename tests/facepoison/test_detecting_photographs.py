import pytest
import torch

from facepoison.pictures import Pictures
from facepoison.protocol import Data, choose
from studies.detecting_photographs import _first_pictures, first_places, roles

COUNTS = (5, 3, 4, 6, 3)


@pytest.fixture
def pictures():
    """People with unequal numbers of pictures, out of order, each picture with a level of its own."""
    identities = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    identities = identities[torch.randperm(len(identities), generator=torch.Generator().manual_seed(1))]
    levels = torch.arange(len(identities), dtype=torch.uint8).view(-1, 1, 1, 1)
    return Pictures(levels.expand(-1, 3, 16, 16).clone(), identities, tuple("abcde"))


def test_everybody_is_trained_on_or_asked_about_and_nobody_both(pictures):
    who = roles(pictures, 2, seed=1)
    assert (len(who.asked), len(who.trained_on)) == (3, 2)
    assert sorted(who.asked + who.trained_on) == [0, 1, 2, 3, 4]


def test_first_pictures_come_person_by_person_in_their_order(pictures):
    places = first_places(pictures, (3, 0), 2)
    assert pictures.identities[places].tolist() == [3, 3, 0, 0]
    assert places[:2].tolist() == (pictures.identities == 3).nonzero().flatten()[:2].tolist()


def test_the_smaller_data_set_keeps_numbers_of_people_and_splits_what_is_left(pictures):
    nobody = torch.zeros(0, dtype=torch.int64)
    some = _first_pictures(Data(pictures, nobody, nobody, (1,), {}, pictures), 3, choose())
    assert some.pictures.identities.tolist() == [who for who in range(5) for _ in range(3)]
    assert sorted(torch.cat([some.gallery, some.probes]).tolist()) == list(range(15))
    assert [len(some.gallery_of(who)) for who in range(5)] == [2] * 5
    kept = set(first_places(pictures, (4,), 3).tolist())
    assert {int(level) for level in some.pictures.of(4).pixels[:, 0, 0, 0]} == kept
