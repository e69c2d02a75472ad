"""The static game, played: each user in turn poisons the whole gallery, and the recogniser is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from facepoison import shipped, store
from facepoison.device import generator
from facepoison.end_to_end import EndToEndOutcome, end_to_end
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.fine_tuning import END_TO_END, EndToEnd, play_round
from facepoison.pictures import Pictures, resize
from facepoison.poisons.fawkes import FAWKES_V1_HIGH, FAWKES_V1_LOW, FAWKES_V1_MID, FawkesV1, fawkes_v1
from facepoison.poisons.fawkes_v03 import FAWKES_V03_HIGH, FawkesV03, fawkes_v03
from facepoison.poisons.lowkey import LOWKEY, LowKey, lowkey
from facepoison.poisons.similarity import change
from facepoison.protection import Answers, Protection, protection, write_table
from facepoison.protocol import Data, Setting, embeddings, read_protocol
from facepoison.recognition import Recogniser, linear_rounds
from fingerprint import LIB

Progress = Callable[[int, int], None]
Preset = FawkesV03 | FawkesV1 | LowKey

PRESETS: dict[str, Preset] = {
    "fawkes_v03_high": FAWKES_V03_HIGH,
    "fawkes_v1_low": FAWKES_V1_LOW,
    "fawkes_v1_mid": FAWKES_V1_MID,
    "fawkes_v1_high": FAWKES_V1_HIGH,
    "lowkey": LOWKEY,
}
"""Attacks by the name that the protocol gives them."""


@dataclass(frozen=True)
class Poisoned:
    """What the users of one attack publish.

    Attributes:
        index: Places of the poisoned pictures in the data set, int64, shape (M,).
        pixels: The poisoned pictures, uint8, shape (M, 3, H, W).
        users: Who poisoned them.
        seconds: Seconds that making them took, whenever and wherever that was.
        n_shipped: How many users' pictures come with the book; the others' were made by this run.
    """

    index: Tensor
    pixels: Tensor
    users: tuple[int, ...]
    seconds: float
    n_shipped: int = 0

    @property
    def source(self) -> Literal["computed here", "shipped"]:
        """Where the pictures come from: ``"shipped"`` as soon as one user's come with the book."""
        return "shipped" if self.n_shipped else "computed here"

    @property
    def seconds_each(self) -> float:
        """Seconds a picture."""
        return self.seconds / len(self.index)

    def of(self, user: int, identities: Tensor) -> Tensor:
        """The pictures of one user, by the identities of all pictures of the data set."""
        return self.pixels[identities[self.index] == user]


def find_preset(attack: str) -> Preset:
    """The preset of an attack by the protocol's name for it.

    Raises:
        InputError: there is no attack of that name.
    """
    if attack not in PRESETS:
        raise InputError(f"attack '{attack}' is unknown: use one of {', '.join(PRESETS)}")
    return PRESETS[attack]


def called(attack: str) -> str:
    """What tables call an attack: the preset's name, or what a study calls a variant that is no preset."""
    return PRESETS[attack].name if attack in PRESETS else attack


def surrogates_of(setting: Setting, preset: Preset) -> tuple[str, ...]:
    """Names of the surrogates that an attack is made on: as many as the original takes, or as there are."""
    return setting.surrogates[: preset.extractors]


METHODS: dict[type, Callable[..., Tensor]] = {FawkesV03: fawkes_v03, FawkesV1: fawkes_v1, LowKey: lowkey}
"""The function behind each kind of preset."""


def maker(preset: Preset, surrogates: Sequence[Extractor], public: Pictures, seed: int) -> partial[Tensor]:
    """The attack that a preset belongs to, ready for the pictures of one user, uint8 (N, 3, H, W)."""
    more = {"public": public} if isinstance(preset, FawkesV03) else {}
    return partial(METHODS[type(preset)], surrogates=surrogates, preset=preset, seed=seed, **more)


def decided_by(attack: partial[Tensor]) -> dict[str, Any]:
    """What decides a poison of ``maker`` besides the pictures, for ``store``: its code, and all that it was given."""
    return {"by": [attack.func, load_extractor], **attack.keywords}


