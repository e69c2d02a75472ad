"""Studies of photographs of real people, with other people's extractors: numbers only."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from scipy.optimize import root_scalar
from torch import Tensor

from facepoison import end_to_end, game, outcomes, shipped
from facepoison.adapt import ROBUST, adversarial_fine_tuning
from facepoison.attacks.base import Attack
from facepoison.attacks.lowkey import LOWKEY, LowKey
from facepoison.attacks.presets import find_attack
from facepoison.attacks.similarity import change
from facepoison.device import generator
from facepoison.evaluation import Answers, Protection, named_right
from facepoison.extractors import Extractor
from facepoison.game import own_probes
from facepoison.outcomes import Key
from facepoison.pictures import Pictures
from facepoison.pictures.duplicates import near_duplicates
from facepoison.pictures.splits import first_users, split
from facepoison.pictures.transforms import transform_at_random
from facepoison.protocol import Data, embeddings
from facepoison.recognition import linear_rounds
from facepoison.shards import Shard, compute
from facepoison.timeline import accepted_pairs
from facepoison.trainer import others_distances
from studies.common import RealPeople, Run, counting, keep, poisoned, script, users_posts

NOISE = "noise"
"""What users post as a control: their pictures with noise that is as loud, picture by picture, as LowKey."""


def clean(run: Run, found: RealPeople) -> None:
    """What extractors make of everybody's clean photographs: ``photographs_clean``.

    By seed of the split and extractor whether a probe was named right, 1-NN; and by extractor whether pairs of pictures
    of one user are accepted where so many pairs of two users are. Two photographs that are one are counted: of one
    person in gallery and probes, of two people.
    """
    began, asked = shipped.begin(), run.setting.protocol["photographs"]
    data, arrays = found.data, dict[Key, Tensor]()
    who, nothing = data.pictures.identities, data.to_publish(data.users)
    users = torch.isin(who, torch.tensor(data.users))
    for extractor, network in found.extractors.items():
        seen = embeddings(network, found.seen_by(network, nothing)[0].pictures.pixels)
        for seed in asked["seeds"]:
            gallery, probes = split(data.pictures, seed, found.setting.gallery_share)
            arrays["person", str(seed)] = who[probes]
            arrays["right", str(seed), extractor] = named_right(seen[gallery], who[gallery], seen[probes], who[probes])
        accepted, arrays["pair of",] = accepted_pairs(seen[users], who[users], asked["false_accepts"])[:2]
        arrays["accepted", extractor] = accepted
        run.say(f"{extractor}: asked about clean photographs")
    pairs = near_duplicates(data.pictures)
    one = who[pairs[:, 0]] == who[pairs[:, 1]]
    parted = torch.isin(pairs, data.gallery).sum(dim=1) == 1
    counted = {"same photographs of one person": int(one.sum()), "of two people": int((~one).sum())}
    counted["of one person in gallery and probes"] = int((one & parted).sum())
    keep(
        run,
        "photographs_clean",
        {key: each.long() for key, each in arrays.items()},
        _inputs(run, found, counted),
        began,
    )


def waiting(run: Run, found: RealPeople) -> None:
    """Users' old photographs before every extractor: the answers, ``photographs``, and ``photographs_size``.

    They stand under what users post, or ``clean``, extractor, and ``nearest``, or ``open set`` where part of the crowd
    is not enrolled. Beside them how far pictures of these strangers are from the gallery, and PSNR picture by picture.
    ``photographs_size`` has a few users among fewer people and more.
    """
    began, asked = shipped.begin(), run.setting.protocol["photographs"]
    data, answers, sizes = found.data, dict[Key, Answers](), dict[Key, Answers]()
    posted = posts_of(run, found, asked["attacks"])
    leaks = {
        f"{name}, {n} leaked": game.leaked(data, posted[name], n, found.setting.seed)
        for name, n in itertools.product(asked["attacks"], asked["leaked"])
    }
    own = data.to_publish(data.users)
    arrays: dict[Key, Tensor] = {
        ("PSNR, dB", name): change(own.pixels, posts.pixels).psnr for name, posts in posted.items()
    }
    out = strangers(data, asked["enrolled"], found.setting.seed)
    arrays |= {("published by",): own.identities, ("stranger",): data.pictures.identities[out]}
    order = first_users(data.pictures, len(data.pictures.names), found.setting.seed)
    few = data.users[: asked["few"]]
    people = [*few, *(who for who in order if who not in few)]
    for extractor, network in found.extractors.items():
        for name, posts in posted.items():
            there, theirs = found.seen_by(network, posts)
            answers |= by_picture(there, (name, extractor, "nearest"), game.play(there, theirs, network))
            enrolled = without(there, out)
            answers |= by_picture(enrolled, (name, extractor, "open set"), game.play(enrolled, theirs, network))
            for n in asked["sizes"]:
                some, of_few = game.among(there, theirs, people[:n], few)
                sizes |= by_picture(some, (name, extractor, str(n)), game.play(some, of_few, network))
            run.say(f"{extractor}, {name}: {answers[name, extractor, 'nearest'].by_user.mean():.3f}")
        for name, posts in leaks.items():
            there, theirs = found.seen_by(network, posts)
            answers |= by_picture(there, (name, extractor, "nearest"), game.play(there, theirs, network))
        seen = embeddings(network, there.pictures.pixels)
        arrays["distance of stranger", extractor] = torch.cdist(seen[out], seen[enrolled.gallery]).amin(dim=1)
    inputs = _inputs(run, found)
    keep(run, "photographs", arrays | outcomes.pack_answers(answers), inputs, began)
    keep(run, "photographs_size", outcomes.pack_answers(sizes), inputs, began)


def linear(run: Run, found: RealPeople) -> None:
    """The same photographs before the linear recogniser on every extractor: the answers, ``photographs_linear``.

    They stand under what users post, or ``clean``, and extractor.
    """
    began, asked = shipped.begin(), run.setting.protocol["photographs"]
    data, posted = found.data, posts_of(run, found, asked["attacks"])
    pairs = list(itertools.product(found.extractors.items(), posted.items()))
    shards = []
    for (_, network), (_, posts) in pairs:
        there, theirs = found.seen_by(network, posts)
        gallery, labels, probes, who = data.sides(embeddings(network, there.pictures.pixels))
        published = embeddings(network, theirs.pixels)
        parts = {"gallery": gallery, "labels": labels, "users": list(posts.people)}
        parts |= {"asked": [probes[places] for places in own_probes(who, posts.people)]}
        parts |= {"published": [published[posts.identities == user] for user in posts.people]}
        shards.append(Shard("linear rounds", rounds, parts, by=(linear_rounds,)))
    progress, done = counting(run, "linear recogniser", "pairs of extractor and attack"), itertools.count(1)
    played = compute(shards, run.pool, lambda _: progress(next(done), len(shards)))
    answers, own = dict[Key, Answers](), own_probes(data.pictures.identities[data.probes], data.users)
    for ((extractor, _), (name, _)), rounds_played in zip(pairs, played, strict=True):
        outcome = game.compared(data.users, own, rounds_played.arrays["before"], rounds_played.arrays["after"])
        answers |= by_picture(data, (name, extractor), outcome)
    keep(run, "photographs_linear", outcomes.pack_answers(answers), _inputs(run, found), began)


def rounds(
    gallery: Tensor, labels: Tensor, users: list[int], asked: list[Tensor], published: list[Tensor]
) -> dict[str, Tensor]:
    """What the linear recogniser says of users' probes, ``before`` they poison and ``after``; see ``linear_rounds``."""
    before, after = linear_rounds(gallery, labels, asked, dict(zip(users, published, strict=True)))
    return {"before": before, "after": after}


