import errno

import pytest

from bookpress.files import PressError, finish_swap, swap, why, write_whole


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path):
    write_whole(tmp_path / "deep" / "a.txt", "words")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text() == "words"


def test_a_failed_write_keeps_the_old_file_and_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(PressError, match=r"a\.txt: the disk is full: free some space") as error:
        write_whole(path, "new")
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "_build").write_text("in the way")
    with pytest.raises(PressError, match="_build"):
        write_whole(tmp_path / "_build" / "a.txt", "words")


def test_other_errors_are_named():
    assert why(PermissionError(errno.EACCES, "Permission denied")).startswith("permission denied")


def test_swap_replaces_the_folder_and_cleans_up(tmp_path):
    fresh, place = tmp_path / "fresh", tmp_path / "html"
    for folder, words in ((fresh, "new"), (place, "old")):
        folder.mkdir()
        (folder / "page").write_text(words)
    swap(fresh, place)
    assert (place / "page").read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


def test_a_killed_swap_is_undone(tmp_path):
    aside = tmp_path / ".html-old"
    aside.mkdir()
    (aside / "page").write_text("old")
    finish_swap(tmp_path / "html")
    assert (tmp_path / "html" / "page").read_text() == "old"
    assert not aside.exists()
