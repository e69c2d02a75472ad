"""What a detector's scores mean for your own pictures: probabilities of being poisoned, with their limits."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import safetensors
import torch
from PIL import Image, ImageOps
from torch import Tensor

from facepoison import detect, odds
from facepoison.attacks.people import poison_shard
from facepoison.attacks.presets import find_attack, title_of
from facepoison.detect import Detector
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.evaluation import Rate, share
from facepoison.extractors.catalog import cache_folder, load_extractor
from facepoison.intervals import area_interval
from facepoison.pictures import Pictures
from facepoison.pictures.folders import list_files, read_folder
from facepoison.pictures.splits import first_users
from facepoison.poisoning import surrogates_of
from facepoison.protocol import choose
from facepoison.store import written_whole

KEPT_IN = "calibration.json"
_NEVER = {"start": math.inf, "end": -math.inf}  # where a range is open nowhere: null in a file
_FOLDS = 5
MOST_PEOPLE, LEAST_PEOPLE = 40, 8  # whose pictures are poisoned to calibrate
CLEAN = 5  # pictures of each, at most
LONGEST, SHORTEST = 1024, 16  # pixels of a picture's sides


@dataclass(frozen=True)
class Calibration:
    """The line from a detector's logits to log-odds of being poisoned, at even odds beforehand (Platt 1999).

    Attributes:
        lines: That line and its 95 % range, see ``odds.lines_of``; numbers to six digits.
        people: Whose pictures it was fitted to.
        pictures: How many, clean and poisoned.
        made_on: What they are, in words.
        detector: SHA-256 of the detector's weights.
        date: When, if that is known.
    """

    lines: odds.Lines[float]
    people: int
    pictures: int
    made_on: str
    detector: str
    date: str = ""

    def probability(self, logits: Tensor) -> Tensor:
        """Probability of being poisoned, and the ends of its 95 % range: float64 (N, 3) for logits (N,)."""
        found = odds.ranges(self.lines, logits.detach().cpu().double().numpy())
        return torch.sigmoid(torch.from_numpy(np.stack(found, axis=1)))


def fit(logits: Tensor, poisoned: Tensor, people: Tensor, *, made_on: str, detector: str) -> Calibration:
    """Fit a calibration to scores of pictures of which it is known whether they are poisoned.

    Clean and poisoned pictures count alike. Where scores part without overlap the value is not taken for certain, and
    its range tells how little is known between the two kinds: see ``odds.lines_of``. The simulation
    ``benchmarks/coverage.py`` vouches for ranges from eight people on, whose scores rise with the odds of poison.

    Args:
        logits: Scores (N,).
        poisoned: Which pictures are, bool (N,).
        people: Whose they are, int64 (N,); two or more on each side, and the same or others.
        made_on: What the pictures are, in words; no names.
        detector: SHA-256 of the detector's weights.

    Raises:
        InputError: scores, labels and people do not fit each other, scores are not finite or all the same, one of the
            two kinds is missing, or all pictures of a kind are one person's.
    """
    _check(logits, poisoned, people)
    lines = _lines(logits, poisoned, people)
    return Calibration(lines, len(people.unique()), len(logits), made_on, detector)  # type: ignore[no-untyped-call]


def _check(logits: Tensor, poisoned: Tensor, people: Tensor) -> None:
    """Refuse what no calibration can be fitted to."""
    if not logits.ndim == poisoned.ndim == people.ndim == 1 or not len(logits) == len(poisoned) == len(people):
        got = f"{tuple(logits.shape)} scores, {tuple(poisoned.shape)} labels, {tuple(people.shape)} people"
        raise InputError(f"calibration: {got}; give one of each for every picture")
    if poisoned.dtype != torch.bool or people.dtype != torch.int64:
        raise InputError(f"calibration: labels {poisoned.dtype}, people {people.dtype}; give bool and int64")
    if not bool(poisoned.any()) or bool(poisoned.all()):
        raise InputError("calibration: pictures of one kind only; give clean and poisoned ones")
    if any(len(people[poisoned == side].unique()) < 2 for side in (False, True)):  # type: ignore[no-untyped-call]
        raise InputError("calibration: clean or poisoned pictures of one person only; give those of several")
    if not bool(logits.isfinite().all()) or float(logits.min()) == float(logits.max()):
        raise InputError("calibration: scores are all the same, or not finite; check detector and pictures")


def _groups(poisoned: Tensor, people: Tensor) -> list[Tensor]:
    """Numbers of people, in the order of ``unique``: those with clean pictures alone, poisoned ones alone, and both."""
    row = torch.unique(people, return_inverse=True)[1]
    n = int(row.max()) + 1
    clean, other = (row[poisoned == side].bincount(minlength=n) > 0 for side in (False, True))
    kinds = [clean & ~other, other & ~clean, clean & other]
    return [some.nonzero().flatten() for some in kinds if bool(some.any())]


def _lines(logits: Tensor, poisoned: Tensor, people: Tensor) -> odds.Lines[float]:
    """Lines of one sample, to six digits."""
    scores = logits.detach().cpu().double().numpy()
    found = odds.lines_of(scores[None], poisoned.cpu().numpy(), people.cpu().numpy())
    return odds.Lines(*(float(f"{float(number[0]):.6g}") for number in found))


def write(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    numbers = calibration.lines._asdict().items()
    told = asdict(calibration) | {"lines": {name: None if math.isinf(x) else x for name, x in numbers}}
    lines = [f'  "{name}": {json.dumps(value)}' for name, value in told.items()]
    with written_whole(path) as scratch:
        scratch.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        InputError: there is none, or the file is no calibration.
    """
    try:
        told = json.loads(path.read_text())
        if "draws" in told:
            raise ValueError("made by an earlier version, whose ranges were too narrow")
        found = [(name, told["lines"][name]) for name in odds.Lines._fields]
        lines = odds.Lines(*(float(_NEVER[name] if number is None else number) for name, number in found))
        if not all(math.isfinite(number) for number in lines[:-2]) or any(map(math.isnan, lines)):
            raise ValueError("numbers that are not finite")
        words = str(told["made_on"]), str(told["detector"]), str(told["date"])
        return Calibration(lines, int(told["people"]), int(told["pictures"]), *words)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        remedy = "restore it from the project" if path.parent == detect.DETECTORS else "delete it"
        why = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: cannot be read as a calibration ({why}): {remedy}, or calibrate again with detect --calibrate"
        ) from error


