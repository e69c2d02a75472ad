"""Poison as it is cut out of what was posted."""

import pytest
import torch
from torch.nn.functional import pad

from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.pictures.chips import CHIP
from facepoison.pictures.framing import FRAMINGS, frame_at_random
from facepoison.pictures.geometry import CROP, CROP_TO_CHIP
from facepoison.pictures.synthetic import make_pictures

SIZES = {"as posted": 112, "cut out anew": 112, "chip": 150, "twice as large": 224}


@pytest.fixture(scope="module")
def kept():
    """Clean crops, the same with a fine pattern, chips and matrices."""
    chips = make_pictures("framing", 4, 6, 152, seed=1).pixels[..., :CHIP, :CHIP].contiguous()
    clean = chips[..., 20:132, 19:131].contiguous()
    pattern = torch.randint(-8, 9, clean.shape, generator=generator(1, "pattern"))
    posted = (clean.int() + pattern).clamp(0, 255).to(torch.uint8)
    return clean, posted, chips, torch.tensor(CROP_TO_CHIP).expand(len(clean), 2, 3)


def roughness(pixels):
    """How much neighbours differ, of each picture."""
    return (pixels[..., 1:].float() - pixels[..., :-1].float()).abs().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("name", FRAMINGS)
def test_a_framing_gives_pictures_of_one_size_and_leaves_what_it_is_given(name, kept):
    before = [each.clone() for each in kept]
    framed = FRAMINGS[name](*kept)
    assert framed.dtype == torch.uint8
    assert framed.shape == (len(kept[0]), 3, SIZES[name], SIZES[name])
    assert all(torch.equal(*each) for each in zip(kept, before, strict=True))
    assert SIZES.keys() == FRAMINGS.keys()


@pytest.mark.parametrize("name", FRAMINGS)
def test_poison_is_there_in_every_framing_though_it_may_be_softened(name, kept):
    clean, posted, chips, matrices = kept
    plain, poisoned = FRAMINGS[name](clean, clean, chips, matrices), FRAMINGS[name](*kept)
    assert (roughness(poisoned) > roughness(plain)).all()
    raw = (posted.float() - clean.float()).square().mean().sqrt()
    left = (poisoned.float() - plain.float()).square().mean().sqrt()
    assert 0.3 * raw < left <= raw


def test_clean_pictures_that_are_cut_out_anew_are_as_they_were(kept):
    clean, _, chips, matrices = kept
    for name in ("as posted", "cut out anew"):
        assert torch.equal(FRAMINGS[name](clean, clean, chips, matrices), clean)
    assert torch.equal(FRAMINGS["chip"](clean, clean, chips, matrices), chips)


def test_a_change_is_carried_where_it_was_by_any_similarity():
    clean = torch.full((3, 3, CROP, CROP), 100, dtype=torch.uint8)
    posted = clean.clone()
    posted[:, :, 20:40, 60:90] = 130
    matrices = torch.tensor(
        [
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            [[1.9, -0.3, -70.0], [0.3, 1.9, 12.5]],
            [[1.2, 0.5, 3.3], [-0.5, 1.2, 9.1]],
        ]
    )
    back = FRAMINGS["cut out anew"](clean, posted, torch.zeros(3), matrices)
    assert torch.equal(back[0], posted[0])  # a photograph of the very size, not turned
    gap = (back.int() - posted.int()).abs()
    inside = torch.zeros(CROP, CROP, dtype=torch.bool)
    inside[22:38, 62:88] = True
    far = ~torch.zeros(CROP, CROP, dtype=torch.bool)
    far[18:42, 58:92] = False
    assert gap[:, :, inside].max() <= 1
    assert gap[:, :, far].max() == 0
    assert gap[1:].max() > 1


def test_chance_is_that_of_the_stream_and_another_for_each_picture(kept):
    clean, posted, *_ = kept
    one, again, other = (frame_at_random(*kept, generator(seed, "framed")) for seed in (1, 1, 2))
    assert one.shape == clean.shape
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    same = [each[:1].expand(64, *each.shape[1:]) for each in kept]
    views = frame_at_random(*same, generator(3, "framed"))
    kinds = views.flatten(1).unique(dim=0)
    assert 40 < len(kinds) < 64  # a quarter are as posted
    assert 6 < int((views == posted[0]).flatten(1).all(dim=1).sum()) < 28


def test_clean_pictures_are_treated_as_poisoned_ones_are(kept):
    clean, _, chips, matrices = kept
    plain = frame_at_random(clean, clean, chips, matrices, generator(5, "framed"))
    poisoned = frame_at_random(*kept, generator(5, "framed"))
    gap = (poisoned.float() - plain.float()).abs().mean(dim=(1, 2, 3))
    assert (gap > 0.3).all()
    assert (gap < 6).all()  # the same window of both, and nothing between them but the poison
    edges = torch.ones(CROP - 2, CROP - 2, dtype=torch.bool)
    border = ~pad(edges, (1, 1, 1, 1))
    assert (plain[:, :, border].float().mean(dim=(1, 2)) > 1).all()  # no black beyond a picture


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_pictures_of_another_size_are_refused(wrong, kept):
    given = [each[..., :100, :100] if place == wrong else each for place, each in enumerate(kept[:3])]
    with pytest.raises(InputError, match=r"give uint8 \(24, 3, 1"):
        frame_at_random(*given, kept[3], generator(1))
