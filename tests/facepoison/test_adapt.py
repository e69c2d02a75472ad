from dataclasses import replace

import torch
from tiny import tiny_extractor

from facepoison import adapt
from facepoison.device import generator
from facepoison.experiment import craft
from facepoison.pictures import Pictures
from facepoison.poisons.lowkey import LOWKEY


def test_people_are_poisoned_as_users_are_and_a_killed_run_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(adapt, "SHARD", 2)
    pixels = torch.randint(0, 256, (5, 3, 3, 16, 16), generator=generator(0), dtype=torch.uint8)
    public = Pictures(pixels[:, 0], torch.arange(5), tuple("abcde"))
    preset, surrogates = replace(LOWKEY, steps=2, extractors=1), [tiny_extractor(1)]
    said = []

    def made(what):
        return adapt.poison_people(what, preset, surrogates, tmp_path, 1, said.append, public=public)

    whole = made(pixels)
    assert whole.shape == pixels.shape
    assert torch.equal(whole[3], craft(preset, pixels[3], surrogates, public, 1))
    assert len(said) == 3
    shards = sorted(tmp_path.rglob("*.safetensors"))
    shards[1].unlink()
    assert torch.equal(made(pixels), whole)
    assert len(said) == 4
    other = pixels.clone()
    other[0] = 90  # other people's poison is never taken for theirs
    assert not torch.equal(made(other)[0], whole[0])
    assert len(said) == 5