def retrained(run: Run, found: RealPeople) -> None:
    """A few users' photographs before trainers who fine-tune the extractor on them: ``photographs_end_to_end``.

    The answers, by what users post, or ``clean``, and extractor; with each attack which share of a user's poison was
    learnt.
    """
    began, asked = shipped.begin(), run.setting.protocol["photographs"]
    setting = replace(found.setting, n_retrained=asked["retrained_users"])
    posted, answers = posts_of(run, found, asked["retrained_attacks"]), dict[Key, Answers]()
    learnt = dict[Key, Tensor]()
    for (name, posts), extractor in itertools.product(posted.items(), asked["retrained"]):
        outcome = end_to_end.retrain(
            setting,
            found.data,
            posts,
            found.extractors[extractor],
            lambda done, of, what=f"{name}, {extractor}": run.say(f"{what}: {done} of {of} trainings"),  # type: ignore[misc]
        )
        answers |= {(name, extractor): outcome.protection.poisoned, ("clean", extractor): outcome.protection.clean}
        learnt[name, extractor, "learnt"] = outcome.own_fit
    keep(run, "photographs_end_to_end", learnt | outcomes.pack_answers(answers), _inputs(run, found), began)


def few(run: Run, found: RealPeople) -> None:
    """What a few users would gain by another surrogate, and attacks at equal PSNR: ``photographs_few``.

    The answers, 1-NN, by what users post, or ``clean``, and extractor; and PSNR picture by picture. The attacks at
    equal PSNR have other weights and thresholds than those published: the card says which.
    """
    began, asked = shipped.begin(), run.setting.protocol["photographs"]
    some = replace(found, data=replace(found.data, users=found.data.users[: asked["few"]]))
    data, setting = some.data, some.setting
    posted = posts_of(run, some, asked["attacks"])
    more = replace(setting, surrogates=tuple(asked["more_surrogates"]))
    title = f"{LOWKEY.title} on {len(more.surrogates)} surrogates"
    posted[title] = users_posts(run, more, LOWKEY, data, some.extractors, title)
    settings = dict[str, float]()
    for name in asked["attacks"]:
        attack = at_psnr(run, some, find_attack(name), asked)
        settings[name] = getattr(attack, dial_of(attack))
        posted[f"{name}, equal PSNR"] = users_posts(run, setting, attack, data, some.extractors, f"{name}, equal PSNR")
    own, answers = data.to_publish(data.users), dict[Key, Answers]()
    level = torch.full((len(own),), asked["psnr"])
    posted[f"{NOISE}, equal PSNR"] = replace(own, pixels=noise_at(own.pixels, level, setting.seed))
    psnr: dict[Key, Tensor] = {
        ("PSNR, dB", name): change(own.pixels, posts.pixels).psnr for name, posts in posted.items()
    }
    for (extractor, network), (name, posts) in itertools.product(some.extractors.items(), posted.items()):
        there, theirs = some.seen_by(network, posts)
        answers |= by_picture(there, (name, extractor), game.play(there, theirs, network))
    inputs = _inputs(run, found, {"settings at equal PSNR": settings})
    keep(run, "photographs_few", psnr | outcomes.pack_answers(answers), inputs, began)


