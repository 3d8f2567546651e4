"""The console when things are not as they should be: keys, restarts, clocks, jobs that go."""

import pathlib
import re

from conftest import Console
from playwright.sync_api import expect
from test_pages import DIGIT

PAGES_FOLDER = pathlib.Path(__file__).resolve().parents[2] / "crates/nobat-gateway/console"


def test_without_a_key_nothing_is_shown_and_a_key_shows_what_it_may(house, browser):
    if not house.keyed:
        return look_without_keys(house, browser)
    console = Console(house, browser, key=None)
    console.expect_refusals(401, 403)
    page = console.page
    for where in ["", "jobs", "models", "queues", "workers"]:
        page.goto(f"{house.url}/#/{where}")
        expect(page.get_by_label("API key")).to_be_visible()
        assert "digits" not in page.content()
    page.get_by_label("API key").fill("nobat_aaaaaaaaaaaaaaaa_" + "a" * 43)
    page.locator("form.sign-in button").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("API key").fill(house.keys["read"])
    page.locator("form.sign-in button").click()
    expect(page.locator("tbody tr", has_text="digits")).to_be_visible()
    page.goto(f"{house.url}/#/queues")
    row = page.locator("tbody tr", has_text="digits")
    row.get_by_role("button", name="Pause").click()
    expect(row.get_by_role("alert")).to_contain_text("this needs scope `admin`")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    console.close()


def look_without_keys(house, browser):
    console = Console(house, browser)
    page = console.open("models")
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible()
    assert page.get_by_label("API key").count() == 0 and page.get_by_role("button", name="Sign out").count() == 0
    console.close()


def test_a_server_that_restarts_is_said_to_be_away_and_comes_back(house, browser):
    console = Console(house, browser)
    console.expect_refusals(401)
    console.expected += ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "status of 503", "status of 404", "ERR_SOCKET"]
    page = console.open("models")
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible()
    house.kill()
    expect(page.locator(".unreachable")).to_contain_text("cannot be reached")
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible()
    house.start()
    expect(page.locator(".unreachable")).to_have_text("", timeout=60_000)
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible(timeout=60_000)
    console.close()


def test_ages_are_the_servers_where_the_browsers_clock_is_an_hour_off(house, browser):
    for hours in (-1, 1):
        console = Console(house, browser)
        console.expect_refusals(401)
        console.page.add_init_script(f"{{ const real = Date.now; Date.now = () => real() + {hours} * 3600000; }}")
        done = house.ended(house.predict("digits", DIGIT))
        page = console.open(f"jobs/{done['id']}")
        expect(page.locator(".facts time").first).to_have_text(re.compile(r"^(\d+(\.\d+)? (s|ms|µs) ago|in [01](\.\d+)? s|in \d+(\.\d+)? ms)$"))
        console.close()


def test_a_job_that_goes_while_it_is_looked_at_says_so(house, browser):
    console = Console(house, browser)
    console.expect_refusals(401, 410, 404)
    done = house.ended(house.predict("digits", DIGIT, result_ttl="3s"))
    page = console.open(f"jobs/{done['id']}")
    expect(page.locator(".timeline")).to_be_visible()
    expect(page.locator(".problem").first).to_contain_text(re.compile("outlived its ttl|there is no job"), timeout=30_000)
    expect(page.locator(".timeline")).to_be_visible()
    console.close()


def test_updates_stop_while_they_are_paused(house, browser):
    console = Console(house, browser)
    console.expect_refusals(401)
    page = console.open("queues")
    expect(page.locator("tbody tr").first).to_be_visible()
    page.get_by_role("button", name="Pause updates").click()
    page.wait_for_load_state("networkidle")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4000)
    assert asked == []
    page.get_by_role("button", name="Go on").click()
    page.wait_for_timeout(500)
    assert asked
    console.close()


def test_it_works_under_another_path(house, browser):
    """A proxy that serves the gateway under /models/ and takes that off."""
    console = Console(house, browser)
    console.expect_refusals(401)
    console.page.route("**/under/path/**", lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/under/path/", "/"))))
    page = console.page
    page.goto(f"{house.url}/under/path/#/models")
    if house.keyed:
        console.sign_in()
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible()
    page.get_by_role("link", name="Workers").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "/under/path/#/workers" in page.url
    console.close()


def test_every_word_of_the_pages_has_a_persian_one():
    words = set()
    for file in PAGES_FOLDER.glob("*.js"):
        if file.name != "persian.js":
            words |= set(re.findall(r'\bt\("([^"]+)"', file.read_text()))
    table = (PAGES_FOLDER / "persian.js").read_text()
    known = set(re.findall(r'^  "([^"]+)":', table, re.MULTILINE))
    checks = re.search(r"CHECKS = \{(.*?)\n\};", (PAGES_FOLDER / "overview.js").read_text(), re.DOTALL).group(1)
    words |= set(re.findall(r'"([^"]+)"', checks))
    states = re.search(r"MARKS = \{(.*?)\n\};", (PAGES_FOLDER / "ui.js").read_text(), re.DOTALL).group(1)
    words |= set(re.findall(r"(\w+): \"", states)) - {"draining"}
    pages = re.search(r"PAGES = \[(.*?)\n\];", (PAGES_FOLDER / "app.js").read_text(), re.DOTALL).group(1)
    words |= set(re.findall(r'^  \["[^"]*", "([^"]+)"', pages, re.MULTILINE))
    assert words - known == set()
