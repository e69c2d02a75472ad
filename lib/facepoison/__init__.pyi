"""What `import facepoison` offers: every public name, and the room that it comes from.

Type checkers and editors read this as it stands, and `__init__.py` reads it to import a room when a name of it is first
asked for. A name that is added here wants a place on the page `book/api.md`.
"""

from facepoison.adapt import adversarial_fine_tuning
from facepoison.attacks.base import Attack
from facepoison.attacks.fawkes_v03 import FAWKES_V03_HIGH, FawkesV03, fawkes_v03
from facepoison.attacks.fawkes_v1 import FAWKES_V1_HIGH, FAWKES_V1_LOW, FAWKES_V1_MID, FawkesV1, fawkes_v1
from facepoison.attacks.lowkey import LOWKEY, LOWKEY_MSE, LowKey, lowkey
from facepoison.attacks.people import poison_people
from facepoison.attacks.presets import find_attack
from facepoison.attacks.similarity import Change, change
from facepoison.detect import Detector, DetectorRecipe, load_detector, scores, threshold, train_detector
from facepoison.errors import InputError
from facepoison.evaluation import Answers, Estimate, Protection, Rate, difference, rank_one, rate, share
from facepoison.extractors import Extractor, Preprocessing, embed
from facepoison.extractors.catalog import Entry, catalogue, load_extractor
from facepoison.fine_tuning import EndToEnd
from facepoison.game import measure_protection
from facepoison.pictures import Pictures
from facepoison.pictures.align import align
from facepoison.pictures.folders import Report, Skipped, read_folder, write_folder
from facepoison.pictures.splits import split
from facepoison.pictures.synthetic import make_pictures
from facepoison.recognition import Nearest, nearest
from facepoison.shards import Pool, cluster, processes

__version__: str

__all__ = [
    "FAWKES_V03_HIGH",
    "FAWKES_V1_HIGH",
    "FAWKES_V1_LOW",
    "FAWKES_V1_MID",
    "LOWKEY",
    "LOWKEY_MSE",
    "Answers",
    "Attack",
    "Change",
    "Detector",
    "DetectorRecipe",
    "EndToEnd",
    "Entry",
    "Estimate",
    "Extractor",
    "FawkesV03",
    "FawkesV1",
    "InputError",
    "LowKey",
    "Nearest",
    "Pictures",
    "Pool",
    "Preprocessing",
    "Protection",
    "Rate",
    "Report",
    "Skipped",
    "adversarial_fine_tuning",
    "align",
    "catalogue",
    "change",
    "cluster",
    "difference",
    "embed",
    "fawkes_v03",
    "fawkes_v1",
    "find_attack",
    "load_detector",
    "load_extractor",
    "lowkey",
    "make_pictures",
    "measure_protection",
    "nearest",
    "poison_people",
    "processes",
    "rank_one",
    "rate",
    "read_folder",
    "scores",
    "share",
    "split",
    "threshold",
    "train_detector",
    "write_folder",
]