def dial_of(attack: Attack) -> str:
    """The constant by which an attack is made louder or softer: LowKey's weight, Fawkes' threshold."""
    return "weight" if isinstance(attack, LowKey) else "threshold"


def at_psnr(run: Run, found: RealPeople, attack: Attack, asked: Mapping[str, Any]) -> Attack:
    """An attack at the PSNR asked for, the median over pictures of some people of the crowd."""
    people, each = asked["tuned_on"]
    public = found.data.public
    known = dict.fromkeys(public.identities.tolist())
    places = [(public.identities == who).nonzero().flatten()[:each] for who in [*known][:people]]
    clean, dial = public.take(torch.cat(places)), dial_of(attack)
    others = public.take(~torch.isin(public.identities, clean.identities))

    def turned(factor: float) -> Attack:
        return replace(attack, **{dial: getattr(attack, dial) * math.exp(factor)})  # type: ignore[type-var]

    def missed(factor: float) -> float:
        poison = poisoned(run, turned(factor), clean, found.setting, found.extractors, others, f"{attack.title}, tried")
        return float(change(clean.pixels, poison.pixels).psnr.median()) - float(asked["psnr"])

    return turned(root_scalar(missed, bracket=(-2.5, 2.5), method="brentq", xtol=0.02).root)


def adapting(run: Run, found: RealPeople) -> None:
    """A trainer who trains an extractor on poison made of the crowd, before all users: ``photographs_adapting``.

    The answers, 1-NN, by what users post, or ``clean``, and training: its arm and seed. Beside them, as ``clean`` has
    them, whether clean probes of everybody are named right, and pairs of users' pictures accepted; and how far clean
    probes of the crowd are from the gallery, untrained. The rate of learning was chosen on people of the crowd who then
    were no users, as the card says. Weights are not kept.
    """
    began, asked = shipped.begin(), run.setting.protocol["photographs"] | run.setting.protocol["photographs_adapting"]
    data, start = found.data, found.extractors[asked["trainer"]]
    public, who = data.public, data.pictures.identities
    told = {
        name: poisoned(run, find_attack(name), public, found.setting, found.extractors, public)
        for name in asked["trained_on"]
    }
    met, users = posts_of(run, found, asked["attacks"]), torch.isin(who, torch.tensor(data.users))
    del met[NOISE]
    rate = chosen_rate(run, found, told, asked)
    answers, arrays = dict[Key, Answers](), dict[Key, Tensor]({("person",): who[data.probes]})

    def meet(extractor: Extractor, *training: str) -> None:
        seen = embeddings(extractor, data.pictures.pixels)
        arrays["right", *training] = named_right(*data.sides(seen)).long()
        hits, owners, _ = accepted_pairs(seen[users], who[users], asked["false_accepts"])
        arrays.update({("accepted", *training): hits.long(), ("pair of",): owners})
        for name, posts in met.items():
            answers.update(by_picture(data, (name, *training), game.play(data, posts, extractor)))
            run.say(f"{'-'.join(training)}, {name}: {answers[name, *training].by_user.mean():.3f}")

    meet(start, "none")
    arrays["distance of the crowd",] = others_distances(data, start)
    for arm, seed in [(arm, asked["seeds"][0]) for arm in asked["arms"]] + [("both", n) for n in asked["seeds"][1:]]:
        poisons = poisons_of(arm, public, told, seed)
        meet(trained(run, start, public, poisons, asked["draws"], rate, seed), arm, str(seed))
    inputs = _inputs(run, found, asked | {"rate": rate})
    keep(run, "photographs_adapting", arrays | outcomes.pack_answers(answers), inputs, began)


