"""Makes what comes with the book because it would take a chapter too long, with its cards, into ``data/shipped``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from facepoison import adapt, end_to_end, poisoning, shipped
from facepoison.attacks.base import Attack, Progress
from facepoison.attacks.presets import find_attack
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.fine_tuning import END_TO_END
from facepoison.pictures import Pictures
from facepoison.protocol import Data, Setting, load_data, load_extractors, trainers_own

_Report = Callable[[str], None]
KINDS = ("poisons", "rounds", "public")
"""What comes with the book: users' poisons, end-to-end rounds, and the trainer's poison of public people."""


def make_shipped(
    setting: Setting, report: _Report = print, kinds: Sequence[str] = KINDS, attacks: Sequence[str] = ()
) -> None:
    """Make what comes with the book; what is in the store is not made again.

    Args:
        setting: The registered one.
        report: Told of every step.
        kinds: Of ``KINDS``, in that order: rounds are played with the poisons that are there then.
        attacks: Names of the attacks to do it for; none for all.

    Raises:
        InputError: there is no such kind, or a file cannot be written.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise InputError(f"{min(unknown)}: does not come with the book: use {', '.join(KINDS)}")
    data, networks = load_data(setting), load_extractors(setting)
    made: dict[str, Callable[..., None]] = {"poisons": _poisons, "rounds": _rounds, "public": _public}
    for kind in (each for each in KINDS if each in kinds):
        asked: Mapping[str, Any] = setting.protocol["shipped"]
        for attack in asked[kind]:
            if not attacks or attack in attacks:
                made[kind](setting, find_attack(attack), data, networks, _line(report, kind, attack))


def _line(report: _Report, kind: str, attack: str) -> Progress:
    return lambda done, of: report(f"{kind}, {attack}: {done} of {of}")


def _poisons(
    setting: Setting, attack: Attack, data: Data, networks: Mapping[str, Extractor], progress: Progress
) -> None:
    start = time.perf_counter()
    made = poisoning.poison_users(setting, attack, data, networks, progress, anew=True)
    inputs, clean = poisoning.shipped_inputs(setting, attack, networks), data.to_publish(data.users).pixels
    shipped.ship(f"poison-{attack.name}", inputs, {"pixels": made.pixels}, time.perf_counter() - start, clean)


def shipped_posts(setting: Setting, attack: Attack, data: Data, networks: Mapping[str, Extractor]) -> Pictures:
    """What all users publish as it comes with the book, the live users' pictures too.

    Raises:
        InputError: nothing is shipped for this setting.
    """
    found = poisoning.find_shipped(setting, attack, networks)
    if found is None:
        raise InputError(f"poison-{attack.name}: does not come with the book for this setting: run make shipped")
    return replace(data.to_publish(data.users), pixels=found.arrays["pixels"])


def _rounds(
    setting: Setting, attack: Attack, data: Data, networks: Mapping[str, Extractor], progress: Progress
) -> None:
    posts, trainer = shipped_posts(setting, attack, data, networks), networks[setting.undefended]
    published = {user: posts.of(user).pixels for user in data.users[: setting.n_retrained]}
    repeated = attack.name == setting.protocol["recognisers"]["repeated"]
    for training in range(setting.n_trainings if repeated else 1):
        start = time.perf_counter()
        outcome = end_to_end.retrain(setting, data, posts, trainer, progress, training=training)
        inputs = end_to_end.rounds_inputs(setting, attack.name, published, trainer, END_TO_END, training)
        arrays, pictures = end_to_end.rounds_packed(outcome.rounds), torch.cat(list(published.values()))
        name = end_to_end.rounds_file(attack.name, training)
        shipped.ship(name, inputs, arrays, time.perf_counter() - start, pictures)


def _public(
    setting: Setting, attack: Attack, data: Data, networks: Mapping[str, Extractor], progress: Progress
) -> None:
    # each chapter has its trainer's surrogates: the users' own in chapter 5, others in chapter 6
    for name, where in (("adapting_live", setting), ("detecting_live", trainers_own(setting))):
        asked, known, start = setting.protocol[name], load_extractors(where), time.perf_counter()
        _, some = adapt.public_pictures(data, asked["people"], asked["pictures"])
        made = poisoning.live_and_shipped(where, attack, some, known, data.public, None, progress)
        seconds = time.perf_counter() - start
        inputs = adapt.public_inputs(where, attack, known, asked["people"], asked["pictures"])
        shipped.ship(adapt.public_file(where, attack), inputs, {"pixels": made.pixels}, seconds, some.pixels)
