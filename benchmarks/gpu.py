"""The stages of benchmarks/gpu.sh, each of which writes what it has as soon as it has it.

python benchmarks/gpu.py STAGE --out _build/gpu.json [--budget SECONDS] [--small], where STAGE is one of

- sanity: every own extractor, the renderer, both attacks and both detectors give on the GPU what they give on the CPU;
- speed: benchmarks/bench.py on this device;
- full: a shard of PROFILE=full; its poisons stay in the store, so that a second run goes on with the next users;
- training: the end-to-end recogniser and a detector take a few steps;
- table: print what the others wrote.

--small takes the smallest settings that go through every line; they measure nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import bench
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from facepoison import detect, shipped, store
from facepoison.attacks.people import poison_shard
from facepoison.attacks.presets import ATTACKS
from facepoison.attacks.similarity import change
from facepoison.device import batches, generator, pick_device, synchronise
from facepoison.evaluation import Rate
from facepoison.extractors import Extractor, embed
from facepoison.extractors.catalog import catalogue, load_extractor
from facepoison.fine_tuning import END_TO_END, play_round
from facepoison.game import measure_protection
from facepoison.pictures import Pictures, to_float
from facepoison.pictures.splits import first_users, split
from facepoison.pictures.synthetic import make_pictures
from facepoison.poisoning import role, surrogates_of
from facepoison.protocol import Data, Setting, choose, embeddings, synthetic_people

Section = dict[str, Any]
BOTH = ("fawkes_v1_high", "lowkey")
ALIKE = 0.999  # least cosine between what CPU and GPU give
LEVELS = 1.0  # most that rendered pictures may differ by, mean over values, in levels of 255
BLOCK = 12  # users poisoned at a time: at full scale 252 pictures, which keep a large GPU busy
LINEAR = 45.0  # seconds that must be left for the linear recogniser's rounds
SLOW = 20.0  # ms a picture, over which many CPU cores render faster than the GPU


@dataclass
class Stage:
    """What a stage is given, and where it writes.

    Attributes:
        name: Of the stage.
        out: The JSON file of all stages.
        until: Time of ``time.perf_counter`` after which nothing new should begin.
        small: Whether only the logic is tried.
        section: What this stage has found so far.
    """

    name: str
    out: Path
    until: float
    small: bool
    section: Section = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.perf_counter()

    def keep(self) -> None:
        """Write the section into the file, beside those of the other stages."""
        report = read(self.out)
        report.setdefault("stages", {})[self.name] = self.section
        bench.write(self.out, report)

    def say(self, line: str) -> None:
        """Tell those who watch."""
        print(f"{self.name}: {line}", file=sys.stderr, flush=True)


def read(path: Path) -> Section:
    """What earlier stages wrote."""
    report: Section = json.loads(path.read_text()) if path.is_file() else {}
    return report


def surroundings() -> Section:
    """Machine, versions and code, with what only a GPU has."""
    found = bench.surroundings("auto")
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": about.name,
            "gib": round(about.total_memory / 2**30, 1),
            "capability": f"{about.major}.{about.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def own_extractors() -> list[str]:
    """Names of the extractors that come with the book."""
    return [entry.name for entry in catalogue().values() if entry.kind == "own" and entry.trained]


# Sanity ---------------------------------------------------------------------------------------------------------------


def least_cosine(ours: Tensor, theirs: Tensor) -> float:
    """The smallest cosine between rows, which may lie on different devices."""
    cosines = F.cosine_similarity(ours.detach().cpu().double().flatten(1), theirs.detach().cpu().double().flatten(1))
    return round(float(cosines.min()), 6)


def pass_through(extractor: Extractor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of pictures, and the gradient of their part along a fixed direction with respect to the pictures."""
    pictures = to_float(pixels.to(extractor.mean.device)).requires_grad_()
    found = extractor(pictures)
    direction = torch.randn(found.shape, generator=generator(bench.SEED, "direction")).to(found)
    (gradient,) = torch.autograd.grad((found * direction).sum(), pictures)
    return found, gradient


