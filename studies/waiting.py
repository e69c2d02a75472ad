"""Studies of the oblivious trainer."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from facepoison import end_to_end, game, outcomes, poisoning, shipped, timeline
from facepoison.attacks.lowkey import LOWKEY
from facepoison.attacks.presets import find_attack
from facepoison.attacks.similarity import change
from facepoison.device import pick_device
from facepoison.evaluation import Answers
from facepoison.extractors import Extractor
from facepoison.extractors.architectures import ARCHITECTURES
from facepoison.extractors.catalog import load_extractor
from facepoison.extractors.recipes import STRONG, Recipe, find_recipe
from facepoison.extractors.train import rank_1, snapshot, train_network, training_pictures
from facepoison.factorial import CHANGES, half_factorial
from facepoison.game import among
from facepoison.outcomes import Key
from facepoison.protocol import load_data, load_extractors
from facepoison.shards import Shard, compute
from facepoison.store import Arrays, Cached, held, of_weights
from studies.common import SCRATCH, Run, counting, crowd_posts, keep, script, users_posts, write

FACTORS = tuple(CHANGES)


def end_to_end_later(run: Run) -> None:
    """Users' old pictures before trainers who fine-tune a later extractor on them: the answers, ``end_to_end_later``.

    They stand under attack, or ``clean``, and extractor; with each attack, which share of a user's poison was learnt.
    """
    asked, began = run.setting.protocol["waiting"], shipped.begin()
    setting = replace(run.setting, n_retrained=asked["end_to_end_users"])
    data, networks = load_data(setting), load_extractors(setting)
    answers, learnt = dict[Key, Answers](), dict[Key, Tensor]()
    for attack in asked["end_to_end_attacks"]:
        posts = poisoning.poison_users(setting, find_attack(attack), data, networks)
        for name in asked["end_to_end"]:
            outcome = end_to_end.retrain(
                setting,
                data,
                posts,
                load_extractor(name),
                lambda done, of, what=f"{attack}, {name}": run.say(f"{what}: {done} of {of} trainings"),  # type: ignore[misc]
            )
            answers |= {(attack, name): outcome.protection.poisoned, ("clean", name): outcome.protection.clean}
            learnt[attack, name, "learnt"] = outcome.own_fit
    keep(run, "end_to_end_later", learnt | outcomes.pack_answers(answers), asked, began)


def more_surrogates(run: Run) -> None:
    """LowKey made on one, two and more surrogates, before every extractor: the answers, ``more_surrogates``.

    Beside them PSNR of every picture, by number of surrogates.
    """
    asked, began = run.setting.protocol["waiting"], shipped.begin()
    setting = replace(run.setting, surrogates=tuple(asked["surrogates"]))
    data, trainers = load_data(setting), timeline.timeline(setting)
    data = replace(data, users=data.users[: asked["surrogate_users"]])
    answers, psnr, own = dict[Key, Answers](), dict[Key, Tensor](), data.to_publish(data.users)
    for n in range(1, len(setting.surrogates) + 1):
        posts = users_posts(run, setting, replace(LOWKEY, extractors=n), data, trainers, f"{n} surrogates")
        psnr["PSNR, dB", str(n)] = change(own.pixels, posts.pixels).psnr
        for name, extractor in trainers.items():
            outcome = game.play(data, posts, extractor)
            answers |= {(str(n), name): outcome.poisoned, ("clean", name): outcome.clean}
    keep(run, "more_surrogates", psnr | outcomes.pack_answers(answers), asked, began)


def carrying(run: Run) -> None:
    """What carries a poison over from one surrogate to another extractor, by design: ``carrying.json``.

    Sixteen small extractors are trained, in half of a factorial in four factors from two seeds; the poison is made on
    one surrogate that is none of them.
    """
    asked, began = run.setting.protocol["carrying"], shipped.begin()
    setting = replace(run.setting, surrogates=(asked["surrogate"],))
    data, networks = load_data(setting), {asked["surrogate"]: load_extractor(asked["surrogate"])}
    data = replace(data, users=data.users[: asked["users"]])
    attacks = [replace(find_attack(name), extractors=1) for name in asked["attacks"]]  # type: ignore[type-var]
    posted = {attack.name: users_posts(run, setting, attack, data, networks) for attack in attacks}
    clean = data.to_publish(data.users).pixels
    design = [(seed, levels) for seed in asked["seeds"] for levels in half_factorial(FACTORS)]
    shards = [_small(asked, levels, seed) for seed, levels in design]
    progress, done = counting(run, "carrying", "extractors"), itertools.count(1)
    trained = compute(shards, run.pool, lambda _: progress(next(done), len(shards)))
    rows = []
    for (seed, levels), shard, result in zip(design, shards, trained, strict=True):
        extractor, accuracy = _extractor(shard, result)
        row: dict[str, object] = {**levels, "seed": seed, "training_rank_1": accuracy}
        for name, posts in posted.items():
            row[f"{name}_cosine"] = float(poisoning.own_cosines(extractor, clean, posts.pixels).mean())
            row[f"{name}_protection"] = game.play(data, posts, extractor).rate
        rows.append(row)
    write(run, "carrying", rows, asked, began)


def _small(asked: Mapping[str, Any], levels: Mapping[str, int], seed: int) -> Shard:
    """One extractor of the design, to be trained."""
    like = find_recipe(asked["surrogate"])
    most = max(asked["people"])
    code = "".join(str(levels[factor]) for factor in FACTORS)
    recipe = Recipe(
        f"carrying-{code}-{seed}",
        asked["architecture"][levels["architecture"]],
        asked["people"][levels["people"]],
        asked["per_person"],
        asked["epochs"][levels["people"]],
        like.loss,
        like.scale,
        like.margin,
        warm_up=50,
        augmentation=STRONG if levels["augmentation"] else like.augmentation,
        bfloat16=like.bfloat16,
        seed=seed,
        population=asked["identities"][levels["identities"]],
    )
    everybody = replace(recipe, name="carrying", identities=most, held_out=0, seed=0)
    parts = {"recipe": recipe, "everybody": everybody}
    return Shard("carrying", train_small, parts, by=(training_pictures, train_network, snapshot, rank_1))


def train_small(recipe: Recipe, everybody: Recipe) -> Arrays:
    """A small extractor's state, and as ``rank_1`` its accuracy on its own training people: the first of everybody.

    Pictures and training resume from files under ``SCRATCH`` of whichever machine this runs on.
    """
    folder, report = SCRATCH / "carrying", partial(print, flush=True)
    with held(folder / everybody.people.replace("/", "-")):  # one process draws the pictures, others wait for them
        pixels, _ = training_pictures(everybody, folder, "auto", report)
    own = pixels[: recipe.identities]
    trained = snapshot(train_network(recipe, own, folder, pick_device("auto"), report)[0], recipe.name)
    return {**trained.network.state_dict(), "rank_1": torch.tensor(rank_1(trained, own), dtype=torch.float64)}


def _extractor(shard: Shard, result: Cached) -> tuple[Extractor, float]:
    """An extractor of the design from what ``train_small`` gave, with its rank-1 on its own training people."""
    recipe: Recipe = shard.parts["recipe"]  # type: ignore[assignment]
    state = dict(result.arrays)
    accuracy = float(state.pop("rank_1"))
    network = ARCHITECTURES[recipe.architecture]()
    network.load_state_dict(state)
    trained = snapshot(network.to(pick_device("auto")).to(memory_format=torch.channels_last), recipe.name)
    digest = of_weights(trained.network)
    return Extractor(trained.network, trained.contract, name=recipe.name, sha256=digest), accuracy


def crowd(run: Run) -> None:
    """Many users' old pictures before every extractor of the timeline: the answers, ``crowd``.

    And the same few users among fewer people and more: ``crowd_size``.
    """
    asked, began = run.setting.protocol["crowd"], shipped.begin()
    setting, data, posted = crowd_posts(run)
    answers: dict[Key, Answers] = {}
    for (attack, name), outcome in game.by_extractor(data, posted, timeline.timeline(setting)).items():
        held = outcome.top(game.HELD)
        answers |= {(attack, name): held.poisoned, ("clean", name): held.clean}
        run.say(f"{attack}, {name}: {outcome.rate.value:.3f}")
    keep(run, "crowd", outcomes.pack_answers(answers), asked, began)
    answers = {}
    networks = {name: load_extractor(name) for name in asked["size_extractors"]}
    for (attack, posts), n in itertools.product(posted.items(), asked["sizes"]):
        few, few_posts = among(data, posts, data.users[:n], data.users[: asked["size_users"]])
        for (_, name), outcome in game.by_extractor(few, {attack: few_posts}, networks).items():
            for who, each in ((attack, outcome.poisoned), ("clean", outcome.clean)):
                # probes by their places among all pictures, whoever else is asked about
                answers[who, name, str(n)] = replace(each, probe=few.probes[each.probe])
    keep(run, "crowd_size", outcomes.pack_answers(answers), asked, began)


if __name__ == "__main__":
    sys.exit(script(__doc__, [end_to_end_later, more_surrogates, carrying, crowd]))
