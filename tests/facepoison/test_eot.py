from dataclasses import replace

import pytest
import torch
from tiny import tiny_extractor, tiny_pictures

from facepoison.attacks.eot import eot_surrogate
from facepoison.attacks.lowkey import LOWKEY_MSE, lowkey
from facepoison.errors import InputError
from facepoison.extractors import embed
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures import resize
from facepoison.pictures.synthetic import make_pictures


def test_changes_differ_from_call_to_call_and_by_seed_and_repeat_after_a_restart():
    extractor, pictures = tiny_extractor(), torch.rand(2, 3, 24, 24)
    surrogate = eot_surrogate(extractor, 1)
    first, second = surrogate(pictures), surrogate(pictures)
    assert not torch.equal(first, second)
    assert not torch.equal(first, eot_surrogate(extractor, 2)(pictures))
    surrogate.network.restart()
    assert torch.equal(first, surrogate(pictures))
    assert torch.equal(second, surrogate(pictures))


def test_another_rounding_of_the_pictures_meets_the_same_changes():
    extractor, pictures = tiny_extractor(), torch.rand(2, 3, 24, 24)
    before, after = eot_surrogate(extractor, 1)(pictures), eot_surrogate(extractor, 1)(pictures + 1e-7)
    assert (after - before).norm() < 1e-3 * before.norm()


def test_an_attack_begins_anew_whatever_its_surrogate_saw_before():
    surrogate, pixels = eot_surrogate(tiny_extractor(), 1), tiny_pictures(2)
    preset = replace(LOWKEY_MSE, steps=3)
    first = lowkey(pixels, [surrogate], preset, seed=1)
    assert torch.equal(first, lowkey(pixels, [surrogate], preset, seed=1))


def test_hardened_poison_survives_shrinking_better():
    extractor, pixels = load_extractor("cosface_2018", "cpu"), make_pictures("hardened", 6, 1, 64, 1).pixels
    preset = replace(LOWKEY_MSE, blur_size=1)  # without the blurred copy, LowKey's own way to survive

    def left(surrogate):
        poisoned = lowkey(pixels, [surrogate], preset, seed=1)
        shrunk = resize(resize(poisoned, 32), 64)
        return float((embed(extractor, pixels) * embed(extractor, shrunk)).sum(1).mean())

    assert left(eot_surrogate(extractor, 1)) < left(extractor) - 0.1


def test_a_surrogate_without_room_is_refused():
    extractor = tiny_extractor()
    extractor.contract = replace(extractor.contract, size=4)
    with pytest.raises(InputError, match="too small to be moved"):
        eot_surrogate(extractor, 1)
