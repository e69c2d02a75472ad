"""What several studies stand on: the registered setting, the crowd, real people, and how tables are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from facepoison import experiment, shipped, timeline
from facepoison.adapt import poison_people
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.protocol import Data, Setting, choose, load_data, load_extractors, read_protocol

Say = Callable[[str], None]


def registered() -> Setting:
    """The setting that the book's results are registered at."""
    return choose(**read_protocol()["registered"])


def crowd_setting() -> Setting:
    """The registered setting with the protocol's crowd as people, all of them users."""
    asked = read_protocol()["crowd"]
    return replace(registered(), people=asked["people"], per_person=asked["pictures"], n_users=asked["people"])


def crowd_posts(say: Say, scratch: Path) -> tuple[Setting, Data, dict[str, experiment.Poisoned]]:
    """The crowd, and what each of it publishes by attack; resumes from files under ``scratch``."""
    setting = crowd_setting()
    data, networks = load_data(setting), load_extractors(setting)
    index = [data.gallery_of(user) for user in data.users]
    clean = torch.stack([data.pictures.pixels[places] for places in index])
    posted = {}
    for attack in read_protocol()["crowd"]["attacks"]:
        preset = experiment.PRESETS[attack]
        surrogates = [networks[name] for name in experiment.surrogates_of(setting, preset)]
        start = time.perf_counter()
        pixels = poison_people(clean, preset, surrogates, scratch / "crowd", setting.seed, say, public=data.public)
        seconds = time.perf_counter() - start
        posted[attack] = experiment.Poisoned(torch.cat(index), pixels.flatten(0, 1), data.users, seconds)
    return setting, data, posted


def post(
    say: Say, name: str, setting: Setting, preset: experiment.Preset, data: Data, networks: Mapping[str, Extractor]
) -> experiment.Poisoned:
    """What the users of a data set publish under a preset that is not among the protocol's attacks.

    ``say`` is told of each user done, under a name.
    """
    parts = []
    for user in data.users:
        own = data.pictures.pixels[data.gallery_of(user)]
        parts.append(experiment.poison(setting, preset, own, networks, data.public))
        say(f"{name}: {len(parts)} of {len(data.users)} users")
    index = [data.gallery_of(user) for user in data.users]
    pixels = torch.cat([part.arrays["pixels"] for part in parts])
    return experiment.Poisoned(torch.cat(index), pixels, data.users, sum(part.seconds for part in parts))


def users_posts(
    say: Say, setting: Setting, attack: str, data: Data, networks: Mapping[str, Extractor]
) -> experiment.Poisoned:
    """What the users publish, with a line for each of them."""
    return experiment.poison_users(
        setting, attack, data, networks, lambda done, of: say(f"{attack}: {done} of {of} users")
    )


@dataclass(frozen=True)
class RealPeople:
    """Real people and other people's extractors, of whom studies keep numbers only.

    Attributes:
        setting: Of the study.
        data: Their pictures.
        extractors: By name, in order of years.
        said: What a study's card says of them.
    """

    setting: Setting
    data: Data
    extractors: dict[str, Extractor]
    said: dict[str, object]


def real_people(faces: Path, source: str, extractors: Path | None = None) -> RealPeople:
    """The people of a folder, as the registered setting would take them.

    Args:
        faces: Folder of pictures, a sub-folder for each person.
        source: What these pictures are, in words.
        extractors: Folder of extractors, if not ``models`` beside the pictures.

    Raises:
        InputError: there is no such folder, or no extractor.
    """
    registry = read_protocol()["registered"]
    setting = choose(registry["profile"], str(faces), registry["seed"], str(extractors) if extractors else "")
    if setting.extractors is None:
        raise InputError(f"{faces}: no folder 'models' beside it: give one of extractors")
    data = load_data(setting)
    said = {
        "source": source,
        "people": len(data.pictures.names),
        "pictures": data.pictures.pixels,
        "users": len(data.users),
        "surrogates": setting.surrogates,
    }
    return RealPeople(setting, data, timeline.timeline(setting), said)


def write(
    name: str,
    rows: list[dict[str, Any]],
    asked: Mapping[str, object],
    began: shipped.Began,
    command: str = "",
) -> None:
    """Write a study's table: its rows, what the protocol asked, and what it began with."""
    command = command or f"python -m facepoison study {name}"
    shipped.write_table(name, rows, command=command, inputs=asked, began=began)
