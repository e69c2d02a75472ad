"""Faces cut out as dlib does, and poison carried over to them."""

import math

import pytest
import torch
from PIL import Image

from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.extractors import Extractor, Preprocessing
from facepoison.pictures.align import TEMPLATE, find_faces, similarity, warp
from facepoison.pictures.chips import CHIP_TEMPLATE, carry_over, crop_to_chip, read_chips
from facepoison.pictures.folders import read_folder
from facepoison.pictures.geometry import CHIP, CROP, CROP_TO_CHIP, lay
from facepoison.pictures.synthetic import make_pictures


def apply(matrix, points):
    return points.double() @ matrix[:, :2].T + matrix[:, 2]


def turned(points, angle, scale, move):
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return scale * points @ rotation.T + torch.tensor(move)


def spots(places, size, spread=2.5):
    """Pictures (N, 1, size, size) of one soft spot each."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    gap = (x - places[:, 0, None, None]) ** 2 + (y - places[:, 1, None, None]) ** 2
    return torch.exp(-gap / (2 * spread**2))[:, None]


def middles(pictures):
    """Where the spots are, (N, 2)."""
    along = torch.arange(pictures.shape[-1], dtype=torch.float64)
    total = pictures.sum((1, 2, 3)).double()
    middle = [(pictures.sum((1, 2)) * along).sum(1), (pictures.sum((1, 3)) * along).sum(1)]
    return torch.stack(middle, 1) / total[:, None]


@pytest.fixture(scope="module")
def images():
    """Synthetic portraits in even light: two people, two pictures of each."""
    pixels = make_pictures("chips", 2, 2, 200, 0, strength=0.1, device="cpu").pixels
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]


def crops(n, seed=0):
    return torch.randint(20, 236, (n, 3, CROP, CROP), generator=generator(seed, "crops"), dtype=torch.uint8)


class TestGeometry:
    def test_two_thirds_of_a_chip_are_the_mean_shape(self):
        nose = CHIP_TEMPLATE[2]
        assert nose.tolist() == pytest.approx([25 + 49.0127, 25 + 51.5625])
        assert CHIP_TEMPLATE.min() > 0
        assert CHIP_TEMPLATE.max() < CHIP

    def test_the_fixed_similarity_is_that_of_the_templates(self):
        torch.testing.assert_close(
            torch.tensor(CROP_TO_CHIP).double(), similarity(TEMPLATE, CHIP_TEMPLATE), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(crop_to_chip(), similarity(TEMPLATE, CHIP_TEMPLATE))

    @pytest.mark.parametrize("angle", [0.0, 0.5])
    def test_a_faces_own_similarity_leads_from_its_crop_to_its_chip(self, angle):
        points = turned(TEMPLATE + 3 * torch.randn(5, 2, generator=generator(1)), angle, 2.0, [30.0, 10.0])
        places = 200 * torch.rand(7, 2, generator=generator(2))
        through = apply(crop_to_chip(points), apply(similarity(points), places))
        torch.testing.assert_close(through, apply(similarity(points, CHIP_TEMPLATE), places))
        assert (crop_to_chip(points) - crop_to_chip()).abs().max() > 1e-3

    def test_spots_arrive_where_the_similarity_says(self):
        places = torch.tensor([[40.0, 60.0], [70.5, 50.25]])
        matrices = torch.stack(
            [crop_to_chip(), crop_to_chip(TEMPLATE + torch.tensor([[3.0, -2.0]] * 2 + [[0, 0]] * 3))]
        )
        found = middles(lay(spots(places, CROP), matrices, CHIP, "zeros"))
        wanted = torch.stack([apply(one, place[None])[0] for one, place in zip(matrices, places, strict=True)])
        assert (found - wanted).abs().max() < 0.02

    def test_beyond_a_picture_is_its_border_or_nothing(self):
        grey = torch.full((1, 3, CROP, CROP), 0.5)
        torch.testing.assert_close(lay(grey, crop_to_chip(), CHIP, "border"), torch.full((1, 3, CHIP, CHIP), 0.5))
        dark = lay(grey, crop_to_chip(), CHIP, "zeros")
        assert float(dark[..., -10:, :].abs().max()) == 0  # below the chin
        assert float(dark[..., :130, :].min()) == pytest.approx(0.5)


class TestCarryOver:
    def test_nothing_changed(self):
        chips = torch.randint(0, 256, (2, 3, CHIP, CHIP), generator=generator(3), dtype=torch.uint8)
        clean = crops(2)
        assert torch.equal(carry_over(chips, clean, clean, crop_to_chip()), chips)

    def test_a_change_all_over_arrives_unchanged_and_only_where_the_crop_is(self):
        chips = torch.full((1, 3, CHIP, CHIP), 100, dtype=torch.uint8)
        carried = carry_over(chips, crops(1), crops(1) + 10, crop_to_chip())
        inside = spots(torch.tensor([[0.0, 0.0]]), CROP, spread=1e9)  # ones
        covered = lay(inside, crop_to_chip(), CHIP, "zeros")[0, 0]
        assert bool((carried[0][:, covered > 0.999] == 110).all())
        assert bool((carried[0][:, covered == 0] == 100).all())
        assert 0.88 < float((covered > 0.999).float().mean()) < 0.95

    def test_a_change_in_the_middle_arrives_in_its_place_each_by_its_own_similarity(self):
        chips, clean = torch.full((2, 3, CHIP, CHIP), 90, dtype=torch.uint8), torch.full((2, 3, CROP, CROP), 90)
        clean = clean.to(torch.uint8)
        place = torch.tensor([[56.0, 72.0]] * 2)
        poisoned = clean + (80 * spots(place, CROP)).round().to(torch.uint8)
        matrices = torch.stack([crop_to_chip(), crop_to_chip(TEMPLATE * torch.tensor([1.1, 1.0]))])
        change = carry_over(chips, clean, poisoned, matrices).float() - 90
        wanted = torch.stack([apply(one, place[:1])[0] for one in matrices])
        assert (middles(change[:, :1]) - wanted).abs().max() < 0.1
        assert float(change.max()) == pytest.approx(80, abs=2)

    def test_levels_end_at_black_and_white(self):
        chips, clean = torch.full((1, 3, CHIP, CHIP), 250, dtype=torch.uint8), crops(1)
        assert int(carry_over(chips, clean, clean + 19, crop_to_chip()).max()) == 255
        assert int(carry_over(255 - chips, clean, clean - 19, crop_to_chip()).min()) == 0


class TestPhotographs:
    @pytest.fixture
    def people(self, images, tmp_path, monkeypatch):
        monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))
        for index, image in enumerate(images):
            path = tmp_path / "people" / ("Zoe", "Adam")[index // 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        (tmp_path / "people" / "Adam" / "note.txt").write_text("no picture")
        return tmp_path / "people"

    def test_chips_are_those_of_the_pictures_that_were_taken_in_their_order(self, people, images):
        pictures, report = read_folder(people, device="cpu")
        chips, matrices = read_chips(people, report, "cpu")
        assert chips.shape == (4, 3, CHIP, CHIP)
        assert chips.dtype == torch.uint8
        for chip, matrix, image in zip(chips, matrices, [*images[2:], *images[:2]], strict=True):
            points = find_faces(image, "cpu")[0].points
            assert torch.equal(chip, warp(image, similarity(points, CHIP_TEMPLATE), CHIP))
            torch.testing.assert_close(matrix, crop_to_chip(points))
        laid = lay(pictures.pixels.float(), matrices, CHIP, "zeros")
        gap = (laid - chips)[..., 5:-25, 5:-5].abs().mean((1, 2, 3))
        moved = (laid.roll(4, dims=-1) - chips)[..., 5:-25, 5:-5].abs().mean((1, 2, 3))
        assert bool((2 * gap < moved).all())

    def test_a_folder_that_has_changed_since_is_noticed(self, people, images):
        _, report = read_folder(people, device="cpu")
        images[0].save(people / "Adam" / "new.png")
        with pytest.raises(InputError, match="is not as it was when it was read"):
            read_chips(people, report, "cpu")
        (people / "Adam" / "new.png").unlink()
        Image.new("RGB", (200, 200)).save(people / "Adam" / "2.png")
        with pytest.raises(InputError, match="is not as it was when it was read"):
            read_chips(people, report, "cpu")


def test_an_extractor_of_chips_lays_crops_where_they_are_in_a_chip():
    contract = Preprocessing(CHIP, mean=(0.0,) * 3, std=(1.0,) * 3, alignment="dlib")
    extractor = Extractor(torch.nn.Identity(), contract, name="chips", sha256="none")
    pictures = torch.rand(2, 3, CROP, CROP, generator=generator(4)).requires_grad_()
    seen = extractor(pictures)
    torch.testing.assert_close(seen, lay(pictures, crop_to_chip(), CHIP, "border"), rtol=1e-3, atol=1e-3)
    (gradient,) = torch.autograd.grad(seen.sum(), pictures)
    assert float(gradient[..., 30:100, 10:100].min()) > 1  # chips are larger: each pixel is seen more than once
    chips = torch.rand(1, 3, CHIP, CHIP, generator=generator(5))
    assert torch.equal(extractor(chips), chips)
