"""Whatever a name, a label or an error holds is text."""

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request

import painted
from conftest import MARK, MODELS, STRANGE, Console
from playwright.sync_api import expect
from test_changes import HOSTILE
from test_jobs import tree
from test_pages import DIGIT, purge


def unharmed(page):
    assert page.title() not in ("owned", "stolen", "")
    assert page.locator("main img[src=x], main script, main iframe, main b, main td td").count() == 0


def test_an_error_that_repeats_hostile_words_is_text_wherever_it_is_shown(console):
    house = console.house
    purge(house)
    dead = house.ended(house.predict("hostile", {"inputs": [99]}, max_retries=0))
    assert dead["state"] == "dead" and MARK in dead["error"]["detail"], dead
    for where, place in [(f"jobs/{dead['id']}", "p.problem"), ("jobs?state=dead&model=hostile", "tbody"), ("dead", ".group"), ("models/hostile", "main")]:
        page = console.open(where)
        if where.startswith("models"):
            expect(page.get_by_role("heading", name="hostile", exact=True)).to_be_visible()
        else:
            expect(page.locator(place).filter(has_text=MARK).first).to_be_visible()
        unharmed(page)
    purge(house)


def test_steps_and_labels_of_hostile_names_are_text(console):
    house = console.house
    done = house.ended(house.predict("hostile", {"inputs": [1]}))
    assert done["state"] == "succeeded", done
    page = console.open(f"jobs/{done['id']}")
    expect(tree(page)).to_contain_text(MARK)
    unharmed(page)
    done = house.ended(house.predict("paints", {"inputs": [painted.coded([[painted.GREEN]])]}))
    page = console.open(f"jobs/{done['id']}")
    expect(page.locator(".found .bars")).to_contain_text(MARK)
    unharmed(page)


def test_models_and_queues_of_strange_names_are_text_and_can_be_used(console):
    house = console.house
    for name in STRANGE:
        shutil.copy(MODELS / "identity_uint8.onnx", house.models / f"{name}.onnx")
        house.call("POST", f"/v2/repository/models/{urllib.parse.quote(name, safe='')}/load", {})
    for name in STRANGE:
        part = urllib.parse.quote(name, safe="")
        done = house.ended(house.predict(part, {"inputs": [[7]]}))
        assert (done["state"], done["model"]) == ("succeeded", name), done
        for where in [f"models/{part}", f"try/{part}", f"jobs/{done['id']}", f"jobs?model={part}"]:
            page = console.open(where)
            expect(page.locator("main").get_by_text(name, exact=True).or_(page.locator("main h1")).first).to_be_visible()
            unharmed(page)
        page = console.open(f"models/{part}")
        expect(page.locator("h1")).to_have_text(name)
        expect(page.get_by_role("region", name="Takes").locator("tbody")).to_contain_text("UINT8")
        page = console.open(f"jobs?model={part}")
        expect(page.locator("tbody tr", has_text=done["id"][:6])).to_be_visible()
    for where in ["models", "queues", "workers", "", "try"]:
        page = console.open(where)
        expect(page.locator("main h1")).to_be_visible()
        unharmed(page)
    page = console.open("queues")
    shown = page.locator("tbody td:first-child a").evaluate_all("all => all.map(one => one.textContent)")
    assert set(STRANGE) <= set(shown), shown


def test_a_hundred_hostile_names_of_routes_are_text(console):
    house = console.house
    made = []
    for name in HOSTILE:
        request = urllib.request.Request(f"{house.url}/api/v1/routes/{urllib.parse.quote(name, safe='')}", data=b'{"direct": "digits"}', method="PUT")
        if house.keyed:
            request.add_header("authorization", f"Bearer {house.keys['admin']}")
        try:
            urllib.request.urlopen(request).close()
            made.append(name)
        except urllib.error.HTTPError as error:
            assert error.code in (400, 404), (name, error.code)
    assert len(made) > 50, made
    page = console.open("routes")
    expect(page.locator(".group")).to_have_count(len(made))
    shown = page.locator(".group h2 > bdi").evaluate_all("all => all.map(one => one.textContent)")
    assert sorted(shown) == sorted(made)
    unharmed(page)
    for name in made:
        house.call("DELETE", f"/api/v1/routes/{urllib.parse.quote(name, safe='')}")


def test_a_hundred_hostile_names_of_keys_are_text(house, browser):
    if not house.keyed:
        return
    made, refused = [], []
    for name in HOSTILE:
        body = json.dumps({"name": name, "scope": "read"}).encode()
        request = urllib.request.Request(f"{house.url}/api/v1/keys", data=body, method="POST")
        request.add_header("authorization", f"Bearer {house.keys['admin']}")
        try:
            with urllib.request.urlopen(request) as answer:
                made.append(json.loads(answer.read())["key"])
        except urllib.error.HTTPError as error:
            assert error.code in (400, 409), (name, error.code)
            refused.append(name)
    assert len(made) > 80, refused
    console = Console(house, browser)
    page = console.open("keys")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(len(house.call("GET", "/api/v1/keys")["keys"]))
    shown = page.locator("tbody td:first-child bdi").evaluate_all("all => all.map(one => one.textContent)")
    assert {key["name"] for key in made} <= set(shown)
    unharmed(page)
    # Who does something under such a name is in the audit by it.
    page = console.open("audit")
    expect(page.locator("tbody tr").first).to_be_visible()
    unharmed(page)
    console.close()
    for key in made:
        house.call("DELETE", f"/api/v1/keys/{key['id']}")


def test_a_hundred_hostile_errors_of_requests_are_text(console):
    """What is refused at the door is told on the page that asked."""
    page = console.open("try/identity_int64")
    console.expect_refusals(400)
    for text in HOSTILE[:20]:
        page.locator("textarea").fill(json.dumps([[text]]))
        page.get_by_role("button", name="Predict").click()
        expect(page.locator("section p.problem")).to_be_visible()
        unharmed(page)
    page = console.open(f"jobs?{urllib.parse.urlencode({'tag': HOSTILE[0], 'q': HOSTILE[1] + 'absent'})}")
    expect(page.locator("main")).to_contain_text("No job is like that.")
    unharmed(page)
    assert house_is_well(console.house)


def test_axe_and_a_phone_bear_strange_names(house, browser):
    seen = Console(house, browser, viewport={"width": 390, "height": 844})
    for where in ["", "queues", "jobs", "models", "try", "workers"]:
        page = seen.open(where)
        expect(page.get_by_text("Loading …")).to_have_count(0)
        assert seen.look() == [], where
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{where} is wider than the window"
    seen.close()


def house_is_well(house):
    return house.ended(house.predict("digits", DIGIT))["state"] == "succeeded"
