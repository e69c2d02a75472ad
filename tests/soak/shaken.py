"""A study whose workers are killed, for the soak and its short form: what it computes, who kills, what is counted."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facepoison.attacks.lowkey import LOWKEY_MSE, LowKey
from facepoison.extractors import Extractor
from facepoison.pictures import Pictures
from facepoison.pictures.synthetic import make_pictures

LOG = "SOAK_LOG"


@dataclass(frozen=True)
class Logged(LowKey):
    """LowKey that writes a line whenever it begins and whenever it ends: who, when, and on which pictures."""

    def __call__(self, pixels: Tensor, surrogates: list[Extractor], **how: Any) -> Tensor:
        """One shard's pictures, poisoned."""
        note("begin", pixels)
        made = super().__call__(pixels, surrogates, **how)
        note("end", pixels)
        return made


def logged(steps: int) -> Logged:
    """LowKey (MSE) by few steps, with a log."""
    return Logged("lowkey_mse", "LowKey (MSE)", LOWKEY_MSE.perceptual, LOWKEY_MSE.weight, steps=steps, extractors=2)


def note(what: str, pixels: Tensor) -> None:
    """Add a line to the file that ``SOAK_LOG`` names; several processes may do so at once."""
    with Path(os.environ[LOG]).open("a") as file:
        file.write(f"{what} {int(pixels.long().sum())} {os.getpid()} {time.time():.2f}\n")


def begun(log: Path) -> Counter[str]:
    """How often the work on each shard began."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return Counter(line.split()[1] for line in lines if line.startswith("begin"))


def crowd(people: int, each: int) -> Pictures:
    """Synthetic people."""
    return make_pictures("soak", people, each, 64, 1)


def killer(pids: Callable[[], list[int]], every: float, most: int, say: Callable[[str], None]) -> Callable[[], int]:
    """Kill one of some processes at random every few seconds, until told to stop.

    Args:
        pids: Gives those that may be killed now; while there are none, it waits.
        every: Seconds between two kills.
        most: How many kills at most.
        say: Told of each.

    Returns:
        What stops it and gives how many were killed.
    """
    draw, over, killed = random.Random(1), threading.Event(), []

    def go() -> None:
        last = time.monotonic()
        while len(killed) < most and not over.wait(0.05):
            there = sorted(pids()) if time.monotonic() - last > every else []
            if there:
                killed.append(draw.choice(there))
                last = time.monotonic()
                os.kill(killed[-1], signal.SIGKILL)
                say(f"kill {len(killed)}: process {killed[-1]} of {there}")

    thread = threading.Thread(target=go, daemon=True)
    thread.start()

    def stop() -> int:
        over.set()
        thread.join()
        return len(killed)

    return stop


def pids(cluster: Any) -> list[int]:
    """The workers of a ``LocalCluster`` once all are up: one that dies while it starts is not started again."""
    processes = [nanny.process for nanny in cluster.workers.values()]
    up = [each.pid for each in processes if each is not None and each.status.name == "running" and each.pid]
    return up if len(up) == len(processes) else []


def same(one: Pictures, other: Pictures) -> bool:
    """Whether two outcomes are alike to the byte."""
    return torch.equal(one.pixels, other.pixels) and torch.equal(one.identities, other.identities)
