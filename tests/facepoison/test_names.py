import re

import pytest

from facepoison.extractors.catalog import catalogue
from facepoison.names import titled

SPACE = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mobilefacenet_2018", "MobileFaceNet '18"),
        ("contrastive_vit_2021", "contrastive ViT '21"),
        ("magface_iresnet100_2021", "MagFace R100 '21"),
        ("facenet_vggface2_2018", "FaceNet VGGFace2 '18"),  # and not the name that is its end
        ("robust_fawkes_v1_high", "trained on Fawkes"),
        ("robust_control", "control"),
        ("LowKey on dlib_2017, 93 %", "LowKey on dlib '17, 93 %"),
        ("arcface_2019 and deepid_2014.", "ArcFace '19 and DeepID '14."),
        ("weights/arcface_2019.safetensors", "weights/arcface_2019.safetensors"),
        ("my_arcface_2019", "my_arcface_2019"),
        ("arcface_2019_copy", "arcface_2019_copy"),
        ("LowKey", "LowKey"),
    ],
)
def test_extractors_stand_in_a_text_by_their_titles(text, said):
    assert titled(text).replace(SPACE, " ") == said


def test_every_extractor_of_the_catalogue_has_a_title_of_its_own_that_is_short_and_spelt_by_people():
    titles = [titled(name).replace(SPACE, " ") for name in catalogue()]
    assert len(set(titles)) == len(titles)
    for title in titles:
        assert len(title) <= 22
        assert re.fullmatch(r"control|trained on (Fawkes|LowKey|both)|[A-Za-z][\w ]+ '\d\d", title), title
