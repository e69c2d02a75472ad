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


@pytest.mark.parametrize("width", [1280, 390])
def test_search_shows_where_words_stand_without_a_server(visit, width):
    page, said, asked = visit((SITE / "search.html").as_uri() + "?q=lowkey", width)
    page.wait_for_selector("#search-results li")
    assert not said
    assert not asked
    titles = page.locator("#search-results li > a").all_inner_texts()
    assert "3 Poisoning" in titles
    for item in page.query_selector_all("#search-results li"):
        assert "lowkey" in item.inner_text().lower() or "In code or a table" in item.inner_text()
    marks = page.locator("#search-results .excerpt mark").all_inner_texts()
    assert {mark.lower() for mark in marks} == {"lowkey"}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    place = page.locator("#search-results li:has(> a:text('3 Poisoning')) p a").first.get_attribute("href")
    page.goto((SITE / place.split("#")[0]).as_uri() + f"#{place.split('#')[1]}")
    assert page.query_selector(f"[id='{place.split('#')[1]}']")


def test_a_search_for_nothing_says_so(visit):
    page, said, _ = visit((SITE / "search.html").as_uri() + "?q=zyzzyva")
    assert page.locator("#search-results").inner_text().count("Nothing found") == 1
    assert not said


def test_arrow_keys_turn_pages_but_not_while_they_are_needed(visit):
    first, second, third = (f"{name}.html" for name in PAGES[:3])
    page, _, _ = visit((SITE / second).as_uri())
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/{third}")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/{second}")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/{first}")
    page, _, _ = visit((SITE / "search.html").as_uri() + "?q=lowkey")
    page.locator("form.bd-search input").last.focus()
    page.keyboard.press("ArrowLeft")
    page, _, _ = visit((SITE / "book" / "times.html").as_uri(), 390)
    table = page.locator(".more-right").first
    table.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert page.url.endswith("times.html")
    assert table.evaluate("box => box.scrollLeft") > 0


@pytest.mark.parametrize("name", PAGES)
def test_a_table_fits_or_shows_on_which_side_there_is_more(visit, name):
    page, _, _ = visit((SITE / f"{name}.html").as_uri(), 390)
    for box in page.locator(".table-box:visible, .pst-scrollable-table-container:visible").all():
        rest = box.evaluate("box => box.scrollWidth - box.clientWidth")
        assert ("more-right" in box.get_attribute("class")) == (rest > 2)
        assert box.evaluate("box => getComputedStyle(box).maskImage !== 'none'") == (rest > 2)
        assert (box.get_attribute("tabindex") == "0") == (rest > 2)
        assert box.get_attribute("role") == "region"
        assert box.get_attribute("aria-label")
        box.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    page.wait_for_timeout(100)
    assert not page.locator(".more-right:visible").count()


def test_a_wide_table_uses_the_margin(visit):
    page, _, _ = visit((SITE / "book" / "beside.html").as_uri(), 1100)
    page.evaluate("document.querySelectorAll('.table-box td').forEach(cell => cell.style.minWidth = '380px')")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.wait_for_selector(".table-box.full-width")
    text, table = (page.locator(place).first.bounding_box() for place in ("article > section > p", ".table-box"))
    assert table["width"] > text["width"] + 100
    assert table["x"] + table["width"] <= 1280
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize("name", [PAGES[0], "notebooks/03_poisoning"])
def test_on_paper_there_is_the_text_alone(visit, name):
    page, _, _ = visit((SITE / f"{name}.html").as_uri())
    page.emulate_media(media="print")
    for place in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".prev-next-footer"):
        assert not page.locator(place).first.is_visible()
    assert len([title for title in page.locator("h1").all() if title.is_visible()]) == 1


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
