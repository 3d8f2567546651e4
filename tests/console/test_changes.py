"""Finding jobs by their tags, changing many at once, keys, the log of changes, events."""

import contextlib
import http.server
import json
import re
import shutil
import threading
import urllib.parse

import wide
from conftest import ROOT, Console
from playwright.sync_api import expect
from test_pages import DIGIT, dead_letter, purge

# Texts that pages, stores and terminals have stumbled over.
HOSTILE = [
    "<script>document.title='stolen'</script>", "<img src=x onerror=alert(1)>", "'; DROP TABLE jobs; --", "{{7*7}}", "${7*7}", "%s%n",
    "../../etc/passwd", "javascript:alert(1)", "</td></tr></table>", "&lt;b&gt;", "a\u202eb", "\u200b", "سلام دنیا", "e\u0301", "😀" * 16,
    "null", "undefined", "NaN", "true", "0", "-1", "1e309", "0x7f", "[object Object]", "__proto__", "constructor", "*", "?", "#", "%00",
    "%2e%2e", "a b", " ", "a&b=c", "a+b", "a;b", "a,b", "a|b", "a\\b", '"', "'", "`", "^", "~", "=", "==", ":", "::", "{digits}:ready", "{}",
]
HOSTILE += [f"{mark}{number}" for number in range(25) for mark in ("<b>", "tag ")]


def enqueue(house, count, **query):
    made = [house.predict("digits", DIGIT, delay="1h", **query) for _ in range(count)]
    return [job["id"] for job in made]


def test_jobs_are_found_by_tag_and_cancelled_together(console):
    house = console.house
    tag = f"page-{'keyed' if house.keyed else 'open'}"
    ids = enqueue(house, 5, tag=tag)
    (other,) = enqueue(house, 1, tag="another")
    page = console.open(f"jobs?tag={tag}")
    expect(page.locator("table[aria-label], table").first.locator("tbody tr")).to_have_count(5)
    expect(page.locator("tbody tr", has_text=other[:6])).to_have_count(0)
    page.get_by_role("searchbox", name="find").fill(ids[0])
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text(ids[0])
    expect(page.locator(".facts")).to_contain_text(tag)
    page.locator(".facts .tag").click()
    assert f"tag={tag}" in page.url
    page.get_by_role("button", name="Cancel all found").click()
    sure = page.get_by_role("alertdialog")
    expect(sure).to_contain_text("Cancel what is found (jobs: 5)?")
    sure.get_by_role("button", name="Go on").click()
    row = page.get_by_role("region", name="Changes of many jobs").locator("tbody tr").first
    expect(row).to_contain_text("finished")
    expect(row).to_contain_text("5")
    console.picture("changes")
    for id in ids:
        assert house.call("GET", f"/api/v1/jobs/{id}")["state"] == "cancelled"
    assert house.call("GET", f"/api/v1/jobs/{other}")["state"] == "scheduled"
    house.call("POST", f"/api/v1/jobs/{other}/cancel")


def test_over_a_hundred_jobs_want_their_number_typed_in(console):
    house = console.house
    requests = [DIGIT] * 130
    house.call("POST", "/api/v1/predict/digits/many?tag=crowd&delay=1h", {"requests": requests})
    page = console.open("jobs?tag=crowd&state=scheduled")
    page.get_by_role("button", name="Cancel all found").click()
    sure = page.get_by_role("alertdialog")
    expect(sure).to_contain_text("Cancel what is found (jobs: 130)?")
    expect(sure.get_by_role("button", name="Go on")).to_be_disabled()
    sure.locator("input").fill("13")
    expect(sure.get_by_role("button", name="Go on")).to_be_disabled()
    sure.locator("input").fill("130")
    sure.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("region", name="Changes of many jobs").locator("tbody tr").first).to_contain_text("finished")
    expect(page.get_by_text("No job is like that.")).to_be_visible()


