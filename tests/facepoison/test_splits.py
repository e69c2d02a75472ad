import pytest
import torch

from facepoison.errors import InputError
from facepoison.pictures import Pictures
from facepoison.pictures.splits import first_users, hold_out, split


def people(*counts, names=None):
    identities = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])
    names = names or tuple(f"person {i}" for i in range(len(counts)))
    return Pictures(torch.zeros(len(identities), 3, 2, 2, dtype=torch.uint8), identities, names)


@pytest.mark.parametrize(
    ("n", "share", "gallery"),
    [(20, 0.7, 14), (10, 0.7, 7), (15, 0.7, 11), (3, 0.7, 2), (2, 0.7, 1), (2, 0.99, 1), (9, 0.01, 1)],
)
def test_share_of_each_identity(n, share, gallery):
    pictures = people(n, n)
    known, asked = split(pictures, seed=1, share=share)
    for identity in (0, 1):
        assert int((pictures.identities[known] == identity).sum()) == gallery
        assert int((pictures.identities[asked] == identity).sum()) == n - gallery
    assert sorted([*known.tolist(), *asked.tolist()]) == list(range(2 * n))
    assert known.dtype == asked.dtype == torch.int64
    assert known.tolist() == sorted(known.tolist())


def own_gallery(pictures, name, seed=1):
    """Which of a person's pictures, counted from 0, are in the gallery."""
    places = (pictures.identities == pictures.names.index(name)).nonzero().flatten().tolist()
    return [places.index(place) for place in split(pictures, seed)[0].tolist() if place in places]


def test_division_does_not_hang_on_the_others():
    alone = own_gallery(people(20, names=("ada",)), "ada")
    assert own_gallery(people(5, 20, names=("bob", "ada")), "ada") == alone
    mixed = people(5, 20, 8, names=("bob", "ada", "eve"))
    interleaved = mixed.take(torch.cat([torch.arange(25, 33), torch.arange(5, 25), torch.arange(5)]))
    assert own_gallery(interleaved, "ada") == alone


def test_division_differs_between_people_and_seeds():
    pictures = people(20, 20)
    first, second = own_gallery(pictures, "person 0"), own_gallery(pictures, "person 1")
    assert first != second
    assert own_gallery(pictures, "person 0", seed=2) != first
    assert own_gallery(pictures, "person 0") == first


def test_one_picture_or_a_senseless_share_is_refused():
    with pytest.raises(InputError, match="identity 'person 1': one picture"):
        split(people(3, 1), seed=1)
    with pytest.raises(InputError, match=r"share 1\.0"):
        split(people(3), seed=1, share=1.0)
    with pytest.raises(InputError, match="none to split"):
        split(people(3).take(torch.zeros(0, dtype=torch.int64)), seed=1)


def test_users_are_the_first_of_one_order():
    pictures = people(*[2] * 30)
    everyone = first_users(pictures, 30, seed=1)
    assert sorted(everyone) == list(range(30))
    assert first_users(pictures, 7, seed=1) == everyone[:7]
    assert everyone != tuple(range(30))
    assert first_users(pictures, 30, seed=2) != everyone


def test_users_keep_their_order_when_others_come():
    few = people(2, 2, 2, names=("ada", "bob", "eve"))
    more = people(2, 2, 2, 2, names=("zoe", "eve", "bob", "ada"))
    order = [few.names[user] for user in first_users(few, 3, seed=1)]
    assert [name for name in (more.names[user] for user in first_users(more, 4, seed=1)) if name != "zoe"] == order


@pytest.mark.parametrize("n", [0, 4])
def test_more_users_than_people_are_refused(n):
    with pytest.raises(InputError, match=f"users: {n} asked for, 3 identities"):
        first_users(people(2, 2, 2), n, seed=1)


def test_people_held_out_are_the_last_in_line_and_numbered_anew():
    pictures = people(*[3] * 10)
    pictures.pixels[:, 0, 0, 0] = torch.arange(30, dtype=torch.uint8)
    rest, others = hold_out(pictures, 0.2, seed=1)
    assert (len(rest.names), len(others.names)) == (8, 2)
    assert set(rest.names) | set(others.names) == set(pictures.names)
    assert not set(rest.names) & set(others.names)
    for part in (rest, others):
        for number, name in enumerate(part.names):
            mine = pictures.pixels[pictures.identities == pictures.names.index(name)]
            assert torch.equal(part.of(number).pixels, mine)
    first = [pictures.names[who] for who in first_users(pictures, 8, seed=1)]
    assert [rest.names[who] for who in first_users(rest, 8, seed=1)] == first


@pytest.mark.parametrize(("n", "share"), [(3, 0.2), (10, 0.0), (10, 1.0)])
def test_a_share_that_cannot_be_held_out_is_refused(n, share):
    with pytest.raises(InputError, match="give at least 4"):
        hold_out(people(*[3] * n), share, seed=1)
