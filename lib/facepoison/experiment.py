"""The static game, played: each user in turn poisons all of their pictures, and the recogniser is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from facepoison import shipped, store
from facepoison.attacks.base import Attack, Progress
from facepoison.attacks.people import poison_people
from facepoison.attacks.presets import find_attack, title_of
from facepoison.attacks.similarity import change
from facepoison.device import generator
from facepoison.end_to_end import EndToEndOutcome, end_to_end
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.fine_tuning import END_TO_END, EndToEnd, play_round
from facepoison.pictures import Pictures, resize
from facepoison.protection import Answers, Protection, protection, write_answers
from facepoison.protocol import Data, Setting, embeddings, read_protocol
from facepoison.recognition import Recogniser, linear_rounds
from fingerprint import LIB


def surrogates_of(setting: Setting, attack: Attack) -> tuple[str, ...]:
    """Names of the surrogates that an attack is made on: as many as the original takes, or as there are."""
    return setting.surrogates[: attack.extractors]


def poison_users(
    setting: Setting,
    attack: Attack,
    data: Data,
    networks: Mapping[str, Extractor],
    progress: Progress | None = None,
    *,
    anew: bool = False,
) -> Pictures:
    """What every user publishes: all gallery pictures, poisoned; an interrupted run goes on where it stopped.

    Where the poisons of this setting come with the book, only those of the protocol's live users are made.

    Args:
        setting: The run.
        attack: Which.
        data: The pictures, and who the users are.
        networks: Extractors by name, the surrogates among them.
        progress: Told of pictures done.
        anew: Make the poisons of all users, whatever comes with the book.
    """
    clean = data.to_publish(data.users)
    kept = None if anew else find_shipped(setting, attack, networks)
    return live_and_shipped(setting, attack, clean, networks, data.public, kept, progress)


def live_and_shipped(
    setting: Setting,
    attack: Attack,
    people: Pictures,
    networks: Mapping[str, Extractor],
    public: Pictures,
    kept: shipped.Shipped | None,
    progress: Progress | None = None,
) -> Pictures:
    """Poison what several people publish: the protocol's live users of them where the others' come with the book.

    Args:
        setting: The run.
        attack: Which.
        people: Clean pictures, person by person.
        networks: Extractors by name, the surrogates among them.
        public: Pictures of other people, for targeted attacks.
        kept: What comes with the book, of all of them in this order; None to make all.
        progress: Told of pictures done.
    """
    surrogates = [networks[name] for name in surrogates_of(setting, attack)]
    live = people if kept is None else first_of(people, setting.live_users)
    made = poison_people(attack, live, surrogates, seed=setting.seed, public=public, progress=progress)
    if kept is None:
        return made
    return replace(people, pixels=torch.cat([made.pixels, kept.arrays["pixels"][len(live) :]]))


def first_of(pictures: Pictures, n: int) -> Pictures:
    """All pictures of the first ``n`` people."""
    return pictures.take(torch.isin(pictures.identities, torch.tensor(pictures.people[:n], dtype=torch.int64)))


def find_shipped(setting: Setting, attack: Attack, networks: Mapping[str, Extractor]) -> shipped.Shipped | None:
    """The users' poisons of a setting as they come with the book, if they do."""
    return shipped.find(f"poison-{attack.name}", shipped_inputs(setting, attack, networks))


def source(setting: Setting, attack: Attack, networks: Mapping[str, Extractor]) -> Literal["computed here", "shipped"]:
    """Where the users' poisons come from: ``"shipped"`` as soon as one user's come with the book."""
    return "computed here" if find_shipped(setting, attack, networks) is None else "shipped"


def computed_subset(setting: Setting, attack: Attack, posts: Pictures, networks: Mapping[str, Extractor]) -> Pictures:
    """The part of what users publish that this run made, from its own pictures.

    What comes with the book was made from pictures that another machine drew: single values at the edges of faces may
    differ, which says nothing of the poison.
    """
    return posts if find_shipped(setting, attack, networks) is None else first_of(posts, setting.live_users)


def poison_inputs(setting: Setting, attack: Attack, networks: Mapping[str, Extractor]) -> dict[str, object]:
    """What decides a poison of a setting whoever posts it, as cards of what comes with the book name it."""
    return {
        "attack": attack,
        "surrogates": {name: networks[name] for name in surrogates_of(setting, attack)},
        "dataset": setting.dataset if setting.made else "folder",
        "seed": setting.seed,
        "size": setting.size,
        "public": read_protocol()["public"] if attack.targeted else None,
    }


