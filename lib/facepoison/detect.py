"""Online detection: networks that tell poisoned pictures from clean ones, and how well they do.

The paper reports a fine-tuned ImageNet model [blog], whose code and weights were never published. These learn from
nothing: small networks, on pictures poisoned by the trainer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import fingerprint
from facepoison.attacks.lowkey import Perceptual
from facepoison.attacks.lpips import lpips_to
from facepoison.device import batches, generator, pick_device
from facepoison.errors import InputError
from facepoison.pictures import check_pictures, to_float
from facepoison.pictures.transforms import transform_at_random
from facepoison.store import Arrays, cached, from_checkout, of_weights
from facepoison.training import Training, learn, seeded

DETECTORS = fingerprint.LIB.parent / "data" / "detectors"
DEFAULT = "residual"  # which of these ``python -m facepoison detect`` asks: on photographs it finds more
ASKED = 64  # pictures that are asked about at a time
LEAST_SIDE = 16  # px, of what can be told from clean
_WIDTHS = (32, 64, 96)
_RESIDUAL_GAIN = 4.0  # brings what is left after smoothing to about the spread of a picture
_SHIFT = 3  # pixels by which a picture may be moved while a detector learns


@dataclass(frozen=True)
class DetectorRecipe:
    """How a detector is trained.

    Attributes:
        name: What it is called in tables.
        residual: Whether it sees only what smoothing over 3 x 3 pixels takes away, not the picture.
        draws: Pictures drawn, all steps together: half of them clean, half poisoned, by every attack alike.
        transformed: Share of the draws, clean and poisoned, that go through ``transform_at_random``.
        batch: Pictures in a step.
        rate: Highest learning rate of AdamW, reached after a share ``warm_up`` of the steps; a cosine to zero follows.
        warm_up: That share.
        weight_decay: Of all weights.
        bfloat16: As of ``Training``.
    """

    name: str
    residual: bool = False
    draws: int = 90_000
    transformed: float = 0.75
    batch: int = 64
    rate: float = 2e-3
    warm_up: float = 0.05
    weight_decay: float = 0.05
    bfloat16: bool = True


NETWORK = DetectorRecipe("network on pictures")
RESIDUAL = DetectorRecipe("network on residuals", residual=True)
PLAIN = DetectorRecipe("network, nothing transformed", transformed=0.0)


class _Block(nn.Module):
    """Two 3 x 3 convolutions with a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(self.first(x)))


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU(inplace=True)
    )


