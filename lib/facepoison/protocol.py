"""The protocol: what ``data/protocol.toml`` fixes before any result is seen, made into pictures and extractors."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from facepoison import store
from facepoison.device import device_kind, versions
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing, embed
from facepoison.extractors.catalog import catalogue, load_extractor
from facepoison.pictures import Pictures
from facepoison.pictures.folders import read_folder
from facepoison.pictures.splits import first_users, split
from facepoison.pictures.synthetic import make_pictures
from fingerprint import LIB, of_file

PROTOCOL = LIB.parent / "data" / "protocol.toml"


@dataclass(frozen=True)
class Setting:
    """One run of the protocol: where its people come from and which extractors meet them.

    Attributes:
        profile: ``"fast"`` or ``"full"``.
        dataset: ``"procedural"``, or the folder of pictures.
        seed: The one seed that all randomness comes from.
        extractors: Folder of other people's extractors; None for the book's own.
        size: Height and width of the pictures.
        people: Identities to make; a folder brings its own.
        per_person: Pictures of each synthetic identity.
        n_users: How many identities poison, one at a time; of a folder at most: see ``part_people``.
        n_retrained: For how many of them the end-to-end recogniser is trained.
        n_trainings: How often that is repeated, where it is, to see the luck of training.
        live_users: How many users' pictures are poisoned by this run even where poisons come with the book.
        live_trained: Attacks against which those users' extractors are trained by this run all the same.
        gallery_share: Share of each identity's pictures that is in the gallery.
        undefended: Name of the trainer's extractor; it is never a surrogate.
        surrogates: Names of the extractors that poison is made on.
        attacks: Names of the attacks, all of which are run.
        retrained_attacks: Those that the end-to-end recogniser meets.
        top: Of how many candidates one must be right, in turn.
        protocol: The sections of the protocol, by name, for whatever else it fixes.
    """

    profile: str
    dataset: str
    seed: int
    extractors: Path | None
    size: int
    people: int
    per_person: int
    n_users: int
    n_retrained: int
    n_trainings: int
    live_users: int
    live_trained: tuple[str, ...]
    gallery_share: float
    undefended: str
    surrogates: tuple[str, ...]
    attacks: tuple[str, ...]
    retrained_attacks: tuple[str, ...]
    top: tuple[int, ...]
    protocol: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def made(self) -> bool:
        """Whether the people are the book's own."""
        return self.dataset == "procedural"

    @property
    def table(self) -> Path:
        """The CSV file that every answer to every probe is written to, under ``_build/tables``."""
        name = f"{self.profile}-{'made' if self.made else 'folder'}-{self.seed}.csv"
        return LIB.parent / "_build" / "tables" / name

    def ran_on(self) -> dict[str, object]:
        """What goes beside every number of this run; a folder is called ``folder`` and nothing more."""
        return {
            "profile": self.profile,
            "dataset": "procedural" if self.made else "folder",
            "seed": self.seed,
            "device": device_kind(),
            "versions": versions(),
            "protocol": of_file(PROTOCOL)[:12],
        }


def read_protocol() -> dict[str, Any]:
    """The protocol file as it stands; it comes with a checkout alone."""
    return tomllib.loads(store.from_checkout(PROTOCOL).read_text())


def choose(profile: str = "fast", dataset: str = "procedural", seed: int = 1, extractors: str = "") -> Setting:
    """The setting of a run from the four parameters that every chapter has.

    Args:
        profile: Scale of the run: a name under ``profiles`` in the protocol.
        dataset: ``"procedural"``, or a folder with a sub-folder of pictures for each person.
        seed: Any whole number.
        extractors: Folder with other people's extractors; empty takes ``models`` beside a folder of pictures where
            there is one, else the book's own.

    Raises:
        InputError: the profile or the data set is unknown, or a folder is not there.
    """
    protocol = read_protocol()
    if profile not in protocol["profiles"]:
        raise InputError(f"profile '{profile}' is unknown: use one of {', '.join(protocol['profiles'])}")
    made = dataset in protocol["datasets"]["builtin"]
    if not made and not Path(dataset).is_dir():
        raise InputError(f"data set '{dataset}' is neither procedural nor a folder: give a folder of people")
    beside = Path(dataset).parent / "models"
    folder = Path(extractors) if extractors else beside if not made and beside.is_dir() else None
    if folder is not None and not folder.is_dir():
        raise InputError(f"extractors '{extractors}' is no folder: give one that holds the model files, or nothing")
    scale = protocol["profiles"][profile]
    roles = protocol["extractors"]["procedural" if folder is None else "other"]
    return Setting(
        profile=profile,
        dataset=dataset,
        seed=seed,
        extractors=folder,
        size=scale["size"] if made else 112,
        people=scale["people"],
        per_person=scale["pictures"],
        n_users=scale["users" if made else "folder_users"],
        n_retrained=scale["retrained" if made else "folder_retrained"],
        n_trainings=protocol["recognisers"]["trainings" if made else "folder_trainings"],
        live_users=protocol["shipped"]["live_users"],
        live_trained=tuple(protocol["shipped"]["live_trained"]),
        gallery_share=protocol["split"]["gallery"],
        undefended=roles["undefended"],
        surrogates=tuple(roles["surrogates"]),
        attacks=tuple(protocol["attacks"]["names"]),
        retrained_attacks=tuple(protocol["attacks"]["retrained"]),
        top=tuple(protocol["recognisers"]["top"]),
        protocol=MappingProxyType(protocol),
    )