def poisons_of(arm: str, clean: Pictures, told: Mapping[str, Pictures], seed: int) -> dict[str, Pictures]:
    """What an arm is trained on beside clean pictures: nothing, these augmented twice, one attack's poison, or all."""
    if arm == "augmentation":
        stream = generator(seed, "photographs", arm)
        return {f"{arm} {n}": replace(clean, pixels=transform_at_random(clean.pixels, 1.0, stream)) for n in (1, 2)}
    return {"control": {}, "both": dict(told)}.get(arm) or {name: told[name] for name in told if name == arm}


def trained(
    run: Run, start: Extractor, clean: Pictures, poisons: Mapping[str, Pictures], draws: int, rate: float, seed: int
) -> Extractor:
    """The extractor after adversarial fine-tuning; resumes from a file under ``run.scratch``."""
    name = f"{' and '.join(poisons) or 'clean pictures'}, {len(clean.people)} people, rate {rate:g}, seed {seed}"
    preset = replace(ROBUST, name=name, draws=draws, rate=rate)
    folder = run.scratch / "photographs"
    return adversarial_fine_tuning(start, clean, poisons, preset, seed=seed, scratch=folder, report=run.say)


def chosen_rate(run: Run, found: RealPeople, told: Mapping[str, Pictures], asked: Mapping[str, Any]) -> float:
    """The rate of learning that leaves least protection to people of the crowd whom the trainer leaves out for that.

    Of rates that cost their clean probes more than allowed none is taken, unless all do.
    """
    data, start = found.data, found.extractors[asked["trainer"]]
    left_out = data.public.people[-asked["validation"] :]
    known = ~torch.isin(data.public.identities, torch.tensor(left_out))
    clean, poisons = data.public.take(known), {name: each.take(known) for name, each in told.items()}
    few = replace(data, users=left_out)
    # their poison in the order of ``Data.to_publish``: the public pictures are their gallery pictures
    posts = {name: each.take(~known) for name, each in told.items()}
    before = game.play(few, few.to_publish(left_out), start).rate.clean_error
    tried = []
    for rate in asked["rates"]:
        extractor = trained(run, start, clean, poisons, asked["draws"], rate, asked["seeds"][0])
        rates = [game.play(few, each, extractor).rate for each in posts.values()]
        cost = rates[0].clean_error.value - before.value  # type: ignore[union-attr]
        left = sum(each.value for each in rates) / len(rates)
        run.say(f"rate {rate:g}: costs {cost:.3f}, leaves {left:.3f}")
        tried.append((cost > asked["accuracy_lost"], left, rate))
    best: float = min(tried)[2]
    return best


