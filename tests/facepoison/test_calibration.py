"""Calibration: what scores mean, what the command ``detect`` prints, and how it ends on bad input."""

import json
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_pictures
from typer.testing import CliRunner

import fingerprint
from facepoison import calibration, detect, odds
from facepoison.calibration import Calibration, area_left_out, beside, fit, in_use, left_out, read, read_picture, write
from facepoison.cli import app
from facepoison.errors import InputError
from facepoison.extractors.cards import write_weights
from facepoison.pictures import Pictures
from facepoison.pictures.folders import Report
from facepoison.protocol import read_protocol
from facepoison.store import Cached

ATTACKS = read_protocol()["detecting"]["attacks"]
LEVEL = odds.Lines(
    0.0, 3.0, 0.0, 3.0, 0.0, 3.0, 0.0, 1.0, 0.0, math.inf, -math.inf
)  # 3, give or take 1, whatever the score
LINE = re.compile(r"^(.+): (\d\.\d\d) \[(\d\.\d\d), (\d\.\d\d)\]$")


def scored(people, gap, *, each=4, seed=0):
    """Scores of clean and poisoned pictures of some people, spread by 1 around -gap and gap."""
    noise = torch.randn(2, people * each, generator=torch.Generator().manual_seed(seed))
    logits = torch.cat([noise[0] - gap, noise[1] + gap])
    who = torch.arange(people).repeat_interleave(each).repeat(2)
    return logits, torch.arange(len(logits)) >= people * each, who


def fitted(*parts, detector="abc"):
    return fit(*parts, made_on="numbers", detector=detector)


