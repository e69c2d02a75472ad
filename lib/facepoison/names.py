"""What people read in place of the names that the catalogue has for extractors in code and in results."""

from __future__ import annotations

import re
from functools import cache

from facepoison.extractors.catalog import Entry, catalogue

_SPELT = {
    "adaface": "AdaFace",
    "arcface": "ArcFace",
    "casia": "CASIA",
    "cosface": "CosFace",
    "deepid": "DeepID",
    "edgeface": "EdgeFace",
    "facenet": "FaceNet",
    "faceplugin": "Faceplugin",
    "fawkes_v1_high": "Fawkes",
    "iresnet100": "R100",
    "lowkey": "LowKey",
    "magface": "MagFace",
    "mobileface": "MobileFace",
    "mobilefacenet": "MobileFaceNet",
    "ms1m": "MS1M",
    "vggface2": "VGGFace2",
    "vit": "ViT",
    "xs": "XS",
}
"""Parts of names as their authors spell them; what is not here stays as it is."""


def titled(text: str) -> str:
    """A text in which every extractor of the catalogue stands by its short title: ``MobileFaceNet '18``.

    Args:
        text: A name of the catalogue, or any text with such names in it. Those in the name of a file stay.
    """
    pattern, titles = _titles()
    return pattern.sub(lambda found: titles[found[0]], text)


@cache
def _titles() -> tuple[re.Pattern[str], dict[str, str]]:
    """What finds names of the catalogue in a text, and the title of each."""
    titles = {name: _title(entry) for name, entry in catalogue().items()}
    return re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, titles))})(?![\w/-]|\.\w)"), titles


def _title(entry: Entry) -> str:
    """An extractor's short title: what it follows and the year, or, if trained further, what on."""
    if entry.after:
        what = entry.name.removeprefix("robust_")
        return what if what == "control" else f"trained on {_SPELT.get(what, what)}"
    words = entry.name.removesuffix(f"_{entry.year}").split("_")
    year = f"'{entry.year % 100:02d}"
    return f"{' '.join(_SPELT.get(word, word) for word in words)}\N{NO-BREAK SPACE}{year}"
