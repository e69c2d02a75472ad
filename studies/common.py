"""What several studies stand on: the registered setting, the crowd, real people, and how tables are written."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fingerprint
from facepoison import experiment, shipped, timeline
from facepoison.attacks.base import Attack
from facepoison.attacks.people import poison_people
from facepoison.attacks.presets import find_attack
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
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


def crowd_posts(run: Run) -> tuple[Setting, Data, dict[str, Pictures]]:
    """The crowd, and what each of it publishes by attack."""
    setting = crowd_setting()
    data, networks = load_data(setting), load_extractors(setting)
    attacks = read_protocol()["crowd"]["attacks"]
    return setting, data, {name: users_posts(run, setting, find_attack(name), data, networks) for name in attacks}


def users_posts(
    run: Run, setting: Setting, attack: Attack, data: Data, networks: Mapping[str, Extractor], called: str = ""
) -> Pictures:
    """What the users publish, all of it made here, with a line now and then under a name, by default the attack's."""
    return poisoned(run, attack, data.to_publish(data.users), setting, networks, data.public, called)


def poisoned(
    run: Run,
    attack: Attack,
    people: Pictures,
    setting: Setting,
    networks: Mapping[str, Extractor],
    public: Pictures,
    called: str = "",
) -> Pictures:
    """People's pictures, poisoned on a setting's surrogates with its seed; see ``poison_people``."""
    surrogates = [networks[name] for name in experiment.surrogates_of(setting, attack)]
    said = called or attack.title

    def progress(done: int, of: int) -> None:
        run.say(f"{said}: {done} of {of} pictures")

    return poison_people(attack, people, surrogates, seed=setting.seed, public=public, progress=progress)


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
