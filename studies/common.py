"""What several studies stand on: the registered setting, the crowd, real people, and how tables are written."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fingerprint
from facepoison import outcomes, poisoning, shipped, timeline
from facepoison.attacks.base import Attack
from facepoison.attacks.people import poison_people
from facepoison.attacks.presets import find_attack
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import find_entry, load_extractor
from facepoison.outcomes import Key
from facepoison.pictures import Pictures
from facepoison.pictures.chips import carry_over, read_chips
from facepoison.pictures.folders import list_files, read_folder
from facepoison.pictures.splits import first_users, split
from facepoison.protocol import Data, Setting, choose, load_data, load_extractors, registered
from facepoison.shards import Pool, cluster, processes

SCRATCH = fingerprint.LIB.parent / "_build" / "training"
"""Where long computations keep what they resume from."""
AT_ONCE = 0.5  # seconds that a shard takes at most which was cached


@dataclass(frozen=True)
class Run:
    """How a study runs.

    Attributes:
        command: What makes its results again, as their cards say.
        say: Receives lines on how it goes.
        scratch: Folder that long computations resume from.
        pool: Who computes what consists of independent shards; by default this process, one after the other.
        setting: The registered one, which holds the protocol.
    """

    command: str
    say: Callable[[str], None]
    scratch: Path
    pool: Pool | None = None
    setting: Setting = field(default_factory=registered)


def crowd_setting(setting: Setting) -> Setting:
    """A setting with the protocol's crowd as people, all of them users."""
    asked = setting.protocol["crowd"]
    return replace(setting, people=asked["people"], per_person=asked["pictures"], n_users=asked["people"])


def crowd_poisons(run: Run, attack: Attack, users: int | None = None) -> Pictures:
    """All pictures of the first users of the crowd, by default of everybody, poisoned, user by user."""
    setting = crowd_setting(run.setting)
    data, networks = load_data(setting), load_extractors(setting)
    people = data.pictures.identities
    places = torch.cat([(people == user).nonzero().flatten() for user in data.users[:users]])
    return poisoned(run, attack, data.pictures.take(places), setting, networks, data.public)


def at_gallery(data: Data, posts: Pictures) -> Pictures:
    """Of what users post, all of their pictures, the part that the trainer finds in the gallery."""
    places = [(data.pictures.identities == user).nonzero().flatten() for user in posts.people]
    return posts.take(torch.isin(torch.cat(places), data.gallery))


def crowd_posts(run: Run) -> tuple[Setting, Data, dict[str, Pictures]]:
    """The crowd, and by attack what the trainer finds of it."""
    setting = crowd_setting(run.setting)
    data, attacks = load_data(setting), run.setting.protocol["crowd"]["attacks"]
    return setting, data, {name: at_gallery(data, crowd_poisons(run, find_attack(name))) for name in attacks}


def users_posts(
    run: Run, setting: Setting, attack: Attack, data: Data, networks: Mapping[str, Extractor], title: str = ""
) -> Pictures:
    """What the users publish, all of it made here, with a line now and then under a name, by default the attack's."""
    return poisoned(run, attack, data.to_publish(data.users), setting, networks, data.public, title)


def poisoned(
    run: Run,
    attack: Attack,
    people: Pictures,
    setting: Setting,
    networks: Mapping[str, Extractor],
    public: Pictures,
    title: str = "",
) -> Pictures:
    """People's pictures, poisoned on a setting's surrogates with its seed; see ``poison_people``."""
    surrogates = [networks[name] for name in poisoning.surrogates_of(setting, attack)]
    progress = counting(run, title or attack.title, "pictures")
    return poison_people(attack, people, surrogates, seed=setting.seed, public=public, progress=progress, pool=run.pool)


