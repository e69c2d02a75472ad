"""Studies that take too long for a chapter: each writes a table with a card into ``data/results``.

What each asks stands in ``data/protocol.toml``, written before its results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import fingerprint
from facepoison import experiment, shipped, timeline
from facepoison.adapt import ROBUST, by_people, harden, poison_people
from facepoison.device import pick_device
from facepoison.errors import InputError
from facepoison.extractors import Extractor
from facepoison.extractors.cards import read_card, write_weights
from facepoison.extractors.catalog import WEIGHTS, find_entry, load_extractor, record
from facepoison.extractors.training import STRONG, Recipe, find_recipe, fit, rank_1, snapshot, train, training_pictures
from facepoison.poisons.hardened import hardened
from facepoison.poisons.similarity import change
from facepoison.protection import Protection, difference, rank_one
from facepoison.protocol import Data, Setting, choose, embeddings, load_data, load_extractors, read_protocol
from facepoison.recognition import Recogniser
from facepoison.wait import CHANGES, among, half_factorial

Say = Callable[[str], None]
FACTORS = tuple(CHANGES)
RECOGNISERS: tuple[Recogniser, ...] = ("nearest", "linear")
TESTED: tuple[Literal["rank_1", "tar"], ...] = ("rank_1", "tar")


def registered() -> Setting:
    """The setting that the book's results are registered at."""
    return choose(**read_protocol()["registered"])


def end_to_end_later(say: Say) -> None:
    """Users' old pictures before trainers who fine-tune a later extractor on them: ``end_to_end_later.json``."""
    asked, began, commit = read_protocol()["waiting"], time.time(), fingerprint.commit()
    setting = replace(registered(), n_retrained=asked["end_to_end_users"])
    data, networks = load_data(setting), load_extractors(setting)
    rows = []
    for attack in asked["end_to_end_attacks"]:
        posts = experiment.poison_users(setting, attack, data, networks)
        for name in asked["end_to_end"]:
            outcome = experiment.retrain(
                setting,
                data,
                posts,
                load_extractor(name),
                lambda done, of, what=f"{attack}, {name}": say(f"{what}: {done} of {of} trainings"),  # type: ignore[misc]
            )
            rows.append(
                {
                    "attack": attack,
                    "extractor": name,
                    "protection": outcome.protection.rate,
                    "by_user": outcome.protection.poisoned.by_user.tolist(),
                    "clean_fit": outcome.clean_fit,
                    "own_fit": float(outcome.own_fit.mean()),
                }
            )
    _write("end_to_end_later", rows, asked, commit, began)


def more_surrogates(say: Say) -> None:
    """LowKey made on one, two and more surrogates, before every extractor: ``more_surrogates.json``."""
    asked, began, commit = read_protocol()["waiting"], time.time(), fingerprint.commit()
    setting = replace(registered(), surrogates=tuple(asked["surrogates"]))
    data, trainers = load_data(setting), timeline.timeline(setting)
    data = replace(data, users=data.users[: asked["surrogate_users"]])
    rows = []
    for n in range(1, len(setting.surrogates) + 1):
        preset = replace(experiment.PRESETS["lowkey"], extractors=n)
        posts = _post(setting, preset, data, trainers, lambda done, n=n: say(f"{n} surrogates: {done} users"))  # type: ignore[misc]
        clean = data.pictures.pixels[posts.index]
        loud = float(change(clean, posts.pixels).psnr.mean())
        for name, extractor in trainers.items():
            row = {"surrogates": n, "psnr": loud, "extractor": name, "white_box": name in setting.surrogates[:n]}
            rows.append(row | {"protection": experiment.play(data, posts, extractor).rate})
    _write("more_surrogates", rows, asked, commit, began)


def _post(
    setting: Setting,
    preset: experiment.Preset,
    data: Data,
    networks: Mapping[str, Extractor],
    say: Callable[[int], None],
) -> experiment.Poisoned:
    """What the users of a data set publish under a preset that is not among the protocol's attacks."""
    parts = []
    for user in data.users:
        own = data.pictures.pixels[data.gallery_of(user)]
        parts.append(experiment.poison(setting, preset, own, networks, data.public))
        say(len(parts))
    index = [data.gallery_of(user) for user in data.users]
    pixels = torch.cat([part.arrays["pixels"] for part in parts])
    return experiment.Poisoned(torch.cat(index), pixels, data.users, sum(part.seconds for part in parts))


