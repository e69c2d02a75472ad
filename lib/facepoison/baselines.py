"""Plain detectors to measure the networks by: 36 statistics of a picture, and two classifiers of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from facepoison.detect import LEAST_SIDE
from facepoison.device import batches, generator
from facepoison.errors import InputError
from facepoison.pictures import check_pictures, to_float
from facepoison.pictures.transforms import transform_at_random
from facepoison.store import cached

Baseline = Literal["linear baseline", "boosted trees"]
_LUMA = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))  # Y, Cb, Cr of JPEG
_AT_A_TIME = 256


class Classifier(Protocol):
    """What scikit-learn's classifiers have in common, as far as it is needed here."""

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        """One number for each row: above 0 speaks for poison."""


def statistics(pixels: Tensor) -> Tensor:
    """What the finest detail of pictures is like: float32 (N, 36) of uint8 pictures (N, 3, H, W).

    Of brightness and both colour differences, after each of four filters (steps to the right, down, along the
    diagonal, and the Laplacian): the logarithm of the mean absolute value, that of the variance, and the kurtosis.
    Noise residuals such as these are what steganalysis starts from (Fridrich and Kodovsky, IEEE TIFS 2012).

    Raises:
        InputError: they are no such pictures.
    """
    check_pictures(pixels, "pictures", LEAST_SIDE)
    kernels = torch.zeros(4, 1, 3, 3)
    kernels[0, 0, 1, 1:] = torch.tensor([-1.0, 1.0])
    kernels[1, 0, 1:, 1] = torch.tensor([-1.0, 1.0])
    kernels[2, 0, 1, 1], kernels[2, 0, 2, 2] = -1.0, 1.0
    kernels[3, 0] = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    colours = torch.tensor(_LUMA)
    parts = []
    for some in batches(len(pixels), _AT_A_TIME):
        channels = torch.einsum("cd,ndhw->nchw", colours, 255 * to_float(pixels[some].cpu()))
        n, _, height, width = channels.shape
        left = F.conv2d(channels.reshape(-1, 1, height, width), kernels).flatten(2)
        variance = left.var(dim=2) + 1e-3
        fourth = (left - left.mean(dim=2, keepdim=True)).pow(4).mean(dim=2) / variance.square()
        found = torch.stack([(left.abs().mean(dim=2) + 1e-3).log(), variance.log(), fourth.log1p()], dim=2)
        parts.append(found.view(n, -1))
    return torch.cat(parts)


def train_baseline(
    kind: Baseline, clean: Tensor, poisons: Mapping[str, Tensor], *, transformed: float, times: int, seed: int
) -> Classifier:
    """A classifier of the 36 statistics, from pictures transformed as those that networks learn from.

    Args:
        kind: ``"linear baseline"``, a logistic regression of standardised statistics, or ``"boosted trees"``, which
            can also say that something lies *between* two amounts.
        clean: uint8 (N, 3, H, W).
        poisons: By attack, poisoned pictures (M, 3, H, W).
        transformed: Share of the pictures that are transformed.
        times: How often each picture is taken, transformed anew each time.
        seed: Of that, and of the trees.

    Raises:
        InputError: the kind is unknown, or there is no poison.
    """
    if kind not in ("linear baseline", "boosted trees") or not poisons:
        raise InputError(f"baseline '{kind}' of {len(poisons)} attacks: use linear baseline or boosted trees, and one")
    for what, some in {"clean pictures": clean, **poisons}.items():
        check_pictures(some, what, LEAST_SIDE)
        if some.shape[1:] != clean.shape[1:]:
            raise InputError(f"{what}: {tuple(some.shape[1:])}, clean pictures {tuple(clean.shape[1:])}; use one size")
    pixels = torch.cat([clean, *poisons.values()])
    stream = generator(seed, "baseline")
    seen = torch.cat([statistics(transform_at_random(pixels, transformed, stream)) for _ in range(times)])
    label = torch.cat([torch.zeros(len(clean)), torch.ones(len(pixels) - len(clean))]).repeat(times)
    model = (
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
        if kind == "linear baseline"
        else HistGradientBoostingClassifier(class_weight="balanced", max_iter=300, random_state=seed)
    )
    trained: Classifier = model.fit(seen.numpy(), label.numpy())
    return trained


def baseline_scores(classifier: Classifier, pixels: Tensor) -> Tensor:
    """How poisoned pictures look to a baseline: float32 (N,) of uint8 pictures (N, 3, H, W)."""
    return torch.from_numpy(classifier.decision_function(cached_statistics(pixels).numpy())).float()


def cached_statistics(pixels: Tensor) -> Tensor:
    """As ``statistics``, computed once and then cached, whichever baseline asks."""
    result = cached("statistics", lambda: {"statistics": statistics(pixels)}, by=[statistics], pixels=pixels)
    return result.arrays["statistics"]
