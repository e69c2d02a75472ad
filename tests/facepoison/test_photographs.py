from dataclasses import replace

import pytest
import torch
from tiny import tiny_extractor

from facepoison.attacks.presets import ATTACKS
from facepoison.attacks.similarity import change
from facepoison.errors import InputError
from facepoison.evaluation import share
from facepoison.pictures import Pictures
from facepoison.pictures.chips import CHIP
from facepoison.pictures.duplicates import near_duplicates
from facepoison.pictures.splits import split
from facepoison.pictures.synthetic import make_pictures
from facepoison.protocol import Data, registered
from facepoison.timeline import accepted_pairs
from studies import photographs
from studies.common import RealPeople, Run, together

MATRIX = torch.tensor([[1.449450, -0.008045, -6.616013], [0.008045, 1.449450, -29.505945]])


@pytest.fixture(scope="module")
def faces():
    return make_pictures("tests", 6, 5, 112, seed=1)


@pytest.fixture
def data(faces):
    gallery, probes = split(faces, 1)
    crowd = faces.take((faces.identities > 1).nonzero().flatten())
    return Data(faces, gallery, probes, (1, 0), {}, crowd)


def test_people_of_two_folders_are_numbered_on_and_nobody_may_be_in_both(faces):
    first, second = faces.take((faces.identities < 2).nonzero().flatten()), make_pictures("others", 2, 1, 112, seed=1)
    both = together([replace(first, names=faces.names[:2]), second])
    assert both.names == (*faces.names[:2], *second.names)
    assert both.identities.tolist() == [0] * 5 + [1] * 5 + [2, 3]
    assert torch.equal(both.pixels[10:], second.pixels)
    with pytest.raises(InputError, match="is in two of the folders"):
        together([second, second])


def test_noise_is_as_loud_as_asked_on_black_and_white_too(faces):
    pixels = torch.cat([faces.pixels[:3], torch.zeros(1, 3, 112, 112, dtype=torch.uint8)])
    wanted = torch.tensor([30.0, 33.0, 27.0, 30.0])
    noised = photographs.noise_at(pixels, wanted, seed=1)
    assert torch.allclose(change(pixels, noised).psnr, wanted, atol=0.1)
    assert not torch.equal(noised, photographs.noise_at(pixels, wanted, seed=2))


def test_strangers_are_half_of_the_crowd_and_nowhere_in_the_open_set(data):
    out = photographs.strangers(data, 0.5, seed=1)
    who = data.pictures.identities
    gone = set(who[out].tolist())
    assert len(gone) == 2
    assert not gone & set(data.users)
    assert len(out) == 10
    few = photographs.without(data, out)
    assert set(who[few.gallery].tolist()) == set(who[few.probes].tolist()) == set(range(6)) - gone


def test_one_photograph_is_found_again_cut_and_encoded_anew_and_no_other_is(faces):
    moved = torch.roll(faces.pixels[4:5], (1, 1), (2, 3)) // 2 + 40
    twice = Pictures(torch.cat([faces.pixels, moved]), torch.cat([faces.identities, torch.tensor([3])]), faces.names)
    pairs = near_duplicates(twice, 0.97)  # synthetic faces are more alike than people
    assert [4, 30] in pairs.tolist()
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(near_duplicates(twice, 1.1)) == 0


def test_pairs_are_accepted_above_the_cosine_that_lets_through_a_share_of_others():
    angle = torch.tensor([0.0, 0.1, 1.0, 1.1, 2.0, 2.9])
    embeddings, who = torch.stack([angle.cos(), angle.sin()], dim=1), torch.tensor([0, 0, 1, 1, 2, 2])
    hits, people, threshold = accepted_pairs(embeddings, who, 0.0)
    assert people.tolist() == [0, 1, 2]
    assert hits.tolist() == [True, True, False]
    assert threshold == pytest.approx(torch.tensor(0.9).cos().item(), abs=1e-5)
    assert share(hits, people).value == pytest.approx(2 / 3)


def test_an_extractor_that_wants_chips_is_shown_chips_poison_and_all(data):
    chips = make_pictures("tests", 6, 5, 152, seed=1).pixels[..., :CHIP, :CHIP]
    found = RealPeople(registered(), data, {}, {}, (chips, MATRIX.expand(len(chips), 2, 3)))
    own = data.to_publish(data.users)
    posts = replace(own, pixels=own.pixels // 2)
    usual = tiny_extractor(0)
    assert found.seen_by(usual, posts) == (data, posts)
    dlibs = tiny_extractor(0)
    dlibs.contract = replace(dlibs.contract, alignment="dlib", size=CHIP)
    there, theirs = found.seen_by(dlibs, posts)
    assert torch.equal(there.pictures.pixels, chips)
    places = torch.cat([data.gallery_of(user) for user in (1, 0)])
    assert theirs.identities.tolist() == [1] * 4 + [0] * 4
    assert torch.equal(found.seen_by(dlibs, own)[1].pixels, chips[places])
    darker = chips[places].float() - theirs.pixels.float()
    assert darker[:, :, 60:90, 60:90].mean() > 10


@pytest.mark.parametrize(("name", "dial"), [("lowkey_mse", "weight"), ("fawkes_v1_low", "threshold")])
def test_an_attack_is_brought_to_a_psnr_on_people_of_the_crowd(data, name, dial, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    setting = replace(registered(), surrogates=("tiny",))
    found = RealPeople(setting, data, {"tiny": tiny_extractor(0)}, {})
    attack = replace(ATTACKS[name], steps=15)
    usual = 32.0
    tuned = photographs.at_psnr(
        Run("", lambda line: None, tmp_path), found, attack, {"tuned_on": [2, 2], "psnr": usual}
    )
    assert getattr(tuned, dial) != getattr(attack, dial)
    assert replace(tuned, **{dial: getattr(attack, dial)}) == attack
    some = data.public.take(torch.tensor([0, 1, 4, 5]))
    poison = tuned(some.pixels, [found.extractors["tiny"]], seed=setting.seed, public=None)
    assert float(change(some.pixels, poison).psnr.median()) == pytest.approx(usual, abs=0.6)
