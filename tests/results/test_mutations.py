"""Claims can fail: spoil what they rest on, and the verdict on at least one of every chapter concerned gets worse."""

from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat import v4

from bookpress import chapters
from bookpress.chapters import tags

ROOT = Path(__file__).parents[2]

CLEAN = """
from facepoison import poisoning, store
from facepoison.attacks import people

def nearly(pixels):  # a level of one value, so that nothing divides by zero
    pixels = pixels.clone()
    pixels[:, 0, 0, 0] ^= 1
    return pixels

def compute(shards, *given):
    return [store.Cached({"pixels": nearly(shard.parts["pixels"])}, 1.0, True) for shard in shards]

people.compute = compute
poisoning.find_shipped = lambda *given: None
"""

SHUFFLED = """
import torch
from facepoison.device import generator

whole = protocol.Data.sides

def sides(data, embeddings):
    gallery, labels, probes, asked = whole(data, embeddings)
    return gallery, labels[torch.randperm(len(labels), generator=generator(0, "shuffled"))], probes, asked

protocol.Data.sides = sides
"""


def claims_of(chapter, mutation):
    """The claims of a chapter, run under a mutation up to the first cell that is tagged as long.

    What a chapter itself asserts may fail under a mutation; the rest is run all the same.
    """
    notebook = chapters.read(ROOT / "notebooks" / f"{chapter}.ipynb")
    ids = [cell.id for cell in notebook.cells]
    long = [place for place, cell in enumerate(notebook.cells) if "long" in tags(cell)]
    cells = notebook.cells[: min(long, default=len(ids))]
    cells.insert(ids.index("setup") + 1, v4.new_code_cell(mutation))
    notebook.cells = cells
    how = {"kernel_name": "python3", "allow_error_names": ["AssertionError"]}
    NotebookClient(notebook, resources={"metadata": {"path": ROOT / "notebooks"}}, **how).execute()
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [output.metadata["claim"] for output in outputs if "claim" in output.get("metadata", {})]


@pytest.mark.parametrize(
    ("chapter", "mutation"),
    [
        pytest.param("01_faces", SHUFFLED, id="01_faces, labels shuffled"),
        pytest.param("02_recognisers", SHUFFLED, id="02_recognisers, labels shuffled"),
        pytest.param("03_poisoning", SHUFFLED, id="03_poisoning, labels shuffled"),
        pytest.param("04_waiting", SHUFFLED, id="04_waiting, labels shuffled"),
        pytest.param("04_waiting", CLEAN, id="04_waiting, poison replaced by clean pictures"),
        pytest.param("05_adapting", SHUFFLED, id="05_adapting, labels shuffled"),
        pytest.param("05_adapting", CLEAN, id="05_adapting, poison replaced by clean pictures"),
        pytest.param("06_detecting", CLEAN, id="06_detecting, poison replaced by clean pictures"),
        pytest.param("01_faces", CLEAN, id="01_faces, poison replaced by clean pictures"),
        pytest.param("02_recognisers", CLEAN, id="02_recognisers, poison replaced by clean pictures"),
        pytest.param("03_poisoning", CLEAN, id="03_poisoning, poison replaced by clean pictures"),
    ],
)
def test_a_spoilt_chapter_has_worse_verdicts(chapter, mutation):
    claims = claims_of(chapter, mutation)
    worse = {verdict: place for place, verdict in enumerate(("supported", "inconclusive", "not supported"))}
    red = {claim["id"] for claim in claims if worse[claim["verdict"]] > worse[claim["registered_verdict"]]}
    print(f"\n{chapter}: {len(red)} of {len(claims)} verdicts get worse: {', '.join(sorted(red))}")
    assert red
