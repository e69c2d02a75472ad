"""Studies of the adaptive trainer."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from facepoison import end_to_end, game, outcomes, poisoning, shipped, timeline
from facepoison.adapt import ROBUST, adversarial_fine_tuning, by_people
from facepoison.attacks.eot import eot_surrogate
from facepoison.attacks.lowkey import LOWKEY
from facepoison.attacks.presets import ATTACKS, find_attack
from facepoison.attacks.similarity import change
from facepoison.evaluation import Answers
from facepoison.extractors import Extractor
from facepoison.extractors.cards import write_weights
from facepoison.extractors.catalog import WEIGHTS, load_extractor, record
from facepoison.extractors.recipes import find_recipe
from facepoison.extractors.train import training_pictures
from facepoison.game import among
from facepoison.outcomes import Key
from facepoison.pictures import Pictures
from facepoison.protocol import load_data, load_extractors
from studies.common import Run, crowd_posts, keep, poisoned, script, users_posts


def trainers_poisons(run: Run) -> tuple[Pictures, dict[str, Pictures]]:
    """Clean pictures that the adaptive trainer learns from, and by attack poison of the trainer's own making.

    The people are the same, as many pictures of each.
    """
    asked, setting = run.setting.protocol["adapting"], run.setting
    data, networks = load_data(setting), load_extractors(setting)
    recipe = replace(find_recipe(asked["trainer"]), identities=asked["people"], held_out=0)
    pixels, _ = training_pictures(recipe, run.scratch / "adapting", "auto", run.say)
    clean = by_people(pixels[:, : asked["pictures"]])
    attacks = map(find_attack, asked["attacks"])
    return clean, {each.name: poisoned(run, each, clean, setting, networks, data.public) for each in attacks}


def trainings(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trainings that the protocol's ``adapting`` asks for, each once.

    Each has its arm, how many people are poisoned, draws, seed and precision.
    """
    people, draws, first = max(asked["curve_people"]), max(asked["curve_draws"]), asked["seeds"][0]
    usual = {"people": people, "draws": draws, "seed": first, "precision": "bfloat16"}
    arms = [{"arm": arm} | usual for arm in asked["arms"]]
    both = {"arm": "both"} | usual
    again = [both | {"seed": seed} for seed in asked["seeds"][1:]]
    fewer = [both | {"people": n} for n in asked["curve_people"] if n < people]
    shorter = [both | {"draws": n} for n in asked["curve_draws"] if n < draws]
    return [*arms, *again, *fewer, *shorter, both | {"draws": asked["float32_draws"], "precision": "float32"}]


def adaptive(run: Run) -> None:
    """Trainers who train on poison of their own making, before users nobody tuned on: the answers, ``adaptive``.

    They stand under what users post, ``clean`` where nobody poisons, and the training: its arm, how many people are
    poisoned, draws, seed and precision. What each arm's first training ends with goes into ``data/weights``.
    """
    asked, began = run.setting.protocol["adapting"], shipped.begin()
    start, (clean, poisons) = load_extractor(asked["trainer"]), trainers_poisons(run)
    _, data, posted = crowd_posts(run)
    answers, asked_for = dict[Key, Answers](), trainings(asked)

    def meet(extractor: Extractor, *training: object) -> None:
        for attack, posts in posted.items():
            outcome, name = game.play(data, posts, extractor), tuple(map(str, training))
            answers.update({(attack, *name): outcome.poisoned, ("clean", *name): outcome.clean})
            run.say(f"{'-'.join(name)}, {attack}: {outcome.rate}")

    meet(start, "none")
    for place, how in enumerate(asked_for):
        known = {"control": [], "both": asked["attacks"]}.get(how["arm"], [how["arm"]])
        told = {attack: poisoning.first_of(poisons[attack], how["people"]) for attack in known}
        name = "-".join(map(str, how.values()))
        preset = replace(ROBUST, name=name, draws=how["draws"], bfloat16=how["precision"] == "bfloat16")
        since = time.time()
        robust = adversarial_fine_tuning(
            start, clean, told, preset, seed=how["seed"], scratch=run.scratch / "adapting", report=run.say
        )
        if place < len(asked["arms"]):
            recipe = asdict(preset) | how | {"after": start.name}
            said: dict[str, object] = {"command": run.command, "recipe": recipe}
            said |= began.card(time.time() - since) | {"test": timeline.measure_unseen(run.setting, robust)}
            path = WEIGHTS / f"robust_{how['arm']}.safetensors"
            write_weights(path, robust.network, said, half=True)
            record(path.stem, path)
        meet(robust, *how.values())
    keep(run, "adaptive", outcomes.pack_answers(answers), asked, began)