@contextmanager
def exact(on: bool) -> Iterator[None]:
    """Convolve in full float32, as a CPU does, or in the shorter TF32 that torch takes by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = not on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def check_extractors(stage: Stage, device: torch.device) -> None:
    """Forward pass and input gradient of each own extractor on the CPU and on the GPU."""
    pixels = make_pictures("benchmark", 8, 1, 64, bench.SEED, device="cpu").pixels
    rows = stage.section["extractors"] = []
    for name in own_extractors()[: 2 if stage.small else None]:
        there = load_extractor(name, str(device))
        found, gradient = pass_through(load_extractor(name, "cpu"), pixels)
        row: Section = {"extractor": name}
        for mode in ("float32", "tf32"):
            with exact(mode == "float32"):
                other, slope = pass_through(there, pixels)
            row |= {mode: {"embedding": least_cosine(found, other), "gradient": least_cosine(gradient, slope)}}
        row["alike"] = min(row["float32"].values()) >= ALIKE
        rows.append(row)
        stage.keep()


def check_renderer(stage: Stage, device: torch.device) -> None:
    """Pictures of the same people by the CPU and by the GPU, and how long the GPU takes for many."""
    n, size = (2, 64) if stage.small else (16, 112)
    many = partial(make_pictures, "benchmark", n, 4 if stage.small else 32, size, bench.SEED)
    few = partial(make_pictures, "benchmark", n, 1, size, bench.SEED)
    here, there = few(device="cpu").pixels, few(device=device).pixels
    apart = (here.float() - there.float()).abs()
    many(device=device)
    start = time.perf_counter()
    made = len(many(device=device))
    took = (time.perf_counter() - start) / made * 1000
    stage.section["renderer"] = {
        "size": size,
        "levels": round(float(apart.mean()), 4),
        "values_apart": round(float((apart > 2).double().mean()), 6),
        "ms_a_picture": round(took, 3),
        "alike": float(apart.mean()) <= LEVELS,
    }


def check_attacks(stage: Stage, device: torch.device) -> None:
    """Both attacks in a few steps: signs flip at random places, so what is compared is how far pictures were moved."""
    pixels = make_pictures("benchmark", 4, 1, 64, bench.SEED, device="cpu").pixels
    steps = 2 if stage.small else 10
    setting = choose("full")
    judge = load_extractor(setting.undefended, "cpu")
    clean = embed(judge, pixels)
    rows = stage.section["attacks"] = []
    for attack in BOTH:
        preset = replace(ATTACKS[attack], steps=steps)
        row: Section = {"attack": preset.name, "steps": steps}
        for where in ("cpu", str(device)):
            networks = [load_extractor(name, where) for name in surrogates_of(setting, preset)]
            made = preset(pixels, networks, seed=bench.SEED, batch=8)
            moved = 1 - float((clean * embed(judge, made)).sum(dim=1).mean())
            side = "cpu" if where == "cpu" and "cpu" not in row else "gpu"
            row[side] = {"psnr": round(float(change(pixels, made).psnr.mean()), 3), "moved": round(moved, 4)}
        rows.append(row)
    stage.keep()


def check_detectors(stage: Stage, device: torch.device) -> None:
    """Scores of both detectors on clean pictures and on poisons that come with the book."""
    n = 8 if stage.small else 128
    poisoned = load_file(shipped.FOLDER / "poison-lowkey.safetensors")["pixels"][:n]
    pixels = torch.cat([make_pictures("benchmark", n, 1, poisoned.shape[-1], bench.SEED).pixels, poisoned])
    rows = stage.section["detectors"] = []
    for name in ("network", "residual"):
        detector = detect.load_detector(name)
        here, there = detect.scores(detector.to("cpu"), pixels), detect.scores(detector.to(device), pixels)
        rows.append(
            {
                "detector": name,
                "n": len(pixels),
                "largest_difference": bench.significant(float((here - there).abs().max())),
                "area_cpu": round(detect.area(here[:n], here[n:]), 5),
                "area_gpu": round(detect.area(there[:n], there[n:]), 5),
                "alike": least_cosine(here[None], there[None]) >= ALIKE,
            }
        )


def sanity(stage: Stage) -> None:
    """What the GPU computes is what the CPU computes."""
    device = pick_device("auto")
    stage.section["sees_gpu"] = device.type == "cuda"
    for check in (check_extractors, check_renderer, check_detectors, check_attacks):
        try:
            check(stage, device)
        except Exception:  # the other checks still say something
            stage.section.setdefault("failed", {})[check.__name__] = last_lines()
        stage.say(f"{check.__name__}, {stage.left:.0f} s left")
        stage.keep()


# Speed ----------------------------------------------------------------------------------------------------------------


def speed(stage: Stage) -> None:
    """benchmarks/bench.py on this device."""
    rival = bench.find_rival(None)
    stage.section["torchattacks"] = getattr(rival, "__version__", None)
    plan = bench.Plan(
        device=str(pick_device("auto")),
        threads=[torch.get_num_threads()],
        sizes=[64] if stage.small else [64, 112],
        batches=[1] if stage.small else [8, 32, 128],
        repeats=3 if stage.small else 9,
        budget=max(stage.left, 1.0),
        rival=rival,
    )

    def keep(rows: list[bench.Row]) -> None:
        stage.section["rows"] = list(rows)
        stage.say(f"{rows[-1]['size']} px, batch {rows[-1]['batch']}, {stage.left:.0f} s left")
        stage.keep()

    bench.measure(plan, keep)


# A shard of PROFILE=full ----------------------------------------------------------------------------------------------


def full_setting(small: bool) -> Setting:
    """The setting, or one of the same make that a single core goes through in seconds."""
    setting = choose("full")
    return replace(setting, size=64, people=6, per_person=4, n_users=3) if small else setting


def rendered_part(label: str, each: int, size: int, seed: int, first: int, n: int) -> Any:
    """Some people by one CPU core; an array, since tensors pass between processes by file descriptors."""
    torch.set_num_threads(1)
    return make_pictures(label, n, each, size, seed, first=first, device="cpu").pixels.numpy()


def people(stage: Stage, setting: Setting) -> Pictures:
    """Everybody's pictures: by the GPU where its pictures are right and quick, else by all CPU cores."""
    found = read(stage.out).get("stages", {}).get("sanity", {})
    about = found.get("renderer", {})
    sound = about.get("alike", "check_renderer" not in found.get("failed", {}))
    if sound and about.get("ms_a_picture", 0.0) <= SLOW and not (stage.small and about):
        stage.section["rendered_on"] = pick_device("auto").type
        return synthetic_people(setting, "evaluation", setting.people, setting.per_person)
    stage.section["rendered_on"] = "all CPU cores"
    label, cores = setting.protocol["populations"]["evaluation"], os.cpu_count() or 1
    part = partial(rendered_part, label, setting.per_person, setting.size, setting.seed)
    cuts = list(batches(setting.people, max(1, setting.people // (4 * cores))))
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        parts = pool.map(part, [some.start for some in cuts], [some.stop - some.start for some in cuts])
        pixels = torch.cat([torch.from_numpy(each) for each in parts])
    names = tuple(f"{label}/{index:05d}" for index in range(setting.people))
    return Pictures(pixels, torch.arange(setting.people).repeat_interleave(setting.per_person), names)


def split_people(setting: Setting, pictures: Pictures) -> Data:
    """Gallery, probes and users as ``protocol.load_data`` draws them; nobody public, whom these attacks do not need."""
    gallery, probes = split(pictures, setting.seed, setting.gallery_share)
    nobody = Pictures(pictures.pixels[:0], pictures.identities[:0], ())
    return Data(pictures, gallery, probes, first_users(pictures, setting.n_users, setting.seed), {}, nobody)


def plain(rate: Rate) -> Section:
    """A rate as JSON, its clean error beside it."""
    row: Section = {name: round(float(getattr(rate, name)), 4) for name in ("value", "low", "high")}
    row |= {"users": rate.n, "probes": rate.probes}
    if rate.clean_error is not None:
        row["clean_error"] = plain(rate.clean_error)
    return row


@dataclass
class Shard:
    """What is known of the users that were poisoned so far."""

    data: Data
    networks: dict[str, Extractor]
    clean: dict[str, Tensor]
    published: dict[tuple[str, str], dict[int, Tensor]] = field(default_factory=dict)

    def add(self, attack: str, users: Sequence[int], pixels: Tensor) -> None:
        """Embed what some users publish by every extractor."""
        counts = [len(self.data.gallery_of(user)) for user in users]
        for name, network in self.networks.items():
            parts = embed(network, pixels).cpu().split(counts)
            self.published.setdefault((attack, name), {}).update(zip(users, parts, strict=True))

    def rates(self, setting: Setting) -> list[Section]:
        """The game with the nearest neighbour, for each attack and extractor."""
        return [
            {
                "attack": ATTACKS[attack].title,
                "extractor": name,
                "year": catalogue()[name].year,
                "role": role(setting, attack, name),
                "rate": plain(measure_protection(*self.data.sides(self.clean[name]), published).rate),
            }
            for (attack, name), published in self.published.items()
        ]

    def linear(self, attack: str, name: str) -> Rate:
        """The game with the linear recogniser, on the device that computes."""
        where = pick_device("auto")
        published = {user: each.to(where) for user, each in self.published[attack, name].items()}
        return measure_protection(*self.data.sides(self.clean[name].to(where)), published, recogniser="linear").rate


def blocks(users: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Users in their order, some at a time."""
    for some in batches(len(users), size):
        yield tuple(users[some])


def full(stage: Stage) -> None:
    """The first users of PROFILE=full by two attacks, before every own extractor."""
    setting = full_setting(stage.small)
    start = time.perf_counter()
    data = split_people(setting, people(stage, setting))
    stage.section |= {
        "setting": {name: getattr(setting, name) for name in ("size", "people", "per_person", "n_users", "seed")},
        "rendering_seconds": round(time.perf_counter() - start, 1),
    }
    stage.say(f"{len(data.pictures)} pictures, {stage.left:.0f} s left")
    stage.keep()
    networks = {name: load_extractor(name) for name in own_extractors()[: 3 if stage.small else None]}
    pixels = data.pictures.pixels
    shard = Shard(data, networks, {name: embeddings(network, pixels) for name, network in networks.items()})
    made: Section = {}
    stage.section["poisons"] = made
    longest = 0.0
    for users in blocks(data.users, 2 if stage.small else BLOCK):
        if stage.left < 1.2 * longest:  # what has begun and is stopped half-way is lost
            stage.section["stopped"] = f"time was up before user {len(next(iter(made.values()))['users']) + 1}"
            break
        begun = time.perf_counter()
        for attack in BOTH:
            own = pixels[torch.cat([data.gallery_of(user) for user in users])]
            result = poisoned_block(stage, setting, attack, own, networks)
            row = made.setdefault(attack, {"users": [], "seconds": 0.0, "from_store": 0, "psnr": [], "dssim": []})
            size = change(own, result.arrays["pixels"])
            row["users"] += users
            row["seconds"] = round(row["seconds"] + result.seconds, 1)
            row["from_store"] += 0 if result.computed_now else len(users)
            row["psnr"].append(round(float(size.psnr.mean()), 2))
            row["dssim"].append(round(float(size.dssim.mean()), 4))
            shard.add(attack, users, result.arrays["pixels"])
        stage.section["rates"] = shard.rates(setting)
        stage.keep()
        longest = max(longest, time.perf_counter() - begun)
        stage.say(f"{len(made[BOTH[0]]['users'])} of {len(data.users)} users, {stage.left:.0f} s left")
    for attack in BOTH:
        if made and stage.left > LINEAR:
            start = time.perf_counter()
            rate = plain(shard.linear(attack, setting.undefended))
            row = {"attack": ATTACKS[attack].title, "seconds": round(time.perf_counter() - start, 1), "rate": rate}
            stage.section.setdefault("linear", []).append(row)
            stage.keep()


def poisoned_block(
    stage: Stage, setting: Setting, attack: str, pixels: Tensor, networks: dict[str, Extractor]
) -> store.Cached:
    """Some users' pictures under an attack, computed once and then cached."""
    made = replace(ATTACKS[attack], steps=2) if stage.small else ATTACKS[attack]
    names = surrogates_of(setting, made)
    surrogates = [networks[name] if name in networks else load_extractor(name) for name in names]
    return poison_shard(made, pixels, surrogates, seed=setting.seed)


# Training -------------------------------------------------------------------------------------------------------------


def training(stage: Stage) -> None:
    """A short end-to-end training and a short training of a detector: whether they run there, and how fast."""
    device = pick_device("auto")
    steps = 2 if stage.small else 60
    preset = replace(END_TO_END, draws=steps * END_TO_END.batch)
    pictures = make_pictures("benchmark", 8, 8, 64 if stage.small else 112, bench.SEED)
    extractor = load_extractor(choose("full").undefended)

    def timed(what: str, work: Callable[[], bool]) -> None:
        try:
            start = time.perf_counter()
            sound = work()
            synchronise(device)
            took = (time.perf_counter() - start) / steps * 1000
            stage.section[what] = {"steps": steps, "ms_a_step": round(took, 1), "finite": sound}
        except Exception:
            stage.section.setdefault("failed", {})[what] = last_lines()
        stage.say(f"{what}, {stage.left:.0f} s left")
        stage.keep()

    def end_to_end() -> bool:
        found = play_round(
            extractor, pictures.pixels, pictures.identities, pictures.pixels[:8], preset, seed=bench.SEED
        )
        return bool(found["distance"].isfinite().all())

    def detector() -> bool:
        recipe = replace(detect.RESIDUAL, draws=steps * detect.RESIDUAL.batch)
        poisons = {"mirrored, which is no poison": pictures.pixels.flip(3)}
        found = detect.train_detector(pictures.pixels, poisons, recipe, seed=bench.SEED)
        return bool(detect.scores(found, pictures.pixels).isfinite().all())

    timed("end_to_end", end_to_end)
    timed("detector", detector)


# The table ------------------------------------------------------------------------------------------------------------


def last_lines() -> str:
    """The end of what went wrong."""
    return traceback.format_exc()[-1500:]


def in_words(alike: bool) -> str:
    return "alike" if alike else "NOT ALIKE"


def sanity_lines(found: Section) -> Iterator[str]:
    for row in found.get("extractors", []):
        cosines = "; ".join(
            f"{mode} {row[mode]['embedding']:.5f}, gradient {row[mode]['gradient']:.5f}" for mode in ("float32", "tf32")
        )
        yield f"{row['extractor']:24} {in_words(row['alike']):9} {cosines}"
    if "renderer" in found:
        row = found["renderer"]
        yield (
            f"{'renderer':24} {in_words(row['alike']):9} {row['levels']} levels apart, {row['ms_a_picture']} ms a "
            f"picture of {row['size']} px"
        )
    for row in found.get("detectors", []):
        yield (
            f"{'detector ' + row['detector']:24} {in_words(row['alike']):9} logits up to {row['largest_difference']} "
            f"apart, area {row['area_cpu']} and {row['area_gpu']}"
        )
    for row in found.get("attacks", []):
        sides = "; ".join(
            f"{side}: {row[side]['psnr']} dB, moved {row[side]['moved']}" for side in ("cpu", "gpu") if side in row
        )
        yield f"{row['attack']:24} {'':9} {row['steps']} steps, {sides}"


def rate_line(rate: Section) -> str:
    clean = rate["clean_error"]
    return (
        f"{rate['value']:6.1%} [{rate['low']:.1%}, {rate['high']:.1%}], clean {clean['value']:.1%} "
        f"[{clean['low']:.1%}, {clean['high']:.1%}]; {rate['users']} users, {rate['probes']} probes"
    )


def full_lines(found: Section) -> Iterator[str]:
    if "setting" in found:
        setting = ", ".join(f"{name} {value}" for name, value in found["setting"].items())
        yield f"{setting}; rendered on {found['rendered_on']} in {found['rendering_seconds']} s"
    for attack, row in found.get("poisons", {}).items():
        psnr = sum(row["psnr"]) / max(1, len(row["psnr"]))
        yield (
            f"{ATTACKS[attack].title}: {len(row['users'])} users ({row['from_store']} from the store), "
            f"{row['seconds']} s, {psnr:.1f} dB"
        )
    for row in found.get("rates", []):
        yield f"{row['attack']:18} {row['extractor']:24} {row['role']:11} {rate_line(row['rate'])}"
    for row in found.get("linear", []):
        yield f"{row['attack']:18} {'linear recogniser':24} {row['seconds']:9} s {rate_line(row['rate'])}"
    if "stopped" in found:
        yield found["stopped"]


def training_lines(found: Section) -> Iterator[str]:
    for what in ("end_to_end", "detector"):
        if what in found:
            row = found[what]
            yield f"{what:24} {row['steps']} steps, {row['ms_a_step']} ms a step, finite: {row['finite']}"


def speed_lines(found: Section) -> Iterator[str]:
    yield bench.table(found.get("rows", []))


LINES = {"sanity": sanity_lines, "speed": speed_lines, "full": full_lines, "training": training_lines}


def print_table(report: Section) -> None:
    """All that was written, stage by stage."""
    if not report:
        print("nothing was written")
        return
    print(bench.head(report))
    for name, lines in LINES.items():
        found = report.get("stages", {}).get(name)
        if found is None:
            print(f"-- {name}: nothing was written")
            continue
        print(f"-- {name}: {'done' if found.get('done') else 'NOT DONE'} in {found.get('seconds', '?')} s")
        print(*lines(found), sep="\n")
        for what, wrong in found.get("failed", {}).items():
            print(f"{what} FAILED: {wrong.strip().splitlines()[-1]}")


STAGES = {"sanity": sanity, "speed": speed, "full": full, "training": training}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "table"])
    parser.add_argument("--out", type=Path, default=Path("_build/gpu.json"))
    parser.add_argument("--budget", type=float, default=120.0, help="seconds after which nothing new begins")
    parser.add_argument("--small", action="store_true", help="try the logic only")
    options = parser.parse_args()
    if options.stage == "table":
        print_table(read(options.out))
        return 0
    start = time.perf_counter()
    stage = Stage(options.stage, options.out, start + options.budget, options.small)
    bench.write(stage.out, read(stage.out) | surroundings() | {"small": options.small})
    try:
        STAGES[stage.name](stage)
        stage.section["done"] = not stage.section.get("failed")
    except Exception:
        stage.section.setdefault("failed", {})[stage.name] = last_lines()
        traceback.print_exc()
    stage.section["seconds"] = round(time.perf_counter() - start, 1)
    stage.keep()
    return 0 if stage.section.get("done") else 1


if __name__ == "__main__":
    raise SystemExit(main())
