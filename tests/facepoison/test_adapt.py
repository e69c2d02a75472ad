import pytest
import torch
from tiny import Invert, tiny_extractor, tiny_pictures

from facepoison import adapt, shipped
from facepoison.device import generator
from facepoison.extractors import embed
from facepoison.fine_tuning import EndToEnd
from facepoison.pictures import Pictures
from facepoison.protocol import Data, choose


def test_a_small_training_poisons_the_first_public_people_and_keeps_everybodys_clean_pictures(monkeypatch, tmp_path):
    pixels = torch.randint(0, 256, (12, 3, 8, 8), generator=generator(0), dtype=torch.uint8)
    public = Pictures(pixels, torch.arange(4).repeat_interleave(3), tuple("abcd"))
    nobody = torch.zeros(0, dtype=torch.int64)
    data = Data(public, nobody, nobody, (), {}, public)
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(shipped.find, "__defaults__", (tmp_path,))
    networks, done = dict.fromkeys(choose().surrogates, tiny_extractor(0)), []
    given = (choose(), Invert(), data, networks, 2, 2)
    clean, poisoned = adapt.poison_public(*given, lambda *counts: done.append(counts))
    assert clean.identities.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(clean.pixels, pixels[[0, 1, 3, 4, 6, 7, 9, 10]])
    assert poisoned.identities.tolist() == [0, 0, 1, 1]
    assert torch.equal(poisoned.pixels, 255 - clean.pixels[:4])
    assert done == [(4, 4)]
    inputs = adapt.public_inputs(choose(), Invert(), networks, 2, 2)
    black = torch.zeros_like(poisoned.pixels)
    shipped.ship(adapt.public_file(choose(), Invert()), inputs, {"pixels": black}, 1.0, clean.pixels, tmp_path)
    _, taken = adapt.poison_public(*given)
    assert torch.equal(taken.pixels[:2], poisoned.pixels[:2])  # the live one
    assert not taken.pixels[2:].any()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_training_on_poison_undoes_it_and_training_on_clean_pictures_does_not(bfloat16, tmp_path, monkeypatch):
    """People differ in red; the poison exchanges red and blue, and only who has seen that looks at both."""
    stream = generator(2, "adapt people")

    def people(n):
        red = torch.linspace(20, 235, n).view(n, 1, 1, 1)
        noise = 6 * torch.randn(n, 6, 3, 24, 24, generator=stream)
        base = torch.stack([red, torch.full_like(red, 128), torch.full_like(red, 128)], dim=2)
        return (base + noise).clamp(0, 255).round().to(torch.uint8)

    def poison(pictures):
        return pictures.flip(2)

    def moved(extractor, pictures):
        flat = pictures.flatten(0, 1)
        return float((embed(extractor, flat) - embed(extractor, poison(pictures).flatten(0, 1))).norm(dim=1).mean())

    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    public, users = people(6), people(4)
    quick = EndToEnd("quick", draws=3200, batch=16, rate=1e-3, head_rate=3e-2, bfloat16=bfloat16)
    start = tiny_extractor(0)
    start.network.register_buffer("counted", torch.tensor(3))  # as batch normalisation has one
    clean, swapped = adapt.by_people(public), adapt.by_people(poison(public))
    seen = adapt.adversarial_fine_tuning(start, clean, {"swap": swapped}, quick, seed=1)
    control = adapt.adversarial_fine_tuning(start, clean, {}, quick, seed=1)
    assert moved(seen, users) < 0.7 * min(moved(start, users), moved(control, users))
    assert seen.name == "tiny 0 trained on swap"
    assert control.name == "tiny 0 trained on clean pictures"
    assert len({start.sha256, seen.sha256, control.sha256}) == 3


def test_a_training_is_kept_once_done_and_is_the_same_from_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    clean = adapt.by_people(torch.stack([tiny_pictures(4, seed=seed) for seed in range(3)]))
    quick = EndToEnd("quick", draws=64, batch=16)
    first = adapt.adversarial_fine_tuning(tiny_extractor(0), clean, {}, quick, seed=1)
    for_resuming = adapt.adversarial_fine_tuning(
        tiny_extractor(0), clean, {}, quick, seed=1, scratch=tmp_path / "half-way"
    )
    other = adapt.adversarial_fine_tuning(tiny_extractor(0), clean, {}, quick, seed=2)

    def never(*_, **__):
        raise AssertionError("trained once more")

    never.__module__ = adapt.fine_tune.__module__  # the key of what is cached names it
    monkeypatch.setattr(adapt, "fine_tune", never)
    again = adapt.adversarial_fine_tuning(tiny_extractor(0), clean, {}, quick, seed=1)
    assert first.sha256 == again.sha256 == for_resuming.sha256 != other.sha256
    assert torch.equal(embed(first, clean.pixels), embed(again, clean.pixels))
    assert not any(weight.requires_grad for weight in again.network.parameters())
