"""What the attacks cost, as ratios within one run: python benchmarks/bench.py [--device cuda] [--size 64 112].

A step of LowKey and of Fawkes v1.0 against the bare forward pass and input gradient of the same views through the same
surrogates, prepared as the attacks prepare them, through one by one or all together, whichever is faster; these bare
passes against those of the surrogates as given; PGD of torchattacks, as many pictures through each surrogate, on the
surrogates as given and prepared; and the seconds that 100 pictures of one person take. Everything is warmed up, waited
for, and measured in turns: the ratio is taken within a round, and its median and quartiles over rounds are shown.
Seconds hang on the machine and on what else it does, ratios far less; neither is ever a test.

torchattacks is no part of the project, which nothing but this comparison needs. Install it apart and say where:

    python -m pip install --no-deps --target FOLDER torchattacks==3.5.1
    python benchmarks/bench.py --beside FOLDER

--keep adds the run to the history; --compare HISTORY sets it against the last run there on the same device,
--compare HISTORY OLD against that commit's, and --compare HISTORY OLD NEW two kept runs, measuring nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import fingerprint
from facepoison.attacks.base import channels_last, start_noise
from facepoison.attacks.fawkes_v1 import FAWKES_V1_HIGH, cloak, fawkes_v1
from facepoison.attacks.lowkey import LOWKEY_MSE, PERCEPTUAL, ascend, blur, lowkey, mirrored
from facepoison.device import device_kind, pick_device, synchronise, versions
from facepoison.extractors import Extractor
from facepoison.extractors.catalog import load_extractor
from facepoison.extractors.prepared import prepared
from facepoison.pictures import to_float
from facepoison.pictures.synthetic import make_pictures
from facepoison.protocol import registered

HISTORY = Path(__file__).resolve().parent / "history.json"
FEW = 1  # steps of the shorter run: start-up and first pass cost more than the others, and the difference has neither
MORE = 5  # steps of the longer
WARM_UP = 2  # rounds that are not counted
LEAST = 3  # rounds that are measured even where the time is up: fewer have no quartiles
PICTURES = 100  # of one person, whose seconds are told
SEED = 1

Row = dict[str, Any]
Keep = Callable[[list[Row]], None]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        threads: Numbers of CPU threads, one after the other.
        sizes: Pixels.
        batches: Pictures at a time.
        repeats: Rounds, the warm-up not counted.
        budget: Seconds for everything together, after which the rounds that are left are skipped; 0 for no end.
        extractors: Folder of other people's extractors; None for the book's own.
        rival: torchattacks where it is at hand.
    """

    device: str
    threads: Sequence[int]
    sizes: Sequence[int]
    batches: Sequence[int]
    repeats: int
    budget: float = 0.0
    extractors: Path | None = None
    rival: ModuleType | None = None


@dataclass(frozen=True)
class Attack:
    """An attack as it is timed on a batch of pictures.

    Attributes:
        name: In rows.
        title: In tables.
        steps: Of the preset: what the seconds are scaled to.
        run: Takes so many steps on the batch, and does nothing else.
        whole: The function that users call, taking so many steps.
        views: All pictures that a step sends through each surrogate, float (V, 3, H, W), with the channels last.
        surrogates: The networks, prepared as the steps have them.
        given: The networks as users give them.
    """

    name: str
    title: str
    steps: int
    run: Callable[[int], object]
    whole: Callable[[int], object]
    views: Tensor
    surrogates: Sequence[Extractor]
    given: Sequence[Extractor]


