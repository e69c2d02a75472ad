"""What is cached is never stale: whatever takes part in a result is in the key that it is cached under.

Each result is made once on tiny inputs while the interpreter notes which files of the library run. In a copy of the
library a constant is then edited in each of these: the key must change. Docstrings and annotations must not change it.
"""

import ast
import functools
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image
from tiny import tiny_extractor, tiny_pictures

import fingerprint
from facepoison import adapt, baselines, detect, end_to_end, game, poisoning, protocol, store
from facepoison.attacks.eot import eot_surrogate
from facepoison.attacks.lowkey import lowkey
from facepoison.attacks.people import poison_shard
from facepoison.attacks.presets import ATTACKS
from facepoison.errors import InputError
from facepoison.extractors import Preprocessing
from facepoison.extractors.catalog import find_entry, of_weights_file
from facepoison.extractors.onnx_files import load_onnx
from facepoison.extractors.recipes import RECIPES
from facepoison.extractors.train import train_network, training_pictures
from facepoison.fine_tuning import EndToEnd
from facepoison.pictures import Pictures
from facepoison.pictures.folders import read_folder
from studies import detecting

AROUND = {"fingerprint.py", "facepoison/store.py", "facepoison/adapt.py", "facepoison/attacks/people.py"}
"""What runs around a result and hands on what it is given: keys and files."""
QUICK = replace(detect.RESIDUAL, draws=32, batch=8)
SHORT = EndToEnd(draws=8, batch=4)


def people(n=4, each=3):
    return Pictures(tiny_pictures(n * each), torch.arange(n).repeat_interleave(each), tuple(map(str, range(n))))


def setting(**changes):
    return replace(protocol.choose(), surrogates=("tiny",), **changes)


def poison(attack, surrogate=None):
    quick = replace(ATTACKS[attack], steps=2)
    return poison_shard(quick, tiny_pictures(2, 32), [surrogate or tiny_extractor()], seed=1, public=people())


def read_photographs(folder):
    (folder / "someone").mkdir(parents=True)
    Image.new("RGB", (40, 40), (90, 60, 50)).save(folder / "someone" / "1.png")
    with pytest.raises(InputError):  # there is no face in it
        read_folder(folder)


def fit_linear(_):
    rows = torch.nn.functional.normalize(torch.rand(12, 8), dim=1)
    game._cached_linear(rows, torch.arange(4).repeat_interleave(3), [rows[:2]], {0: rows[9:]})


def train_rounds(_):
    pictures = people()
    places = torch.arange(len(pictures))
    data = protocol.Data(pictures, places[places % 3 < 2], places[places % 3 == 2], (0,), {}, people())
    posts = data.to_publish([0])
    posts = replace(posts, pixels=255 - posts.pixels)
    end_to_end.retrain(setting(n_retrained=1), data, posts, tiny_extractor(), preset=SHORT)


