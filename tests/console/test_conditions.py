"""The console when things are not as they should be: keys, restarts, clocks, jobs that go."""

import contextlib
import http.client
import http.server
import pathlib
import re
import threading

from conftest import Console
from playwright.sync_api import expect
from test_changes import receiver
from test_pages import DIGIT

PAGES_FOLDER = pathlib.Path(__file__).resolve().parents[2] / "crates/nobat-gateway/console"


def test_without_a_key_nothing_is_shown_and_a_key_shows_what_it_may(house, browser):
    if not house.keyed:
        return look_without_keys(house, browser)
    console = Console(house, browser, key=None)
    console.expect_refusals(401)
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
    (cookie,) = console.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert page.evaluate("document.cookie + JSON.stringify(sessionStorage) + JSON.stringify(localStorage)").find("nobat_") < 0
    page.reload()
    expect(page.locator("tbody tr", has_text="digits")).to_be_visible()
    # What a read-only key may not do is not offered, and not done.
    assert page.locator("main .act").count() == 0
    for where in ["try", "periodic", "webhooks"]:
        page.goto(f"{house.url}/#/{where}")
        expect(page.locator("main .problem")).to_contain_text("needs scope")
    pause = "() => fetch('api/v1/queues/digits/pause', { method: 'POST', headers: { 'nobat-console': '1' } }).then(answer => answer.status)"
    console.expect_refusals(403)
    assert page.evaluate(pause) == 403
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    console.close()


def test_a_session_that_ends_while_a_page_is_open_asks_for_a_key(house, browser):
    if not house.keyed:
        return look_without_keys(house, browser)
    made = house.call("POST", "/api/v1/keys", {"name": "brief", "scope": "read"})
    house.keys["brief"] = made["secret"]
    console = Console(house, browser, key="brief")
    console.expect_refusals(401)
    page = console.open("queues")
    expect(page.locator("tbody tr", has_text="two_by_two")).to_be_visible()
    house.call("DELETE", f"/api/v1/keys/{made['key']['id']}")
    expect(page.locator("form.sign-in")).to_be_visible(timeout=60_000)
    assert "two_by_two" not in page.locator("main").inner_text()
    page.locator("form.sign-in input").fill(house.keys["admin"])
    page.locator("form.sign-in button").click()
    expect(page.locator("tbody tr", has_text="two_by_two")).to_be_visible()
    assert page.url.endswith("#/queues")
    console.close()


def test_a_form_of_another_origin_changes_nothing(house, browser):
    console = Console(house, browser)
    console.open("queues")
    console.complaints.clear()
    # Another port of the same host: the same site, so even the strictest cookie is sent along.
    with foreign_page(f'<form method="post" action="{house.url}/api/v1/queues/digits/pause"><button>win</button></form>') as address:
        other = console.context.new_page()
        other.goto(address)
        with other.expect_navigation() as answered:
            other.get_by_role("button").click()
        assert answered.value.status == 403
        other.close()
    assert not house.call("GET", "/api/v1/queues/digits")["paused"]
    console.foreign.clear()
    console.close()


@contextlib.contextmanager
def foreign_page(text):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    with serving(Page) as address:
        yield f"{address}/"


@contextlib.contextmanager
def serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def look_without_keys(house, browser):
    console = Console(house, browser)
    page = console.open("models")
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible()
    assert page.get_by_label("API key").count() == 0 and page.get_by_role("button", name="Sign out").count() == 0
    console.close()


def test_ages_are_the_servers_where_the_browsers_clock_is_an_hour_off(house, browser):
    for hours in (-1, 1):
        console = Console(house, browser)
        console.page.add_init_script(f"{{ const real = Date.now; Date.now = () => real() + {hours} * 3600000; }}")
        done = house.ended(house.predict("digits", DIGIT))
        page = console.open(f"jobs/{done['id']}")
        expect(page.locator(".facts time").first).to_have_text(re.compile(r"^(\d+(\.\d+)? (s|ms|µs) ago|in [01](\.\d+)? s|in \d+(\.\d+)? ms)$"))
        console.close()