def registered() -> Setting:
    """The setting that the book's results are registered at."""
    return choose(**read_protocol()["registered"])


def trainers_own(setting: Setting) -> Setting:
    """The same setting with the surrogates that the trainer makes poison on to learn from: none of the users'."""
    study = "detecting" if setting.extractors is None else "detecting_real"
    return replace(setting, surrogates=tuple(setting.protocol[study]["surrogates"]))


def synthetic_people(setting: Setting, population: str, n: int, per_person: int, size: int | None = None) -> Pictures:
    """Pictures of synthetic people of one of the protocol's populations, rendered once and then cached."""
    label = setting.protocol["populations"][population]
    size = size or setting.size
    result = store.cached(
        "made",
        lambda: {
            "pixels": (made := make_pictures(label, n, per_person, size, setting.seed)).pixels,
            "identities": made.identities,
        },
        by=[make_pictures],
        population=label,
        n=n,
        per_person=per_person,
        size=size,
        seed=setting.seed,
    )
    names = tuple(f"{label}/{index:05d}" for index in range(n))
    return Pictures(result.arrays["pixels"], result.arrays["identities"], names)


@dataclass(frozen=True)
class Data:
    """The data set of a run, split.

    Attributes:
        pictures: All pictures, clean.
        gallery: Places of the trainer's pictures in them, int64.
        probes: Places of the pictures taken later, int64.
        users: The identities that poison, one at a time: the first of a list shuffled by seed, none dropped. In a
            folder those who have enough pictures stand first: see ``part_people``.
        skipped: How many files of a folder were skipped, by reason.
        public: Pictures of other people, whom anybody can have; numbered by themselves.
    """

    pictures: Pictures
    gallery: Tensor
    probes: Tensor
    users: tuple[int, ...]
    skipped: Mapping[str, int]
    public: Pictures

    def gallery_of(self, identity: int) -> Tensor:
        """Places of one identity's gallery pictures."""
        return self.gallery[self.pictures.identities[self.gallery] == identity]

    def probes_of(self, identity: int) -> Tensor:
        """Places of one identity's probes, in the order of their answers."""
        return self.probes[self.pictures.identities[self.probes] == identity]

    def to_publish(self, users: Iterable[int]) -> Pictures:
        """The clean gallery pictures of some users, user by user: what they would publish, did they not poison."""
        return self.pictures.take(torch.cat([self.gallery[:0], *(self.gallery_of(user) for user in users)]))

    def sides(self, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings (N, D) of all pictures, split: the gallery's, who is on them, the probes', who is on them."""
        identities = self.pictures.identities
        gallery, probes = self.gallery, self.probes
        return embeddings[gallery], identities[gallery], embeddings[probes], identities[probes]


def part_people(
    counts: Sequence[int], order: Sequence[int], *, least: int, most: int, share: float, source: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Who of a folder's people poisons, who is in the gallery besides, and whose pictures anybody can have.

    People stand in a line: first those who have enough pictures to be users, then the others, either in the order that
    is given. From its end the public people are taken, from its start the users; the crowd between them stays in the
    gallery and never poisons. As many as are public are left to it, or all but one user where people are few, since
    thresholds are set on its pictures. Where nobody has enough pictures, all count as having.

    Args:
        counts: Pictures of each person, (n,).
        order: All persons, 0 to n - 1, in an order drawn by seed.
        least: Pictures that a user has to have.
        most: Users at most, which is a matter of time.
        share: Of all people, who are to be public: above 0, below 1; rounded, but at least two.
        source: Where the people come from, for the error.

    Returns:
        Users, crowd and public people, each in the order of the line; everybody is in one of them.

    Raises:
        InputError: there are fewer than four people.

    Example:
        >>> from facepoison.protocol import part_people
        >>> part_people([3, 12, 4, 30, 2], [4, 3, 2, 1, 0], least=10, most=9, share=0.2, source="faces")
        ((3,), (1, 4), (2, 0))
    """
    n = len(order)
    if n < 4:
        raise InputError(
            f"{source}: {n} people with two pictures or more: give at least 4: one who poisons, one who does not, and "
            "two whom others can have pictures of"
        )
    line = sorted(order, key=lambda who: counts[who] < least)
    able = sum(counts[who] >= least for who in order) or n
    public = min(max(round(share * n), 2), n - 2)
    crowd = min(public, n - public - 1)
    users = min(most, able, n - public - crowd)
    return tuple(line[:users]), tuple(line[users : n - public]), tuple(line[n - public :])


def _only(pictures: Pictures, people: Sequence[int]) -> Pictures:
    """All pictures of some people, who are numbered anew in the order of their old numbers."""
    kept = torch.tensor(sorted(people))
    some = pictures.take(torch.isin(pictures.identities, kept).nonzero().flatten())
    names = tuple(pictures.names[who] for who in kept.tolist())
    return Pictures(some.pixels, torch.searchsorted(kept, some.identities), names)


def load_data(setting: Setting, progress: Callable[[int, int], None] | None = None) -> Data:
    """The pictures of a run, with gallery, probes and users drawn by its seed.

    ``progress`` is told of every file of a folder that was read.

    Raises:
        InputError: a folder holds nothing that can be used.
    """
    others = setting.protocol["public"]
    if setting.made:
        pictures, skipped = synthetic_people(setting, "evaluation", setting.people, setting.per_person), {}
        public = synthetic_people(setting, "public", others["people"], others["pictures"])
        users = first_users(pictures, min(setting.n_users, setting.people), setting.seed)
    else:
        everybody, report = read_folder(Path(setting.dataset), progress=progress)
        parted = part_people(
            everybody.identities.bincount().tolist(),
            first_users(everybody, len(everybody.names), setting.seed),
            least=setting.protocol["photographs"]["user_pictures"],
            most=setting.n_users,
            share=others["folder_share"],
            source=setting.dataset,
        )
        pictures, public = _only(everybody, parted[0] + parted[1]), _only(everybody, parted[2])
        users = tuple(pictures.names.index(everybody.names[who]) for who in parted[0])
        skipped = report.counts()
    gallery, probes = split(pictures, setting.seed, setting.gallery_share)
    return Data(pictures, gallery, probes, users, skipped, public)


def look_closer(setting: Setting, data: Data, user: int) -> Data:
    """The same data, with as many probes of one synthetic user as the protocol wants to be looked at, for figures only.

    The further pictures are the next that the renderer makes of that person; they come last. A folder has no more.
    """
    missing = setting.protocol["split"]["looked_at"] - len(data.probes_of(user))
    if not setting.made or missing <= 0:
        return data
    own = setting.per_person
    label = setting.protocol["populations"]["evaluation"]
    more = make_pictures(label, 1, own + missing, setting.size, setting.seed, first=user).pixels[own:]
    n, pictures = len(data.pictures), data.pictures
    return replace(
        data,
        pictures=Pictures(
            torch.cat([pictures.pixels, more]),
            torch.cat([pictures.identities, torch.full((missing,), user)]),
            pictures.names,
        ),
        probes=torch.cat([data.probes, torch.arange(n, n + missing)]),
    )


def load_extractors(setting: Setting) -> dict[str, Extractor]:
    """The run's extractors by name, the undefended trainer's first, on the device that computes."""
    names = (setting.undefended, *setting.surrogates)
    return {name: load_extractor(name, folder=setting.extractors) for name in names}


def roles_of(setting: Setting, networks: Mapping[str, Extractor]) -> list[tuple[object, ...]]:
    """For each extractor: name, role, year, architecture and number of parameters."""
    entries = catalogue()

    def size(network: Extractor) -> str:  # a converted ONNX file keeps some of its weights as buffers
        return f"{sum(tensor.numel() for tensor in [*network.parameters(), *network.buffers()]) / 1e6:.2f} million"

    return [
        (
            name,
            "undefended trainer" if name == setting.undefended else "surrogate",
            entries[name].year,
            entries[name].architecture,
            size(network),
        )
        for name, network in networks.items()
    ]


def with_contract(extractor: Extractor, contract: Preprocessing) -> Extractor:
    """The same network under another preprocessing contract, to see what a wrong one does."""
    altered = Extractor(extractor.network, contract, name=f"{extractor.name}, fed otherwise", sha256=extractor.sha256)
    return altered.to(extractor.mean.device)


def embeddings(extractor: Extractor, pixels: Tensor) -> Tensor:
    """Unit-length embeddings (N, D) of uint8 pictures on the CPU, computed once and then cached."""
    result = store.cached(
        "embeddings",
        lambda: {"embeddings": embed(extractor, pixels)},
        by=[embed, load_extractor],
        extractor=extractor,
        pixels=pixels,
    )
    return result.arrays["embeddings"]


def paper_numbers() -> dict[str, dict[str, Any]]:
    """What the paper and its surroundings report, by id: statement, value, unit and evidence."""
    numbers = json.loads(store.from_checkout(PROTOCOL.parent / "paper.json").read_text())["numbers"]
    return {number["id"]: number for number in numbers}