def test_a_hundred_hostile_tags_are_text(console):
    house = console.house
    assert len(HOSTILE) == 100
    tags = [tag for tag in HOSTILE if tag.strip() and len(tag.encode()) <= 64]
    for start in range(0, len(tags), 8):
        query = "&".join(f"tag={urllib.parse.quote(tag, safe='')}" for tag in tags[start : start + 8])
        house.call("POST", f"/api/v1/predict/digits?delay=1h&{query}", DIGIT)
    page = console.open("jobs?state=scheduled")
    for tag in tags:
        found = house.call("GET", f"/api/v1/jobs?state=scheduled&tag={urllib.parse.quote(tag, safe='')}")["jobs"]
        assert any(tag in job["tags"] for job in found), tag
    link = page.get_by_role("link", name="<script>document.title='stolen'</script>").first
    expect(link).to_be_visible()
    link.click()
    expect(page.get_by_label("tag", exact=True)).to_have_value("<script>document.title='stolen'</script>")
    assert page.title() != "stolen"
    assert page.locator("main img, main script").count() == 0
    house.call("POST", "/api/v1/jobs/operations?action=cancel&state=scheduled")


def test_keys_are_made_shown_once_and_revoked(house, browser):
    console = Console(house, browser)
    page = console.open("keys")
    if not house.keyed:
        expect(page.locator("main")).to_contain_text("asks for no keys")
        return console.close()
    form = page.get_by_role("region", name="Make a key")
    form.get_by_label("name").fill("visitor <b>")
    form.get_by_label("scope").select_option("read")
    form.get_by_role("button", name="Make").click()
    shown = page.get_by_role("region", name="The new key")
    secret = shown.locator("pre").inner_text()
    assert secret.startswith("nobat_")
    house.keys["visitor"] = secret
    assert house.call("GET", "/api/v1/models", key="visitor")["models"]
    shown.get_by_role("button", name="Hide it").click()
    page.reload()
    row = page.locator("tbody tr", has_text="visitor <b>")
    expect(row).to_contain_text("active")
    assert secret[20:] not in page.content()
    console.picture("keys")
    expect(page.locator("tbody tr", has_text="yours").get_by_role("button", name="Revoke")).to_have_count(0)
    row.get_by_role("button", name="Revoke").click()
    dialog = page.get_by_role("dialog")
    dialog.locator("input").fill("visitor <b>")
    dialog.get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    console.close()
    visitor = Console(house, browser, key=None)
    visitor.expect_refusals(401)
    visitor.page.goto(f"{house.url}/#/")
    visitor.page.get_by_label("API key").fill(secret)
    visitor.page.locator("form.sign-in button").click()
    expect(visitor.page.get_by_role("alert")).to_be_visible()
    visitor.close()


def test_the_audit_says_who_did_what(console):
    house = console.house
    page = console.open("queues")
    row = page.locator("tbody tr", has_text="two_by_two")
    row.get_by_role("button", name="Pause").click()
    expect(row.locator(".state", has_text="paused")).to_be_visible()
    house.call("POST", "/api/v1/queues/two_by_two/resume")
    page = console.open("audit")
    rows = page.locator("tbody tr", has_text="/api/v1/queues/two_by_two/")
    expect(rows.filter(has_text="pause").first).to_contain_text("console")
    expect(rows.filter(has_text="resume").first).to_contain_text("api")
    expect(rows.first).to_contain_text("admin" if house.keyed else "anybody")
    console.picture("audit")


def test_a_page_is_told_what_changes_and_asks_again_only_when_it_is_not(console):
    house = console.house
    asked = []
    console.page.on("request", lambda request: asked.append(request.url.removeprefix(house.url)))
    page = console.open("queues")
    row = page.locator("tbody tr", has_text="two_by_two")
    expect(row).to_be_visible()
    assert any(url.startswith("/api/v1/events") for url in asked)
    house.call("POST", "/api/v1/queues/two_by_two/pause")
    expect(row.locator(".state", has_text="paused")).to_be_visible()
    house.call("POST", "/api/v1/queues/two_by_two/resume")
    expect(row.locator(".state", has_text="paused")).to_have_count(0)
    # Two changes were told; whoever asked every two seconds would have asked as often as it took.
    assert sum(url == "/api/v1/queues" for url in asked) <= 3, asked
    page.get_by_role("button", name="Pause updates").click()
    house.call("POST", "/api/v1/queues/two_by_two/pause")
    page.wait_for_timeout(3000)
    expect(row.locator(".state", has_text="paused")).to_have_count(0)
    page.get_by_role("button", name="Go on").click()
    expect(row.locator(".state", has_text="paused")).to_be_visible()
    house.call("POST", "/api/v1/queues/two_by_two/resume")