def attacks(pixels: Tensor, given: Sequence[Extractor]) -> list[Attack]:
    """Both attacks on a batch of uint8 pictures (B, 3, H, W) that is where the surrogates are."""
    clean, batch = to_float(pixels), len(pixels)
    # The wrapper is said to be in evaluation mode as well: torchattacks puts a model back into the mode that it states.
    given = [surrogate.eval() for surrogate in given]
    surrogates = [prepared(surrogate).eval() for surrogate in given]
    start = start_noise(pixels, LOWKEY_MSE.start, SEED, "lowkey")
    picture = clean + start
    four = mirrored(picture, blur(picture, LOWKEY_MSE))
    few = FAWKES_V1_HIGH.extractors
    modifier = start_noise(pixels, FAWKES_V1_HIGH.start, SEED, "fawkes v1.0")

    def lowkey_steps(n: int) -> Tensor:
        return ascend(clean, start, surrogates, replace(LOWKEY_MSE, steps=n), PERCEPTUAL[LOWKEY_MSE.perceptual])

    def lowkey_whole(n: int) -> Tensor:
        return lowkey(pixels, given, replace(LOWKEY_MSE, steps=n), seed=SEED, batch=batch)

    def fawkes_steps(n: int) -> Tensor:
        return cloak(clean, modifier, surrogates[:few], replace(FAWKES_V1_HIGH, steps=n))

    def fawkes_whole(n: int) -> Tensor:
        return fawkes_v1(pixels, given[:few], replace(FAWKES_V1_HIGH, steps=n), seed=SEED, batch=batch)

    def last(views: Tensor) -> Tensor:
        return channels_last(views.clamp(0, 1))

    name, steps = FAWKES_V1_HIGH.title, FAWKES_V1_HIGH.steps
    return [
        Attack("lowkey", LOWKEY_MSE.title, LOWKEY_MSE.steps, lowkey_steps, lowkey_whole, last(four), surrogates, given),
        Attack("fawkes", name, steps, fawkes_steps, fawkes_whole, last(clean), surrogates[:few], given[:few]),
    ]


def bare(views: Tensor, surrogates: Sequence[Extractor], steps: int, *, together: bool = False) -> None:
    """The network passes of so many steps of an attack, forwards and back to the pictures, and nothing else.

    Back through one surrogate before the next begins, or through all together: which is faster hangs on the machine and
    its caches, so both are timed, and the faster one is what attacks are held against.
    """
    for _ in range(steps):
        for some in [surrogates] if together else [[surrogate] for surrogate in surrogates]:
            views = views.detach().requires_grad_()
            outputs = [surrogate(views) for surrogate in some]
            torch.autograd.grad(outputs, views, [torch.ones_like(output) for output in outputs])


def rival_steps(rival: ModuleType, views: Tensor, surrogates: Sequence[Extractor], steps: int) -> None:
    """So many steps of PGD by torchattacks on each surrogate, as many pictures through it as a step of ours has.

    An embedding serves as logits: what is gained by it does not matter to the clock.
    """
    labels = torch.zeros(len(views), dtype=torch.int64, device=views.device)
    pictures = views.contiguous()  # as its users give them
    for surrogate in surrogates:
        rival.PGD(surrogate, eps=8 / 255, alpha=2 / 255, steps=steps, random_start=True)(pictures, labels)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of some work, the device's own included."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def in_turns(
    works: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, until: float
) -> list[dict[str, float]]:
    """Seconds of each work in each round, every second round backwards, so that no drift favours the last.

    Args:
        works: By name.
        device: Whose work is waited for.
        repeats: Rounds that count.
        until: Time of ``time.perf_counter`` after which no round begins once there are ``LEAST``.
    """
    rounds: list[dict[str, float]] = []
    for turn in range(WARM_UP + repeats):
        if len(rounds) >= WARM_UP + LEAST and time.perf_counter() > until:
            break
        order = list(works) if turn % 2 else list(works)[::-1]
        rounds.append({name: seconds(works[name], device) for name in order})
    return rounds[WARM_UP:]


def summary(values: Sequence[float]) -> Row:
    """Median and quartiles."""
    if len(values) < 2:
        low = middle = high = values[0]
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": significant(middle), "q1": significant(low), "q3": significant(high), "n": len(values)}