class TestFit:
    def test_scores_that_part_give_probabilities_near_0_and_1_and_anything_between(self):
        made = fitted(*scored(40, 8))
        value, low, high = made.probability(torch.tensor([-8.0, 8.0])).T.tolist()
        assert value[0] < 0.05
        assert value[1] > 0.95
        assert 0 == low[0] < value[0] < high[0] < 0.15
        assert 0.85 < low[1] < value[1] < high[1] == 1
        assert made.probability(torch.tensor([0.0]))[0, 1:].tolist() == [0, 1]
        assert (made.people, made.pictures, made.made_on, made.detector) == (40, 320, "numbers", "abc")

    def test_scores_that_say_nothing_give_even_odds(self):
        made = fitted(*scored(40, 0))
        value, low, high = made.probability(torch.tensor([0.0]))[0].tolist()
        assert value == pytest.approx(0.5, abs=0.1)
        assert low < 0.5 < high

    def test_many_people_bring_the_line_that_the_scores_were_drawn_from(self):
        logits, poisoned, people = scored(600, 1)
        made = fitted(2 * logits + 5, poisoned, people)
        assert made.lines.slope == pytest.approx(
            1, rel=0.1
        )  # log-odds of two normals at -1 and 1: 2 x, and x is stretched
        assert made.lines.intercept == pytest.approx(-5, rel=0.1)

    def test_kinds_count_equally_however_many_pictures_they_have(self):
        logits, poisoned, people = scored(60, 1)
        often = torch.cat([poisoned.nonzero()[:, 0], (~poisoned).nonzero()[:, 0].repeat(20)])
        one, other = fitted(logits, poisoned, people), fitted(logits[often], poisoned[often], people[often])
        assert other.lines == pytest.approx(one.lines, rel=1e-4, abs=1e-4)

    @pytest.mark.parametrize("gap", [1, 8])
    def test_ranges_widen_with_fewer_people(self, gap):
        def width(people):
            _, low, high = fitted(*scored(people, gap)).probability(torch.tensor([float(gap)]))[0].tolist()
            return high - low

        assert width(8) > 1.5 * width(40) > 2.25 * width(200)

    def test_people_are_independent_and_pictures_are_not(self):
        logits, poisoned, people = scored(10, 1, each=1)
        again = torch.arange(len(logits)).repeat(30)  # the same picture thirty times
        one, other = fitted(logits, poisoned, people), fitted(logits[again], poisoned[again], people[again])
        assert other.lines == pytest.approx(one.lines, rel=1e-4, abs=1e-4)
        assert other.pictures == 30 * one.pictures

    def test_clean_and_poisoned_pictures_may_be_of_different_people(self):
        logits, poisoned, people = scored(20, 2)
        made = fitted(logits, poisoned, people + 10**6 * poisoned)
        assert made.people == 40
        assert made.lines.slope > 1

    @pytest.mark.parametrize("gap", [0, 1, 2, 8, -1, -8])
    def test_the_range_holds_the_value(self, gap):
        value, low, high = fitted(*scored(8, gap)).probability(torch.linspace(-20, 20, 81)).T
        assert bool(((low <= value) & (value <= high) & (low >= 0) & (high <= 1)).all())

    def test_scores_that_fall_with_poison_are_the_mirror_of_those_that_rise(self):
        for gap in (1, 8):
            logits, poisoned, people = scored(10, gap)
            asked = torch.tensor([-8.0, -1.0, 0.0, 3.0])
            one, other = fitted(logits, poisoned, people), fitted(-logits, poisoned, people)
            assert torch.allclose(other.probability(-asked), one.probability(asked), atol=1e-4)

    def test_one_person_who_keeps_two_kinds_from_parting_does_not_make_the_line_certain(self):
        logits, poisoned, people = scored(10, 8)
        logits[-1] = -8.0  # one poisoned picture that scores as clean ones do
        made = fitted(logits, poisoned, people)
        _, low, high = made.probability(torch.tensor([-8.0, 0.0, 8.0])).T.tolist()
        assert (low[0], high[2]) == (0, 1)
        assert (low[1], high[1]) == (0, 1)
        assert high[0] > 0.025
        assert low[2] < 0.975

    @pytest.mark.parametrize(("people", "gap"), [(8, 2), (20, 1)])
    def test_coverage(self, people, gap):
        """Of the population's line, that of two normals; see ``benchmarks/coverage.py`` for all of it."""
        random = np.random.default_rng(1)
        label, who = np.repeat([False, True], [5 * people, 3 * people]), np.arange(people)
        who = np.concatenate([who.repeat(5), who.repeat(3)])
        scores = 0.3**0.5 * random.standard_normal((1000, people))[:, who] + gap * label
        scores += 0.7**0.5 * random.standard_normal(scores.shape)
        lines = odds.lines_of(scores, label, who)
        assert np.isfinite(lines.start).mean() < 0.01
        for asked in (-1.0, 0.0, gap / 2, gap):
            _, low, high = odds.ranges(lines, asked)
            truth = gap * asked - gap**2 / 2
            assert ((low <= truth) & (truth <= high)).mean() > 0.94
        one = fitted(torch.from_numpy(scores[7]), torch.from_numpy(label), torch.from_numpy(who))
        assert one.lines == pytest.approx([number[7] for number in lines], rel=1e-5)

    def test_what_cannot_be_fitted_is_refused(self):
        logits, poisoned, people = scored(4, 1)
        wrong = [
            ((logits[1:], poisoned, people), "give one of each for every picture"),
            ((logits, poisoned.long(), people), "give bool and int64"),
            ((logits, poisoned | True, people), "give clean and poisoned ones"),
            ((logits, poisoned, people * 0), "give those of several"),
            ((logits, poisoned, people * ~poisoned), "give those of several"),
            ((logits * torch.nan, poisoned, people), "not finite"),
            ((logits * 0, poisoned, people), "all the same"),
        ]
        for parts, message in wrong:
            with pytest.raises(InputError, match=message):
                fitted(*parts)


class TestLeftOut:
    def test_a_person_never_judges_their_own_pictures(self):
        logits, poisoned, people = scored(10, 1)
        before = left_out(logits, poisoned, people, 0)
        own = people == 3
        flipped = left_out(logits, poisoned ^ own, people, 0)
        assert torch.equal(flipped[own], before[own])
        assert not torch.equal(flipped[~own], before[~own])

    def test_area_has_a_range_even_where_nothing_is_wrong(self):
        logits, poisoned, people = scored(20, 20)
        rate = area_left_out(logits, poisoned, people)
        assert (rate.value, rate.high, rate.n) == (1, 1, 20)
        assert rate.low == pytest.approx(0.025 ** (1 / 20))
        logits, poisoned, people = scored(20, 0.5)
        rate = area_left_out(logits, poisoned, people)
        assert rate.value == pytest.approx(detect.area(logits[~poisoned], logits[poisoned]))
        assert rate.low < rate.value < rate.high < 1


