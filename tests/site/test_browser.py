"""Every page of the site in a real browser: what loads, what moves, and what somebody who cannot see it is told.

``bookpress.browser`` says which Chromium, and installs one where there is none; ``BROWSER=skip`` leaves all this out.
"""

import functools
import http.server
import os
import re
import threading
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from bookpress import chapters
from bookpress.browser import find
from bookpress.files import PressError

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
PAGES = chapters.pages(ROOT)
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
LOOKS = {"desktop, light": (1280, "light"), "phone, dark": (390, "dark")}

pytestmark = pytest.mark.skipif(os.environ.get("BROWSER") == "skip", reason="BROWSER=skip")


@pytest.fixture(scope="session")
def browser(request):
    terminal = request.config.pluginmanager.getplugin("capturemanager")

    def say(line):
        with terminal.global_and_fixture_disabled():
            print(line, flush=True)

    try:
        found = find(say)
    except PressError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Opens an address at a width and in a colour scheme; gives the page, its complaints and its outside requests."""
    contexts = []

    def open_page(address, width=1280, scheme="light", inside=("file:", "data:")):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
        page.on("request", lambda request: asked.append(request.url) if not request.url.startswith(inside) else None)
        page.goto(address, wait_until="load")
        page.wait_for_timeout(300)
        for button in page.query_selector_all(".guess-form button"):
            button.click()
        return page, said, asked

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_whole_and_fits(visit, name, look):
    width, scheme = LOOKS[look]
    page, said, asked = visit((SITE / f"{name}.html").as_uri(), width, scheme)
    assert not said
    assert not asked
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
    assert not broken


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible(visit, name, look):
    page, _, _ = visit((SITE / f"{name}.html").as_uri(), *LOOKS[look])
    found = Axe().run(page).response["violations"]
    serious = {
        f"{rule['id']}: {rule['help']}": [node["html"][:120] for node in rule["nodes"]][:3]
        for rule in found
        if rule["impact"] in ("serious", "critical")
    }
    assert not serious


@pytest.mark.parametrize("name", PAGES)
def test_sliders_turn_frames_by_keyboard(visit, name):
    page, _, _ = visit((SITE / f"{name}.html").as_uri())
    for box in page.query_selector_all("figure.frames"):
        slider = box.query_selector("input[type=range]")
        assert slider.is_visible()
        seen = set()
        slider.focus()
        for _ in range(int(slider.get_attribute("max")) + 1):
            shown = [frame for frame in box.query_selector_all(".frame") if frame.is_visible()]
            assert len(shown) == 1
            label = shown[0].get_attribute("data-label")
            assert box.query_selector("output").inner_text() == label == slider.get_attribute("aria-valuetext")
            seen.add(label)
            page.keyboard.press("ArrowRight")
        assert len(seen) == int(slider.get_attribute("max")) + 1


def test_a_reader_guesses_before_the_result_is_shown(browser):
    asked = 0
    for name in PAGES:
        page = browser.new_page()
        page.goto((SITE / f"{name}.html").as_uri())
        for form in page.query_selector_all(".guess-form"):
            asked += 1
            answer = page.evaluate_handle("f => f.closest('.guess').nextElementSibling", form).as_element()
            assert answer.get_attribute("hidden") == "until-found"
            form.query_selector("input").fill("a third")
            form.query_selector("input").press("Enter")
            assert answer.get_attribute("hidden") is None
        assert (
            page.locator(".guess-said").all_inner_texts() == ["You guessed: a third"] * page.locator(".guess").count()
        )
        assert (
            page.evaluate("[localStorage, sessionStorage].map(s => Object.values(s)).flat().join().includes('third')")
            is False
        )
        assert not page.query_selector("[hidden=until-found]")
        page.close()
    assert asked >= len([name for name in PAGES if name.startswith("notebooks/0")])


def test_a_link_into_what_is_hidden_opens_it(browser):
    page = browser.new_page()
    page.goto((SITE / "notebooks" / "01_faces.html").as_uri() + "#claim-raw-pixels-fail")
    assert page.locator("#claim-raw-pixels-fail").is_visible()
    page.close()


def test_without_scripts_every_frame_is_there(browser):
    context = browser.new_context(java_script_enabled=False)
    for name in PAGES:
        page = context.new_page()
        page.goto((SITE / f"{name}.html").as_uri())
        for box in page.query_selector_all("figure.frames"):
            assert all(frame.is_visible() for frame in box.query_selector_all(".frame"))
            assert not box.query_selector("input").is_visible()
        assert not page.query_selector("[hidden=until-found]")
        page.close()
    context.close()


def test_the_summary_prints_on_one_sheet(browser):
    page = browser.new_page()
    page.goto((SITE / "book" / "summary.html").as_uri())
    edges = dict.fromkeys(("top", "right", "bottom", "left"), "12mm")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4", margin=edges))) == 1
    page.close()


def test_the_site_works_below_a_path_of_a_web_host(visit, tmp_path):
    (tmp_path / "some" / "where").mkdir(parents=True)
    (tmp_path / "some" / "where" / "book").symlink_to(SITE)

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}/"
    try:
        for name in PAGES:
            _, said, asked = visit(f"{host}some/where/book/{name}.html", inside=(host, "data:"))
            assert not asked
            assert not said
    finally:
        server.shutdown()
