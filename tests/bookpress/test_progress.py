import pytest

from bookpress.progress import Expected, Progress, duration, makespan


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def plan(here, **seconds):
    return {cell: Expected(float(took), here) for cell, took in seconds.items()}


def test_progress_names_chapter_cell_and_times(capsys):
    progress = Progress(["01_one", "02_two"], [plan(True, a=60, b=30), plan(True, c=65)], [0, 1])
    progress.begin(0, "b")
    assert capsys.readouterr().out == "chapter 1 of 2: 01_one, cell 2 of 2; 0 s so far, about 1 min 35 s in all\n"
    progress.begin(0, "injected")
    assert capsys.readouterr().out == ""
    assert duration(59.4) == "59 s"


def test_two_at_once_are_named_and_the_outlook_is_when_the_last_is_done(capsys):
    clock = Clock()
    plans = [plan(True, a=10), plan(True, b=100), plan(True, c=20)]
    progress = Progress(["01_one", "02_two", "03_three"], plans, [1, 2, 0], 2, clock)
    progress.begin(1, "b")
    assert capsys.readouterr().out.endswith("0 s so far, about 1 min 40 s in all\n")
    progress.begin(2, "c")
    assert capsys.readouterr().out == (
        "chapter 3 of 3: 03_three, cell 1 of 1; 0 s so far, about 1 min 40 s in all; beside 02_two, cell 1 of 1\n"
    )
    clock.now += 95
    progress.end(2)
    progress.begin(0, "a")
    assert capsys.readouterr().out.startswith(
        "chapter 1 of 3: 01_one, cell 1 of 1; 1 min 35 s so far, about 1 min 45 s in all; beside 02_two"
    )


def test_times_of_another_machine_promise_nothing_until_this_one_was_measured(capsys):
    clock = Clock()
    progress = Progress(["01_one"], [plan(False, a=0, b=10, c=100)], [0], 1, clock)
    for cell in ("a", "b"):
        progress.begin(0, cell)
        assert "in all" not in capsys.readouterr().out
    clock.now += 30
    progress.begin(0, "c")
    assert "30 s so far, about 5 min 30 s in all" in capsys.readouterr().out


def test_only_times_of_another_machine_are_scaled():
    clock = Clock()
    progress = Progress(["01_one", "02_two"], [plan(False, a=10, b=10), plan(True, c=100)], [0, 1], 1, clock)
    progress.begin(0, "a")
    clock.now += 20
    progress.begin(0, "b")
    assert progress.outlook() == pytest.approx(2 * 10 + 100)
    clock.now += 5
    assert progress.outlook() == pytest.approx(2 * 10 - 5 + 100)
    clock.now += 50
    assert progress.outlook() == pytest.approx(100)


@pytest.mark.parametrize(
    ("running", "waiting", "at_once", "seconds"),
    [
        ([], [3, 4], 1, 7),
        ([5], [3, 4], 1, 12),
        ([5, 1], [3, 4], 2, 8),
        ([5], [3, 4], 2, 7),
        ([], [10, 1, 1], 2, 10),
        ([7], [], 2, 7),
    ],
)
def test_the_last_chapter_is_done_when(running, waiting, at_once, seconds):
    assert makespan(running, waiting, at_once) == seconds


def test_a_line_that_is_overwritten_is_ended_before_another(capsys):
    progress = Progress(["01_one"], [plan(True, a=1)], [0])
    progress.live = True
    progress.begin(0, "a")
    progress.say("said")
    progress.end_line()
    assert capsys.readouterr().out.endswith("in all\nsaid\n")