class TestFile:
    def test_what_is_written_is_read(self, tmp_path):
        for gap in (1, 8):
            made = replace(fitted(*scored(8, gap)), date="2026-01-31")
            write(made, tmp_path / "new" / "calibration.json")
            assert read(tmp_path / "new" / "calibration.json") == made
            assert math.isinf(made.lines.start) == (gap == 1)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["calibration.json"]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda told: told.pop("lines"),
            lambda told: told.update(lines=[1.0, 2.0]),
            lambda told: told["lines"].pop("slope"),
            lambda told: told["lines"].update(intercept="much"),
            lambda told: told["lines"].update(slope=None),
            lambda told: told["lines"].update(least=float("inf")),
            lambda told: told["lines"].update(start=float("nan")),
            lambda told: told.update(people=float("inf")),
        ],
    )
    def test_what_is_none_is_refused(self, spoil, tmp_path):
        path = tmp_path / "calibration.json"
        write(fitted(*scored(8, 1)), path)
        told = json.loads(path.read_text())
        spoil(told)
        path.write_text(json.dumps(told))
        with pytest.raises(InputError, match=r"calibration\.json: cannot be read as a calibration .*: delete it") as no:
            read(path)
        assert "\n" not in str(no.value)

    def test_that_of_an_earlier_version_is_refused(self, tmp_path):
        (tmp_path / "calibration.json").write_text('{"slope": 1.0, "intercept": 0.0, "draws": [[1.0, 0.0]]}')
        with pytest.raises(InputError, match=r"an earlier version, .*: delete it, or calibrate again with detect"):
            read(tmp_path / "calibration.json")

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "\0\1"])
    def test_no_json(self, text, tmp_path):
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(InputError, match="cannot be read as a calibration"):
            read(tmp_path / "calibration.json")


class TestPicture:
    @pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "gif", "webp", "jpg"])
    def test_is_read_as_it_is(self, ending, tmp_path):
        pixels = tiny_pictures(1, 41)[0, :, :30]
        path = tmp_path / f"face.{ending}"
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, **({"lossless": True} if ending == "webp" else {}))
        got = read_picture(path)
        assert (got.dtype, got.shape) == (torch.uint8, (3, 30, 41))
        if ending not in ("gif", "jpg"):
            assert torch.equal(got, pixels)

    def test_is_turned_as_its_orientation_says(self, tmp_path):
        pixels = tiny_pictures(1, 30)[0]
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "face.png", exif=exif)
        assert torch.equal(read_picture(tmp_path / "face.png"), pixels)

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
    def test_of_other_colours_becomes_rgb(self, mode, tmp_path):
        Image.new(mode, (20, 24)).save(tmp_path / "face.tiff")
        assert read_picture(tmp_path / "face.tiff").shape == (3, 24, 20)

    def test_sides_at_the_limits(self, tmp_path):
        for size in ((1024, 16), (16, 1024)):
            Image.new("RGB", size).save(tmp_path / "face.png")
            assert read_picture(tmp_path / "face.png").shape == (3, size[1], size[0])