def test_a_model_of_two_hundred_outputs_is_shown_whole(console):
    house = console.house
    (house.models / "wide.onnx").write_bytes(wide.model(200))
    house.call("POST", "/v2/repository/models/wide/load", {})
    job = house.ended(house.predict("wide", {"inputs": [[7.5]]}))
    assert job["state"] == "succeeded"
    page = console.open("models/wide")
    expect(page.get_by_role("region", name="Gives").locator("tbody tr")).to_have_count(200)
    page = console.open(f"jobs/{job['id']}")
    expect(page.locator(".tensor")).to_have_count(200)
    expect(page.locator(".tensor", has_text="out_199").locator("pre")).to_have_text("7.5")
    page = console.open("models")
    row = page.locator("tbody tr", has_text="wide")
    expect(row).to_be_visible()
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "a long signature does not widen the page"


def test_a_job_that_is_looked_at_says_what_becomes_of_it(console):
    house = console.house
    house.call("POST", "/api/v1/queues/digits/pause")
    job = house.predict("digits", DIGIT)
    page = console.open(f"jobs/{job['id']}")
    expect(page.locator(".facts .state")).to_contain_text("queued")
    house.call("POST", "/api/v1/queues/digits/resume")
    expect(page.locator(".facts .state")).to_contain_text("succeeded")
    expect(page.locator(".tensor", has_text="label").locator("pre")).to_have_text("7")


def test_dead_letters_that_a_filter_finds_are_retried_and_deleted_together(console):
    house = console.house
    purge(house)
    dead_letter(house, 3)
    queue = "/api/v1/queues/fails_on_marked_row"
    page = console.open("jobs?model=fails_on_marked_row&state=dead&error=invalid_tensor")
    rows = page.get_by_role("region", name="Jobs", exact=True).locator("tbody tr")
    expect(rows).to_have_count(3)
    house.call("POST", f"{queue}/pause")
    page.get_by_role("button", name="Retry all found").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Go on").click()
    changes = page.get_by_role("region", name="Changes of many jobs").locator("tbody tr")
    expect(changes.first).to_contain_text("finished")
    expect(page.get_by_text("No job is like that.")).to_be_visible()
    assert house.call("GET", queue)["queued"] == 3
    house.call("POST", f"{queue}/resume")
    expect(rows).to_have_count(3)
    before = changes.count()
    page.get_by_role("button", name="Delete all found").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Go on").click()
    expect(changes).to_have_count(before + 1)
    expect(page.get_by_text("No job is like that.")).to_be_visible()
    assert house.call("GET", queue)["dead"] == 0


def test_every_filter_of_jobs_narrows_and_stands_in_the_address(console):
    house = console.house
    purge(house)
    own = house.ended(house.predict("fails_on_marked_row", {"inputs": [99]}, max_retries=0, priority=7))
    other = house.ended(house.predict("fails_on_marked_row", {"inputs": [98]}, max_retries=0, priority=3))
    page = console.open("jobs?model=fails_on_marked_row")
    rows = page.get_by_role("region", name="Jobs", exact=True).locator("tbody tr")
    shown, hidden = rows.filter(has_text=own["id"][:6]), rows.filter(has_text=other["id"][:6])
    expect(hidden).to_be_visible()
    for label, value, kept in [("priority", "7", False), ("error code", "invalid_tensor", True), ("error code", "deadline_exceeded", None)] + ([("key id", own["owner"], True)] if house.keyed else []):
        field = page.get_by_label(label, exact=True)
        field.fill(value)
        field.press("Enter")
        expect(shown).to_have_count(0 if kept is None else 1)
        expect(hidden).to_have_count(1 if kept else 0)
        assert value in page.url
        page.get_by_role("button", name="All jobs").click()
        page.get_by_label("model").select_option("fails_on_marked_row")
    page.get_by_label("enqueued").select_option("5m")
    expect(shown).to_be_visible()
    assert "since=5m" in page.url
    page.reload()
    expect(page.get_by_label("enqueued")).to_have_value("5m")
    purge(house)