def shipped_inputs(setting: Setting, attack: Attack, networks: Mapping[str, Extractor]) -> dict[str, object]:
    """What decides the poisons of a setting's users, as cards of shipped poisons name it."""
    users = {"people": setting.people, "per_person": setting.per_person, "users": setting.n_users}
    return poison_inputs(setting, attack, networks) | users


def play(
    data: Data, posts: Pictures, extractor: Extractor, *, k: int = 1, recogniser: Recogniser = "nearest"
) -> Protection:
    """A round for each user: that user's gallery pictures poisoned, everybody else's clean, the user's probes asked.

    Args:
        data: Pictures, gallery, probes and users.
        posts: What the users publish instead of their gallery pictures.
        extractor: The trainer's.
        k: An answer is right if the true identity is among the ``k`` nearest, or most probable.
        recogniser: ``"nearest"`` neighbour or ``"linear"``, on the extractor's embeddings.
    """
    clean = embeddings(extractor, data.pictures.pixels)
    published = embeddings(extractor, posts.pixels)
    by_user = {user: published[posts.identities == user] for user in posts.people}
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
    posts: Pictures,
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
        posts: What the users publish instead of their gallery pictures.
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

    published = {user: posts.of(user).pixels for user in posts.people[: setting.n_retrained]}
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
    setting: Setting, attack: Attack, data: Data, posts: Pictures, networks: Mapping[str, Extractor]
) -> float:
    """Difference in mean PSNR (dB) between live users' pictures as made here and as they come with the book.

    0 where none come with it.
    """
    kept = find_shipped(setting, attack, networks)
    if kept is None:
        return 0.0
    live = first_of(posts, setting.live_users)
    clean, there = data.to_publish(live.people).pixels, kept.arrays["pixels"][: len(live)]
    one, other = (change(clean, pixels).psnr.mean() for pixels in (live.pixels, there))
    return abs(float(one - other))


def decisions(data: Data, posts: Pictures, extractor: Extractor, user: int) -> list[tuple[str, ...]]:
    """For each clean probe of a user: number, whom it was taken for, that distance, and the one to the user's poison.

    People are numbered, not named: they may be real.
    """
    own = play(data, posts, extractor).poisoned
    asked = own.user == user
    probes = data.probes[own.probe[asked]]
    published = embeddings(extractor, posts.of(user).pixels)
    to_own = torch.cdist(embeddings(extractor, data.pictures.pixels)[probes], published).amin(dim=1)
    answers = zip(own.predicted[asked, 0].tolist(), own.distance[asked, 0].tolist(), to_own.tolist(), strict=True)
    return [
        (str(number), "the user" if who == user else f"person {who}", f"{distance:.2f}", f"{mine:.2f}")
        for number, (who, distance, mine) in enumerate(answers, 1)
    ]


def rivals(data: Data, posts: Pictures, extractor: Extractor, user: int) -> Tensor:
    """For each clean probe of a user three pictures: the probe, the nearest that the user posted, the nearest stranger.

    Returns:
        uint8 (3P, 3, H, W), row by row.
    """
    identities, pixels = data.pictures.identities, data.pictures.pixels
    seen, posted = embeddings(extractor, pixels), posts.of(user).pixels
    probes = data.probes_of(user)
    strangers = data.gallery[identities[data.gallery] != user]
    own = (seen[probes] @ embeddings(extractor, posted).T).argmax(dim=1)
    other = (seen[probes] @ seen[strangers].T).argmax(dim=1)
    return torch.stack([pixels[probes], posted[own], pixels[strangers[other]]], dim=1).flatten(0, 1)


def faintest_first(data: Data, posts: Mapping[str, Pictures]) -> dict[str, Pictures]:
    """What users publish, by the attacks' titles: no poison at all, and then the faintest first (by PSNR)."""
    clean = {name: data.to_publish(published.people) for name, published in posts.items()}
    quality = {name: float(change(clean[name].pixels, each.pixels).psnr.mean()) for name, each in posts.items()}
    none = {"no poison": next(iter(clean.values()))}
    return none | {title_of(name): posts[name] for name in sorted(quality, key=lambda name: -quality[name])}


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
    write_answers(path, rows, people)
    return path


def role(setting: Setting, attack: str, extractor: str) -> str:
    """What an extractor is to an attack: ``"undefended"``, ``"white-box"``, or ``"unseen"``, a surrogate left out."""
    if extractor == setting.undefended:
        return "undefended"
    return "white-box" if extractor in surrogates_of(setting, find_attack(attack)) else "unseen"