@pytest.fixture
def bad(tmp_path):
    """Files that are no pictures to be asked about, and what is said of them."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<html></html>")
    image = Image.fromarray(tiny_pictures(1, 64)[0].permute(1, 2, 0).numpy())
    for name in ("cut.jpg", "cut.png"):
        image.save(folder / name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1025, 30)).save(folder / "large.png")
    Image.new("1", (14000, 13000)).save(folder / "bomb.png")
    Image.new("RGB", (15, 200)).save(folder / "small.png")
    Image.new("I;16", (20, 20)).save(folder / "deep.png")
    (folder / "folder.png").mkdir()
    return folder


BAD = {
    "empty.png": "is empty: get the picture again",
    "page.jpg": "is no picture that can be read: save it as PNG or JPEG",
    "cut.jpg": "is cut short or damaged: get the picture again",
    "cut.png": "is cut short or damaged: get the picture again",
    "large.png": "1025 x 30 px is too large: crop it to the face first, to at most 1024 px a side",
    "bomb.png": "is too large: crop it to the face first",
    "small.png": "15 x 200 px is too small: give a face of at least 16 px a side",
    "deep.png": "has more than 8 bits a channel",
    "folder.png": "cannot be read (Is a directory)",
    "missing.png": "cannot be read (No such file or directory)",
}


def run(*arguments):
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, ["detect", *map(str, arguments)])


def answers(result):
    """By file name the probability and its range, as printed."""
    found = (LINE.match(line) for line in result.stdout.splitlines())
    return {one[1].rpartition("/")[2]: tuple(map(float, one.groups()[1:])) for one in found if one}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A detector with a calibration, as they come with the book: a tiny one, whose weights are drawn; and no cache."""
    folder = tmp_path / "detectors"
    torch.manual_seed(0)
    network = detect.Detector().eval()
    network.layers[-1].weight.data *= 20  # scores of tiny pictures differ by a few units
    weights = folder / f"{detect.DEFAULT}.safetensors"
    write_weights(weights, network, {"recipe": asdict(detect.DetectorRecipe("tiny"))}, half=True)
    monkeypatch.setattr(detect, "DETECTORS", folder)
    monkeypatch.setenv("FACEPOISON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))
    sha256 = fingerprint.of_file(weights)
    write(fitted(*scored(20, 2), detector=sha256), beside(weights))
    return folder


def of_book(shipped):
    """Where the calibration lies that comes with the detector."""
    return beside(shipped / f"{detect.DEFAULT}.safetensors")


@pytest.fixture
def faces(tmp_path):
    """Two pictures of different sizes."""
    for name, size in (("one.png", 24), ("two.png", 41)):
        Image.fromarray(tiny_pictures(1, size)[0].permute(1, 2, 0).numpy()).save(tmp_path / name)
    return [tmp_path / "one.png", tmp_path / "two.png"]


UNCALIBRATED = "not calibrated on photographs: run detect --calibrate FOLDER on your own"


class TestDetect:
    def test_prints_a_probability_with_its_range_for_each_file(self, shipped, faces):
        result = run(*faces)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        lines = result.stdout.splitlines()
        assert lines[0] == UNCALIBRATED
        assert "made on 20 people, 160 pictures: numbers" in lines[1]
        assert "even odds" in lines[2]
        detector = detect.load_detector(detect.DEFAULT, shipped)
        said = read(of_book(shipped))
        wanted = []
        for face in faces:
            logits = detect.scores(detector, read_picture(face)[None])
            value, low, high = said.probability(logits)[0].tolist()
            wanted.append(f"{face}: {value:.2f} [{low:.2f}, {high:.2f}]")
        assert lines[3:] == wanted

    def test_bad_files_are_named_and_good_ones_still_answered(self, shipped, faces, bad):
        result = run(faces[0], *(bad / name for name in BAD), faces[1])
        assert result.exit_code == 2
        assert list(answers(result)) == ["one.png", "two.png"]
        errors = result.stderr.splitlines()
        assert len(errors) == len(BAD)
        for line, (name, message) in zip(errors, BAD.items(), strict=True):
            assert line.startswith(f"error: {bad / name}: {message}"), line

    def test_one_bad_file(self, shipped, bad):
        result = run(bad / "empty.png")
        assert (result.exit_code, answers(result)) == (2, {})
        assert result.stderr == f"error: {bad / 'empty.png'}: is empty: get the picture again\n"

    def test_nothing_to_do_is_a_wrong_usage(self, shipped):
        result = run()
        assert result.exit_code == 2
        assert "Usage" in result.stderr
        assert "give FILE..., --calibrate FOLDER, or both" in result.stderr

    def test_a_calibration_in_the_cache_is_used(self, shipped, faces, tmp_path):
        before = answers(run(*faces))
        own = replace(read(of_book(shipped)), lines=LEVEL)
        write(replace(own, made_on="a folder", date="2026-01-31", people=12), tmp_path / "cache" / "calibration.json")
        result = run(*faces)
        assert "calibrated on 12 people, 160 pictures" in result.stdout.splitlines()[0]
        assert "2026-01-31" in result.stdout
        assert UNCALIBRATED not in result.stdout
        assert set(answers(result).values()) == {(0.95, 0.88, 0.98)}
        assert answers(result) != before

    def test_a_calibration_of_other_weights_is_not(self, shipped, faces, tmp_path):
        before = answers(run(*faces))
        other = replace(read(of_book(shipped)), lines=LEVEL, detector="f" * 64)
        write(other, tmp_path / "cache" / "calibration.json")
        result = run(*faces)
        assert result.exit_code == 0
        assert "cache/calibration.json: belongs to other weights" in result.stdout
        assert UNCALIBRATED in result.stdout
        assert answers(result) == before

    def test_weights_that_nothing_is_calibrated_for(self, shipped, faces):
        write(replace(read(of_book(shipped)), detector="f" * 64), of_book(shipped))
        result = run(*faces)
        assert (result.exit_code, answers(result)) == (2, {})
        assert "calibration.json: belongs to other weights than" in result.stderr
        assert "calibrate with detect --calibrate FOLDER" in result.stderr

    def test_a_calibration_that_cannot_be_read(self, shipped, faces, tmp_path):
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "calibration.json").write_text("{")
        result = run(*faces)
        assert (result.exit_code, answers(result)) == (2, {})
        assert result.stderr.startswith(f"error: {tmp_path / 'cache' / 'calibration.json'}: cannot be read")
        assert result.stderr.count("\n") == 1

    def test_weights_may_lie_elsewhere(self, shipped, faces, tmp_path):
        before = answers(run(*faces))
        moved = shipped.rename(tmp_path / "elsewhere")
        result = run(*faces, "--weights", moved / f"{detect.DEFAULT}.safetensors")
        assert result.exit_code == 0
        assert answers(result) == before

    @pytest.mark.parametrize("name", ["none.safetensors", "card.json", "card.safetensors", "spoilt.safetensors"])
    def test_weights_that_are_none(self, shipped, faces, name):
        weights = (shipped / f"{detect.DEFAULT}.safetensors").read_bytes()
        (shipped / "card.safetensors").write_bytes(weights)
        (shipped / "card.json").write_text("{")
        (shipped / "spoilt.safetensors").write_bytes(weights[:-1])
        (shipped / "spoilt.json").write_text((shipped / f"{detect.DEFAULT}.json").read_text())
        result = run(*faces, "--weights", shipped / name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"error: {shipped / name.split('.')[0]}.")
        assert result.stderr.count("\n") == 1