def test_a_job_that_goes_while_it_is_looked_at_says_so(house, browser):
    console = Console(house, browser)
    console.expect_refusals(410, 404)
    done = house.ended(house.predict("digits", DIGIT, result_ttl="3s"))
    page = console.open(f"jobs/{done['id']}")
    expect(page.locator(".timeline")).to_be_visible()
    expect(page.locator(".problem").first).to_contain_text(re.compile("outlived its ttl|there is no job"), timeout=30_000)
    expect(page.locator(".timeline")).to_be_visible()
    console.close()


def test_updates_stop_while_they_are_paused(house, browser):
    console = Console(house, browser)
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
    with proxy(house, "/under/path") as address:
        console = Console(house, browser)
        page = console.page
        page.goto(f"{address}/#/models")
        page.locator("main h1").wait_for()
        if house.keyed:
            console.sign_in()
            assert {cookie["path"] for cookie in console.context.cookies()} == {"/under/path/"}
        expect(page.locator("tbody tr", has_text="digits").first).to_be_visible()
        page.get_by_role("link", name="Queues").click()
        row = page.locator("tbody tr", has_text="two_by_two")
        row.get_by_role("button", name="Pause").click()
        row.get_by_role("button", name="Resume").click()
        expect(row.get_by_role("button", name="Pause")).to_be_visible()
        assert page.url.startswith(f"{address}/#/queues")
        assert all(asked.startswith(address) for asked in console.foreign), console.foreign
        console.foreign.clear()
        console.close()


@contextlib.contextmanager
def proxy(house, prefix):
    """A reverse proxy that serves the gateway under a path and takes that off."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self):
            assert self.path.startswith(f"{prefix}/"), self.path
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            connection = http.client.HTTPConnection("127.0.0.1", house.port)
            connection.request(self.command, self.path.removeprefix(prefix), body, dict(self.headers.items()))
            answer = connection.getresponse()
            text = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            connection.close()

        do_GET = do_POST = do_DELETE = pass_on

        def log_message(self, *args):
            pass

    with serving(Proxy) as address:
        yield f"{address}{prefix}"


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


def test_a_page_whose_first_frame_comes_late_is_shown_all_the_same(console):
    """What the server says before that is not missed."""
    late = "window.requestAnimationFrame = () => 0; { const real = setTimeout; window.setTimeout = (f, ms, ...rest) => real(f, (ms || 0) + 1500, ...rest); }"
    console.page.add_init_script(late)
    page = console.open("models")
    expect(page.get_by_role("heading", name="Models", level=1)).to_be_visible()


def test_what_comes_late_finds_its_place_on_the_page(console):
    house = console.house
    with receiver(204) as (address, _):
        job = house.ended(house.predict("digits", DIGIT, webhook=address))
    page = console.open("dead")
    for where, late, early in [("webhooks", "webhooks/endpoints", "table"), (f"jobs/{job['id']}", "/result", ".timeline")]:
        page.goto(f"{house.url}/#/dead")
        expect(page.locator("main .filters")).to_be_visible()
        held = []
        page.route(re.compile(late), lambda route: route.continue_() if held else held.append(route))
        with page.expect_request(re.compile(late)):
            page.goto(f"{house.url}/#/{where}")
        expect(page.locator(f"main {early}").first).to_be_visible()
        assert held, "it is still asked for"
        held[0].continue_()
        expect(page.get_by_text("Loading …")).to_have_count(0)
        parts = page.locator("main").locator("h1, h2, table, .timeline").evaluate_all("all => all.map(one => [one.tagName, one.textContent])")
        assert parts[0][0] == "H1", parts
        page.unroute(re.compile(late))
    assert [text for tag, text in parts if tag == "H2"][-1] == "Input", parts
