"""The end-to-end recogniser: its extractor is trained together with a linear head, anew in every user's round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from facepoison import shipped
from facepoison.attacks.base import Progress
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.evaluation import Protection
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.fine_tuning import END_TO_END, EndToEnd, play_round
from facepoison.game import check_rounds, compared, own_probes
from facepoison.pictures import Pictures, check_pictures
from facepoison.protocol import Data, Setting
from facepoison.store import Arrays, cached


@dataclass(frozen=True)
class EndToEndOutcome:
    """The protocol played with the end-to-end recogniser, and how well it fits what it was trained on.

    Attributes:
        protection: The rate and the answers; distances are negative log-probabilities.
        clean_fit: Share of the clean gallery that the clean round's recogniser names as labelled.
        fit: The same of each user's round, poison included, float64 (n,), in the order of the protection's users.
        own_fit: The same of the user's own poisoned pictures alone, float64 (n,): high where the poison is fitted.
        rounds: What ``play`` gave in every user's round, and under None in the clean one.
    """

    protection: Protection
    clean_fit: float
    fit: Tensor
    own_fit: Tensor
    rounds: Mapping[int | None, Arrays]


def end_to_end(
    extractor: Extractor,
    gallery: Tensor,
    labels: Tensor,
    probes: Tensor,
    probe_labels: Tensor,
    poisoned: Mapping[int, Tensor],
    preset: EndToEnd = END_TO_END,
    *,
    seed: int,
    progress: Progress | None = None,
    play: Callable[..., Arrays] = play_round,
    played: Mapping[int | None, Arrays] | None = None,
) -> EndToEndOutcome:
    """Play the protocol end to end: a training on the clean gallery, then one for each user, who alone poisons.

    Args:
        extractor: Where each training starts; it stays as it is.
        gallery: Everyone's clean gallery pictures, uint8 RGB (G, 3, H, W).
        labels: Who is on them, int64 (G,), not negative.
        probes: Everyone's clean probes, uint8 (P, 3, H, W).
        probe_labels: Who is on them, int64 (P,).
        poisoned: For each user all gallery pictures as published, uint8 (g, 3, H, W), in the gallery's order.
        preset: How to train.
        seed: Of all rounds: they differ in the poison, not in the draws.
        progress: Told of every round that is over, and of how many there are: the users' and the clean one.
        play: What plays a round, called as ``play_round`` is; put a caching one here.
        played: Rounds that have been played already, by user, the clean one under None.

    Raises:
        InputError: as in ``fine_tune`` and ``game.measure_protection``.
    """
    check_pictures(gallery, "gallery")
    check_pictures(probes, "probes")
    check_rounds(labels, probes, probe_labels, poisoned)
    for user, published in poisoned.items():
        check_pictures(published, f"user {user}")
        if published.shape[1:] != gallery.shape[1:]:
            raise InputError(
                f"user {user}: pictures {tuple(published.shape[1:])}, gallery {tuple(gallery.shape[1:])}; use one size"
            )
    users, own = tuple(poisoned), own_probes(probe_labels, poisoned)

    def told(done: int) -> None:
        if progress:
            progress(done, len(users) + 1)

    rounds = dict(played or {})
    if None not in rounds:
        rounds[None] = play(extractor, gallery, labels, probes[torch.cat(own)], preset, seed=seed)
    told(1)
    for done, (user, places) in enumerate(zip(users, own, strict=True), start=2):
        if user not in rounds:
            published = gallery.clone()
            published[labels == user] = poisoned[user]
            rounds[user] = play(extractor, published, labels, probes[places], preset, seed=seed)
        told(done)
    right = {user: (answers["gallery"] == labels.cpu()).double() for user, answers in rounds.items()}
    after = torch.cat([rounds[user]["distance"] for user in users])
    return EndToEndOutcome(
        compared(users, own, rounds[None]["distance"], after),
        float(right[None].mean()),
        torch.stack([right[user].mean() for user in users]),
        torch.stack([right[user][labels.cpu() == user].mean() for user in users]),
        rounds,
    )


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
    """The rounds of the first users against a trainer who trains the extractor too, each training cached once done.

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
    ) -> Arrays:
        return cached(
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
        found = shipped.find(
            rounds_file(attack, training), rounds_inputs(setting, attack, published, extractor, preset, training)
        )
        played = {} if found is None else _rounds_left(setting, attack, training, tuple(published), found.arrays)
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


def rounds_packed(rounds: Mapping[int | None, Arrays]) -> Arrays:
    """End-to-end rounds as arrays with one name each, to come with the book; ``_rounds_left`` takes them apart."""
    return {
        f"{'clean' if user is None else user}-{label}": array.to(torch.int16) if label == "gallery" else array
        for user, answers in rounds.items()
        for label, array in answers.items()
    }


def _rounds_left(
    setting: Setting, attack: str, training: int, users: Sequence[int], packed: Arrays
) -> dict[int | None, Arrays]:
    """The rounds that are taken from what comes with the book: all but the clean and the live users' first training."""
    trained = attack in setting.live_trained and training == 0
    left: list[int | None] = list(users[setting.live_users :]) if trained else [None, *users]
    names = {user: "clean" if user is None else str(user) for user in left}
    return {
        user: {"distance": packed[f"{name}-distance"], "gallery": packed[f"{name}-gallery"].long()}
        for user, name in names.items()
    }