def poison(
    setting: Setting, preset: Preset, pixels: Tensor, networks: Mapping[str, Extractor], public: Pictures
) -> store.Kept:
    """Poisoned pictures of one user, uint8 (N, 3, H, W) under ``"pixels"``, computed once and then kept.

    Args:
        setting: Gives the seed and the surrogates.
        preset: The attack.
        pixels: All pictures that the user publishes, uint8 (N, 3, H, W).
        networks: Extractors by name, the surrogates among them.
        public: Pictures of other people, for targeted attacks.
    """
    surrogates = [networks[name] for name in surrogates_of(setting, preset)]
    attack = maker(preset, surrogates, public, setting.seed)
    return store.remember(
        "poison",
        lambda: {"pixels": attack(pixels)},
        pixels=pixels,
        **decided_by(attack),
    )


def poison_users(
    setting: Setting,
    attack: str,
    data: Data,
    networks: Mapping[str, Extractor],
    progress: Progress | None = None,
    *,
    anew: bool = False,
) -> Poisoned:
    """Poison all gallery pictures of every user; an interrupted run goes on with the next user.

    Where the poisons of this setting come with the book, only those of the protocol's live users are made.

    Args:
        setting: The run.
        attack: Name of the attack.
        data: The pictures, and who the users are.
        networks: Extractors by name, the surrogates among them.
        progress: Told of every user done.
        anew: Make the poisons of all users, whatever comes with the book.
    """
    index = [data.gallery_of(user) for user in data.users]
    kept = None if anew else shipped.find(f"poison-{attack}", shipped_inputs(setting, attack, networks))
    posted = [data.pictures.pixels[own] for own in index]
    pixels, seconds, live = poison_each(setting, attack, posted, networks, data.public, kept, progress)
    return Poisoned(torch.cat(index), pixels, data.users, seconds, len(index) - live)


def poison_each(
    setting: Setting,
    attack: str,
    posted: Sequence[Tensor],
    networks: Mapping[str, Extractor],
    public: Pictures,
    kept: shipped.Shipped | None,
    progress: Progress | None = None,
) -> tuple[Tensor, float, int]:
    """Poison what each of several people posts: the protocol's live users of them where the others' come with the book.

    Args:
        setting: The run.
        attack: Name of the attack.
        posted: Each person's pictures, uint8 (N, 3, H, W).
        networks: Extractors by name, the surrogates among them.
        public: Pictures of other people, for targeted attacks.
        kept: What comes with the book, of all of them in this order; None to make all.
        progress: Told of every person done.

    Returns:
        All poisoned pictures, uint8 (M, 3, H, W), the seconds that they took, and how many people's were made here.
    """
    live = len(posted) if kept is None else min(setting.live_users, len(posted))
    parts: list[Tensor] = []
    seconds = 0.0
    for pixels in posted[:live]:
        made = poison(setting, find_preset(attack), pixels, networks, public)
        parts.append(made.arrays["pixels"])
        seconds += made.seconds
        if progress:
            progress(len(parts), live)
    if kept is not None:
        done = sum(len(pixels) for pixels in posted[:live])
        parts.append(kept.arrays["pixels"][done:])
        seconds += float(kept.card["seconds"]) * len(parts[-1]) / len(kept.arrays["pixels"])
    return torch.cat(parts), seconds, live


def made_here(data: Data, poisoned: Poisoned) -> Poisoned:
    """The part of what users publish that this run made, from its own pictures.

    What comes with the book was made from pictures that another machine drew: single values at the edges of faces may
    differ, which says nothing of the poison.
    """
    users = poisoned.users[: len(poisoned.users) - poisoned.n_shipped]
    own = torch.isin(data.pictures.identities[poisoned.index], torch.tensor(users))
    seconds = poisoned.seconds_each * int(own.sum())
    return Poisoned(poisoned.index[own], poisoned.pixels[own], users, seconds)


def poison_inputs(setting: Setting, attack: str, networks: Mapping[str, Extractor]) -> dict[str, object]:
    """What decides a poison of a setting whoever posts it, as cards of what comes with the book name it."""
    preset = find_preset(attack)
    return {
        "attack": attack,
        "preset": preset,
        "surrogates": {name: networks[name] for name in surrogates_of(setting, preset)},
        "dataset": setting.dataset if setting.made else "folder",
        "seed": setting.seed,
        "size": setting.size,
        "public": read_protocol()["public"] if isinstance(preset, FawkesV03) else None,
    }


