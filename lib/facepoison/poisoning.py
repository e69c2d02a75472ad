"""What users publish: all of their gallery pictures, poisoned here or as it comes with the book."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from facepoison import shipped
from facepoison.attacks.base import Attack, Progress
from facepoison.attacks.people import poison_people
from facepoison.attacks.presets import find_attack, title_of
from facepoison.attacks.similarity import change
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
from facepoison.protocol import Data, Setting, embeddings


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
    found = None if anew else find_shipped(setting, attack, networks)
    return live_and_shipped(setting, attack, clean, networks, data.public, found, progress)


def live_and_shipped(
    setting: Setting,
    attack: Attack,
    people: Pictures,
    networks: Mapping[str, Extractor],
    public: Pictures,
    found: shipped.Shipped | None,
    progress: Progress | None = None,
) -> Pictures:
    """Poison what several people publish: the protocol's live users of them where the others' come with the book.

    Args:
        setting: The run.
        attack: Which.
        people: Clean pictures, person by person.
        networks: Extractors by name, the surrogates among them.
        public: Pictures of other people, for targeted attacks.
        found: What comes with the book, of all of them in this order; None to make all.
        progress: Told of pictures done.
    """
    surrogates = [networks[name] for name in surrogates_of(setting, attack)]
    live = people if found is None else first_of(people, setting.live_users)
    made = poison_people(attack, live, surrogates, seed=setting.seed, public=public, progress=progress)
    if found is None:
        return made
    return replace(people, pixels=torch.cat([made.pixels, found.arrays["pixels"][len(live) :]]))


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
        "public": setting.protocol["public"] if attack.targeted else None,
    }


def shipped_inputs(setting: Setting, attack: Attack, networks: Mapping[str, Extractor]) -> dict[str, object]:
    """What decides the poisons of a setting's users, as cards of shipped poisons name it."""
    users = {"people": setting.people, "per_person": setting.per_person, "users": setting.n_users}
    return poison_inputs(setting, attack, networks) | users


def own_cosines(extractor: Extractor, clean: Tensor, poisoned: Tensor) -> Tensor:
    """Cosine between each poisoned picture and the picture that it was made from, float32 (M,): 1 where nothing moved.

    On a surrogate this is what the attack pushes down; on another extractor, what of that transfers.

    Args:
        extractor: Whose embeddings are compared.
        clean: uint8 (M, 3, H, W).
        poisoned: Their counterparts.
    """
    return (embeddings(extractor, clean) * embeddings(extractor, poisoned)).sum(dim=1)


def shipped_gap(
    setting: Setting, attack: Attack, data: Data, posts: Pictures, networks: Mapping[str, Extractor]
) -> float:
    """Difference in mean PSNR (dB) between live users' pictures as made here and as they come with the book.

    0 where none come with it.
    """
    found = find_shipped(setting, attack, networks)
    if found is None:
        return 0.0
    live = first_of(posts, setting.live_users)
    clean, there = data.to_publish(live.people).pixels, found.arrays["pixels"][: len(live)]
    one, other = (change(clean, pixels).psnr.mean() for pixels in (live.pixels, there))
    return abs(float(one - other))


def faintest_first(data: Data, posts: Mapping[str, Pictures]) -> dict[str, Pictures]:
    """What users publish, by the attacks' titles: no poison at all, and then the faintest first (by PSNR)."""
    clean = {name: data.to_publish(published.people) for name, published in posts.items()}
    quality = {name: float(change(clean[name].pixels, each.pixels).psnr.mean()) for name, each in posts.items()}
    none = {"no poison": next(iter(clean.values()))}
    return none | {title_of(name): posts[name] for name in sorted(quality, key=lambda name: -quality[name])}


def role(setting: Setting, attack: str, extractor: str) -> str:
    """What an extractor is to an attack: ``"undefended"``, ``"white-box"``, or ``"unseen"``, a surrogate left out."""
    if extractor == setting.undefended:
        return "undefended"
    return "white-box" if extractor in surrogates_of(setting, find_attack(attack)) else "unseen"