def significant(value: float) -> float:
    """A number to four digits: more would be noise in files that are compared."""
    return float(f"{value:.4g}")


def cell(plan: Plan, given: Sequence[Extractor], threads: int, size: int, batch: int, until: float) -> list[Row]:
    """All rows of one number of threads, size and batch."""
    device = given[0].mean.device
    pixels = make_pictures("benchmark", 1, batch, size, seed=SEED, device=device).pixels.to(device)
    timed = attacks(pixels, given)
    works: dict[str, Callable[[], object]] = {}
    for attack in timed:
        works[f"{attack.name} few"] = partial(attack.run, FEW)
        works[f"{attack.name} more"] = partial(attack.run, MORE)
        for which, surrogates in (("given", attack.given), ("prepared", attack.surrogates)):
            for way, together in (("apart", False), ("together", True)):
                work = partial(bare, attack.views, surrogates, MORE - FEW, together=together)
                works[f"{attack.name} bare {which} {way}"] = work
        works[f"{attack.name} whole"] = partial(attack.whole, FEW)
        if plan.rival is not None:
            for which, surrogates in (("given", attack.given), ("prepared", attack.surrogates)):
                for many, steps in (("few", FEW), ("more", MORE)):
                    work = partial(rival_steps, plan.rival, attack.views, surrogates, steps)
                    works[f"{attack.name} rival {which} {many}"] = work
    rounds = in_turns(works, device, plan.repeats, until)
    where = {"threads": threads, "size": size, "batch": batch}
    rows: list[Row] = []
    for attack in timed:

        def add(row: str, what: str, unit: str, values: Iterable[float], name: str = attack.name) -> None:
            rows.append({"row": f"{name}_{row}", "what": what, "unit": unit} | where | summary(list(values)))

        def step(turn: Mapping[str, float], name: str = attack.name) -> float:
            return (turn[f"{name} more"] - turn[f"{name} few"]) / (MORE - FEW)

        faster = {
            which: min(
                (f"{attack.name} bare {which} {way}" for way in ("apart", "together")),
                key=lambda work: statistics.median(turn[work] for turn in rounds),
            )
            for which in ("given", "prepared")
        }

        def passes(turn: Mapping[str, float], work: str = faster["prepared"]) -> float:
            return turn[work] / (MORE - FEW)

        def whole(turn: Mapping[str, float], name: str = attack.name, steps: int = attack.steps) -> float:
            return PICTURES / batch * (turn[f"{name} whole"] + (steps - FEW) * step(turn, name))

        def theirs(turn: Mapping[str, float], which: str, name: str = attack.name) -> float:
            return (turn[f"{name} rival {which} more"] - turn[f"{name} rival {which} few"]) / (MORE - FEW)

        def gained(turn: Mapping[str, float], faster: Mapping[str, str] = faster) -> float:
            return turn[faster["given"]] / turn[faster["prepared"]]

        add("over_bare", f"{attack.title} step / bare passes", "ratio", [step(turn) / passes(turn) for turn in rounds])
        over_given = [step(turn) / passes(turn) / gained(turn) for turn in rounds]
        add("over_given", f"{attack.title} step / bare passes as given", "ratio", over_given)
        add("gained", f"bare {attack.title} passes as given / prepared", "ratio", map(gained, rounds))
        for row, which in (("rival", "given"), ("rival_prepared", "prepared")):
            what = f"PGD on models {'as ' if which == 'given' else ''}{which} / {attack.title}"
            if plan.rival is None:
                absent = "not measured: torchattacks is not at hand (--beside FOLDER)"
                rows.append(
                    {"row": f"{attack.name}_{row}", "what": what, "unit": "ratio"} | where | {"missing": absent}
                )
            else:
                add(row, what, "ratio", [theirs(turn, which) / step(turn) for turn in rounds])
        add("step", f"{attack.title} step", "ms", [1000 * step(turn) for turn in rounds])
        add("bare", f"bare passes of a {attack.title} step", "ms", [1000 * passes(turn) for turn in rounds])
        add("100", f"{PICTURES} pictures by {attack.title}", "s", map(whole, rounds))
    return rows


