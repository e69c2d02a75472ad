"""What comes with the book is what its code makes: one user's share of it a day is made anew and compared."""

import datetime

import pytest
import torch

from facepoison import (
    adapt,
    detect,
    end_to_end,
    game,
    outcomes,
    poisoning,
    protocol,
    shipped,
    shipping,
    timeline,
)
from facepoison.attacks.presets import ATTACKS
from facepoison.attacks.similarity import change
from facepoison.extractors.catalog import load_extractor
from facepoison.fine_tuning import END_TO_END, play_round
from studies.adapting import trainings
from studies.common import crowd_setting

SETTING = protocol.registered()
TOLERANCE = SETTING.protocol["shipped"]


@pytest.fixture(scope="module")
def networks():
    return protocol.load_extractors(SETTING)


@pytest.fixture(scope="module")
def data():
    return protocol.load_data(SETTING)


def today(n):
    """A number below n, another one every day."""
    return datetime.date.today().toordinal() % n


def assert_alike(name, clean, here, there, network):
    """A poison as made here and as it comes with the book: as loud, and as far from the clean pictures."""
    loud = [change(clean, pixels).psnr.mean() for pixels in (here, there)]
    moved = [poisoning.own_cosines(network, clean, pixels).mean() for pixels in (here, there)]
    print(f"\n{name}: PSNR {loud[0]:.2f} and {loud[1]:.2f} dB, cosine {moved[0]:.3f} and {moved[1]:.3f}")
    assert abs(loud[0] - loud[1]) <= TOLERANCE["psnr"]
    assert abs(moved[0] - moved[1]) <= TOLERANCE["cosine"]


