"""A study on a cluster of two workers, one of which is killed at random every ten seconds, beside the serial study.

``make soak``. Passes if the outcome is the same to the byte and no more shards began again than workers were killed.
On a machine so busy that a worker takes longer to start, the next kill waits until both are up.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dask
import distributed
import torch
from shaken import LOG, begun, crowd, killer, logged, pids, same

from facepoison import shards
from facepoison.attacks import people as cut
from facepoison.attacks.lowkey import LOWKEY_MSE
from facepoison.attacks.people import poison_people
from facepoison.extractors.catalog import load_extractor

SURROGATES = ("cosface_2018", "facenet_2015")
PEOPLE, EACH, SECONDS = 40, 4, 3  # each person a shard of about so many seconds, far fewer than between two kills
KILLS = 6  # fewer would say little


def main() -> int:
    """Run both, print what happened, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=float, default=10, help="seconds between two kills")
    parser.add_argument("--people", type=int, default=PEOPLE, help="how many are poisoned")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a shard takes, about")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        return soak(Path(folder), given, say)


def steps_of(seconds, pixels, surrogates):
    """How many steps of LowKey (MSE) take so long on one shard here."""
    for steps in (2, 10):
        start = time.monotonic()  # the first is slower
        replace(LOWKEY_MSE, steps=steps)(pixels, surrogates, seed=1)
    return max(2, round(10 * seconds / (time.monotonic() - start)))


def soak(folder, given, say) -> int:
    """Both runs, each with a store of its own in the folder."""
    cut.FULL = EACH
    people, surrogates = crowd(given.people, EACH), [load_extractor(name, device="cpu") for name in SURROGATES]
    attack = logged(steps_of(given.seconds, people.pixels[:EACH], surrogates))
    say(f"{given.people} shards, LowKey (MSE) by {attack.steps} steps")

    def run(name, pool=None):
        def progress(done, of):
            say(f"{name}: {done} of {of} pictures")

        os.environ |= {"FACEPOISON_STORE": str(folder / name), LOG: str(folder / f"{name}.log")}
        start = time.monotonic()
        posts = poison_people(attack, people, surrogates, seed=1, pool=pool, progress=progress)
        say(f"{name}: {time.monotonic() - start:.1f} s")
        return posts

    # A shard that waits at a worker counts as one that the worker died of, so that the usual three are soon reached.
    # And a busy machine takes longer than the usual 15 s to start a worker again.
    patient = {"distributed.scheduler.allowed-failures": 20, "distributed.deploy.lost-worker-timeout": "10 minutes"}
    dask.config.set(patient)
    os.environ |= {"FACEPOISON_STORE": str(folder / "cluster"), LOG: str(folder / "cluster.log")}  # workers inherit it
    ready = {"dashboard_address": ":0", "preload": ["facepoison.attacks.people"]}  # a worker is up once it could begin
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **ready) as cluster:
        stop = killer(lambda: pids(cluster), given.every, 10**6, say)
        try:
            with shards.cluster(cluster.scheduler_address) as pool:
                shaken = run("cluster", pool)
        finally:
            killed = stop()
    serial = run("serial")
    log = begun(folder / "cluster.log")
    again = log.total() - len(log)
    alike = same(shaken, serial)
    say(f"{len(log)} shards of {len(people)} pictures, {killed} kills, {again} shards begun again")
    say("outcome: byte-identical to the serial run" if alike else "outcome: NOT that of the serial run")
    kills = given.every < 10 or killed >= KILLS
    if not kills:
        say(f"fewer than {KILLS} kills: give more people or steps")
    passed = alike and again <= killed and len(log) == len(begun(folder / "serial.log")) and kills
    say("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
