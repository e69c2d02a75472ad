import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from facepoison import recognition
from facepoison.device import generator
from facepoison.errors import InputError
from facepoison.extractors import normalise
from facepoison.game import measure_protection
from facepoison.recognition import fit_linear


def crowd(spread, people=7, known=9, asked=5, dimensions=12, seed=0):
    """Unit embeddings around one centre for each identity: gallery, labels, probes, labels."""
    stream = generator(seed, "linear crowd")
    centres = torch.randn(people, dimensions, generator=stream)

    def around(each):
        labels = torch.arange(people).repeat_interleave(each)
        return normalise(centres[labels] + spread * torch.randn(len(labels), dimensions, generator=stream)), labels

    return *around(known), *around(asked)


def reference(gallery, labels):
    """scikit-learn's standardisation and logistic regression, solved more closely than it does by default."""
    scaler = StandardScaler().fit(gallery.double().numpy())
    model = LogisticRegression(C=1, tol=1e-9, max_iter=10_000)
    return scaler, model.fit(scaler.transform(gallery.double().numpy()), labels.numpy())


@pytest.mark.parametrize("spread", [0.2, 2.5], ids=["separable", "noisy"])
def test_it_is_the_logistic_regression_of_scikit_learn(spread):
    gallery, labels, probes, asked = crowd(spread)
    scaler, model = reference(gallery, labels)
    found, _ = fit_linear(gallery, labels)
    torch.testing.assert_close(found.weight, torch.tensor(model.coef_), atol=2e-4, rtol=0)
    torch.testing.assert_close(found.bias, torch.tensor(model.intercept_), atol=2e-3, rtol=0)
    theirs = torch.tensor(model.predict_log_proba(scaler.transform(probes.double().numpy())))
    torch.testing.assert_close(found.distances(probes, 7).double(), -theirs, atol=1e-3, rtol=0)
    assert torch.equal(found.distances(probes, 7).argmin(1), theirs.argmax(1))
    errors = float((theirs.argmax(1) != asked).double().mean())
    assert errors == 0 if spread < 1 else 0.2 < errors < 0.8


@pytest.mark.parametrize("rounds_at_once", [1, 2, 100])
def test_each_round_is_the_regression_of_its_own_gallery(monkeypatch, rounds_at_once):
    gallery, labels, probes, _ = crowd(1.0)
    monkeypatch.setattr(recognition, "CELLS", rounds_at_once * len(gallery) * 7)
    stream = generator(3, "poison")
    poisoned = {user: normalise(torch.randn(9, 12, generator=stream)) for user in (5, 0, 2)}
    _, rounds = fit_linear(gallery, labels, poisoned)
    assert list(rounds) == [5, 0, 2]
    for user, found in rounds.items():
        changed = gallery.clone()
        changed[labels == user] = poisoned[user]
        alone, _ = fit_linear(changed, labels)
        torch.testing.assert_close(found.mean, alone.mean)
        torch.testing.assert_close(found.weight, alone.weight, atol=2e-4, rtol=0)
        torch.testing.assert_close(found.distances(probes, 7), alone.distances(probes, 7), atol=1e-3, rtol=0)


def test_the_gradient_is_as_short_as_promised():
    """Recompute it from the published numbers alone, with automatic differentiation."""
    gallery, labels, _, _ = crowd(1.5)
    found, _ = fit_linear(gallery, labels)
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    logits = (gallery.double() - found.mean) / found.scale @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") + weight.square().sum() / 2
    loss.backward()
    assert (weight.grad.square().sum() + bias.grad.square().sum()).sqrt() <= recognition._TOLERANCE


def test_the_same_input_gives_the_same_bits():
    gallery, labels, probes, _ = crowd(1.0)
    first, second = (fit_linear(gallery, labels)[0].distances(probes, 7) for _ in range(2))
    assert torch.equal(first, second)