def train(folder, **changes):
    recipe = replace(RECIPES["deepid_2014"], identities=8, per_person=2, epochs=1, batch=8, warm_up=1, held_out=0)
    pixels = torch.randint(0, 255, (8, 2, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    train_network(replace(recipe, **changes), pixels, folder, torch.device("cpu"), lambda line: None)


def train_detector(folder, poisons=None, seed=1, start=None):
    poisons = poisons or {"a": tiny_pictures(4, seed=1)}
    detect.train_detector(tiny_pictures(8), poisons, QUICK, seed=seed, start=start, scratch=folder)


def adversarial_fine_tuning(folder, poisons=None, draws=8):
    preset = replace(SHORT, draws=draws)
    adapt.adversarial_fine_tuning(tiny_extractor(), people(), poisons or {}, preset, seed=1, scratch=folder)


RESULTS = {
    **{attack: functools.partial(lambda attack, _: poison(attack), attack) for attack in ATTACKS},
    "lowkey, EOT": lambda _: poison("lowkey", eot_surrogate(tiny_extractor(), 1)),
    "embeddings": lambda _: protocol.embeddings(tiny_extractor(), tiny_pictures(2)),
    "made": lambda _: protocol.synthetic_people(setting(), "illustration", 1, 1, 32),
    "aligned": read_photographs,
    "linear": fit_linear,
    "robust": lambda _: adversarial_fine_tuning(None),
    "robust, resumed": adversarial_fine_tuning,
    "end to end": train_rounds,
    "detector": lambda _: detect.trained(tiny_pictures(8), {"a": tiny_pictures(4, seed=1)}, QUICK, seed=1),
    "detector, resumed": train_detector,
    "scores": lambda _: detecting.scored(detect.Detector(True, "tiny", "tiny"))(tiny_pictures(2)),
    "statistics": lambda _: baselines.cached_statistics(tiny_pictures(2)),
    "evading": lambda _: detecting.evading_shard(
        tiny_pictures(2, 32),
        [tiny_extractor()],
        detect.Detector(True, "tiny", "tiny"),
        {"weight": 1.0, "margin": 1.0},
        1,
    ).cached(),
    "extractor, resumed": train,
    "pictures, resumed": lambda folder: training_pictures(
        replace(RECIPES["deepid_2014"], identities=1, per_person=1, held_out=0), folder, "cpu", lambda line: None
    ),
}


class Watch:
    """Notes the modules in the key of what is cached, and the files of the library that then run to make it."""

    def __init__(self):
        self.modules, self.files = (), set()

    def see(self, frame, event, _):
        file = Path(frame.f_code.co_filename)
        if event == "call" and frame.f_code.co_name != "<lambda>" and file.is_relative_to(fingerprint.LIB):
            self.files.add(str(file.relative_to(fingerprint.LIB)))

    def cached(self, real):
        def cached(name, compute, **how):
            def seen():
                sys.setprofile(self.see)
                try:
                    return compute()
                finally:
                    sys.setprofile(None)

            return real(name, seen, **({"by": (compute,)} | how))

        return cached

    def resumable(self, real):
        def resumable(*rest, **how):
            path = real(*rest, **how)
            sys.setprofile(self.see)  # until the test ends: all that follows makes the result
            return path

        return resumable

    def taking_part(self, real):
        def taking_part(by, parts):
            self.modules = real(by, parts)
            return self.modules

        return taking_part


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    names = ("cached", "resumable", "taking_part")
    doubles = {getattr(store, name): getattr(watch, name)(getattr(store, name)) for name in names}
    for module in [module for name, module in sys.modules.items() if name.startswith("facepoison")]:
        for name in names:
            if getattr(module, name, None) in doubles:
                monkeypatch.setattr(module, name, doubles[getattr(module, name)])
    yield watch
    sys.setprofile(None)


def edited(source):
    """The source with a number changed: the first inside a function, or the first there is, or one more."""
    tree = ast.parse(source)
    inside = [number for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for number in numbers(node)]
    found = inside or numbers(tree)
    if not found:
        return source + "\nONE_MORE = 1\n"
    first = min(found, key=lambda node: (node.lineno, node.col_offset))
    lines = source.splitlines(keepends=True)
    line = lines[first.lineno - 1].encode()
    lines[first.lineno - 1] = (line[: first.col_offset] + b"987" + line[first.end_col_offset :]).decode()
    return "".join(lines)


def numbers(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) in (int, float)]


def documented(source):
    """The same code with another layout, other docstrings and other annotations, and no comment."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            node.body[0].value.value += " And more."
        if isinstance(node, ast.FunctionDef) and node.returns:
            node.returns = ast.Constant("object")
    return ast.unparse(tree)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A copy of the library, to be edited."""
    folder = tmp_path_factory.mktemp("library") / "lib"
    shutil.copytree(fingerprint.LIB, folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path / "store"))


def test_what_caches_results_is_in_the_key_of_none():
    modules = store.taking_part([end_to_end.load_extractor, lowkey], {})
    files = fingerprint.closure(modules, without=store.CACHING)
    assert not {Path(module.__file__) for module in (fingerprint, store)} & files
    assert {Path(module.__file__) for module in (fingerprint, store)} <= fingerprint.closure(modules)


@pytest.mark.parametrize("name", RESULTS)
def test_an_edit_of_what_takes_part_computes_anew_and_one_of_words_does_not(name, tmp_path, library, watch):
    RESULTS[name](tmp_path / "scratch")
    sys.setprofile(None)
    assert watch.files - AROUND

    def now():
        return fingerprint.of_modules.__wrapped__(*watch.modules, lib=library, without=store.CACHING)

    before = now()
    for file in sorted(watch.files - AROUND):
        path = library / file
        source = path.read_text(encoding="utf-8")
        after = []
        for change in (edited, documented):
            path.write_text(change(source), encoding="utf-8")
            after.append(now())
        path.write_text(source, encoding="utf-8")
        assert after[0] != before, f"{file} runs to make this, but is not in its key"
        assert after[1] == before, f"{file}: words are in the key"