class Detector(nn.Module):
    """A small residual network (He et al., CVPR 2016) that gives one number for a picture: how poisoned it looks.

    It sees pictures at their own size, since resizing takes away what it looks for; 2 x 2 pixels become channels
    first, which keeps every pixel and costs a quarter.

    Args:
        residual: As in ``DetectorRecipe``.
        name: What it is called in tables.
        sha256: Of its weights.
    """

    def __init__(self, residual: bool = False, name: str = "", sha256: str = "") -> None:
        super().__init__()
        self.residual, self.name, self.sha256 = residual, name, sha256
        narrow, middle, wide = _WIDTHS
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            _convolution(12, narrow),
            _Block(narrow),
            _convolution(narrow, middle, 2),
            _Block(middle),
            _convolution(middle, wide, 2),
            _Block(wide),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(wide, 1),
        )

    def key_parts(self) -> Mapping[str, object]:
        """What stands for it in the key of a result: hash of its weights, and what it sees."""
        return {"sha256": self.sha256, "residual": self.residual}

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B,) of RGB float pictures (B, 3, H, W) in [0, 1], of any size from 16 pixels up."""
        odd = [side % 2 for side in pictures.shape[-2:]]
        seen = F.pad(pictures, (0, odd[1], 0, odd[0]), mode="replicate") if any(odd) else pictures
        if self.residual:
            smooth = F.avg_pool2d(F.pad(seen, (1,) * 4, mode="replicate"), 3, 1)
            seen = _RESIDUAL_GAIN * (seen - smooth)
        else:
            seen = 2 * seen - 1
        logits: Tensor = self.layers(seen.contiguous(memory_format=torch.channels_last))
        return logits[:, 0]


def train_detector(
    clean: Tensor,
    poisons: Mapping[str, Tensor],
    recipe: DetectorRecipe,
    *,
    seed: int,
    start: Detector | None = None,
    device: str = "auto",
    scratch: Path | None = None,
    report: Callable[[str], None] | None = None,
    every: float = 60.0,
) -> Detector:
    """Train a detector on clean pictures and poison of the trainer's own making.

    Args:
        clean: uint8 RGB (N, 3, H, W).
        poisons: By attack, poisoned pictures (M, 3, H, W) of the same size.
        recipe: How.
        seed: Of weights, draws and what befalls the pictures.
        start: A detector to go on from; it stays as it is.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        scratch: As of ``learn``; a killed training resumes to the same.
        report: As of ``learn``.
        every: As of ``learn``.

    Returns:
        The detector, frozen, in evaluation mode, its weights rounded to half precision as files hold them.

    Raises:
        InputError: pictures are wrong, the recipe makes no step or is not for a detector like ``start``, or training
            ran away.

    Example:
        >>> import facepoison as fp
        >>> clean = fp.make_pictures("examples", 2, 2, 32, seed=1).pixels
        >>> short = fp.DetectorRecipe("two steps", draws=16, batch=8)
        >>> detector = fp.train_detector(clean, {"eights": clean ^ 8}, short, seed=1)
        >>> detector.name, fp.scores(detector, clean).shape
        ('two steps', torch.Size([4]))
    """
    check_pictures(clean, "clean pictures", LEAST_SIDE)
    if not poisons:
        raise InputError("detector: no poison; give pictures of at least one attack")
    for attack, pixels in poisons.items():
        check_pictures(pixels, attack, LEAST_SIDE)
        if pixels.shape[1:] != clean.shape[1:]:
            raise InputError(
                f"{attack}: pictures {tuple(pixels.shape[1:])}, clean {tuple(clean.shape[1:])}; use one size"
            )
    steps = recipe.draws // recipe.batch
    if steps < 1 or recipe.batch % 2:
        raise InputError(
            f"{recipe.name}: {recipe.draws} draws, batches of {recipe.batch}; take more draws, even batches"
        )
    if start is not None and start.residual != recipe.residual:
        raise InputError(f"{recipe.name}: goes on from '{start.name}', which sees pictures otherwise; take another")
    where = pick_device(device)
    model = _begun(recipe, seed) if start is None else copy.deepcopy(start).requires_grad_(True)
    model = model.to(where).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
    target = torch.cat([torch.zeros(recipe.batch // 2), torch.ones(recipe.batch // 2)]).to(where)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        pictures = _drawn(clean, list(poisons.values()), recipe, generator(seed, "detector", step))
        return to_float(pictures.to(where)), target

    parts = {"clean": clean, "poisons": list(poisons.items()), "recipe": recipe, "seed": seed, "start": start}
    loss, warm_up = F.binary_cross_entropy_with_logits, recipe.warm_up * steps
    training = Training(recipe.name, steps, warm_up, recipe.bfloat16, batch, loss, parts)
    learn(training, model, optimiser, scratch=scratch, report=report, every=every)
    return _finished(model, recipe.name)


def trained(clean: Tensor, poisons: Mapping[str, Tensor], recipe: DetectorRecipe, *, seed: int) -> Detector:
    """The detector that ``train_detector`` makes of the same, trained once and then cached.

    Raises:
        InputError: as in ``train_detector``.
    """

    def train() -> Arrays:
        return dict(train_detector(clean, poisons, recipe, seed=seed).state_dict())

    in_order = list(poisons.items())  # which the draws depend on
    result = cached("detector", train, by=[train_detector], clean=clean, poisons=in_order, recipe=recipe, seed=seed)
    model = Detector(recipe.residual).to(memory_format=torch.channels_last)
    model.load_state_dict(result.arrays)
    return _finished(model.to(pick_device("auto")), recipe.name)


def _finished(model: Detector, name: str) -> Detector:
    """A trained detector as files hold it: frozen, in half precision, with a name and the hash of its weights."""
    model = model.half().float().eval().requires_grad_(False)
    model.name = name
    model.sha256 = of_weights(model)
    return model


def _begun(recipe: DetectorRecipe, seed: int) -> Detector:
    """A detector with the weights that a seed draws."""
    with seeded(seed, "detector", "weights"):
        return Detector(recipe.residual)


def _drawn(clean: Tensor, poisons: Sequence[Tensor], recipe: DetectorRecipe, stream: torch.Generator) -> Tensor:
    """A batch, clean pictures first: drawn, mirrored, moved and transformed; uint8."""
    half = recipe.batch // 2
    which = torch.randint(len(poisons), (half,), generator=stream).tolist()
    share = torch.rand(half, generator=stream, dtype=torch.float64).tolist()
    poisoned = [poisons[attack][int(part * len(poisons[attack]))] for attack, part in zip(which, share, strict=True)]
    pixels = torch.cat([clean[torch.randint(len(clean), (half,), generator=stream)], torch.stack(poisoned)])
    mirrored = torch.rand(len(pixels), generator=stream) < 0.5
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    height, width = pixels.shape[-2:]
    down, right = torch.randint(2 * _SHIFT + 1, (2,), generator=stream).tolist()
    wide = F.pad(to_float(pixels), (_SHIFT,) * 4, mode="reflect")[..., down : down + height, right : right + width]
    return transform_at_random((wide * 255).round().to(torch.uint8), recipe.transformed, stream)


def load_detector(name: str, folder: Path = DETECTORS) -> Detector:
    """A detector that comes with the book, by the name of its file, on the device that computes.

    Raises:
        InputError: it is not there, or not the file that its card describes.

    Example:
        >>> import facepoison as fp
        >>> fp.load_detector("residual").name
        'network on residuals'
    """
    path = from_checkout(folder / f"{name}.safetensors")
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise InputError(f"{path}: there is no such detector, or no card beside it: restore both from the project")
    try:
        card = json.loads(path.with_suffix(".json").read_text())
        detector = Detector(card["recipe"]["residual"], card["recipe"]["name"], card["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path.with_suffix('.json')}: is no card of a detector ({error}): restore it") from error
    if fingerprint.of_file(path) != detector.sha256:
        raise InputError(f"{path}: is not the file that its card describes: restore both from the project")
    detector.load_state_dict({key: value.float() for key, value in load_file(path).items()}, strict=False)
    detector = detector.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return detector.to(pick_device("auto"))


@torch.no_grad()
def scores(detector: Detector, pixels: Tensor) -> Tensor:
    """How poisoned pictures look: logits, float32 (N,) on the CPU, of uint8 pictures (N, 3, H, W).

    Raises:
        InputError: they are no such pictures.

    Example:
        >>> import facepoison as fp
        >>> clean = fp.make_pictures("examples", 1, 2, 64, seed=1).pixels
        >>> fp.scores(fp.load_detector("residual"), clean).shape
        torch.Size([2])
    """
    check_pictures(pixels, "pictures", LEAST_SIDE)
    device = next(detector.parameters()).device
    return torch.cat([detector(to_float(pixels[some].to(device))).cpu() for some in batches(len(pixels), ASKED)])


def threshold(clean: Tensor, allowed: float) -> float:
    """The score above which at most a share ``allowed`` of clean pictures lies.

    Args:
        clean: Scores of clean pictures that are counted nowhere else, (N,).
        allowed: The share, 0 to 1. 0 gives the highest score of all, the strictest threshold that these pictures can
            set: of others, 1 in N + 1 is expected to lie above it.

    Raises:
        InputError: there are fewer clean pictures than the share needs: it would be set by none of them.

    Example:
        >>> import torch
        >>> import facepoison as fp
        >>> fp.threshold(torch.arange(100.0), 0.05)
        94.0
    """
    n = len(clean)
    if not 0 <= allowed < 1 or not n or 0 < n * allowed < 1:
        raise InputError(f"threshold: {allowed:g} of {n} clean pictures is less than one; give more pictures, or 0")
    return float(clean.kthvalue(n - int(n * allowed)).values)


def area(clean: Tensor, poisoned: Tensor) -> float:
    """Area under the ROC curve: how often a poisoned picture scores higher than a clean one, 0 to 1."""
    label = torch.cat([torch.zeros(len(clean)), torch.ones(len(poisoned))])
    return float(roc_auc_score(label.numpy(), torch.cat([clean, poisoned]).numpy()))


def precision(found: float, false_alarms: float, base: float) -> float:
    """Share of flagged pictures that are poisoned, where a share ``base`` of all is; 0 where nothing is flagged."""
    true, false = base * found, (1 - base) * false_alarms
    return true / (true + false) if true + false else 0.0


@dataclass(frozen=True)
class Evading:
    """The user's reply: what LowKey is held back by besides the change that can be seen.

    Attributes:
        detector: A copy of the trainer's.
        weight: Of the detector, in units of the squared distance that the attack maximises.
        visible: The attack's own weight of what can be seen, by which ``weight`` is divided: the attack multiplies.
        margin: How far below zero the logit is pushed; below that nothing is gained.
        perceptual: The attack's own distance.
    """

    detector: Detector = field(repr=False)
    weight: float
    visible: float
    margin: float
    perceptual: Perceptual = lpips_to

    def __call__(self, clean: Tensor) -> Callable[[Tensor], Tensor]:
        """As ``lowkey.Perceptual``, of float pictures (B, 3, H, W)."""
        unlike = self.perceptual(clean)

        def distance(pictures: Tensor) -> Tensor:
            alarm = F.relu(self.detector(pictures) + self.margin)
            return unlike(pictures) + self.weight / self.visible * alarm

        return distance
