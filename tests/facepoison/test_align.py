"""Faces found, chosen and laid on the template."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from facepoison.device import generator
from facepoison.pictures.align import TEMPLATE, Face, align, find_faces, middlemost, similarity, warp
from facepoison.pictures.synthetic import make_pictures


def turned(points, angle, scale, move):
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return scale * points @ rotation.T + torch.tensor(move)


def apply(matrix, points):
    return points.double() @ matrix[:, :2].T + matrix[:, 2]


def as_image(pixels):
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def portrait():
    """A synthetic face of 160 pixels with even light and a neutral look."""
    return as_image(make_pictures("align", 1, 1, 160, 0, strength=0.0, device="cpu").pixels[0])


class TestSimilarity:
    @pytest.mark.parametrize(
        ("angle", "scale", "move"), [(0.0, 1.0, [0.0, 0.0]), (0.7, 3.0, [40.0, -9.0]), (3.0, 0.2, [5.0, 80.0])]
    )
    def test_undoes_a_known_one(self, angle, scale, move):
        points = turned(TEMPLATE, angle, scale, move)
        torch.testing.assert_close(apply(similarity(points), points).float(), TEMPLATE, rtol=1e-5, atol=1e-3)

    def test_has_the_least_squared_error(self):
        points = TEMPLATE + 4 * torch.randn(5, 2, generator=generator(0))
        best = similarity(points)
        error = (apply(best, points) - TEMPLATE).square().sum()
        for direction in (
            torch.tensor([[1.0, 0, 0], [0, 1, 0]]),  # larger
            torch.tensor([[0.0, -1, 0], [1, 0, 0]]),  # turned
            torch.tensor([[0.0, 0, 1], [0, 0, 0]]),
            torch.tensor([[0.0, 0, 0], [0, 0, 1]]),
        ):
            for step in (-1e-3, 1e-3):
                assert (apply(best + step * direction, points) - TEMPLATE).square().sum() > error

    def test_never_mirrors(self):
        mirrored = TEMPLATE * torch.tensor([-1.0, 1.0])
        assert torch.linalg.det(similarity(mirrored)[:, :2]) > 0


class TestWarp:
    def test_identity_changes_nothing(self):
        pixels = torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8, generator=generator(0))
        assert torch.equal(warp(as_image(pixels), torch.eye(3)[:2]), pixels)

    @pytest.mark.parametrize("scale", [0.8, 1.0, 2.3, 6.0])
    def test_points_arrive_on_the_template_to_a_fraction_of_a_pixel(self, scale):
        points = turned(TEMPLATE, 0.2, scale, [30.0, 20.0])
        width, height = 900, 900
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        for point, wanted in zip(points, TEMPLATE, strict=True):
            spot = torch.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * (3 * scale) ** 2))
            image = as_image((255 * spot).round().to(torch.uint8).expand(3, -1, -1))
            out = warp(image, similarity(points))[0].double()
            rows, columns = (torch.arange(112, dtype=torch.float64) for _ in range(2))
            found = torch.stack([(out.sum(0) * columns).sum(), (out.sum(1) * rows).sum()]) / out.sum()
            assert (found - wanted).abs().max() < 0.15

    def test_shrinking_does_not_alias(self):
        stripes = torch.zeros(3, 900, 900, dtype=torch.uint8)
        stripes[..., ::2] = 255  # finer than the result can show: must become grey
        out = warp(as_image(stripes), torch.tensor([[0.13, 0.0, 0.0], [0.0, 0.13, 0.0]]))
        assert out[:, 5:-5, 5:-5].float().std() < 4
        assert out.float().mean() == pytest.approx(127.5, abs=5)


class TestChoose:
    large = Face((0, 0, 60, 60), TEMPLATE, 0.99)
    middle = Face((80, 80, 120, 120), TEMPLATE, 0.95)
    small = Face((90, 90, 110, 110), TEMPLATE, 1.0)

    def test_the_face_in_the_middle_before_a_larger_one(self):
        assert middlemost([self.large, self.middle], 200, 200) is self.middle

    def test_the_larger_of_two_in_the_middle(self):
        assert middlemost([self.small, self.middle], 200, 200) is self.middle

    def test_the_largest_where_none_is_in_the_middle(self):
        assert middlemost([self.small, self.large], 400, 400) is self.large


class TestFaces:
    def test_a_made_face_is_found_and_lies_on_the_template(self, portrait):
        (face,) = find_faces(portrait, "cpu")
        assert face.probability > 0.9
        left_eye, right_eye, nose, left_mouth, right_mouth = face.points
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert left_eye[1] < nose[1] < left_mouth[1]
        landed = apply(similarity(face.points), face.points)
        assert (landed - TEMPLATE).norm(dim=1).mean() < 5
        aligned, n = align(portrait, "cpu")
        assert n == 1
        assert aligned.shape == (3, 112, 112)
        assert aligned.dtype == torch.uint8

    def test_size_and_place_of_the_picture_do_not_matter(self, portrait):
        aligned, _ = align(portrait, "cpu")
        wide = Image.new("RGB", (1500, 1400), (90, 90, 90))
        wide.paste(portrait.resize((640, 640), Image.Resampling.BICUBIC), (500, 450))
        again, n = align(wide, "cpu")
        assert n == 1
        assert (again.float() - aligned.float()).abs().mean() < 12  # landmarks differ a little

    def test_several_faces_are_counted(self, portrait):
        pair = Image.new("RGB", (400, 200), (90, 90, 90))
        pair.paste(portrait, (120, 20))
        pair.paste(portrait.resize((110, 110)), (285, 45))
        aligned, n = align(pair, "cpu")
        assert n == 2
        alone, _ = align(portrait, "cpu")
        assert (aligned.float() - alone.float()).abs().mean() < 12

    @pytest.mark.parametrize("size", [(200, 200), (10, 10), (3000, 20)])
    def test_no_face(self, size):
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
        assert find_faces(image, "cpu") == []
        assert align(image, "cpu") == (None, 0)