def carrying(say: Say, scratch: Path) -> None:
    """What carries a poison over from one surrogate to another extractor, by design: ``carrying.json``.

    Sixteen small extractors are trained, in half of a factorial in four factors from two seeds; the poison is made on
    one surrogate that is none of them.
    """
    asked, began, commit = read_protocol()["carrying"], time.time(), fingerprint.commit()
    setting = replace(registered(), surrogates=(asked["surrogate"],))
    data, networks = load_data(setting), {asked["surrogate"]: load_extractor(asked["surrogate"])}
    data = replace(data, users=data.users[: asked["users"]])
    presets = {name: replace(experiment.PRESETS[name], extractors=1) for name in asked["attacks"]}
    posted = {
        name: _post(setting, preset, data, networks, lambda done, name=name: say(f"{name}: {done} users"))  # type: ignore[misc]
        for name, preset in presets.items()
    }
    rows = []
    for seed in asked["seeds"]:
        for levels in half_factorial(FACTORS):
            extractor, accuracy = _small(asked, levels, seed, scratch, say)
            row: dict[str, object] = {**levels, "seed": seed, "training_rank_1": accuracy}
            for name, posts in posted.items():
                clean = data.pictures.pixels[posts.index]
                row[f"{name}_cosine"] = float(experiment.carried_over(extractor, clean, posts.pixels).mean())
                row[f"{name}_protection"] = experiment.play(data, posts, extractor).rate
            rows.append(row)
    _write("carrying", rows, asked, commit, began)


def _small(
    asked: Mapping[str, Any], levels: Mapping[str, int], seed: int, scratch: Path, say: Say
) -> tuple[Extractor, float]:
    """One extractor of the design, trained, with its rank-1 on its own training people."""
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
    folder = scratch / "carrying"
    pixels, _ = training_pictures(everybody, folder / recipe.people.replace("/", "-"), "auto", say)
    own = pixels[: recipe.identities]
    network, _, _ = fit(recipe, own, folder / f"{recipe.name}.pt", pick_device("auto"), say)
    digest = fingerprint.of_file(folder / f"{recipe.name}.pt")
    trained = snapshot(network, recipe.name)
    return Extractor(trained.network, trained.contract, name=recipe.name, sha256=digest), rank_1(trained, own)


def precision(say: Say, scratch: Path) -> None:
    """Own extractors trained in float32 beside what training them in bfloat16 gave: ``precision.json``."""
    asked, began, commit = read_protocol()["precision"], time.time(), fingerprint.commit()
    rows: list[dict[str, Any]] = []
    for name in asked["extractors"]:
        recipe = replace(find_recipe(name), bfloat16=False)
        card = train(recipe, scratch / "precision", scratch, timeline.measure_unseen, report=say)
        for how, each in (("bfloat16", read_card(find_entry(name))), ("float32", card)):
            rates = {what: timeline.tested(each, what) for what in TESTED}
            rows.append({"extractor": name, "precision": how} | rates)
    _write("precision", rows, asked, commit, began)


