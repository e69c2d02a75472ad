import pytest
import torch

from facepoison.errors import InputError
from facepoison.pictures import Pictures, to_float, to_uint8


def some(n=4):
    pixels = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 8, 8)
    return Pictures(pixels, torch.arange(n) % 2, ("a", "b"))


def test_take_and_of_keep_identities_with_their_pictures():
    own = some().of(1)
    assert own.pixels[:, 0, 0, 0].tolist() == [1, 3]
    assert own.identities.tolist() == [1, 1]
    assert len(own) == 2
    assert own.size == 8


def test_rounding_loses_nothing_on_the_grid_and_clamps_beyond_it():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_uint8(torch.tensor([-0.2, 1.2])).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("pixels", "identities", "message"),
    [
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "shape"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "one for each"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 7]), "indices into names"),
    ],
)
def test_wrong_containers_are_refused(pixels, identities, message):
    with pytest.raises(InputError, match=message):
        Pictures(pixels, identities, ("a", "b"))
