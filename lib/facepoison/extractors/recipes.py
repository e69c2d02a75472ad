"""What each of the book's own extractors is trained by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from facepoison.errors import InputError

Loss = Literal["softmax", "cosface", "arcface", "triplet", "magface", "contrastive", "adaface"]
PAIRING: tuple[Loss, ...] = ("triplet", "contrastive")  # compare the pictures of a batch, without a classifier


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training pictures; every amount is drawn uniformly for each picture.

    Attributes:
        shift: Largest shift, in pixels of 64.
        zoom: Largest relative change of size.
        turn: Largest rotation in radians.
        colour: Largest relative change of each channel's gain; contrast changes by twice, brightness by as much.
        blur: Largest weight of a blur with binomial weights 1, 2, 1, of a third of the pictures.
        noise: Largest standard deviation of Gaussian noise on [0, 1], of another third.
        cutout: Chance that a square of 12 to 24 pixels is painted over.
        shrink: Chance that a picture is taken to a quarter, three eighths or half of its size and back.
    """

    shift: float = 2.0
    zoom: float = 0.03
    turn: float = 0.05
    colour: float = 0.05
    blur: float = 0.7
    noise: float = 0.02
    cutout: float = 0.1
    shrink: float = 0.0


_USUAL = Augmentation()
_CROPS = Augmentation(zoom=0.0, turn=0.0, colour=0.0, blur=0.0, noise=0.0, cutout=0.0)
STRONG = Augmentation(shift=3.0, zoom=0.06, turn=0.08, colour=0.12, blur=1.0, noise=0.03, cutout=0.2, shrink=0.3)


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on.

    Attributes:
        name: The extractor's name in the catalogue.
        architecture: Its key in ``ARCHITECTURES``.
        identities: How many synthetic identities it learns from; ``held_out`` more are kept for validation.
        per_person: Pictures of each.
        epochs: Passes over the training pictures.
        loss: What is minimised; ``scale`` and ``margin`` are those of the margin losses. The margin is zero for the
            first fifth of the steps and grows over the next two: small networks do not start otherwise. That of the
            triplet loss, between squared distances, stays the same; the scale of the contrastive loss is learned and
            only begins as given.
        rate: Highest learning rate of AdamW, reached after ``warm_up`` steps and followed by a cosine to zero.
        calm: Share of the steps, at the end, over which augmentation fades to a third.
        bfloat16: As of ``training.Training``.
        seed: Seed of weights, order and augmentation, and of the pictures.
        population: Where its identities come from, if not from a population of its own.
        together: How many pictures of a person come together into a batch, a divisor of ``per_person`` and ``batch``;
            losses that compare the pictures of a batch need at least 2. At 1, pictures come in random order.
    """

    name: str
    architecture: str
    identities: int
    per_person: int
    epochs: int
    loss: Loss
    scale: float = 1.0
    margin: float = 0.0
    held_out: int = 60
    batch: int = 128
    rate: float = 2.5e-3
    warm_up: int = 200
    weight_decay: float = 0.05
    augmentation: Augmentation = _USUAL
    calm: float = 0.25
    bfloat16: bool = True
    seed: int = 0
    population: str = ""
    together: int = 1

    @property
    def people(self) -> str:
        """The population that its identities come from: one of its own, unless another is named."""
        return self.population or f"training/{self.name}"

    @property
    def steps(self) -> int:
        """Number of updates of the weights."""
        return self.epochs * (self.identities * self.per_person // self.batch)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("arcface_2019", "narrow iResNet", 3000, 20, 12, "arcface", scale=24.0, margin=0.3),
        Recipe("vggface2_2018", "narrow SE-ResNet", 1500, 20, 15, "softmax"),
        Recipe("mobilefacenet_2018", "narrow MobileFaceNet", 1500, 20, 12, "cosface", 20.0, 0.25, bfloat16=False),
        Recipe("cosface_2018", "narrow SphereFace network", 1500, 20, 12, "cosface", 20.0, 0.25, bfloat16=False),
        Recipe("deepid_2014", "DeepID network", 500, 20, 25, "softmax", rate=1e-3, augmentation=_CROPS),
        Recipe(
            "facenet_2015",
            "narrow Inception-ResNet",
            1500,
            20,
            16,
            "triplet",
            margin=0.2,
            augmentation=_CROPS,
            together=4,
        ),
        Recipe("magface_2021", "narrow three-stage iResNet", 3000, 20, 12, "magface", scale=24.0, margin=0.5),
        Recipe(
            "contrastive_vit_2021",
            "narrow vision transformer",
            3000,
            20,
            7,
            "contrastive",
            1 / 0.07,
            rate=2e-3,
            together=2,
        ),
        Recipe(
            "adaface_2022", "narrow IR-SE network", 3000, 20, 10, "adaface", scale=24.0, margin=0.3, augmentation=STRONG
        ),
        Recipe("edgeface_2023", "narrow EdgeNeXt", 3000, 20, 9, "cosface", scale=24.0, margin=0.3),
    )
}


def find_recipe(name: str, seed: int = 0) -> Recipe:
    """The recipe of an own extractor; with another seed, the same with other people, weights, order and augmentation.

    Raises:
        InputError: there is no recipe of that name.
    """
    if name not in RECIPES:
        raise InputError(f"recipe '{name}' is unknown: use one of {', '.join(RECIPES)}")
    return replace(RECIPES[name], seed=seed)