def test_a_key_gets_a_new_secret_and_the_old_one_stays_for_a_day(house, browser):
    console = Console(house, browser)
    page = console.open("keys")
    if not house.keyed:
        expect(page.get_by_role("button", name="New secret")).to_have_count(0)
        return console.close()
    made = house.call("POST", "/api/v1/keys", {"name": "turns", "scope": "read"})
    row = page.locator("tbody tr", has_text="turns")
    row.get_by_role("button", name="New secret").click()
    page.get_by_role("dialog").get_by_role("button", name="New secret").click()
    secret = page.get_by_role("region", name="The new key").locator("pre").inner_text()
    expect(row).to_contain_text("rotating")
    assert secret != made["secret"]
    for valid in (secret, made["secret"]):
        house.keys["turns"] = valid
        assert house.call("GET", "/api/v1/models", key="turns")["models"]
    console.close()
    house.call("DELETE", f"/api/v1/keys/{made['key']['id']}")


def test_a_canary_is_judged_before_it_is_promoted_or_rolled_back(console):
    house = console.house
    house.call("PUT", "/api/v1/routes/judged", {"weighted": [{"target": "digits", "percent": 90}, {"target": "digits-too", "percent": 10}]})
    page = console.open("routes")
    group = page.locator(".group", has_text="judged")
    for name in ("Promote", "Roll back"):
        group.get_by_role("button", name=name).click()
        page.get_by_role("dialog").get_by_role("button", name=name).click()
        # Nothing was seen of it yet: nothing changes, and the page says why.
        expect(group.locator(".act", has_text=name).get_by_role("status")).to_contain_text("undecided")
    shares = house.call("GET", "/api/v1/routes/judged")["weighted"]
    assert [share["percent"] for share in shares] == [90, 10]
    house.call("DELETE", "/api/v1/routes/judged")


@contextlib.contextmanager
def receiver(status):
    """Answers each webhook so; the bodies that came."""
    got = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/told", got
    server.shutdown()


def test_a_jobs_page_tells_of_its_webhooks(console):
    house = console.house
    with receiver(204) as (address, got):
        job = house.ended(house.predict("digits", DIGIT, webhook=address))
        page = console.open(f"jobs/{job['id']}")
        deliveries = page.get_by_role("region", name="Deliveries").locator("tbody tr")
        expect(deliveries).to_have_count(1)
        expect(deliveries).to_contain_text("delivered")
        assert len(got) == 1
    other = house.ended(house.predict("digits", DIGIT))
    page = console.open(f"jobs/{other['id']}")
    expect(page.locator(".timeline")).to_be_visible()
    expect(page.get_by_role("region", name="Deliveries")).to_have_count(0)


def test_an_endpoint_that_wants_no_more_is_enabled_again(console):
    house = console.house
    with receiver(410) as (address, _):
        house.ended(house.predict("digits", DIGIT, webhook=address))
        page = console.open("webhooks")
        told = page.locator("p.problem", has_text="answered 410").filter(has_text=address)
        expect(told).to_be_visible()
        told.get_by_role("button", name="Enable").click()
        expect(told).to_have_count(0)
        assert address not in house.call("GET", "/api/v1/webhooks/endpoints")["disabled"]


def test_workers_tell_their_memory_and_leases(console):
    page = console.open("workers")
    row = page.locator("tbody tr")
    expect(row).to_contain_text(re.compile(r"[1-9]\d* MiB"))
    worker = console.house.call("GET", "/api/v1/workers")["workers"][0]
    assert worker["resident_bytes"] > 10 << 20 and worker["leases"] >= 0