def beside(weights: Path) -> Path:
    """Where the calibration lies that comes with a file of weights."""
    return weights.with_name(f"{weights.stem}-{KEPT_IN}")


def in_use(detector: Detector, weights: Path) -> tuple[Calibration, list[str]]:
    """The calibration for a detector, and lines that say which it is.

    It is the one in the cache of downloads, made by ``calibrate``, if that belongs to this detector; else the one that
    lies beside the weights.

    Raises:
        InputError: a file is no calibration, or neither belongs to this detector.
    """
    own, said = cache_folder() / KEPT_IN, []
    if own.is_file():
        found = read(own)
        if found.detector == detector.sha256:
            numbers = f"{found.people} people, {found.pictures} pictures of a folder of your own"
            return found, [f"calibrated on {numbers}, clean and poisoned, on {found.date}"]
        said.append(f"{own}: belongs to other weights, so that the book's calibration is used instead")
    other = beside(weights)
    found = read(other)
    if found.detector != detector.sha256:
        raise InputError(f"{other}: belongs to other weights than {weights}: calibrate with detect --calibrate FOLDER")
    said.append("not calibrated on photographs: run detect --calibrate FOLDER on your own")
    said.append(f"(what is used instead was made on {found.people} people, {found.pictures} pictures: {found.made_on})")
    return found, said


def load(weights: Path) -> Detector:
    """The detector in a file of weights with its card beside it.

    Raises:
        InputError: it is not there, or cannot be used.
    """
    if weights.suffix != ".safetensors":
        raise InputError(f"{weights}: is not named as weights: give a .safetensors file with its card beside it")
    try:
        return detect.load_detector(weights.stem, weights.parent)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(f"{weights}: is no detector, or its card no card ({why}): restore both") from error


