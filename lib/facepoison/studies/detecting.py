"""Studies of detection: whether poison is recognised as poison, and what a trainer does with that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from facepoison import experiment
from facepoison.adapt import poison_people
from facepoison.extractors.catalog import load_extractor
from facepoison.pictures import Pictures
from facepoison.protocol import load_data, made_people, read_protocol
from facepoison.studies.common import Say, crowd_setting, registered


def people_of(population: str) -> Pictures:
    """Clean pictures of one of the populations that only detection knows."""
    return made_people(registered(), population, *read_protocol()["detecting"][population])


def taught_poisons(say: Say, scratch: Path) -> dict[str, Tensor]:
    """By attack the poison that detectors learn from, uint8 (people, pictures of each, 3, H, W).

    Made on the trainer's surrogates, of the first of the people taught; resumes from files under ``scratch``.
    """
    asked, setting = read_protocol()["detecting"], registered()
    people, count = asked["taught"]
    clean = people_of("taught").pixels.view(people, count, 3, setting.size, setting.size)
    public = load_data(setting).public
    made = {}
    for attack in asked["attacks"]:
        preset, (n, each) = experiment.PRESETS[attack], asked["poisoned"][attack]
        surrogates = [load_extractor(name) for name in asked["surrogates"][: preset.extractors]]
        folder = scratch / "detecting"
        made[attack] = poison_people(clean[:n, :each], preset, surrogates, folder, setting.seed, say, public=public)
    return made


@dataclass(frozen=True)
class Posted:
    """What users post, all of their pictures poisoned, beside the pictures as they were taken.

    Attributes:
        people: Who is on them, int64 (N,).
        clean: uint8 (N, 3, H, W).
        poisoned: The same by one attack.
    """

    people: Tensor
    clean: Tensor
    poisoned: Tensor


def users_poisons(say: Say, scratch: Path) -> dict[str, Posted]:
    """By attack what the first of the crowd post, all of their pictures; weaker attacks by fewer of them.

    Made on the users' surrogates; resumes from files under ``scratch``.
    """
    asked, setting = read_protocol()["detecting"], crowd_setting()
    data = load_data(setting)
    posted = {}
    for attack in ("fawkes_v1_high", "lowkey", *asked["weaker"]):
        preset = experiment.PRESETS[attack]
        users = data.users[: asked["weaker_users" if attack in asked["weaker"] else "users"]]
        clean = torch.stack([data.pictures.of(user).pixels for user in users])
        surrogates = [load_extractor(name) for name in experiment.surrogates_of(setting, preset)]
        folder = scratch / "detecting"
        poisoned = poison_people(clean, preset, surrogates, folder, setting.seed, say, public=data.public)
        who = torch.tensor(users).repeat_interleave(clean.shape[1])
        posted[attack] = Posted(who, clean.flatten(0, 1), poisoned.flatten(0, 1))
    return posted
