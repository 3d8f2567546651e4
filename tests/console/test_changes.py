"""Finding jobs by their tags, changing many at once, keys, the log of changes, events."""

import urllib.parse

import wide
from conftest import Console
from playwright.sync_api import expect
from test_pages import DIGIT

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
    page.get_by_label("find").fill(ids[0])
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text(ids[0])
    expect(page.locator(".facts")).to_contain_text(tag)
    page.locator(".facts .tag").click()
    assert f"tag={tag}" in page.url
    page.get_by_role("button", name="Cancel all found").click()
    sure = page.get_by_role("alertdialog")
    expect(sure).to_contain_text("Cancel 5 jobs?")
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
    expect(sure).to_contain_text("Cancel 130 jobs?")
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
