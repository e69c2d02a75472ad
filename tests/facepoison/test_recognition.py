import pytest
import torch

from facepoison import recognition
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.extractors import normalise
from facepoison.recognition import closest, identity_distances, nearest


def embeddings(n, dimensions=8, seed=0):
    return normalise(torch.randn(n, dimensions, generator=generator(seed, "recognition")))


def brute_force(gallery, labels, probes, k):
    """Sort the whole gallery for each probe and walk along it until k different identities have come."""
    rows, lengths = [], []
    for probe in probes.double():
        far = (gallery.double() - probe).norm(dim=1)
        found = {}
        for place in far.argsort(stable=True).tolist():
            found.setdefault(int(labels[place]), far[place].item())
        rows.append(list(found)[:k])
        lengths.append(list(found.values())[:k])
    return rows, lengths


@pytest.mark.parametrize("k", [1, 2, 5])
def test_nearest_is_what_sorting_finds(k):
    gallery, probes = embeddings(40), embeddings(15, seed=1)
    labels = torch.randint(0, 7, (40,), generator=generator(2, "labels"))
    found = nearest(gallery, labels, probes, k)
    rows, lengths = brute_force(gallery, labels, probes, k)
    assert found.labels.tolist() == rows
    torch.testing.assert_close(found.distances.double(), torch.tensor(lengths).double(), atol=1e-5, rtol=0)


def test_identities_are_distinct_where_one_has_the_nearest_two():
    gallery = normalise(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]))
    found = nearest(gallery, torch.tensor([4, 4, 2]), gallery[:1], k=2)
    assert found.labels.tolist() == [[4, 2]]


def test_both_metrics_agree_on_the_order_and_give_their_own_lengths():
    gallery = normalise(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    labels, probe = torch.arange(3), torch.tensor([[1.0, 0.0]])
    euclidean, cosine = (nearest(gallery, labels, probe, 3, metric) for metric in ("euclidean", "cosine"))
    assert euclidean.labels.tolist() == cosine.labels.tolist() == [[0, 1, 2]]
    assert euclidean.distances[0].tolist() == pytest.approx([0, 2**0.5, 2])
    assert cosine.distances[0].tolist() == pytest.approx([0, 1, 2])


def test_of_equally_near_identities_the_lower_label_comes_first():
    gallery = embeddings(1).expand(3, -1)
    assert nearest(gallery, torch.tensor([5, 1, 3]), gallery[:1], 3).labels.tolist() == [[1, 3, 5]]


def test_batches_change_nothing(monkeypatch):
    gallery, probes, labels = embeddings(30), embeddings(11, seed=1), torch.arange(30) % 4
    whole = identity_distances(gallery, labels, probes, 4)
    monkeypatch.setattr(recognition, "CELLS", 70)
    torch.testing.assert_close(identity_distances(gallery, labels, probes, 4), whole)


def test_identities_without_pictures_are_infinitely_far_and_never_found():
    far = identity_distances(embeddings(4), torch.tensor([0, 0, 2, 2]), embeddings(3, seed=1), 4)
    assert far.isinf().tolist() == [[False, True, False, True]] * 3
    with pytest.raises(InputError, match="3 nearest identities asked for, 2 in the gallery"):
        closest(far, 3)


def test_half_precision_is_accepted():
    gallery, probes, labels = embeddings(20), embeddings(5, seed=1), torch.arange(20)
    assert nearest(gallery.half(), labels, probes.half()).labels.equal(nearest(gallery, labels, probes).labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": embeddings(6) * 2}, "gallery: embeddings are not at unit length"),
        ({"probes": embeddings(3) * torch.nan}, "probes: embeddings are not at unit length"),
        ({"probes": embeddings(3, 5)}, "5 dimensions, gallery 8"),
        ({"probes": torch.ones(3, 8, dtype=torch.int64)}, "float embeddings"),
        ({"labels": torch.arange(5)}, "6 embeddings, labels torch.int64"),
        ({"labels": torch.arange(6.0)}, "one int64 each"),
        ({"labels": torch.arange(6) - 1}, "must lie in"),
        ({"k": 0}, "ask for 1 to 6"),
        ({"k": 7}, "ask for 1 to 6"),
        ({"metric": "manhattan"}, "use euclidean or cosine"),
    ],
)
def test_bad_input_is_one_line(change, message):
    given = {"gallery": embeddings(6), "labels": torch.arange(6), "probes": embeddings(3)} | change
    with pytest.raises(InputError, match=message) as caught:
        nearest(**given)
    assert "\n" not in str(caught.value)
