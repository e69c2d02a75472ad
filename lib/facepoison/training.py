"""The one training loop: extractors, end-to-end recognisers and detectors all learn in it.

Whatever is random is drawn from generators named by seed, purpose and, where it is drawn as training goes, step, so
that a training that was killed goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facepoison.device import generator, has_bfloat16
from facepoison.errors import InputError
from facepoison.store import resumable, written_whole

_POINTS = 100  # of a learning curve


@dataclass(frozen=True)
class Training:
    """What one training has of its own; ``learn`` does what all have in common.

    Attributes:
        name: What it is called in lines and in the name of its checkpoint.
        steps: Number of updates of the weights.
        warm_up: Steps over which the learning rates grow, before they follow a cosine to zero.
        bfloat16: Whether the network computes in bfloat16, where the device has it; weights, loss and updates stay
            float32.
        batch: For a step, from 0: what the network sees, float32 (B, ...) on its device, and what the loss then needs.
        loss: A number, from what the network says of a batch, float32 (B, ...), and what the batch came with.
        decided_by: Everything but the code that decides the result, as the parts of ``store.key``.
    """

    name: str
    steps: int
    warm_up: float
    bfloat16: bool
    batch: Callable[[int], tuple[Tensor, Any]]
    loss: Callable[[Tensor, Any], Tensor]
    decided_by: Mapping[str, object]


@dataclass
class Curve:
    """How a training went: after so many steps, mean loss and accuracy on the training pictures since the point before.

    Loss and accuracy are of augmented pictures, and with a margin that still grows the loss grows with it.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._since: tuple[float | Tensor, int | Tensor, int] = (0.0, 0, 0)  # losses, hits, pictures: of no point yet

    def see(self, step: int, steps: int, loss: Tensor, right: Tensor) -> None:
        """Take in a batch: its mean loss, and which of its pictures are told right, bool (B,)."""
        losses, hits, seen = self._since
        n = len(right)  # sums stay on the device and are asked for at points alone: nothing waits for them
        losses, hits, seen = losses + loss.detach().double() * n, hits + right.sum(), seen + n
        self._since = losses, hits, seen
        if (step + 1) * _POINTS // steps > step * _POINTS // steps:
            self.step.append(step + 1)
            self.loss.append(round(float(losses) / seen, 4))
            self.accuracy.append(round(int(hits) / seen, 4))
            self._since = 0.0, 0, 0

    def __str__(self) -> str:
        return f"loss {self.loss[-1]:.3f}, accuracy {self.accuracy[-1]:.1%}, " if self.step else ""


@contextmanager
def seeded(seed: int, *labels: str | int) -> Iterator[None]:
    """Within, torch's own generator, from which layers draw their weights, is that of a purpose; after, as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, *labels).initial_seed())
        yield


def learning_rate(step: int, steps: int, warm_up: float, highest: float) -> float:
    """The learning rate of a step: it grows on a line over ``warm_up`` steps, under a cosine that falls to zero."""
    warm = min(1.0, (step + 1) / max(1.0, warm_up))
    return highest * warm * (1 + math.cos(math.pi * (step / steps))) / 2


def learn(
    training: Training,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    head: nn.Module | None = None,
    curve: Curve | None = None,
    scratch: Path | None = None,
    report: Callable[[str], None] | None = None,
    every: float = 60.0,
) -> float:
    """Train a network in place, from the beginning or from where a killed training was.

    Args:
        training: How.
        network: What learns, in training mode or not, on the device that computes.
        optimiser: Over its weights and whatever else learns; a group's rate, as given, is its highest.
        head: What the loss learns or keeps beside the network.
        curve: What the loss keeps of losses and accuracy. Lines then tell its last point and the pace, and where a
            killed training goes on.
        scratch: Folder in which the state is kept, under the key of all that decides the result.
        report: Receives lines on how it goes.
        every: Seconds between two times that the state is kept; each also reports.

    Returns:
        The seconds that all runs together took.

    Raises:
        InputError: training ran away, or the state cannot be written.
    """
    name, steps = training.name, training.steps
    device = next(network.parameters()).device
    highest = [group["lr"] for group in optimiser.param_groups]
    parts: dict[str, Any] = {"network": network, "optimiser": optimiser} | ({"head": head} if head is not None else {})
    checkpoint, first, before = None, 0, 0.0
    if scratch is not None:
        by: list[Callable[..., object]] = [learn, training.batch, training.loss]
        checkpoint = resumable(scratch, name, ".pt", by=by, **training.decided_by)
    if checkpoint is not None and checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        first, before = int(state["step"]), float(state["seconds"])
        for part, each in parts.items():
            each.load_state_dict(state[part])
        if curve is not None:
            vars(curve).update(state["curve"])  # its points, and the sums since the last
            if report:
                report(f"{name}: goes on from step {first} of {steps}")
    start = last = time.perf_counter()
    for step in range(first, steps):
        seen, along = training.batch(step)
        for group, top in zip(optimiser.param_groups, highest, strict=True):
            group["lr"] = learning_rate(step, steps, training.warm_up, top)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.bfloat16 and has_bfloat16(device.type)):
            said = network(seen)
        loss = training.loss(said.float(), along)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        done = step + 1
        if done == steps and not math.isfinite(loss.item()):
            rates = "smaller rates" if len(set(highest)) > 1 else "a smaller rate"
            raise InputError(f"{name}: training ran away (loss {loss.item()}); take {rates}")
        now = time.perf_counter()
        if done < steps and now - last <= every:
            continue
        last = now
        if checkpoint is not None:
            state = {part: each.state_dict() for part, each in parts.items()}
            state |= {"step": done, "seconds": before + now - start, "curve": curve and vars(curve)}
            with written_whole(checkpoint) as file:
                torch.save(state, file)
        if report:
            pace = (done - first) / (now - start)
            told = f"{curve}{pace * len(seen):.0f} pictures/s" if curve is not None else f"loss {loss.item():.3f}"
            report(f"{name}: step {done} of {steps}, {told}, {(steps - done) / pace / 60:.1f} min left")
    return before + time.perf_counter() - start