def read_picture(path: Path) -> Tensor:
    """A picture as it is, uint8 RGB (3, H, W), turned as its EXIF orientation says.

    Raises:
        InputError: it is no picture, damaged, of more than 8 bits a channel, too large or too small.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): give a picture's file") from error
    if not data:
        raise InputError(f"{path}: is empty: get the picture again")
    too_large = f"crop it to the face first, to at most {LONGEST} px a side; resizing takes away what is looked for"
    with path.open("rb") as handle, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large pictures and odd metadata: what matters is refused below
        try:
            image = Image.open(handle)
        except Image.DecompressionBombError as error:
            raise InputError(f"{path}: is too large: {too_large}") from error
        except Exception as error:  # readers of dozens of formats raise all sorts
            raise InputError(f"{path}: is no picture that can be read: save it as PNG or JPEG") from error
        size = f"{image.width} x {image.height} px"
        if max(image.size) > LONGEST:
            raise InputError(f"{path}: {size} is too large: {too_large}")
        if min(image.size) < SHORTEST:
            raise InputError(f"{path}: {size} is too small: give a face of at least {SHORTEST} px a side")
        if image.mode[0] in "IF":
            raise InputError(f"{path}: has more than 8 bits a channel: save it with 8")
        try:
            picture = ImageOps.exif_transpose(image).convert("RGB")
        except Exception as error:
            raise InputError(f"{path}: is cut short or damaged: get the picture again") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def calibrate(folder: Path, detector: Detector, say: Callable[[str], None] = print) -> Calibration:
    """Calibrate a detector on clean pictures of people and poison made of them; an interrupted run resumes.

    Everybody's first picture is poisoned by every attack that detectors learn, on the users' surrogates.

    Args:
        folder: Holds a folder of clean pictures for each person; other people's extractors are taken from ``models``
            beside it, where there is one.
        detector: Which.
        say: Told how it goes, and how well the detector does on people left out.

    Returns:
        The calibration, which holds numbers only.

    Raises:
        InputError: the folder cannot be used.
    """
    setting = choose("fast", str(folder.resolve()), 1, "")
    users, clean = _clean(folder, setting.seed, say)
    networks = {name: load_extractor(name, folder=setting.extractors) for name in setting.surrogates}
    parts, who = [detect.scores(detector, clean.pixels)], [clean.identities]
    attacks = setting.protocol["detecting"]["attacks"]
    done, made, seconds = 0, 0, 0.0
    for attack in map(find_attack, attacks):
        found, surrogates = [], [networks[name] for name in surrogates_of(setting, attack)]
        for user in users:
            others = clean.take(clean.identities != user)
            result = poison_shard(attack, clean.of(user).pixels[:1], surrogates, seed=setting.seed, public=others)
            found.append(result.arrays["pixels"])
            done, made, seconds = done + 1, made + result.computed_now, seconds + result.seconds * result.computed_now
            minutes = seconds / max(1, made) * (len(users) * len(attacks) - done) / 60
            rest = f", {minutes:.0f} min left" if made else ""
            say(f"{attack.title}: {len(found)} of {len(users)} people{rest}")
        parts.append(detect.scores(detector, torch.cat(found)))
        who.append(torch.tensor(users))
    logits, people = torch.cat(parts), torch.cat(who)
    number = torch.cat([torch.full((len(part),), place) for place, part in enumerate(parts)])
    poisoned = number > 0
    left = left_out(logits, poisoned, people, setting.seed)
    say(f"measured on people left out of the calibration, {_FOLDS} groups of them in turn; 95 % intervals:")
    say(f"area under the ROC curve {_said(area_left_out(left, poisoned, people))}")
    for place, attack in enumerate(attacks, 1):
        own = number == place
        say(f"{title_of(attack)} found, at probability 0.5: {_said(share(left[own] > 0, people[own]))}")
    say(f"found, all together: {_said(share(left[poisoned] > 0, people[poisoned]))}")
    say(f"false alarms: {_said(share(left[~poisoned] > 0, people[~poisoned]))}")
    fitted = fit(logits, poisoned, people, made_on="a folder", detector=detector.sha256)
    return replace(fitted, date=datetime.now(UTC).date().isoformat())


def _said(rate: Rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] (n = {rate.n} people, {rate.probes} pictures)"


def _clean(folder: Path, seed: int, say: Callable[[str], None]) -> tuple[tuple[int, ...], Pictures]:
    """Who is calibrated on, and clean pictures of each, all in one order."""

    def enough(people: int) -> None:
        if people < LEAST_PEOPLE:
            what = f"{people} people with pictures that can be used: give at least {LEAST_PEOPLE}, a sub-folder each"
            raise InputError(f"{folder}: {what}")

    def progress(done: int, of: int) -> None:
        if done % 50 == 0 or done == of:
            say(f"pictures read: {done} of {of}")

    enough(len({name for name, _ in list_files(folder)}))
    pictures, report = read_folder(folder, least=1, progress=progress)
    say(str(report))
    enough(len(pictures.names))
    users = first_users(pictures, min(MOST_PEOPLE, len(pictures.names)), seed)
    places = [(pictures.identities == user).nonzero().flatten()[:CLEAN] for user in users]
    return users, pictures.take(torch.cat(places))


def left_out(logits: Tensor, poisoned: Tensor, people: Tensor, seed: int) -> Tensor:
    """Log-odds of being poisoned, float64 (N,), of every person's pictures by a calibration without that person.

    Raises:
        InputError: as for ``fit``.
    """
    _check(logits, poisoned, people)
    row = torch.unique(people, return_inverse=True)[1]
    fold = torch.zeros(int(row.max()) + 1, dtype=torch.int64)
    stream = generator(seed, "calibration", "folds")
    for some in _groups(poisoned, people):
        fold[some[torch.randperm(len(some), generator=stream)]] = torch.arange(len(some)) % _FOLDS
    found = torch.zeros(len(logits), dtype=torch.float64)
    for number in fold.unique().tolist():  # type: ignore[no-untyped-call]
        asked = fold[row] == number
        rest = ~asked
        _check(logits[rest], poisoned[rest], people[rest])
        lines = _lines(logits[rest], poisoned[rest], people[rest])
        found[asked] = lines.slope * logits[asked].double() + lines.intercept
    return found


def area_left_out(log_odds: Tensor, poisoned: Tensor, people: Tensor) -> Rate:
    """Area under the ROC curve, with its interval over people; see ``intervals.area_interval``."""
    who, clean = people.numpy(), ~poisoned
    value, low, high = area_interval(log_odds[clean].numpy(), who[clean], log_odds[poisoned].numpy(), who[poisoned])
    return Rate(value, len(people.unique()), len(log_odds), low, high)  # type: ignore[no-untyped-call]
