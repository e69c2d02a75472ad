"""What several studies stand on: the registered setting, the crowd, real people, and how tables are written."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fingerprint
from facepoison import experiment, shipped, timeline
from facepoison.adapt import poison_people
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.protocol import Data, Setting, choose, load_data, load_extractors, read_protocol


@dataclass(frozen=True)
class Run:
    """How a study runs.

    Attributes:
        command: What makes its results again, as their cards say.
        say: Receives lines on how it goes.
        scratch: Folder that long computations resume from.
    """

    command: str
    say: Callable[[str], None]
    scratch: Path


def registered() -> Setting:
    """The setting that the book's results are registered at."""
    return choose(**read_protocol()["registered"])


def crowd_setting() -> Setting:
    """The registered setting with the protocol's crowd as people, all of them users."""
    asked = read_protocol()["crowd"]
    return replace(registered(), people=asked["people"], per_person=asked["pictures"], n_users=asked["people"])


def crowd_posts(run: Run) -> tuple[Setting, Data, dict[str, experiment.Poisoned]]:
    """The crowd, and what each of it publishes by attack; resumes from files under ``run.scratch``."""
    setting = crowd_setting()
    data, networks = load_data(setting), load_extractors(setting)
    index = [data.gallery_of(user) for user in data.users]
    clean = torch.stack([data.pictures.pixels[places] for places in index])
    posted = {}
    for attack in read_protocol()["crowd"]["attacks"]:
        preset = experiment.PRESETS[attack]
        surrogates = [networks[name] for name in experiment.surrogates_of(setting, preset)]
        start = time.perf_counter()
        pixels = poison_people(
            clean, preset, surrogates, run.scratch / "crowd", setting.seed, run.say, public=data.public
        )
        seconds = time.perf_counter() - start
        posted[attack] = experiment.Poisoned(torch.cat(index), pixels.flatten(0, 1), data.users, seconds)
    return setting, data, posted


def post(
    run: Run, name: str, setting: Setting, preset: experiment.Preset, data: Data, networks: Mapping[str, Extractor]
) -> experiment.Poisoned:
    """What the users of a data set publish under a preset that is not among the protocol's attacks.

    A line tells of each user done, under a name.
    """
    parts = []
    for user in data.users:
        own = data.pictures.pixels[data.gallery_of(user)]
        parts.append(experiment.poison(setting, preset, own, networks, data.public))
        run.say(f"{name}: {len(parts)} of {len(data.users)} users")
    index = [data.gallery_of(user) for user in data.users]
    pixels = torch.cat([part.arrays["pixels"] for part in parts])
    return experiment.Poisoned(torch.cat(index), pixels, data.users, sum(part.seconds for part in parts))


def users_posts(
    run: Run, setting: Setting, attack: str, data: Data, networks: Mapping[str, Extractor]
) -> experiment.Poisoned:
    """What the users publish, with a line for each of them."""
    return experiment.poison_users(
        setting, attack, data, networks, lambda done, of: run.say(f"{attack}: {done} of {of} users")
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


def write(run: Run, name: str, rows: list[dict[str, Any]], asked: Mapping[str, object], began: shipped.Began) -> None:
    """Write a study's table: its rows, what the protocol asked, and what it began with."""
    shipped.write_table(name, rows, command=run.command, inputs=asked, began=began)


def script(
    about: str | None,
    studies: Sequence[Callable[..., object]],
    on_faces: Sequence[Callable[..., object]] = (),
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one of a file's studies, as the command line says.

    Args:
        about: What the file is on: its docstring.
        studies: Functions of a ``Run``, those on synthetic faces.
        on_faces: Functions of a ``Run`` and ``RealPeople``.
        arguments: By default those of the process.

    Returns:
        The exit status: 2 for what cannot be used, with one line that says why.
    """
    known = {study.__name__: study for study in (*studies, *on_faces)}
    parser = argparse.ArgumentParser(
        description=(about or "").splitlines()[0],
        epilog="\n".join(f"  {name}: {(study.__doc__ or '').splitlines()[0]}" for name, study in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=known, metavar="STUDY", help="one of those below")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    if on_faces:
        parser.add_argument("--faces", type=Path, help="folder of real people, a sub-folder each")
        parser.add_argument("--source", default="", help="what these pictures are, in words")
        parser.add_argument("--extractors", type=Path, help="folder of extractors [default: models beside the faces]")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    study = known[given.study]
    command = f"python -m studies.{Path(inspect.getfile(study)).stem} {given.study}"
    run = Run(command, lambda line: print(line, flush=True), fingerprint.LIB.parent / "_build" / "training")
    try:
        if study not in on_faces:
            study(run)
        elif given.faces is None or not given.source:
            raise InputError(f"study {given.study}: give --faces FOLDER and --source 'what they are'")
        else:
            people = real_people(given.faces, given.source, given.extractors)
            study(replace(run, command=f"{command} --faces FOLDER"), people)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
