"""Every page and every action of the console, on both stores, with keys and without."""

import http.server
import json
import math
import os
import pathlib
import re
import subprocess
import threading
import time
import urllib.parse

import pytest
from conftest import Console
from playwright.sync_api import expect

DIGIT = json.loads((pathlib.Path(__file__).resolve().parents[2] / "models/digits/example.json").read_text())
PAGES = ["", "queues", "jobs", "dead", "models", "models/digits", "try/digits", "try/two_by_two", "routes", "periodic", "workers", "webhooks", "keys", "audit", "nowhere"]


def dead_letter(house, marks=1):
    """Jobs that fail for good: an index over 9 fails its run."""
    made = [house.predict("fails_on_marked_row", {"inputs": [99]}, max_retries=0) for _ in range(marks)]
    return [house.ended(job) for job in made]


def ask_for_a_while(house, seconds=40):
    """Some traffic for charts to show: more and less of it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for _ in range(1 + int(12 * abs(math.sin(left / 6)))):
            house.call("POST", "/api/v1/predict/digits?wait=10", DIGIT)
        time.sleep(0.2)


def purge(house):
    for queue in house.call("GET", "/api/v1/queues")["queues"]:
        house.call("DELETE", f"/api/v1/queues/{urllib.parse.quote(queue['model'], safe='')}/dead?limit=10000")


def test_the_overview_says_what_goes_on_and_what_is_ill(console):
    page = console.open()
    expect(page.locator(".verdict")).to_contain_text("checks are good")
    for _ in range(20):
        console.house.predict("digits", DIGIT)
    expect(page.locator(".figure", has_text="workers")).to_contain_text("1")
    drawn = "() => [...document.querySelectorAll('.chart canvas')].every(one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some(byte => byte > 0))"
    expect(page.locator(".chart canvas")).to_have_count(6)
    page.wait_for_function(drawn)
    page.get_by_text("As a table").first.click()
    expect(page.locator(".chart tbody tr").first).to_be_visible()
    page.get_by_text("As a table").first.click()
    page.get_by_text("What was checked").click()
    expect(page.locator(".verdict li")).to_have_count(6)
    page.get_by_text("What was checked").click()
    if console.takes_pictures:
        ask_for_a_while(console.house)
    console.picture("overview")


def test_a_queue_is_paused_resumed_and_its_dead_letters_purged_by_name(console):
    house = console.house
    purge(house)
    dead_letter(house, 2)
    page = console.open("queues")
    row = page.locator("tbody tr", has_text="fails_on_marked_row")
    row.get_by_role("button", name="Pause").click()
    expect(row.locator(".state", has_text="paused")).to_be_visible()
    assert house.call("GET", "/api/v1/queues/fails_on_marked_row")["paused"]
    row.get_by_role("button", name="Resume").click()
    expect(row.get_by_role("button", name="Pause")).to_be_visible()
    assert not house.call("GET", "/api/v1/queues/fails_on_marked_row")["paused"]
    row.get_by_role("button", name="Purge").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Purge")).to_be_disabled()
    dialog.locator("input").fill("fails_on_marked")
    expect(dialog.get_by_role("button", name="Purge")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert house.call("GET", "/api/v1/queues/fails_on_marked_row")["dead"] == 2
    row.get_by_role("button", name="Purge").click()
    dialog.locator("input").fill("fails_on_marked_row")
    console.picture("queues")
    dialog.get_by_role("button", name="Purge").click()
    expect(row.get_by_role("button", name="Purge")).to_have_count(0)
    assert house.call("GET", "/api/v1/queues/fails_on_marked_row")["dead"] == 0


def test_jobs_are_filtered_paged_and_opened(console):
    house = console.house
    done = house.ended(house.predict("digits", DIGIT, priority=9))
    later = house.predict("digits", DIGIT, delay="1h")
    page = console.open("jobs?model=digits&state=scheduled")
    expect(page.locator("tbody tr", has_text=later["id"][:6])).to_be_visible()
    expect(page.locator("tbody tr", has_text="succeeded")).to_have_count(0)
    page.get_by_label("state").select_option("succeeded")
    expect(page.locator("tbody tr", has_text=done["id"][:6])).to_be_visible()
    assert "state=succeeded" in page.url
    for _ in range(60):
        last = house.predict("digits", DIGIT)
    house.ended(last)
    page.get_by_label("state").select_option("")
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_role("button", name="Back")).to_be_visible()
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("button", name="Back")).to_have_count(0)
    console.picture("jobs")
    page.locator("h1").click()
    page.keyboard.press("/")
    page.keyboard.type(later["id"])
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text(later["id"])
    page.get_by_role("button", name="Cancel the job").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".facts .state")).to_contain_text("cancelled")
    assert house.call("GET", f"/api/v1/jobs/{later['id']}")["state"] == "cancelled"


def test_a_job_shows_its_way_its_result_and_its_error(console):
    house = console.house
    done = house.ended(house.predict("digits", DIGIT))
    page = console.open(f"jobs/{done['id']}")
    expect(page.locator(".timeline")).to_contain_text("ran in a")
    expect(page.locator(".timeline li").first).to_contain_text("accepted")
    expect(page.locator(".tensor", has_text="label").locator("pre")).to_have_text("7")
    expect(page.locator(".tensor", has_text="probabilities").locator("th").first).to_have_text("seven")
    console.picture("job")
    purge(house)
    (dead,) = dead_letter(house)
    page = console.open(f"jobs/{dead['id']}")
    expect(page.locator("p.problem")).to_contain_text("invalid_tensor")
    page.get_by_role("button", name="Show the input").click()
    expect(page.locator(".tensor pre")).to_contain_text("99")
    before = page.url
    page.get_by_role("button", name="Run again").click()
    page.wait_for_url(lambda url: url != before)
    again = page.url.rsplit("/", 1)[1]
    assert again != dead["id"] and house.ended({"id": again})["state"] == "dead"
    page = console.open(f"jobs/{dead['id']}")
    page.get_by_role("button", name="Retry").click()
    page.wait_for_function("() => document.querySelector('.facts .state').textContent.includes('dead')")
    assert house.ended(dead)["state"] == "dead"


def test_what_is_copied_can_be_pasted(console):
    house = console.house
    page = console.open("try/identity_int64")
    page.locator("textarea").fill("[[9007199254740993, -9223372036854775808]]")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".tensor pre")).to_contain_text("9007199254740993  -9223372036854775808")
    environment = {**os.environ, "NOBAT_KEY": house.keys.get("admin", "")}
    page.get_by_role("button", name="Copy as curl").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('curl')")
    line = page.evaluate("navigator.clipboard.readText()")
    answer = subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True, env=environment).stdout
    assert json.loads(answer)["outputs"] == [[9007199254740993, -9223372036854775808]], answer
    page.get_by_role("button", name="Copy as Python").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('urllib')")
    program = page.evaluate("navigator.clipboard.readText()")
    answer = subprocess.run(["python3", "-c", program], check=True, capture_output=True, text=True, env=environment).stdout
    assert "9007199254740993" in answer


def test_without_a_clipboard_the_text_is_there_to_copy(console):
    console.page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page = console.open("try/identity_int64")
    page.get_by_role("button", name="Copy as curl").click()
    field = page.get_by_label("Copy as curl", exact=True).and_(page.locator("textarea"))
    expect(field).to_have_value(re.compile("^curl -s "))
    selected = "() => document.activeElement.selectionEnd - document.activeElement.selectionStart"
    assert page.evaluate(selected) == len(field.input_value())


def test_dead_letters_are_grouped_sent_back_and_deleted(console):
    house = console.house
    purge(house)
    dead_letter(house, 3)
    page = console.open("dead")
    group = page.locator(".group")
    expect(group).to_have_count(1)
    expect(group.locator(".count")).to_have_text("3")
    expect(group).to_contain_text("invalid_tensor")
    group.get_by_role("button", name="Show samples").click()
    expect(group.locator("li")).to_have_count(3)
    console.picture("dead")
    house.call("POST", "/api/v1/queues/fails_on_marked_row/pause")
    group.get_by_role("button", name="Send all back").click()
    expect(group).to_have_count(0)
    assert house.call("GET", "/api/v1/queues/fails_on_marked_row")["queued"] == 3
    house.call("POST", "/api/v1/queues/fails_on_marked_row/resume")
    expect(group.locator(".count")).to_have_text("3")
    group.get_by_role("button", name="Delete all").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    expect(page.locator(".empty")).to_contain_text("No job died")
    assert house.call("GET", "/api/v1/queues/fails_on_marked_row")["dead"] == 0


def test_models_show_versions_and_are_unloaded_and_loaded(console):
    house = console.house
    house.ended(house.predict("digits", DIGIT))
    page = console.open("models")
    expect(page.locator("tbody tr", has_text="versioned")).to_have_count(2)
    expect(page.locator("tbody tr", has_text="canary")).to_contain_text("2")
    page = console.open("models/digits")
    expect(page.locator(".group")).to_contain_text("proven")
    expect(page.get_by_role("table", name="Runs by their rows")).to_be_visible()
    expect(page.get_by_role("table", name="Batching by worker")).to_be_visible()
    console.picture("model")
    page = console.open("models/optional_input")
    page.get_by_role("button", name="Unload").click()
    page.get_by_role("dialog").locator("input").fill("optional_input")
    page.get_by_role("dialog").get_by_role("button", name="Unload").click()
    console.expect_refusals(404)
    expect(page.locator(".problem")).to_contain_text("optional_input")
    page.get_by_role("button", name="Load").click()
    expect(page.locator(".group .state").first).to_contain_text("ready")
    assert house.ended(house.predict("optional_input", {"inputs": {"x": [[1, 2]]}}))["state"] == "succeeded"


def test_a_digit_is_drawn_and_known(console):
    page = console.open("try/digits")
    answer = page.locator(".answer strong")
    expect(answer).to_have_text("7")
    expect(page.locator(".tensor th").first).to_have_text("seven")
    page.get_by_role("button", name="Clear").click()
    box = page.locator(".pad canvas").bounding_box()
    at = lambda x, y: (box["x"] + x * box["width"] / 8, box["y"] + y * box["height"] / 8)
    # A one: a stroke down the middle, thickened.
    page.mouse.move(*at(4.0, 0.7))
    page.mouse.down()
    for y in range(1, 8):
        page.mouse.move(*at(4.0, y))
    page.mouse.up()
    expect(answer).to_have_text("1")
    expect(page.locator("section", has_text="in all").first).to_contain_text("the model ran")
    console.picture("try")
    page.locator(".pad canvas").focus()
    before = page.locator("details textarea").input_value()
    for key in ["ArrowRight", "ArrowRight", "Space"]:
        page.keyboard.press(key)
    page.wait_for_function("text => document.querySelector('details textarea').value !== text", arg=before)
    page.get_by_role("button", name="Enqueue as a job").click()
    page.wait_for_url(re.compile("/jobs/"))
    expect(page.locator(".facts .state")).to_contain_text("succeeded")


def test_versions_files_and_mistakes(console, tmp_path):
    page = console.open("try/versioned?version=2")
    page.locator("textarea").fill("[[1, 2, 3, 4]]")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".tensor pre")).to_contain_text("-1  -2  -3  -4")
    console.expect_refusals(400)
    page.locator("textarea").fill("[[1, 2, 3,")
    expect(page.locator("small.problem")).to_contain_text("not JSON")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("section p.problem")).to_be_visible()
    words = tmp_path / "words.txt"
    words.write_text("one two\nسه")
    page = console.open("try/identity_bytes")
    page.locator("input[type=file]").set_input_files(words)
    expect(page.get_by_label("Text")).to_have_value("one two\nسه")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".answer strong")).to_have_text("one two\nسه")
    page.locator("input[type=file]").set_input_files({"name": "raw", "mimeType": "application/octet-stream", "buffer": b"\xff\x00"})
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("section p.problem")).to_contain_text("not UTF-8")


HOSTILE = [
    "<script>document.title='owned'</script>", "<img src=x onerror=\"document.title='owned'\">", "\"><svg onload=alert(1)>",
    "javascript:alert(1)", "</pre><iframe src=//example.invalid>", "{{constructor.constructor('alert(1)')()}}", "${alert(1)}",
    "\u202eevil\u202c", "a\u0300" * 50, "\U0001f600" * 20, "'; DROP TABLE jobs; --", "\\u003cscript\\u003e", "&lt;b&gt;", "\t\n\r", "x" * 5000,
    "%3Cscript%3E", "<a href='javascript:alert(1)'>x</a>", "<!--", "]]>", "<style>*{display:none}</style>",
]


def test_a_hundred_hostile_strings_are_text(console):
    house = console.house
    strings = [f"{text}{at}" for at in range(5) for text in HOSTILE]
    assert len(strings) == 100
    for start in range(0, 100, 50):
        part = strings[start:start + 50]
        done = house.ended(house.predict("identity_bytes", {"inputs": [[text] for text in part]}))
        page = console.open(f"jobs/{done['id']}")
        expect(page.locator(".tensor pre")).to_have_count(50)
        shown = page.locator(".tensor pre").evaluate_all("all => all.map(one => one.textContent)")
        assert [text[:4000] for text in part] == [text[:4000] for text in shown]
        assert "owned" not in page.title() and page.locator(".tensor script, .tensor iframe, .tensor style, .tensor pre a").count() == 0
    console.expect_refusals(404)
    page = console.open(f"jobs/{'<script>alert(1)</script>'.replace('<', '%3C').replace('/', '%2F')}")
    expect(page.locator(".problem")).to_contain_text("there is no job")


def test_routes_are_drawn_and_removed(console):
    house = console.house
    house.call("PUT", "/api/v1/routes/canary", {"weighted": [{"target": "digits", "percent": 90}, {"target": "digits/1", "percent": 10}]} )
    house.call("PUT", "/api/v1/routes/echo", {"direct": "identity_bytes"})
    page = console.open("routes")
    group = page.locator(".group", has_text="canary")
    expect(group.locator("svg path")).to_have_count(2)
    expect(group.locator("svg")).to_contain_text("90 %")
    console.picture("routes")
    for name in ["canary", "echo"]:
        group = page.locator(".group").filter(has=page.get_by_role("heading", name=name))
        group.get_by_role("button", name="Remove").click()
        page.get_by_role("dialog").locator("input").fill(name)
        page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        expect(group).to_have_count(0)
    assert house.call("GET", "/api/v1/routes")["routes"] == []


def test_a_periodic_task_is_explained_run_and_paused(console):
    page = console.open("periodic")
    group = page.locator(".group", has_text="nightly")
    expect(group).to_contain_text("Asia/Tehran")
    group.get_by_role("button", name="Run now").click()
    group.get_by_role("button", name="History").click()
    expect(group.locator("tbody tr").first).to_contain_text("succeeded")
    group.get_by_role("button", name="Pause").click()
    expect(group.locator(".state", has_text="paused")).to_be_visible()
    group.get_by_role("button", name="Resume").click()
    expect(group.locator(".state", has_text="paused")).to_have_count(0)


def test_workers_are_listed(console):
    page = console.open("workers")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("digits 1")


def test_webhooks_are_shown_and_delivered_again(console):
    got = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    house = console.house
    job = house.ended(house.predict("digits", DIGIT, webhook=f"http://127.0.0.1:{server.server_port}/told"))
    page = console.open("webhooks")
    row = page.locator("tbody tr", has_text=job["id"][:6])
    expect(row).to_contain_text("delivered")
    assert len(got) == 1
    row.get_by_role("button", name="Deliver again").click()
    deadline = threading.Event()
    for _ in range(300):
        if len(got) == 2:
            break
        deadline.wait(0.1)
    assert len(got) == 2 and got[0] == got[1]
    server.shutdown()


@pytest.mark.parametrize(
    "house, look", [("embedded", "light"), ("embedded", "phone"), ("redis", "dark"), ("redis", "persian")], indirect=["house"]
)
def test_axe_finds_nothing_on_any_page(house, browser, look):
    purge(house)
    dead_letter(house)
    house.call("PUT", "/api/v1/routes/other", {"direct": "digits"})
    done = house.ended(house.predict("digits", DIGIT))
    options = {"dark": {"color_scheme": "dark"}, "phone": {"viewport": {"width": 390, "height": 844}}, "persian": {"locale": "fa-IR"}}.get(look, {})
    seen = Console(house, browser, **options)
    for where in [*PAGES, f"jobs/{done['id']}"]:
        page = seen.open(where)
        # Its events keep a connection open: it is never idle.
        expect(page.get_by_text("Loading …").or_(page.get_by_text("در حال بارگیری …"))).to_have_count(0)
        assert seen.look() == [], where
        assert page.locator("html").get_attribute("dir") == ("rtl" if look == "persian" else "ltr")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{where} is wider than the window"
    if look != "light":
        seen.open("")
        if seen.takes_pictures:
            ask_for_a_while(house)
        seen.picture(look)
    seen.close()
    house.call("DELETE", "/api/v1/routes/other")