@pytest.fixture
def people(tmp_path, monkeypatch):
    """A folder of ten people of whom eight pictures each are found, and attacks that draw a grid."""
    root = tmp_path / "private holidays"
    for number in range(10):
        (root / f"Surname {number}").mkdir(parents=True)
        (root / f"Surname {number}" / "1.png").write_bytes(b"x")
    asked = []

    def read_folder(folder, *, least, progress):
        assert folder == root
        progress(80, 80)
        names = tuple(sorted(path.name for path in root.iterdir()))
        pixels = tiny_pictures(8 * len(names), 24)
        return Pictures(pixels, torch.arange(len(names)).repeat_interleave(8), names), Report(80, 80, 0, ())

    def poison_shard(attack, pixels, surrogates, *, seed, public):
        asked.append((attack.title, pixels, public))
        grid = (torch.arange(24)[:, None] + torch.arange(24)) % 2 * 90
        changed = (pixels.int() + grid - 45).clamp(0, 255).to(torch.uint8)
        return Cached({"pixels": changed}, 6.0, computed_now=True)

    monkeypatch.setattr(calibration, "read_folder", read_folder)
    monkeypatch.setattr(calibration, "poison_shard", poison_shard)
    monkeypatch.setattr(calibration, "load_extractor", lambda name, folder: (name, folder))
    return root, asked