def test_identities_without_pictures_are_never_found():
    gallery, labels, probes, _ = crowd(0.5)
    found, _ = fit_linear(gallery, labels * 2)
    far = found.distances(probes, 14)
    assert far.isinf().tolist() == [[False, True] * 7] * len(probes)
    torch.testing.assert_close((-far).exp().sum(dim=1), torch.ones(len(probes)))


def test_a_round_that_needs_no_step_does_not_disturb_the_others():
    """One user publishes the clean pictures, so that round is solved before it begins."""
    gallery, labels, probes, _ = crowd(1.0)
    poisoned = {0: gallery[labels == 0], 1: gallery[labels == 3]}
    clean, rounds = fit_linear(gallery, labels, poisoned)
    torch.testing.assert_close(rounds[0].distances(probes, 7), clean.distances(probes, 7), atol=1e-3, rtol=0)
    assert rounds[1].weight.isfinite().all()


def test_a_dimension_that_never_changes_is_left_alone():
    gallery, labels, probes, _ = crowd(0.5)
    constant = [torch.cat((rows, torch.zeros(len(rows), 1)), dim=1) for rows in (gallery, probes)]
    found, _ = fit_linear(constant[0], labels)
    plain, _ = fit_linear(gallery, labels)
    torch.testing.assert_close(found.distances(constant[1], 7), plain.distances(probes, 7), atol=1e-3, rtol=0)


def test_the_protocol_with_it_poisons_one_user_at_a_time():
    gallery, labels, probes, asked = crowd(0.2)
    poisoned = {user: gallery[labels == (user + 1) % 7] for user in (1, 4)}
    outcome = measure_protection(gallery, labels, probes, asked, poisoned, recogniser="linear")
    assert outcome.rate.clean_error.value == 0
    assert outcome.rate.value == 1
    assert outcome.poisoned.users == outcome.clean.users == (1, 4)
    clean, rounds = fit_linear(gallery, labels, poisoned)
    for user in (1, 4):
        rows = outcome.poisoned.user == user
        for table, model in ((outcome.poisoned, rounds[user]), (outcome.clean, clean)):
            far, found = model.distances(probes[asked == user], 7).min(dim=1)
            assert torch.equal(table.predicted[rows, 0], found)
            torch.testing.assert_close(table.distance[rows, 0], far)
    same = {user: gallery[labels == user] for user in (1, 4)}
    assert measure_protection(gallery, labels, probes, asked, same, recogniser="linear").rate.value == 0


def test_top_k_is_right_more_often():
    gallery, labels, probes, asked = crowd(2.5)
    poisoned = {user: gallery[labels == user] for user in range(7)}
    result = measure_protection(gallery, labels, probes, asked, poisoned, recogniser="linear")
    values = [result.top(k).rate.value for k in (1, 3, 5)]
    assert values[0] > values[1] > values[2]


def test_bad_input_is_one_line(monkeypatch):
    gallery, labels, probes, asked = crowd(1.0)
    with pytest.raises(InputError, match="gallery: one identity; a linear recogniser needs two"):
        fit_linear(gallery, torch.zeros_like(labels))
    with pytest.raises(InputError, match="labels: -1 given"):
        fit_linear(gallery, labels - 1)
    with pytest.raises(InputError, match="gallery: embeddings are not at unit length"):
        fit_linear(2 * gallery, labels)
    with pytest.raises(InputError, match=r"user 1: poisoned embeddings \(8, 12\); give \(9, 12\)"):
        fit_linear(gallery, labels, {1: gallery[:8]})
    with pytest.raises(InputError, match="probes: 5 dimensions, gallery 12"):
        measure_protection(gallery, labels, normalise(probes[:, :5]), asked, {1: gallery[:9]}, recogniser="linear")
    with pytest.raises(InputError, match="recogniser 'forest': unknown; use nearest or linear"):
        measure_protection(gallery, labels, probes, asked, {1: gallery[:9]}, recogniser="forest")
    monkeypatch.setattr(recognition, "NEWTON_STEPS", 2)
    with pytest.raises(InputError, match="linear: 1 rounds not solved after 2 Newton steps") as caught:
        fit_linear(gallery, labels)
    assert "\n" not in str(caught.value)