def adaptive_poisons(say: Say, scratch: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """Clean pictures that the adaptive trainer learns from, and by attack poison of the trainer's own making.

    Both are uint8 (people, pictures of each, 3, H, W); making them resumes from files under ``scratch``.
    """
    asked, setting = read_protocol()["adapting"], registered()
    data, networks = load_data(setting), load_extractors(setting)
    recipe = replace(find_recipe(asked["trainer"]), identities=asked["people"], held_out=0)
    pixels, _ = training_pictures(recipe, scratch / "adapting" / "clean", "auto", say)
    clean = pixels[:, : asked["pictures"]]
    poisons = {}
    for name in asked["attacks"]:
        preset = experiment.PRESETS[name]
        surrogates = [networks[each] for each in experiment.surrogates_of(setting, preset)]
        folder = scratch / "adapting"
        poisons[name] = poison_people(clean, preset, surrogates, folder, setting.seed, say, public=data.public)
    return clean, poisons


def adaptive_trainings(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trainings that the protocol's ``adapting`` asks for, each once: arm, people poisoned, draws and seed."""
    people, draws, first = max(asked["curve_people"]), max(asked["curve_draws"]), asked["seeds"][0]
    arms = [(arm, first) for arm in asked["arms"]] + [("both", seed) for seed in asked["seeds"][1:]]
    whole = [{"arm": arm, "people": people, "draws": draws, "seed": seed} for arm, seed in arms]
    fewer = [{"arm": "both", "people": n, "draws": draws, "seed": first} for n in asked["curve_people"] if n < people]
    shorter = [{"arm": "both", "people": people, "draws": n, "seed": first} for n in asked["curve_draws"] if n < draws]
    return whole + fewer + shorter


def adaptive(say: Say, scratch: Path) -> None:
    """Trainers who train on poison of their own making, before users nobody tuned on: ``adaptive.json``.

    What each arm's first training ends with goes into ``data/weights``.
    """
    asked, began, commit = read_protocol()["adapting"], time.time(), fingerprint.commit()
    start, (public, poisons) = load_extractor(asked["trainer"]), adaptive_poisons(say, scratch)
    clean = by_people(public)
    _, data, posted = crowd_posts(say, scratch)
    before = {attack: experiment.play(data, posts, start) for attack, posts in posted.items()}
    rows = [
        _met({"arm": "none", "people": 0, "draws": 0, "seed": 0}, attack, each, each) for attack, each in before.items()
    ]
    trainings = adaptive_trainings(asked)
    shippable = trainings[: len(asked["arms"])]
    for how in trainings:
        known = {"control": [], "both": asked["attacks"]}.get(how["arm"], [how["arm"]])
        told = {attack: by_people(poisons[attack][: how["people"]]) for attack in known}
        name = "-".join(map(str, how.values()))
        checkpoint = scratch / "adapting" / f"{name}.pt"
        preset = replace(ROBUST, name=name, draws=how["draws"])
        since = time.time()
        robust = harden(start, clean, told, preset, seed=how["seed"], checkpoint=checkpoint, report=say)
        if how in shippable:
            recipe = asdict(preset) | how | {"after": start.name}
            said: dict[str, object] = {"command": "python -m facepoison study adaptive", "recipe": recipe}
            said |= shipped.provenance(commit, time.time() - since) | {"test": timeline.measure_unseen(robust)}
            path = WEIGHTS / f"robust_{how['arm']}.safetensors"
            write_weights(path, robust.network, said, half=True)
            record(path.stem, path)
        for attack, posts in posted.items():
            rows.append(_met(how, attack, experiment.play(data, posts, robust), before[attack]))
            say(f"{name}, {attack}: {rows[-1]['protection']}")
    _write("adaptive", rows, asked, commit, began)


def _met(how: Mapping[str, object], attack: str, outcome: Protection, untrained: Protection) -> dict[str, Any]:
    """A row of ``adaptive``: protection, what of it is due to the poison, and what training cost on clean pictures."""
    return {
        **how,
        "attack": attack,
        "protection": outcome.rate,
        "due_to_poison": difference(outcome.poisoned, outcome.clean),
        "accuracy_lost": difference(outcome.clean, untrained.clean),
    }


def unknown(say: Say, scratch: Path) -> None:
    """Adaptive trainers before attacks that they did not train on, and before the user's reply: ``unknown.json``."""
    asked, began, commit = read_protocol()["unknown"], time.time(), fingerprint.commit()
    setting, start, reply = crowd_setting(), read_protocol()["adapting"]["trainer"], asked["reply"]
    arms = [start, *(f"robust_{arm}" for arm in read_protocol()["adapting"]["arms"])]
    whole = load_data(setting)
    data = replace(whole, users=whole.users[: asked["users"]])
    networks = {name: load_extractor(name) for name in (*setting.surrogates, *asked["elsewhere"], *arms)}
    shaken = {name: hardened(networks[name], asked["hardened"]) for name in setting.surrogates}
    lowkey, elsewhere = experiment.PRESETS["lowkey"], replace(setting, surrogates=tuple(asked["elsewhere"]))
    alone = replace(setting, surrogates=(reply,))
    together = replace(setting, surrogates=(reply, *setting.surrogates))
    crafted = {name: (setting, experiment.PRESETS[name], networks) for name in setting.attacks} | {
        "lowkey on other surrogates": (elsewhere, lowkey, networks),
        "lowkey, louder": (setting, replace(lowkey, weight=asked["weight"]), networks),
        "lowkey, hardened": (setting, lowkey, shaken),
        "lowkey on the robust extractor": (alone, lowkey, networks),
        "lowkey on the robust extractor and others": (together, lowkey, networks),
    }
    posted = {
        name: _post(*how[:2], data, how[2], lambda done, name=name: say(f"{name}: {done} users"))  # type: ignore[misc]
        for name, how in crafted.items()
    }
    public, poisons = adaptive_poisons(say, scratch)
    own = public[: asked["again"]]
    answer = poison_people(own, lowkey, [networks[reply]], scratch / "again", setting.seed, say, public=data.public)
    preset = replace(ROBUST, name="once more", draws=asked["draws"])
    checkpoint = scratch / "again" / "once-more.pt"
    told = {name: by_people(each) for name, each in (poisons | {"the reply": answer}).items()}
    once_more = harden(networks[reply], by_people(public), told, preset, seed=0, checkpoint=checkpoint, report=say)
    trainers = {name: networks[name] for name in arms} | {f"{reply}, once more": once_more}
    rows = []
    for attack, posts in posted.items():
        loud = float(change(data.pictures.pixels[posts.index], posts.pixels).psnr.mean())
        for trainer, extractor in trainers.items():
            outcome = experiment.play(data, posts, extractor)
            row = {"attack": attack, "psnr": loud, "trainer": trainer, "protection": outcome.rate}
            rows.append(row | {"due_to_poison": difference(outcome.poisoned, outcome.clean)})
    _write("unknown", rows, asked, commit, began)


def crowd(say: Say, scratch: Path) -> None:
    """Many users' old pictures before every extractor of the timeline: ``crowd.json``.

    And the same few users among fewer people and more: ``crowd_size.json``.
    """
    asked, began, commit = read_protocol()["crowd"], time.time(), fingerprint.commit()
    setting, data, posted = crowd_posts(say, scratch)
    rows = []
    for attack, posts in posted.items():
        for name, extractor in timeline.timeline(setting).items():
            outcome = experiment.play(data, posts, extractor)
            row = {"attack": attack, "extractor": name, "role": experiment.role(setting, attack, name)}
            rows.append(row | {"protection": outcome.rate, "by_user": outcome.poisoned.by_user.tolist()})
            say(f"{attack}, {name}: {outcome.rate.value:.3f}")
    _write("crowd", rows, asked, commit, began)
    rows = []
    for attack, posts in posted.items():
        for n in asked["sizes"]:
            few, few_posts = among(data, posts, data.users[:n], data.users[: asked["size_users"]])
            for name in asked["size_extractors"]:
                rate = experiment.play(few, few_posts, load_extractor(name)).rate
                rows.append({"attack": attack, "people": n, "extractor": name, "protection": rate})
    _write("crowd_size", rows, asked, commit, began, "python -m facepoison study crowd")


def crowd_setting() -> Setting:
    """The registered setting with the protocol's crowd as people, all of them users."""
    asked = read_protocol()["crowd"]
    return replace(registered(), people=asked["people"], per_person=asked["pictures"], n_users=asked["people"])


def crowd_posts(say: Say, scratch: Path) -> tuple[Setting, Data, dict[str, experiment.Poisoned]]:
    """The crowd, and what each of it publishes by attack; resumes from files under ``scratch``."""
    setting = crowd_setting()
    data, networks = load_data(setting), load_extractors(setting)
    index = [data.gallery_of(user) for user in data.users]
    clean = torch.stack([data.pictures.pixels[places] for places in index])
    posted = {}
    for attack in read_protocol()["crowd"]["attacks"]:
        preset = experiment.PRESETS[attack]
        surrogates = [networks[name] for name in experiment.surrogates_of(setting, preset)]
        start = time.perf_counter()
        pixels = poison_people(clean, preset, surrogates, scratch / "crowd", setting.seed, say, public=data.public)
        seconds = time.perf_counter() - start
        posted[attack] = experiment.Poisoned(torch.cat(index), pixels.flatten(0, 1), data.users, seconds)
    return setting, data, posted


def real(say: Say, faces: Path, source: str, extractors: Path | None = None) -> None:
    """The oblivious trainer on real people, with other people's extractors: ``real_*.json``, numbers only.

    ``real_recognisers`` holds rank-1 on everybody's clean probes, ``real_waiting`` the protection of the users.

    Args:
        say: Told what is going on.
        faces: Folder of pictures, a sub-folder for each person.
        source: What these pictures are, in words.
        extractors: Folder of extractors, if not ``models`` beside the pictures.

    Raises:
        InputError: there is no such folder, or no extractor.
    """
    began, commit = time.time(), fingerprint.commit()
    setting, data, networks, told = _real_people(faces, source, extractors)
    asked = read_protocol()["real"] | told
    years = {name: find_entry(name).year for name in networks}
    ranks = []
    for seed in asked["seeds"]:
        again = data if seed == setting.seed else load_data(replace(setting, seed=seed))
        for name, network in networks.items():
            say(f"{name}: embeds the pictures of seed {seed}")
            rank = rank_one(*again.sides(embeddings(network, again.pictures.pixels)))
            row = {"extractor": name, "year": years[name], "sha256": network.sha256, "seed": seed}
            ranks.append(row | {"rank_1": rank})
    rows = []
    for attack in read_protocol()["real"]["attacks"]:
        posts = _users_posts(say, setting, attack, data, networks)
        loud = float(change(data.pictures.pixels[posts.index], posts.pixels).psnr.mean())
        for name, network in networks.items():
            role = experiment.role(setting, attack, name)
            for recogniser in RECOGNISERS:
                row = {"attack": attack, "extractor": name, "year": years[name], "role": role, "psnr": loud}
                rate = experiment.play(data, posts, network, recogniser=recogniser).rate
                rows.append(row | {"recogniser": recogniser, "protection": rate})
    command = "python -m facepoison study real --faces FOLDER"
    _write("real_recognisers", ranks, asked, commit, began, command)
    _write("real_waiting", rows, asked, commit, began, command)


def adaptive_real(say: Say, faces: Path, source: str, extractors: Path | None = None) -> None:
    """The adaptive trainer on real people: a real extractor trained on others' poison: ``adaptive_real.json``.

    Everybody but the users is public: their first pictures are poisoned by the trainer, who then trains on them.
    Arguments and errors are those of ``real``. Weights are not kept.
    """
    began, commit = time.time(), fingerprint.commit()
    setting, data, networks, told = _real_people(faces, source, extractors)
    asked = read_protocol()["adapting_real"]
    start, people = networks[asked["trainer"]], data.pictures.identities
    others = [who for who in range(len(data.pictures.names)) if who not in data.users]
    clean = data.pictures.take(torch.cat([(people == who).nonzero().flatten()[: asked["pictures"]] for who in others]))
    poisons, posted = {}, {}
    for attack in asked["attacks"]:
        parts = []
        for who in others:
            own = clean.of(who).pixels
            made = experiment.poison(setting, experiment.PRESETS[attack], own, networks, data.public)
            parts.append(made.arrays["pixels"])
            say(f"{attack}: {len(parts)} of {len(others)} public people")
        poisons[attack] = replace(clean, pixels=torch.cat(parts))
        posted[attack] = _users_posts(say, setting, attack, data, networks)
    preset = replace(ROBUST, name="robust training", draws=asked["draws"])
    trainers = {"none": start}
    for arm, taught in (("control", {}), ("both", poisons)):
        trainers[arm] = harden(start, clean, taught, preset, seed=setting.seed, report=say)
    rows = []
    for attack, posts in posted.items():
        before = experiment.play(data, posts, start)
        for arm, extractor in trainers.items():
            how = {
                "arm": arm,
                "people": len(others),
                "draws": 0 if arm == "none" else preset.draws,
                "seed": setting.seed,
            }
            rows.append(_met(how, attack, experiment.play(data, posts, extractor), before))
    command = "python -m facepoison study adaptive_real --faces FOLDER"
    _write("adaptive_real", rows, asked | told, commit, began, command)


def _real_people(
    faces: Path, source: str, extractors: Path | None
) -> tuple[Setting, Data, dict[str, Extractor], dict[str, object]]:
    """Setting, pictures and extractors of a study of real people, and what its card says of them."""
    registry = read_protocol()["registered"]
    setting = choose(registry["profile"], str(faces), registry["seed"], str(extractors) if extractors else "")
    if setting.extractors is None:
        raise InputError(f"{faces}: no folder 'models' beside it: give one of extractors")
    data = load_data(setting)
    told = {
        "source": source,
        "people": len(data.pictures.names),
        "pictures": data.pictures.pixels,
        "users": len(data.users),
        "surrogates": setting.surrogates,
    }
    return setting, data, timeline.timeline(setting), told


def _users_posts(
    say: Say, setting: Setting, attack: str, data: Data, networks: Mapping[str, Extractor]
) -> experiment.Poisoned:
    """What the users publish, with a line for each of them."""
    return experiment.poison_users(
        setting, attack, data, networks, lambda done, of: say(f"{attack}: {done} of {of} users")
    )


def _write(
    name: str,
    rows: list[dict[str, Any]],
    asked: Mapping[str, object],
    commit: str,
    began: float,
    command: str = "",
) -> None:
    command = command or f"python -m facepoison study {name}"
    seconds = time.time() - began
    shipped.write_table(name, rows, command=command, inputs=asked, commit=commit, seconds=seconds)