def counting(run: Run, what: str, unit: str, clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    """What tells a run how much of a long computation is done, and how many minutes are left at the pace so far.

    What comes at once was cached, and says nothing of the pace.
    """
    since, before, last = clock(), 0, clock()

    def progress(done: int, of: int) -> None:
        nonlocal since, before, last
        now = clock()
        if now - last < AT_ONCE and last == since:
            since, before = now, done
        last = now
        left = (now - since) / (done - before) * (of - done) / 60 if done > before else 0
        run.say(f"{what}: {done} of {of} {unit}" + (f", {left:.1f} min left" if left >= 0.05 else ""))

    return progress


@dataclass(frozen=True)
class RealPeople:
    """Real people and other people's extractors, of whom studies keep numbers only.

    Attributes:
        setting: Of the study.
        data: Their pictures.
        extractors: By name, in order of years.
        said: What a study's card says of them.
        chips: All pictures as ``pictures.chips`` cuts them out, and for each the similarity from the aligned crop; none
            where no extractor wants them.
    """

    setting: Setting
    data: Data
    extractors: dict[str, Extractor]
    said: dict[str, object]
    chips: tuple[Tensor, Tensor] | None = None

    def seen_by(self, extractor: Extractor, posts: Pictures) -> tuple[Data, Pictures]:
        """The data as an extractor wants faces cut out, and so what users post of it: all of their gallery pictures."""
        if extractor.contract.alignment != "dlib" or self.chips is None:
            return self.data, posts
        chips, matrices = self.chips
        places = torch.cat([self.data.gallery_of(user) for user in posts.people])
        carried = carry_over(chips[places], self.data.pictures.pixels[places], posts.pixels, matrices[places])
        return replace(self.data, pictures=replace(self.data.pictures, pixels=chips)), replace(posts, pixels=carried)


def real_people(like: Setting, faces: Path, source: str, extractors: Path | None = None) -> RealPeople:
    """The people of a folder, as a setting would take them.

    Args:
        like: The setting.
        faces: Folder of pictures, a sub-folder for each person.
        source: What these pictures are, in words.
        extractors: Folder of extractors, if not ``models`` beside the pictures.

    Raises:
        InputError: there is no such folder, or no extractor.
    """
    setting = choose(like.profile, str(faces), like.seed, str(extractors) if extractors else "")
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


def photographed(like: Setting, folders: Sequence[Path], source: str, extractors: Path | None = None) -> RealPeople:
    """The people of folders, as a setting would take them.

    Users are all who have as many pictures as the protocol's ``photographs`` wants of a user; everybody else is the
    crowd, whose gallery pictures are the public ones that anybody can have.

    Args:
        like: The setting.
        folders: Of pictures, a sub-folder for each person, who is in one of them only.
        source: What these pictures are, in words.
        extractors: Folder of extractors, if not ``models`` beside the pictures.

    Raises:
        InputError: there is no such folder, or no extractor, or somebody is in two folders, or all or none are users.
    """
    setting = choose(like.profile, str(folders[0]), like.seed, str(extractors) if extractors else "")
    if setting.extractors is None:
        raise InputError(f"{folders[0]}: no folder 'models' beside it: give one of extractors")
    parts = [read_folder(folder) for folder in folders]
    everybody = together([pictures for pictures, _ in parts])
    cut = [read_chips(folder, report) for folder, (_, report) in zip(folders, parts, strict=True)]
    chips, matrices = map(torch.cat, zip(*cut, strict=True))
    least, counts = like.protocol["photographs"]["user_pictures"], everybody.identities.bincount()
    order = first_users(everybody, len(counts), setting.seed)
    users = tuple(who for who in order if counts[who] >= least)
    if not 0 < len(users) < len(counts):
        raise InputError(
            f"{folders[0]}: {len(users)} of {len(counts)} people have {least} pictures: give some who have"
        )
    gallery, probes = split(everybody, setting.seed, setting.gallery_share)
    crowd = everybody.take(gallery[counts[everybody.identities[gallery]] < least])
    data = Data(everybody, gallery, probes, users, {}, crowd)
    setting = replace(setting, n_users=len(users))
    said = {
        "source": source,
        "people": len(counts),
        "pictures": everybody.pixels,
        "users": len(users),
        "surrogates": setting.surrogates,
        "same bytes": same_bytes(folders),
    }
    fetched = {name: load_extractor(name) for name in like.protocol["photographs"]["fetched"]}
    networks = fetched | timeline.timeline(setting)
    said["extractors"] = {name: network.sha256 for name, network in networks.items()}
    by_year = dict(sorted(networks.items(), key=lambda item: (find_entry(item[0]).year, item[0])))
    return RealPeople(setting, data, by_year, said, (chips, matrices))


def together(parts: Sequence[Pictures]) -> Pictures:
    """The pictures of several folders as of one.

    Raises:
        InputError: somebody is in two of them.
    """
    names = [name for part in parts for name in part.names]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{min(twice)}: is in two of the folders: give everybody in one of them")
    first = torch.tensor([0, *(len(part.names) for part in parts[:-1])]).cumsum(0).tolist()
    identities = torch.cat([part.identities + start for part, start in zip(parts, first, strict=True)])
    return Pictures(torch.cat([part.pixels for part in parts]), identities, tuple(names))


def same_bytes(folders: Sequence[Path]) -> int:
    """How many files of folders have the bytes of another one there."""
    hashes = [fingerprint.of_file(path) for folder in folders for _, path in list_files(folder)]
    return len(hashes) - len(set(hashes))


def write(
    run: Run, name: str, rows: list[dict[str, Any]], asked: Mapping[str, object], began: shipped.Provenance
) -> None:
    """Write a study's table: its rows, what the protocol asked, and what it began with."""
    shipped.write_table(name, rows, command=run.command, inputs=asked, began=began)


def keep(
    run: Run, name: str, arrays: Mapping[Key, Tensor], asked: Mapping[str, object], began: shipped.Provenance
) -> None:
    """Write a study's raw outcomes, what the protocol asked, and what it began with."""
    outcomes.write_outcomes(name, arrays, command=run.command, inputs=asked, began=began)


def pool_of(workers: int | None, scheduler: str | None) -> contextlib.AbstractContextManager[Pool | None]:
    """Who computes the shards of a study, as its command line says; None for the study's own process.

    Raises:
        InputError: there are to be no workers, or two kinds of them.
    """
    if scheduler:
        if workers is not None:
            raise InputError("--workers and --scheduler: give one of them; a cluster's workers are started there")
        return cluster(scheduler)
    if workers is None:  # a GPU is for one at a time
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = 1 if torch.cuda.is_available() else cores
    if workers < 1:
        raise InputError(f"--workers {workers}: give 1 or more")
    return processes(workers) if workers > 1 else contextlib.nullcontext()


def script(
    about: str | None,
    studies: Sequence[Callable[..., object]],
    on_faces: Sequence[Callable[..., object]] = (),
    on_crowds: Sequence[Callable[..., object]] = (),
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one of a file's studies, as the command line says.

    Args:
        about: What the file is on: its docstring.
        studies: Functions of a ``Run``, those on synthetic faces.
        on_faces: Functions of a ``Run`` and ``RealPeople``, ten of them users.
        on_crowds: The same, everybody a user who has pictures enough.
        arguments: By default those of the process.

    Returns:
        The exit status: 2 for what cannot be used, with one line that says why.
    """
    known = {study.__name__: study for study in (*studies, *on_faces, *on_crowds)}
    parser = argparse.ArgumentParser(
        description=(about or "").splitlines()[0],
        epilog="\n".join(f"  {name}: {(study.__doc__ or '').splitlines()[0]}" for name, study in known.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=known, metavar="STUDY", help="one of those below")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process [default: 1]")
    parser.add_argument(
        "--workers", type=int, help="processes that share the work [default: one for each core; one with a GPU]"
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that does the work instead")
    if on_faces or on_crowds:
        parser.add_argument("--faces", type=Path, nargs="+", help="folders of real people, a sub-folder each")
        parser.add_argument("--source", default="", help="what these pictures are, in words")
        parser.add_argument("--extractors", type=Path, help="folder of extractors [default: models beside the faces]")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    name = Path(inspect.getfile(known[given.study])).stem
    command = f"python -m studies.{name} {given.study}"
    # under its own name, where other processes find what it is made of, and not that of the script that is run
    study = getattr(importlib.import_module(f"studies.{name}"), given.study)
    try:
        with pool_of(given.workers, given.scheduler) as pool:
            run = Run(command, lambda line: print(line, flush=True), SCRATCH, pool)
            if known[given.study] in studies:
                study(run)
            elif given.faces is None or not given.source:
                raise InputError(f"study {given.study}: give --faces FOLDER... and --source 'what they are'")
            else:
                people = (
                    photographed(run.setting, given.faces, given.source, given.extractors)
                    if known[given.study] in on_crowds
                    else real_people(run.setting, given.faces[0], given.source, given.extractors)
                )
                study(replace(run, command=f"{command} --faces FOLDER..."), people)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