def test_a_change_at_work_is_stopped_and_leaves_the_rest_as_it_was(console):
    house = console.house
    # Some seconds' work.
    crowd = 60_000
    for _ in range(crowd // 2_000):
        house.call("POST", "/api/v1/predict/identity_int64/many?tag=endless&delay=1h", {"requests": [{"inputs": [[7]]}] * 2_000})
    page = console.open("jobs?tag=endless&state=scheduled")
    page.get_by_role("button", name="Cancel all found").click()
    sure = page.get_by_role("alertdialog")
    # More than are counted: it says so, and wants the number that it has typed in.
    expect(sure).to_contain_text("Cancel what is found (jobs: at least 10,000)?")
    expect(sure).to_contain_text("not counted to the end")
    sure.locator("input").fill("10000")
    # By the page itself, the moment that it can be: the change goes on meanwhile.
    page.evaluate("""() => {
        const isStop = (button) => button.textContent.trim() === "Stop";
        const watch = new MutationObserver(() => {
            const stop = [...document.querySelectorAll("tbody button")].find(isStop);
            if (stop) { watch.disconnect(); stop.click(); }
        });
        watch.observe(document.body, {childList: true, subtree: true});
    }""")
    sure.get_by_role("button", name="Go on").click()
    row = page.get_by_role("region", name="Changes of many jobs").locator("tbody tr", has_text="tag=endless").first
    expect(row.locator(".state")).to_contain_text("stopped")
    expect(row.get_by_role("button", name="Stop")).to_have_count(0)
    (stopped,) = [one for one in house.call("GET", "/api/v1/jobs/operations")["operations"] if "tag=endless" in one["filter"]]
    assert (stopped["state"], stopped["failed"]) == ("cancelled", 0) and 0 < stopped["done"] < crowd, stopped
    expect(row).to_contain_text(f"{stopped['done']:,}")
    console.picture("stopped")
    # It does not go on: what it had not come to waits as before.
    assert sum(one["scheduled"] for one in house.call("GET", "/api/v1/queues")["queues"] if one["model"] == "identity_int64") == crowd - stopped["done"]
    rest = house.call("POST", "/api/v1/jobs/operations?action=cancel&tag=endless")
    expect(page.get_by_role("region", name="Changes of many jobs").locator("tbody tr", has_text="tag=endless").first.locator(".state")).to_contain_text("finished", timeout=120_000)
    assert house.call("GET", f"/api/v1/jobs/operations/{rest['id']}")["done"] == crowd - stopped["done"]


def test_a_drift_is_told_and_watched_anew_once_it_is_acknowledged(console):
    house = console.house
    folder = house.models / "profiled"
    shutil.copytree(ROOT / "models" / "digits" / "1", folder / "1")
    classes = {str(digit): 100 for digit in range(10)}
    answer = {"output": "label", "reading": "class", "classes": classes, "without": 0, "rows": 1000}
    profile = {"model": "profiled", "version": "1", "rows": 1000, "inputs": [], "answers": [answer]}
    (folder / "profile.json").write_text(json.dumps(profile))
    house.call("POST", "/v2/repository/models/profiled/load", {})
    page = console.open("models/profiled")
    drift = page.locator("h3", has_text="Drift from the profile")
    expect(drift.locator(".state")).to_contain_text("as profiled")
    expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
    # Every row is a seven, and one in ten should be.
    for _ in range(300):
        house.call("POST", "/v1/models/profiled:predict", DIGIT)
    expect(drift.locator(".state")).to_contain_text("drifting")
    expect(page.locator("p.problem", has_text="in the profile")).to_contain_text("rows counted: 300")
    console.picture("drift")
    overview = console.open("")
    expect(overview.locator(".verdict")).to_contain_text("The rows of models are like their profiles")
    page = console.open("models/profiled")
    page.get_by_role("button", name="Acknowledge").click()
    expect(drift.locator(".state")).to_contain_text("as profiled")
    expect(page.get_by_text("rows counted: 0")).to_be_visible()
    expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
    assert house.call("GET", "/api/v1/models/profiled")["drift"][0]["state"] == "as_profiled"
    shutil.rmtree(folder)
    house.call("POST", "/v2/repository/models/profiled/unload", {})
    expect(console.open("").locator(".verdict")).to_contain_text("All 6 checks are good")