def adaptive_end_to_end(run: Run) -> None:
    """Trainers who train extractor and classifier at once, poison of their own in the gallery, or not.

    The answers, ``adaptive_end_to_end``, by arm, and by attack or ``clean``; with each attack, which share of each
    user's poison was learnt. Some of the gallery's people, none of them a user, have poisoned pictures that the trainer
    made.
    """
    asked, began = run.setting.protocol["adapting_end_to_end"], shipped.begin()
    setting, data, posted = crowd_posts(run)
    setting, start = replace(setting, n_retrained=asked["users"]), load_extractor(asked["trainer"])
    preset = replace(ROBUST, name="end to end, adaptive", draws=asked["draws"])
    others = torch.tensor(data.users[-asked["people"] :])
    known = []
    for posts in posted.values():
        known.append(posts.take(torch.isin(posts.identities, others)))
    answers, learnt = dict[Key, Answers](), dict[Key, Tensor]()
    for arm, told in (("none", []), ("both", known)):
        for attack, posts in posted.items():
            what = f"{arm}, {attack}"
            outcome = end_to_end.retrain(
                setting,
                data,
                posts,
                start,
                lambda done, of, what=what: run.say(f"{what}: {done} of {of} trainings"),  # type: ignore[misc]
                preset=preset,
                known=told,
            )
            answers |= {(arm, attack): outcome.protection.poisoned, (arm, "clean"): outcome.protection.clean}
            learnt[arm, attack, "learnt"] = outcome.own_fit
    keep(run, "adaptive_end_to_end", learnt | outcomes.pack_answers(answers), asked, began)


def unknown(run: Run) -> None:
    """Adaptive trainers before attacks that they did not train on, and before the user's reply: ``unknown``.

    The answers, by what users post, or ``clean``, and by trainer; and what is posted by PSNR, picture by picture.
    """
    asked, began = run.setting.protocol["unknown"], shipped.begin()
    arms = run.setting.protocol["adapting"]
    start, reply = arms["trainer"], asked["reply"]
    names = [start, *(f"robust_{arm}" for arm in arms["arms"])]
    setting, crowd, crowds_posts = crowd_posts(run)
    some = [among(crowd, posts, crowd.users, crowd.users[: asked["users"]]) for posts in crowds_posts.values()]
    data = some[0][0]
    posted = {name: posts for name, (_, posts) in zip(crowds_posts, some, strict=True)}
    networks = {name: load_extractor(name) for name in (*setting.surrogates, *asked["elsewhere"], *names)}
    shaken = {name: eot_surrogate(networks[name], asked["eot"]) for name in setting.surrogates}
    elsewhere = replace(setting, surrogates=tuple(asked["elsewhere"]))
    alone = replace(setting, surrogates=(reply,))
    together = replace(setting, surrogates=(reply, *setting.surrogates))
    others = {name: (setting, ATTACKS[name], networks) for name in setting.attacks if name not in posted} | {
        f"{LOWKEY.title} on other surrogates": (elsewhere, LOWKEY, networks),
        f"{LOWKEY.title}, louder": (setting, replace(LOWKEY, weight=asked["weight"]), networks),
        f"{LOWKEY.title}, EOT": (setting, LOWKEY, shaken),
        f"{LOWKEY.title} on the robust extractor": (alone, LOWKEY, networks),
        f"{LOWKEY.title} on the robust extractor and others": (together, LOWKEY, networks),
    }
    for name, (how, attack, known) in others.items():
        posted[name] = users_posts(run, how, attack, data, known, name)
    public, poisons = trainers_poisons(run)
    some_public = poisoning.first_of(public, asked["again"])
    answer = poisoned(run, LOWKEY, some_public, alone, networks, data.public, "the reply")
    preset = replace(ROBUST, name="once more", draws=asked["draws"])
    told, folder = poisons | {"the reply": answer}, run.scratch / "again"
    once_more = adversarial_fine_tuning(networks[reply], public, told, preset, seed=0, scratch=folder, report=run.say)
    trainers = {name: networks[name] for name in names} | {f"{reply}, once more": once_more}
    answers, psnr, own = dict[Key, Answers](), dict[Key, Tensor](), data.to_publish(data.users).pixels
    for what, posts in posted.items():
        psnr["PSNR, dB", what] = change(own, posts.pixels).psnr
        for trainer, extractor in trainers.items():
            outcome = game.play(data, posts, extractor)
            answers |= {(what, trainer): outcome.poisoned, ("clean", trainer): outcome.clean}
    keep(run, "unknown", psnr | outcomes.pack_answers(answers), asked, began)


if __name__ == "__main__":
    sys.exit(script(__doc__, [adaptive, adaptive_end_to_end, unknown]))
