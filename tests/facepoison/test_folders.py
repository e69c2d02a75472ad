"""Folders of pictures: what is read, what is left out and why."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from facepoison.errors import InputError
from facepoison.pictures import folders
from facepoison.pictures.folders import list_files, read_folder
from facepoison.pictures.synthetic import make_pictures


@pytest.fixture(scope="module")
def images():
    """Made portraits in even light: two people, three pictures of each."""
    pixels = make_pictures("folders", 2, 3, 160, 0, strength=0.1, device="cpu").pixels
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all tests of this file, so that each face is looked for once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _use_store(store, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(store))


@pytest.fixture(scope="module")
def _ready(images, tmp_path_factory):
    root = tmp_path_factory.mktemp("ready")
    for index, image in enumerate(images):
        path = root / ("Zoe", "Adam")[index // 3] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
    return root


@pytest.fixture
def people(_ready, tmp_path):
    """A folder of two identities with three pictures each, for a test to add to or spoil."""
    return shutil.copytree(_ready, tmp_path / "people")


def reasons(report):
    return {str(Path(one.path.parent.name) / one.path.name): one.reason for one in report.skipped}


class TestRead:
    def test_pictures_of_identities_in_the_order_of_their_names(self, people):
        calls = []
        pictures, report = read_folder(people, device="cpu", progress=lambda done, total: calls.append((done, total)))
        assert pictures.names == ("Adam", "Zoe")
        assert pictures.identities.tolist() == [0, 0, 0, 1, 1, 1]
        assert pictures.pixels.shape == (6, 3, 112, 112)
        assert (report.found, report.used, report.skipped) == (6, 6, ())
        assert str(report) == "6 of 6 pictures used"
        assert calls == [(n, 6) for n in range(1, 7)]

    def test_all_kinds_of_pictures_and_facescrubs_layout(self, people, images, tmp_path):
        root = tmp_path / "mixed"
        (root / "A").mkdir(parents=True)
        images[0].save(root / "A" / "1.JPG", quality=95)
        images[1].save(root / "A" / "2.jpeg", quality=95)
        (root / "B" / "face").mkdir(parents=True)
        images[3].save(root / "B" / "face" / "1.webp", lossless=True)
        images[4].convert("RGBA").save(root / "B" / "face" / "2.png")
        images[5].save(root / "B" / "whole scene.png")  # FaceScrub keeps those beside ``face``
        (root / "B" / "face" / ".DS_Store").write_bytes(b"x")
        (root / "readme.txt").write_text("not an identity")
        pictures, report = read_folder(root, device="cpu")
        assert (pictures.names, len(pictures), report.skipped) == (("A", "B"), 4, ())
        straight, _ = read_folder(people, device="cpu")
        assert (pictures.pixels[2].float() - straight.pixels[0].float()).abs().mean() == 0  # lossless: same face

    @pytest.mark.parametrize("orientation", [3, 6, 8])
    def test_exif_orientation_is_honoured(self, people, orientation):
        upright, _ = read_folder(people, device="cpu")
        path = people / "Adam" / "3.png"
        image = Image.open(path)
        image.load()
        turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.transpose(turn).save(path, exif=exif)
        turned, _ = read_folder(people, device="cpu")
        assert torch.equal(turned.pixels, upright.pixels)

    def test_a_second_reading_looks_for_no_face(self, people, monkeypatch):
        first, _ = read_folder(people, device="cpu")
        monkeypatch.setattr(folders, "align", lambda *_: pytest.fail("looked for a face again"))
        second, _ = read_folder(people, device="cpu")
        assert torch.equal(first.pixels, second.pixels)

    def test_a_png_that_is_named_jpg_is_read_by_its_content(self, people):
        (people / "Adam" / "3.png").rename(people / "Adam" / "3.jpg")
        _, report = read_folder(people, device="cpu")
        assert report.used == 6


class TestLeftOut:
    def test_each_with_its_reason(self, people, images):
        adam = people / "Adam"
        images[0].save(adam / "cut.jpg")
        (adam / "cut.jpg").write_bytes((adam / "cut.jpg").read_bytes()[:2000])
        (adam / "cut.png").write_bytes((adam / "3.png").read_bytes()[:9000])
        (adam / "page.jpg").write_text("<!DOCTYPE html><html></html>")
        (adam / "empty.png").write_bytes(b"")
        images[0].save(adam / "moving.gif")
        (adam / "moving.gif").rename(adam / "moving.jpg")
        (adam / "notes.txt").write_text("notes")
        (adam / "gone.jpg").symlink_to(adam / "nowhere.jpg")
        Image.new("RGB", (160, 160), (99, 120, 140)).save(adam / "wall.png")
        Image.new("1", (9000, 9000)).save(adam / "huge.png")
        Image.new("1", (14000, 13000)).save(adam / "bomb.png")
        (people / "Solo").mkdir()
        images[2].save(people / "Solo" / "only.png")
        pictures, report = read_folder(people, device="cpu")
        assert pictures.names == ("Adam", "Zoe")
        assert (report.found, report.used) == (17, 6)
        assert reasons(report) == {
            "Adam/cut.jpg": "cut short or damaged",
            "Adam/cut.png": "cut short or damaged",
            "Adam/page.jpg": "no JPEG, PNG or WebP picture",
            "Adam/empty.png": "no JPEG, PNG or WebP picture",
            "Adam/moving.jpg": "no JPEG, PNG or WebP picture",
            "Adam/notes.txt": "not named as a picture",
            "Adam/gone.jpg": "cannot be read",
            "Adam/wall.png": "no face found",
            "Adam/huge.png": "too large",
            "Adam/bomb.png": "too large",
            "Solo/only.png": "fewer than 2 pictures of its identity",
        }
        counts = report.counts()
        assert sum(counts.values()) == 11
        assert next(iter(counts.items())) == ("no JPEG, PNG or WebP picture", 3)
        assert "6 of 17 pictures used; left out: 3 no JPEG, PNG or WebP picture, 2 " in str(report)

    def test_identities_with_too_few_pictures(self, people):
        (people / "Zoe" / "0.png").unlink()
        with pytest.raises(InputError, match=r"2 fewer than 3 pictures of its identity; 1 identities are left"):
            read_folder(people, least=3, device="cpu")


class TestRefused:
    def test_no_such_folder(self, tmp_path):
        with pytest.raises(InputError, match="nowhere: there is no such folder"):
            read_folder(tmp_path / "nowhere")

    def test_a_file_for_a_folder(self, tmp_path):
        (tmp_path / "file.jpg").write_bytes(b"x")
        with pytest.raises(InputError, match=r"file\.jpg: there is no such folder"):
            read_folder(tmp_path / "file.jpg")

    @pytest.mark.parametrize("inside", [None, "identity", ".hidden/1.jpg", "1.jpg"])
    def test_nothing_in_it(self, tmp_path, inside):
        if inside and inside.endswith("jpg"):
            (tmp_path / inside).parent.mkdir(exist_ok=True)
            (tmp_path / inside).write_bytes(b"x")
        elif inside:
            (tmp_path / inside).mkdir()
        with pytest.raises(InputError, match="holds no pictures: put those of each identity into a folder of its own"):
            list_files(tmp_path)

    def test_a_folder_that_may_not_be_read(self, people, monkeypatch):
        whole = Path.iterdir

        def refuse(self):
            if self.name == "Zoe":
                raise PermissionError(13, "Permission denied", str(self))
            return whole(self)

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(InputError, match=r"Zoe: cannot be read \(Permission denied\)"):
            read_folder(people)

    def test_all_left_out(self, tmp_path):
        for name in ("A", "B"):
            (tmp_path / name).mkdir()
            for index in range(2):
                (tmp_path / name / f"{index}.jpg").write_text("no picture")
        with pytest.raises(
            InputError, match=r"0 of 4 pictures used; left out: 4 no JPEG, .* 0 identities are left"
        ) as caught:
            read_folder(tmp_path)
        assert "\n" not in str(caught.value)

    def test_one_identity_only(self, people):
        shutil.rmtree(people / "Zoe")
        with pytest.raises(InputError, match="1 identities are left: give at least 2 with 2 pictures"):
            read_folder(people, device="cpu")