def test_an_edit_of_the_errors_words_keeps_every_poison(library):
    path = library / "facepoison" / "errors.py"
    source = path.read_text(encoding="utf-8")
    keys = []
    for text in (source, source.replace('"""', '"""In other words: ', 1)):
        path.write_text(text, encoding="utf-8")
        keys.append(fingerprint.of_modules.__wrapped__("facepoison.attacks.lowkey", lib=library))
    path.write_text(source, encoding="utf-8")
    assert keys[0] == keys[1]


def files_of(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("run", "others"),
    [
        (adversarial_fine_tuning, [{"draws": 16}, {"poisons": {"a": people()}}]),
        (
            train_detector,
            [{"seed": 2}, {"poisons": {"a": tiny_pictures(5)}}, {"start": detect.Detector(True, "a", "b")}],
        ),
        (train, [{"epochs": 2}, {"seed": 1}, {"rate": 2e-3}]),
    ],
    ids=["robust training", "detector", "extractor"],
)
def test_no_run_resumes_from_what_another_left(run, others, tmp_path):
    run(tmp_path)
    before = files_of(tmp_path)
    for changes in others:
        run(tmp_path, **changes)
        assert files_of(tmp_path) > before, changes
        before = files_of(tmp_path)
    run(tmp_path)
    assert files_of(tmp_path) == before


def test_a_surrogate_fed_otherwise_makes_another_poison():
    extractor = tiny_extractor()
    otherwise = protocol.with_contract(extractor, replace(extractor.contract, colour="BGR"))
    made = [poison("lowkey", each) for each in (extractor, otherwise)]
    assert all(each.computed_now for each in made)
    assert not torch.equal(made[0].arrays["pixels"], made[1].arrays["pixels"])
    inputs = [poisoning.shipped_inputs(setting(), ATTACKS["lowkey"], {"tiny": each}) for each in (extractor, otherwise)]
    assert store.describe(inputs[0]) != store.describe(inputs[1])


@pytest.fixture
def outside(tmp_path):
    """An ONNX extractor whose weights lie in a file beside it."""
    weight = onnx.numpy_helper.from_array(torch.rand(8, 3, 1, 1).numpy(), "weight")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["x", "weight"], ["y"]),
            onnx.helper.make_node("GlobalAveragePool", ["y"], ["z"]),
            onnx.helper.make_node("Flatten", ["z"], ["embedding"]),
        ],
        "extractor",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 16, 16])],
        [onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["n", 8])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "extractor.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("black_box", [False, True])
def test_weights_beside_an_onnx_file_belong_to_its_hash(outside, black_box):
    extractor = load_onnx(outside, Preprocessing(16), device="cpu", black_box=black_box)
    first = extractor.sha256
    assert extractor(torch.rand(2, 3, 16, 16)).shape == (2, 8)
    beside = outside.with_name("weights.bin")
    altered = bytearray(beside.read_bytes())
    altered[0] ^= 1
    beside.write_bytes(altered)
    assert load_onnx(outside, Preprocessing(16), device="cpu", black_box=black_box).sha256 != first
    assert of_weights_file(outside, "onnx") != first
    beside.unlink()
    with pytest.raises(InputError, match=r"'weights\.bin', which is not there"):
        load_onnx(outside, Preprocessing(16), device="cpu")


def test_weights_outside_the_folder_are_not_looked_at(outside):
    model = onnx.load(outside, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../weights.bin"
    outside.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="outside its folder"):
        load_onnx(outside, Preprocessing(16), device="cpu")


def test_an_onnx_file_that_holds_its_weights_has_the_plain_hash(tmp_path):
    entry = find_entry("mobilefacenet_ms1m_2019")
    assert entry.format == "onnx"
    file = tmp_path / "plain.onnx"
    file.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])).SerializeToString())
    assert of_weights_file(file, entry.format) == fingerprint.of_file(file)
