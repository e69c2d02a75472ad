import os
import shutil
import sys

import pytest

from bookpress import browser
from bookpress.files import PressError

INSTALL = [sys.executable, "-m", "playwright", "install", "chromium"]


class Machine:
    """A machine with some programs, on which commands may bring others or fail with some words."""

    def __init__(self, *programs):
        self.programs = set(programs)
        self.broken = set()
        self.brings = {}
        self.ran = []
        self.said = []

    def which(self, name):
        return next((path for path in self.programs if name in (path, path.rsplit("/", 1)[-1])), None)

    def failure(self, command):
        if command[1:] == ["--version"]:
            return "no such library" if command[0] in self.broken else None
        self.ran.append(command)
        if "update" in command:
            return None
        brought = next((new for word, new in self.brings.items() if word in command), None)
        self.programs |= {brought} if brought else set()
        return None if brought else f"no {command[-2]} of {command[-1]}"


@pytest.fixture
def machine(monkeypatch):
    made = Machine("/usr/bin/apt-get")
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(shutil, "which", made.which)
    monkeypatch.setattr(browser, "failure", made.failure)
    monkeypatch.setattr(browser, "of_playwright", lambda: "/cache/chrome")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def test_the_named_one_comes_first(machine, monkeypatch):
    machine.programs |= {"/usr/bin/chromium", "/opt/mine"}
    monkeypatch.setenv("CHROMIUM", "/opt/mine")
    assert browser.find(pytest.fail) == "/opt/mine"
    monkeypatch.setenv("CHROMIUM", "mine")
    assert browser.find(pytest.fail) == "/opt/mine"


def test_a_named_one_that_is_not_there_is_an_error_whatever_else_is(machine, monkeypatch):
    machine.programs.add("/usr/bin/chromium")
    monkeypatch.setenv("CHROMIUM", "/opt/gone")
    with pytest.raises(PressError, match="CHROMIUM=/opt/gone: there is no such program"):
        browser.find(pytest.fail)
    assert not machine.ran


def test_one_on_the_path_comes_before_that_of_playwright(machine):
    machine.programs |= {"/cache/chrome", "/usr/bin/google-chrome"}
    assert browser.find(pytest.fail) == "/usr/bin/google-chrome"
    machine.programs.remove("/usr/bin/google-chrome")
    assert browser.find(pytest.fail) == "/cache/chrome"
    assert not machine.ran


def test_one_that_does_not_start_is_passed_over(machine):
    machine.programs |= {"/cache/chrome", "/usr/bin/chromium"}
    machine.broken.add("/usr/bin/chromium")
    assert browser.find(pytest.fail) == "/cache/chrome"


def test_playwright_installs_one_and_that_is_said_first(machine):
    machine.brings["playwright"] = "/cache/chrome"
    assert browser.find(lambda line: machine.said.append((line, len(machine.ran)))) == "/cache/chrome"
    assert machine.said == [("no Chromium is here: installing playwright's Chromium into your cache", 0)]
    assert machine.ran == [INSTALL]


@pytest.mark.parametrize("downloads", [False, True])
def test_else_the_system_does_also_where_what_was_downloaded_does_not_start(machine, downloads):
    if downloads:
        machine.brings["playwright"] = "/cache/chrome"
        machine.broken.add("/cache/chrome")
    machine.brings["-qq"] = "/usr/bin/chromium"
    assert browser.find(machine.said.append) == "/usr/bin/chromium"
    assert machine.said[-1].endswith("installing the system's package chromium")
    assert [command[2:4] for command in machine.ran] == [
        ["playwright", "install"],
        ["apt-get", "update"],
        ["apt-get", "install"],
    ]


def test_sudo_is_used_where_it_asks_for_no_password(machine, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine.programs.add("/usr/bin/sudo")
    machine.brings = {"true": "/bin/true", "-qq": "/usr/bin/chromium"}
    assert browser.find(machine.said.append) == "/usr/bin/chromium"
    assert all(command[:2] == ["sudo", "-n"] for command in machine.ran[1:])


@pytest.mark.parametrize("change", ["no apt-get", "no sudo", "sudo wants a password"])
def test_nobody_is_asked_for_a_password(machine, monkeypatch, change):
    monkeypatch.setattr(os, "geteuid", lambda: 0 if change == "no apt-get" else 1000)
    if change == "no apt-get":
        machine.programs.clear()
    if change == "sudo wants a password":
        machine.programs.add("/usr/bin/sudo")
    with pytest.raises(PressError):
        browser.find(machine.said.append)
    assert not [command for command in machine.ran if "apt-get" in command]


def test_where_nothing_helps_the_last_words_of_each_are_told(machine):
    with pytest.raises(PressError) as error:
        browser.find(machine.said.append)
    lines = str(error.value).splitlines()
    assert lines[1] == "  playwright's Chromium into your cache: no install of chromium"
    assert lines[2] == "  the system's package chromium: no -qq of chromium"
    assert "CHROMIUM=" in lines[3]
    assert "BROWSER=skip" in lines[3]


def test_last_words_are_the_end_of_what_a_command_says(monkeypatch):
    say = "import sys\nprint('1\\n2\\n\\n3')\nprint('4', file=sys.stderr)\nsys.exit({})"
    assert browser.failure([sys.executable, "-c", say.format(0)]) is None
    assert browser.failure([sys.executable, "-c", say.format(1)]) == "2 / 3 / 4"
    wrong = "print('Error: no network')\nprint('E: no apt')\nprint('terrors')\nprint('}')\nraise SystemExit(1)"
    assert browser.failure([sys.executable, "-c", wrong]) == "Error: no network / E: no apt"
    assert browser.failure([sys.executable, "-c", "raise SystemExit(3)"]) == "exit code 3"
    assert "No such file" in browser.failure(["/not/there"])
    monkeypatch.setattr(browser, "LONGEST", 0.05)
    assert "timed out" in browser.failure([sys.executable, "-c", "import time\ntime.sleep(60)"])


def test_playwright_says_where_its_own_would_be():
    assert "chrom" in browser.of_playwright()
