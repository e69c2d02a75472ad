from dataclasses import replace

import pytest
import torch
from tiny import tiny_extractor

from facepoison.errors import InputError
from facepoison.extractors import embed
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures import resize
from facepoison.pictures.procedural import make_pictures
from facepoison.poisons.hardened import hardened
from facepoison.poisons.lowkey import LOWKEY, lowkey


def test_changes_repeat_and_are_others_for_another_seed_or_batch():
    extractor, pictures = tiny_extractor(), torch.rand(2, 3, 24, 24)
    surrogate = hardened(extractor, 1)
    first = surrogate(pictures)
    assert torch.equal(first, surrogate(pictures))
    assert not torch.equal(first, hardened(extractor, 2)(pictures))
    nearly = surrogate(pictures + 1e-6)
    assert (nearly - first).norm() > 10 * (extractor(pictures + 1e-6) - extractor(pictures)).norm()


def test_hardened_poison_survives_shrinking_better():
    extractor, pixels = load_extractor("cosface_2018", "cpu"), make_pictures("hardened", 6, 1, 64, 1).pixels
    preset = replace(LOWKEY, blur_size=1)  # without the blurred copy, LowKey's own way to survive

    def left(surrogate):
        poisoned = lowkey(pixels, [surrogate], preset, seed=1)
        shrunk = resize(resize(poisoned, 32), 64)
        return float((embed(extractor, pixels) * embed(extractor, shrunk)).sum(1).mean())

    assert left(hardened(extractor, 1)) < left(extractor) - 0.1


def test_a_surrogate_without_room_is_refused():
    extractor = tiny_extractor()
    extractor.contract = replace(extractor.contract, size=4)
    with pytest.raises(InputError, match="too small to be moved"):
        hardened(extractor, 1)