def posts_of(run: Run, found: RealPeople, attacks: Sequence[str]) -> dict[str, Pictures]:
    """What all users post, by attack, and as a control by noise as loud as LowKey where LowKey is among them."""
    data = found.data
    posted = {name: users_posts(run, found.setting, find_attack(name), data, found.extractors) for name in attacks}
    if LOWKEY.name in posted:
        own = data.to_publish(data.users)
        loud = change(own.pixels, posted[LOWKEY.name].pixels).psnr
        posted[NOISE] = replace(own, pixels=noise_at(own.pixels, loud, found.setting.seed))
    return posted


def noise_at(pixels: Tensor, psnr: Tensor, seed: int) -> Tensor:
    """Pictures with Gaussian noise at a PSNR of each, uint8 (N, 3, H, W).

    Noise is cut off where a picture is black or white, and rounded; louder noise elsewhere makes that good.

    Args:
        pixels: Clean, uint8 (N, 3, H, W).
        psnr: Of each picture, dB (N,).
        seed: Of the noise.
    """
    noise = torch.randn(pixels.shape, generator=generator(seed, "photographs", NOISE))
    clean, wanted = pixels.float(), 255 * 10 ** (-psnr.float() / 20)
    level = wanted.clone()
    for _ in range(8):  # a fixed point: each time the level grows by what is missing
        noised = (clean + noise * level.view(-1, 1, 1, 1)).round().clamp(0, 255)
        level = level * wanted / (noised - clean).square().mean(dim=(1, 2, 3)).sqrt()
    return noised.to(torch.uint8)


def strangers(data: Data, share: float, seed: int) -> Tensor:
    """Places of all pictures of those of the crowd who are not enrolled where a share of it is, drawn by seed."""
    everybody = first_users(data.pictures, len(data.pictures.names), seed)
    crowd = [who for who in everybody if who not in data.users]
    out = torch.tensor(crowd[round(share * len(crowd)) :])
    return torch.isin(data.pictures.identities, out).nonzero().flatten()


def without(data: Data, places: Tensor) -> Data:
    """The data with pictures at some places neither in the gallery nor among the probes."""
    gallery, probes = (side[~torch.isin(side, places)] for side in (data.gallery, data.probes))
    return replace(data, gallery=gallery, probes=probes)


def by_picture(data: Data, key: Key, outcome: Protection) -> dict[Key, Answers]:
    """Two answers to each probe, with poison and without, under a key: probes by their places among all pictures."""
    two = outcome.top(2)
    both = {key: two.poisoned, ("clean", *key[1:]): two.clean}
    return {name: replace(each, probe=data.probes[each.probe]) for name, each in both.items()}


def _inputs(run: Run, found: RealPeople, counted: Mapping[str, object] | None = None) -> dict[str, Any]:
    """What cards of these studies say of the people, beside what the protocol asks."""
    asked: dict[str, Any] = run.setting.protocol["photographs"]
    return found.said | asked | dict(counted or {})


if __name__ == "__main__":
    sys.exit(script(__doc__, [], on_crowds=[clean, waiting, few, linear, retrained, adapting]))