@pytest.mark.parametrize("attack", TOLERANCE["poisons"])
def test_todays_users_poisons_are_as_shipped(attack, data, networks, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    attack = ATTACKS[attack]
    posts = shipping.shipped_posts(SETTING, attack, data, networks)
    live = SETTING.live_users
    user = data.users[live + today(len(data.users) - live)]
    clean, there = data.to_publish([user]), posts.of(user).pixels
    here = poisoning.live_and_shipped(SETTING, attack, clean, networks, data.public, None).pixels
    assert_alike(f"{attack.title}, user {user}", clean.pixels, here, there, networks[SETTING.undefended])


@pytest.mark.parametrize(
    ("asked", "setting"),
    [("adapting_live", SETTING), ("detecting_live", protocol.trainers_own(SETTING))],
    ids=["adapting", "detecting"],
)
@pytest.mark.parametrize("attack", TOLERANCE["public"])
def test_todays_public_persons_poison_is_as_shipped(attack, asked, setting, data, networks, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    attack, known, live = ATTACKS[attack], protocol.load_extractors(setting), SETTING.protocol[asked]
    size = live["people"], live["pictures"]
    assert shipped.find(adapt.public_file(setting, attack), adapt.public_inputs(setting, attack, known, *size)), (
        "nothing is shipped for the protocol as it stands: run make shipped"
    )
    who = SETTING.live_users + today(live["people"] - SETTING.live_users)
    clean, poisoned = adapt.poison_public(setting, attack, data, known, *size)
    own = clean.of(who)
    here = poisoning.live_and_shipped(setting, attack, own, known, data.public, None).pixels
    there = poisoned.of(who).pixels
    assert_alike(f"{attack.title}, person {who}", own.pixels, here, there, networks[SETTING.undefended])


def test_todays_end_to_end_round_is_as_shipped(data, networks, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEPOISON_STORE", str(tmp_path))
    repeated = SETTING.protocol["recognisers"]["repeated"]
    files = [(attack, 0) for attack in TOLERANCE["rounds"]]
    files += [(repeated, training) for training in range(1, SETTING.n_trainings)]
    users = data.users[: SETTING.n_retrained]
    rounds = [(*file, user) for file in files for user in (None, *users)]
    attack, training, who = rounds[today(len(rounds))]
    posts, trainer = shipping.shipped_posts(SETTING, ATTACKS[attack], data, networks), networks[SETTING.undefended]
    published = {user: posts.of(user).pixels for user in users}
    inputs = end_to_end.rounds_inputs(SETTING, attack, published, trainer, END_TO_END, training)
    kept = shipped.find(end_to_end.rounds_file(attack, training), inputs)
    assert kept, f"{attack}, training {training}: nothing is shipped for the protocol as it stands: run make shipped"
    gallery, labels, probes, asked = data.sides(data.pictures.pixels)
    places = torch.cat([(asked == user).nonzero().flatten() for user in (users if who is None else (who,))])
    if who is not None:
        gallery = gallery.clone()
        gallery[labels == who] = published[who]
    seed = end_to_end.training_seed(SETTING, training)
    here = play_round(trainer, gallery, labels, probes[places], END_TO_END, seed=seed)
    name = "clean" if who is None else who
    there = {what: kept.arrays[f"{name}-{what}"] for what in here}
    tipped = (here["distance"].argmin(dim=1) != there["distance"].argmin(dim=1)).double().mean()
    fitted = (here["gallery"] == there["gallery"]).double().mean()
    print(f"\n{attack}, training {training}, {name}: {tipped:.0%} of probes and {1 - fitted:.1%} of gallery differ")
    assert tipped < 0.4  # trainings part a little on machines that round otherwise: two probes of six
    assert fitted > 0.97


@pytest.mark.parametrize("attack", SETTING.protocol["crowd"]["attacks"])
def test_todays_users_of_the_crowd_are_protected_as_the_table_says(attack, networks):
    setting = crowd_setting(SETTING)
    crowd = protocol.load_data(setting)
    many, names = outcomes.read_outcomes("crowd"), [entry.name for entry in timeline.entries(setting)]
    there = {name: outcomes.unpack_answers(many, (attack, name)).by_user for name in names}
    trained, asked = outcomes.read_outcomes("adaptive"), SETTING.protocol["adapting"]
    for how in trainings(asked)[: len(asked["arms"])]:
        key = (attack, *map(str, how.values()))
        there[f"robust_{how['arm']}"] = outcomes.unpack_answers(trained, key).by_user
    n = len(crowd.users)
    tipped = probed = 0
    for place in [(today(n) + n * third // 3) % n for third in range(3)]:
        user = crowd.users[place]
        own = crowd.to_publish([user])
        posts = poisoning.live_and_shipped(setting, ATTACKS[attack], own, networks, crowd.public, None)
        probes = len(crowd.probes_of(user))
        here = {name: game.play(crowd, posts, load_extractor(name)).rate.value for name in there}
        gaps = [float(abs(here[name] - by_user[place])) * probes for name, by_user in there.items()]
        print(f"\n{attack}, user {place}: probes answered otherwise than shipped, by extractor: {gaps}")
        tipped, probed = tipped + sum(gaps), probed + probes * len(there)
    # On machines that round otherwise steps part, and answers near a boundary tip over: 2 in 100, of some users 8.
    assert tipped < 0.1 * probed


@pytest.mark.parametrize("attack", SETTING.protocol["sifting"]["attacks"])
def test_todays_users_poison_is_found_as_the_table_says(attack, networks):
    setting = crowd_setting(SETTING)
    crowd, asked = protocol.load_data(setting), SETTING.protocol["detecting"]
    place = today(asked["users"])
    shipped_scores = outcomes.read_outcomes("detecting").arrays
    usual, posted = (shipped_scores[detect.NETWORK.name, "untransformed", each] for each in ("thresholds", attack))
    limit = detect.threshold(usual.flatten(), min(asked["allowed"]))
    clean = crowd.pictures.of(crowd.users[place])
    posts = poisoning.live_and_shipped(setting, ATTACKS[attack], clean, networks, crowd.public, None)
    scores = detect.scores(detect.load_detector("network"), posts.pixels)
    here, there = int((scores > limit).sum()), int((posted[place] > limit).sum())
    print(f"\n{attack}, user {place}: {here} of {len(clean)} found here, {there} as shipped")
    assert abs(here - there) < 2.5  # a picture near the threshold may tip over on another machine