def measure(plan: Plan, keep: Keep = lambda rows: None) -> list[Row]:
    """All rows; ``keep`` is given those there are after each number of threads, size and batch."""
    names = registered().protocol["extractors"]["other" if plan.extractors else "procedural"]["surrogates"]
    given = [load_extractor(name, device=plan.device, folder=plan.extractors) for name in names]
    cells = [(threads, size, batch) for threads in plan.threads for size in plan.sizes for batch in plan.batches]
    end = time.perf_counter() + plan.budget if plan.budget else math.inf
    rows: list[Row] = []
    for done, (threads, size, batch) in enumerate(cells):
        now = time.perf_counter()
        if now > end:
            break
        torch.set_num_threads(threads)
        until = now + (end - now) / (len(cells) - done) if plan.budget else math.inf
        rows += cell(plan, given, threads, size, batch, until)
        keep(rows)
    return rows


def commit() -> str:
    """The commit that is measured: ``COMMIT`` where a copy of the project has no git beside it."""
    try:
        return os.environ.get("COMMIT") or fingerprint.commit()
    except OSError:  # no git on this machine
        return ""


def surroundings(device: str, rival: ModuleType | None = None) -> Row:
    """What belongs beside every number: machine, versions, code and day."""
    return {
        "device": device_kind(device),
        "cpu": fingerprint.cpu_name(),
        "cores": os.cpu_count(),
        "avx512": torch.backends.cpu.get_cpu_capability().startswith("AVX512"),
        "versions": versions() | ({} if rival is None else {"torchattacks": getattr(rival, "__version__", "unknown")}),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def find_rival(folder: Path | None) -> ModuleType | None:
    """torchattacks, from a folder beside the project or from wherever Python finds it; None where it is not."""
    if folder is not None:
        sys.path.append(str(folder))  # last: nothing that lies there replaces what the project uses
    try:
        return importlib.import_module("torchattacks")
    except ImportError as error:
        if folder is not None:
            raise SystemExit(f"{folder}: torchattacks cannot be imported from there ({error})") from error
        return None


def head(run: Row) -> str:
    """A line on the machine."""
    simd = "with AVX-512" if run["avx512"] else "without AVX-512"
    found = run["versions"]
    libraries = ", ".join(f"{name} {found[name]}" for name in ("python", "torch", "torchattacks") if name in found)
    return f"{run['device']}; {run['cpu']}, {run['cores']} cores, {simd}; {libraries}; commit {run['commit'][:12]}"


def table(rows: Iterable[Row]) -> str:
    """The rows as people read them."""
    lines = [f"{'':52} {'px':>4} {'batch':>5} {'threads':>7} {'median':>8} {'quartiles':>17} {'n':>3}"]
    for row in rows:
        place = f"{row['what']:52} {row['size']:4d} {row['batch']:5d} {row['threads']:7d}"
        if "missing" in row:
            lines.append(f"{place}  {row['missing']}")
            continue
        spread = f"{row['q1']:.4g} to {row['q3']:.4g}"
        unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
        lines.append(f"{place} {row['median']:8.4g} {spread:>17} {row['n']:3d}{unit}")
    return "\n".join(lines)


def read_history(path: Path) -> list[Row]:
    """The kept runs, the oldest first."""
    if not path.is_file():
        return []
    runs: list[Row] = json.loads(path.read_text())
    return runs


def keep_run(path: Path, run: Row) -> None:
    """Add a run to the history, a line for each, so that a change of the file shows just what came."""
    lines = [json.dumps(each) for each in [*read_history(path), run]]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def find_run(runs: Sequence[Row], commit: str) -> Row:
    """The last run of a commit, by the beginning of its name."""
    for run in reversed(runs):
        if run["commit"].startswith(commit):
            return run
    known = ", ".join(dict.fromkeys(run["commit"][:12] for run in runs)) or "none at all"
    raise SystemExit(f"commit {commit}: no run of it is kept; kept are those of {known}")


def last_like(runs: Sequence[Row], run: Row) -> Row:
    """The last kept run on the same device and CPU."""
    for other in reversed(runs):
        if (other["device"], other["cpu"]) == (run["device"], run["cpu"]):
            return other
    raise SystemExit(f"{run['device']}, {run['cpu']}: no run on these is kept; name a commit to compare with")


def comparison(old: Row, new: Row) -> str:
    """What a newer run takes of an older one's, row by row; under 1 is less."""

    def by_place(run: Row) -> dict[tuple[object, ...], Row]:
        keys = ("row", "threads", "size", "batch")
        return {tuple(row[key] for key in keys): row for row in run["rows"] if "missing" not in row}

    before, after = by_place(old), by_place(new)
    lines = [f"{new['commit'][:12]} ({new['date'][:10]}) over {old['commit'][:12]} ({old['date'][:10]})"]
    if (old["device"], old["cpu"]) != (new["device"], new["cpu"]):
        lines.append("other machines: only the rows that are ratios themselves can be compared")
    lines.append(f"{'':52} {'px':>4} {'batch':>5} {'threads':>7} {'old':>8} {'new':>8} {'new / old':>9}")
    for place, row in after.items():
        if place in before:
            was, now = before[place]["median"], row["median"]
            ratio = f"{now / was:9.3f}" if was else f"{'':9}"
            where = f"{row['what']:52} {row['size']:4d} {row['batch']:5d} {row['threads']:7d}"
            lines.append(f"{where} {was:8.4g} {now:8.4g} {ratio}")
    return "\n".join(lines)


def write(path: Path, run: Row) -> None:
    """Write a run, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(json.dumps(run, indent=1) + "\n")
    scratch.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or auto")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of the CPU, one after the other")
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument("--size", type=int, nargs="+", default=[64], help="pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="pictures at a time")
    parser.add_argument("--budget", type=float, default=0.0, help="seconds after which fewer rounds have to do")
    parser.add_argument("--extractors", type=Path, help="folder of other people's extractors; default: the book's own")
    parser.add_argument("--beside", type=Path, help="folder that torchattacks was installed into")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--keep", action="store_true", help=f"add this run to benchmarks/{HISTORY.name}")
    parser.add_argument("--compare", nargs="+", metavar=("HISTORY", "COMMIT"), help="print ratios of two versions")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats: give 1 or more")
    if options.compare and len(options.compare) > 3:
        parser.error("--compare: give a history and at most two commits")

    runs = read_history(Path(options.compare[0])) if options.compare else []
    named = [find_run(runs, commit) for commit in options.compare[1:]] if options.compare else []
    if len(named) == 2:
        print(comparison(*named))
        return
    rival = find_rival(options.beside)
    plan = Plan(
        device=str(pick_device(options.device)),
        threads=options.threads,
        sizes=options.size,
        batches=options.batch,
        repeats=options.repeats,
        budget=options.budget,
        extractors=options.extractors,
        rival=rival,
    )
    run = surroundings(options.device, rival) | {"rows": []}

    def told(rows: list[Row]) -> None:
        run["rows"] = list(rows)
        if options.out:
            write(options.out, run)

    measure(plan, told)
    print(head(run), table(run["rows"]), sep="\n")
    scaled = f"{PICTURES} pictures: from {FEW} to {MORE} steps on one batch, scaled to the preset's and to {PICTURES}"
    print(f"medians of rounds in turns; {scaled}")
    if options.keep:
        keep_run(HISTORY, run)
    if options.compare:
        print(comparison(named[0] if named else last_like(runs, run), run))


if __name__ == "__main__":
    main()