class TestCalibrate:
    def test_writes_numbers_alone_and_they_are_used(self, shipped, people, faces, tmp_path):
        root, asked = people
        result = run("--calibrate", root)
        assert result.exit_code == 0, result.output
        assert answers(result) == {}
        assert len(asked) == 10 * len(ATTACKS)
        for _, pixels, public in asked:
            assert pixels.shape == (1, 3, 24, 24)
            assert len(public) == 9 * calibration.CLEAN
            assert not any(torch.equal(pixels[0], one) for one in public.pixels)
        path = tmp_path / "cache" / "calibration.json"
        assert [one.name for one in path.parent.iterdir()] == ["calibration.json"]
        made = read(path)
        assert (made.people, made.pictures) == (10, 10 * calibration.CLEAN + 10 * len(ATTACKS))
        assert made.detector == fingerprint.of_file(shipped / f"{detect.DEFAULT}.safetensors")
        for text in (path.read_text(), result.stdout):
            assert "Surname" not in text
        assert "holidays" not in path.read_text()
        assert "10 of 10 people, 0 min left" in result.stdout
        assert "2 of 10 people, 3 min left" in result.stdout
        for words in ("area under the ROC curve", "found, all together:", "false alarms:"):
            assert re.search(rf"{words} \d\.\d{{3}} \[\d\.\d{{3}}, \d\.\d{{3}}\] \(n = 10 people", result.stdout), words
        later = run(*faces)
        assert later.stdout.startswith(f"calibrated on 10 people, {made.pictures} pictures")
        assert len(answers(later)) == 2

    def test_and_answers_at_once(self, shipped, people, faces):
        result = run("--calibrate", people[0], *faces)
        assert result.exit_code == 0, result.output
        assert UNCALIBRATED not in result.stdout
        assert len(answers(result)) == 2

    def test_tells_poison_that_the_detector_sees_from_clean_pictures(self, shipped, people, tmp_path, monkeypatch):
        def scores(detector, pixels):  # the grid lies on odd and even pixels
            return (pixels[..., 1:].float() - pixels[..., :-1]).abs().mean(dim=(1, 2, 3)) - 50

        monkeypatch.setattr(detect, "scores", scores)
        result = run("--calibrate", people[0])
        assert "area under the ROC curve 1.000 [0.692, 1.000]" in result.stdout
        made = read(tmp_path / "cache" / "calibration.json")
        clean = made.probability(scores(None, tiny_pictures(8, 24)))
        assert bool((clean[:, 0] < 0.2).all())

    def test_at_most_so_many_people(self, shipped, people, monkeypatch):
        monkeypatch.setattr(calibration, "MOST_PEOPLE", 8)
        result = run("--calibrate", people[0])
        assert result.exit_code == 0, result.output
        assert len(people[1]) == 8 * len(ATTACKS)

    def test_too_few_people_are_refused_and_nothing_is_written(self, shipped, people, tmp_path):
        root, asked = people
        for number in (2, 3, 4):
            (root / f"Surname {number}" / "1.png").unlink()
        result = run("--calibrate", root)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {root}: 7 people with pictures that can be used: give at least 8")
        assert not asked
        assert not (tmp_path / "cache").exists()

    def test_folders_that_are_none(self, shipped, tmp_path):
        (tmp_path / "hollow").mkdir()
        for name, message in (("nowhere", "give a folder of people"), ("hollow", "holds no pictures")):
            result = run("--calibrate", tmp_path / name)
            assert result.exit_code == 2
            assert name in result.stderr
            assert message in result.stderr
            assert result.stderr.count("\n") == 1
        assert not (tmp_path / "cache").exists()

    def test_a_run_cut_short_leaves_the_calibration_as_it_was(self, shipped, people, tmp_path, monkeypatch):
        path = tmp_path / "cache" / "calibration.json"
        write(read(of_book(shipped)), path)
        before = path.read_bytes()

        def refuse(*_, **__):
            raise InputError("attack: no")

        monkeypatch.setattr(calibration, "poison_shard", refuse)
        assert run("--calibrate", people[0]).exit_code == 2
        assert path.read_bytes() == before
        assert len(list(path.parent.iterdir())) == 1


def test_in_use_prefers_the_cache(shipped, tmp_path):
    detector = detect.load_detector(detect.DEFAULT, shipped)
    book, said = in_use(detector, shipped / f"{detect.DEFAULT}.safetensors")
    assert said[0] == UNCALIBRATED
    own = Calibration(LEVEL, 9, 90, "a folder", detector.sha256, "2026-01-31")
    write(own, tmp_path / "cache" / "calibration.json")
    assert in_use(detector, shipped / f"{detect.DEFAULT}.safetensors")[0] == own != book