def shipped_inputs(setting: Setting, attack: str, networks: Mapping[str, Extractor]) -> dict[str, object]:
    """What decides the poisons of a setting's users, as cards of shipped poisons name it."""
    users = {"people": setting.people, "per_person": setting.per_person, "users": setting.n_users}
    return poison_inputs(setting, attack, networks) | users


def play(
    data: Data, poisoned: Poisoned, extractor: Extractor, *, k: int = 1, recogniser: Recogniser = "nearest"
) -> Protection:
    """A round for each user: that user's gallery pictures poisoned, everybody else's clean, the user's probes asked.

    Args:
        data: Pictures, gallery, probes and users.
        poisoned: What the users publish instead of their gallery pictures.
        extractor: The trainer's.
        k: An answer is right if the true identity is among the ``k`` nearest, or most probable.
        recogniser: ``"nearest"`` neighbour or ``"linear"``, on the extractor's embeddings.
    """
    clean = embeddings(extractor, data.pictures.pixels)
    published = embeddings(extractor, poisoned.pixels)
    owner = data.pictures.identities[poisoned.index]
    by_user = {user: published[owner == user] for user in poisoned.users}
    return protection(*data.sides(clean), by_user, k=k, recogniser=recogniser, linear=_linear_kept)


def _linear_kept(
    gallery: Tensor, labels: Tensor, asked: Sequence[Tensor], poisoned: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """As ``recognition.linear_rounds``, computed once and then kept: it takes seconds for each attack and extractor."""
    kept = store.remember(
        "linear",
        lambda: dict(zip(("before", "after"), linear_rounds(gallery, labels, asked, poisoned), strict=True)),
        by=[linear_rounds],
        gallery=gallery,
        labels=labels,
        asked=list(asked),
        users=list(poisoned),
        poisoned=list(poisoned.values()),
    )
    return kept.arrays["before"], kept.arrays["after"]


def retrain(
    setting: Setting,
    data: Data,
    poisoned: Poisoned,
    extractor: Extractor,
    progress: Progress | None = None,
    *,
    training: int = 0,
    preset: EndToEnd = END_TO_END,
    known: Sequence[Pictures] = (),
    attack: str = "",
) -> EndToEndOutcome:
    """The rounds of the first users against a trainer who trains the extractor too, each training kept once done.

    Args:
        setting: Gives the seed and how many users.
        data: Pictures, gallery, probes and users.
        poisoned: What the users publish instead of their gallery pictures.
        extractor: The trainer's, where each training starts.
        progress: Told of each training done.
        training: Number of the training: another one differs in its random draws and in nothing else.
        preset: How to train.
        known: Poisoned pictures of people of the gallery, none of them a user, numbered alike, which the adaptive
            trainer has made and adds to the gallery.
        attack: Name of the attack, where rounds that come with the book may be taken instead of trained.
    """

    def play_kept(
        extractor: Extractor, gallery: Tensor, labels: Tensor, probes: Tensor, preset: EndToEnd, *, seed: int
    ) -> store.Arrays:
        return store.remember(
            "end-to-end",
            lambda: play_round(extractor, gallery, labels, probes, preset, seed=seed),
            by=[play_round, load_extractor],
            extractor=extractor,
            gallery=gallery,
            labels=labels,
            probes=probes,
            preset=preset,
            seed=seed,
        ).arrays

    identities = data.pictures.identities
    published = {user: poisoned.of(user, identities) for user in poisoned.users[: setting.n_retrained]}
    played = {}
    if attack:
        kept = shipped.find(
            rounds_file(attack, training), rounds_inputs(setting, attack, published, extractor, preset, training)
        )
        played = {} if kept is None else rounds_left(setting, attack, training, tuple(published), kept.arrays)
    seed = training_seed(setting, training)
    gallery, labels, probes, asked = data.sides(data.pictures.pixels)
    gallery = torch.cat([gallery, *(each.pixels for each in known)])
    labels = torch.cat([labels, *(each.identities for each in known)])
    return end_to_end(
        extractor,
        gallery,
        labels,
        probes,
        asked,
        published,
        preset,
        seed=seed,
        progress=progress,
        play=play_kept,
        played=played,
    )


def training_seed(setting: Setting, training: int) -> int:
    """The seed of all end-to-end rounds of a training by its number."""
    return generator(setting.seed, "end to end", training).initial_seed()


def rounds_file(attack: str, training: int) -> str:
    """Name of the file of end-to-end rounds that come with the book, without ending."""
    return f"rounds-{attack}-{training}"


def rounds_inputs(
    setting: Setting,
    attack: str,
    published: Mapping[int, Tensor],
    extractor: Extractor,
    preset: EndToEnd,
    training: int,
) -> dict[str, object]:
    """What decides end-to-end rounds that come with the book, as their cards name it.

    Of what users publish only those are described whose poison comes with the book too: what a live user's pictures
    are to the last level depends on the machine.
    """
    return {
        "attack": attack,
        "training": training,
        "preset": preset,
        "extractor": extractor,
        "dataset": setting.dataset if setting.made else "folder",
        "seed": setting.seed,
        "size": setting.size,
        "people": setting.people,
        "per_person": setting.per_person,
        "gallery": setting.gallery_share,
        "users": list(published),
        "published": list(published.values())[setting.live_users :],
    }


def rounds_packed(rounds: Mapping[int | None, store.Arrays]) -> store.Arrays:
    """End-to-end rounds as arrays with one name each, to come with the book; ``rounds_left`` takes them apart."""
    return {
        f"{'clean' if user is None else user}-{label}": array.to(torch.int16) if label == "gallery" else array
        for user, answers in rounds.items()
        for label, array in answers.items()
    }


def rounds_left(
    setting: Setting, attack: str, training: int, users: Sequence[int], packed: store.Arrays
) -> dict[int | None, store.Arrays]:
    """The rounds that are taken from what comes with the book: all but the clean and the live users' first training."""
    trained = attack in setting.live_trained and training == 0
    left: list[int | None] = list(users[setting.live_users :]) if trained else [None, *users]
    names = {user: "clean" if user is None else str(user) for user in left}
    return {
        user: {"distance": packed[f"{name}-distance"], "gallery": packed[f"{name}-gallery"].long()}
        for user, name in names.items()
    }


def carried_over(extractor: Extractor, clean: Tensor, poisoned: Tensor) -> Tensor:
    """Cosine between each poisoned picture and the picture that it was made from, float32 (M,): 1 where nothing moved.

    On a surrogate this is what the attack pushes down; on another extractor, what of that carries over.

    Args:
        extractor: Whose embeddings are compared.
        clean: uint8 (M, 3, H, W).
        poisoned: Their counterparts.
    """
    return (embeddings(extractor, clean) * embeddings(extractor, poisoned)).sum(dim=1)


class Cosines(NamedTuple):
    """Cosines between pictures and their poisons, float (N,) each.

    Attributes:
        surrogates: On a setting's surrogates, the mean over them.
        undefended: On the undefended trainer's extractor.
        halved: On that one, after the poison was halved in size and enlarged again.
    """

    surrogates: Tensor
    undefended: Tensor
    halved: Tensor


def cosines(setting: Setting, networks: Mapping[str, Extractor], clean: Tensor, poisoned: Tensor) -> Cosines:
    """How far pictures were moved, on the extractors that matter to a user; see ``carried_over``."""
    trainer = networks[setting.undefended]
    size = poisoned.shape[-1]
    own = [carried_over(networks[name], clean, poisoned) for name in setting.surrogates]
    halved = resize(resize(poisoned, size // 2), size)
    return Cosines(
        torch.stack(own).mean(dim=0), carried_over(trainer, clean, poisoned), carried_over(trainer, clean, halved)
    )


def shipped_gap(
    setting: Setting, data: Data, poisoned: Mapping[str, Poisoned], networks: Mapping[str, Extractor]
) -> float:
    """Largest difference in mean PSNR (dB) between live users' pictures as made here and as they come with the book.

    0 where none come with it.
    """
    gaps = [0.0]
    for attack, posts in poisoned.items():
        kept = shipped.find(f"poison-{attack}", shipped_inputs(setting, attack, networks))
        if kept is not None:
            live = torch.isin(data.pictures.identities[posts.index], torch.tensor(posts.users[: setting.live_users]))
            clean = data.pictures.pixels[posts.index[live]]
            here, there = (change(clean, pixels[live]).psnr.mean() for pixels in (posts.pixels, kept.arrays["pixels"]))
            gaps.append(abs(float(here - there)))
    return max(gaps)


def decisions(data: Data, poisoned: Poisoned, extractor: Extractor, user: int) -> list[tuple[str, ...]]:
    """For each clean probe of a user: number, whom it was taken for, that distance, and the one to the user's poison.

    People are numbered, not named: they may be real.
    """
    identities = data.pictures.identities
    own = play(data, poisoned, extractor).poisoned
    asked = own.user == user
    probes = data.probes[own.probe[asked]]
    published = embeddings(extractor, poisoned.of(user, identities))
    to_own = torch.cdist(embeddings(extractor, data.pictures.pixels)[probes], published).amin(dim=1)
    answers = zip(own.predicted[asked, 0].tolist(), own.distance[asked, 0].tolist(), to_own.tolist(), strict=True)
    return [
        (str(number), "the user" if who == user else f"person {who}", f"{distance:.2f}", f"{mine:.2f}")
        for number, (who, distance, mine) in enumerate(answers, 1)
    ]


def rivals(data: Data, poisoned: Poisoned, extractor: Extractor, user: int) -> Tensor:
    """For each clean probe of a user three pictures: the probe, the nearest that the user posted, the nearest stranger.

    Returns:
        uint8 (3P, 3, H, W), row by row.
    """
    identities = data.pictures.identities
    seen = embeddings(extractor, data.pictures.pixels)
    probes = data.probes_of(user)
    strangers = data.gallery[identities[data.gallery] != user]
    posted = poisoned.of(user, identities)
    own = (seen[probes] @ embeddings(extractor, posted).T).argmax(dim=1)
    other = (seen[probes] @ seen[strangers].T).argmax(dim=1)
    pixels = data.pictures.pixels
    return torch.stack([pixels[probes], posted[own], pixels[strangers[other]]], dim=1).flatten(0, 1)


def faintest_first(data: Data, poisoned: Mapping[str, Poisoned]) -> dict[str, Poisoned]:
    """What users publish, by the attacks' full names: no poison at all, and then the faintest first (by PSNR)."""
    clean = {name: data.pictures.pixels[posts.index] for name, posts in poisoned.items()}
    quality = {name: float(change(clean[name], posts.pixels).psnr.mean()) for name, posts in poisoned.items()}
    name, posts = next(iter(poisoned.items()))
    none = {"no poison": replace(posts, pixels=clean[name])}
    return none | {PRESETS[name].name: poisoned[name] for name in sorted(quality, key=lambda name: -quality[name])}


def write_probes(setting: Setting, data: Data, results: Mapping[tuple[str, str, str], Protection]) -> Path:
    """Write every answer to every probe as CSV under ``_build/tables``.

    Columns: user, probe, true, predicted, distance, attack, extractor, recogniser, seed. People are numbered, not
    named, since they may be real.

    Args:
        setting: Gives the seed and the file's name.
        data: The people.
        results: By attack, extractor and recogniser.

    Raises:
        InputError: the file cannot be written.
    """
    name = f"{setting.profile}-{'made' if setting.made else 'folder'}-{setting.seed}.csv"
    path = LIB.parent / "_build" / "tables" / name
    people = [str(number) for number in range(len(data.pictures.names))]
    rows: list[tuple[Answers, dict[str, object]]] = [
        (result.poisoned, {"attack": attack, "extractor": extractor, "recogniser": recogniser, "seed": setting.seed})
        for (attack, extractor, recogniser), result in results.items()
    ]
    write_table(path, rows, people)
    return path


def role(setting: Setting, attack: str, extractor: str) -> str:
    """What an extractor is to an attack: ``"undefended"``, ``"white-box"``, or ``"unseen"``, a surrogate left out."""
    if extractor == setting.undefended:
        return "undefended"
    return "white-box" if extractor in surrogates_of(setting, find_preset(attack)) else "unseen"
