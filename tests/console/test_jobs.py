"""A job's page: what it is made of, what was found on its picture, tensors too large for a page."""

import json
import re
import struct
import urllib.request

import painted
from playwright.sync_api import expect
from test_pages import DIGIT

# Under the default of `gateway.max_body_bytes` a tensor has at most 64 MiB.
LARGE = 100 << 20
FLOATS = LARGE // 4


def tree(page):
    return page.get_by_role("list", name="What it is made of").first


def test_a_chains_steps_are_told_with_their_batches_and_times(console):
    house = console.house
    done = house.ended(house.predict("twice", {"inputs": [[1, 2]]}))
    page = console.open(f"jobs/{done['id']}")
    expect(tree(page).locator("> li")).to_have_count(2)
    expect(tree(page).locator("> li").first).to_contain_text("first")
    expect(tree(page).locator("> li").last).to_contain_text("second")
    expect(tree(page).locator("> li").last).to_contain_text(re.compile(r"waited .*ran .*in a 1-row batch"))
    # Steps of a chain on one worker are no jobs of their own.
    assert tree(page).locator("a, details").count() == 0
    console.picture("chain")


def test_a_routes_children_are_a_tree_that_is_walked_both_ways(console):
    house = console.house
    house.call("PUT", "/api/v1/routes/both", {"fanout": {"targets": ["twice", "identity_int64"], "join": "all"}})
    done = house.ended(house.predict("both", {"inputs": [[1, 2]]}))
    assert done["state"] == "succeeded", done
    page = console.open(f"jobs/{done['id']}")
    branches = tree(page).locator("> li")
    expect(branches).to_have_count(2)
    expect(branches.first).to_contain_text("twice")
    expect(branches.first.locator(".state")).to_contain_text("succeeded")
    branches.first.locator("summary").click()
    expect(branches.first.locator("ul li")).to_have_count(2)
    expect(branches.first.locator("ul")).to_contain_text("second")
    console.picture("tree")
    assert console.look() == []
    branches.first.locator("a").click()
    expect(page.locator("h1")).not_to_contain_text(done["id"])
    page.locator(".facts", has_text="made for").get_by_role("link", name=done["id"]).click()
    expect(page.locator("h1")).to_contain_text(done["id"])
    house.call("DELETE", "/api/v1/routes/both")


def test_a_route_at_work_and_one_that_died_show_their_children(console):
    house = console.house
    house.call("PUT", "/api/v1/routes/marked", {"fanout": {"targets": ["fails_on_marked_row", "hostile"], "join": "first"}})
    dead = house.ended(house.predict("marked", {"inputs": [99]}, max_retries=0))
    assert dead["state"] == "dead"
    page = console.open(f"jobs/{dead['id']}")
    branches = tree(page).locator("> li")
    expect(branches).to_have_count(2)
    expect(branches.locator(".branch .state", has_text="dead")).to_have_count(2)
    expect(branches.first).to_contain_text("invalid_tensor")
    house.call("DELETE", "/api/v1/routes/marked")
    house.call("PUT", "/api/v1/routes/waits", {"fanout": {"targets": ["digits", "digits-too"], "join": "all"}})
    house.call("POST", "/api/v1/queues/digits/pause")
    job = house.predict("waits", DIGIT)
    page = console.open(f"jobs/{job['id']}")
    waiting = tree(page).locator("> li").filter(has=page.get_by_text("digits", exact=True))
    expect(waiting.locator(".state")).to_contain_text("queued")
    house.call("POST", "/api/v1/queues/digits/resume")
    expect(page.locator(".facts .state")).to_contain_text("succeeded")
    expect(waiting.locator(".state")).to_contain_text("succeeded")
    house.call("DELETE", "/api/v1/routes/waits")


# The colour of a canvas at a share of its width and height.
PIXEL = """(canvas, [x, y]) => [...canvas.getContext("2d").getImageData(Math.round(x * (canvas.width - 1)), Math.round(y * (canvas.height - 1)), 1, 1).data]"""


def at(canvas, x, y):
    return canvas.evaluate(PIXEL, [x, y])[:3]


def drawn(canvas, x, y, colour):
    """Waits until a picture is there: it is decoded beside the page."""
    canvas.page.wait_for_function(f"([canvas, at, colour]) => ({PIXEL})(canvas, at).slice(0, 3).every((value, channel) => Math.abs(value - colour[channel]) < 12)", arg=[canvas.element_handle(), [x, y], list(colour)])


def test_boxes_are_drawn_on_the_picture_that_was_sent(console):
    page = console.open("try/finds")
    file = {"name": "cells.png", "mimeType": "image/png", "buffer": painted.png(painted.CELLS)}
    page.get_by_label("From a file").set_input_files(file)
    page.get_by_role("button", name="Predict").click()
    canvas = page.locator(".found canvas")
    expect(canvas).to_have_attribute("aria-label", re.compile(r"(red|green) \d+ %, (red|green) \d+ %"))
    # Inside the red cell, between its edges, and the grey beside it.
    drawn(canvas, 0.38, 0.40, painted.RED)
    drawn(canvas, 0.9, 0.9, painted.GREY)
    edges = [at(canvas, 0.25, 0.45), at(canvas, 0.25, 0.47)]
    assert edges[0] not in ([128, 128, 128], [255, 0, 0]), edges
    page.get_by_role("button", name="Without marks").click()
    drawn(canvas, 0.24, 0.45, painted.GREY)
    expect(page.locator(".found .bars tr")).to_have_count(2)
    # The job's page still has the picture that was sent from here, and another page has none.
    page.get_by_role("button", name="Enqueue as a job").click()
    page.wait_for_url(re.compile("/jobs/"))
    drawn(page.locator(".found canvas"), 0.38, 0.40, painted.RED)
    console.picture("boxes")
    page.reload()
    canvas = page.locator(".found canvas")
    drawn(canvas, 0.05, 0.05, (0x20, 0x26, 0x2B))
    page.get_by_label("Show it on a picture of yours").set_input_files(file)
    drawn(canvas, 0.38, 0.40, painted.RED)
    assert console.look() == []


def test_the_input_of_a_job_that_waits_is_shown_as_the_picture_that_it_is(console):
    house = console.house
    job = house.predict("finds", {"inputs": [painted.coded()]}, delay="1h")
    page = console.open(f"jobs/{job['id']}")
    page.get_by_role("button", name="Show the input").click()
    image = page.get_by_role("img", name="A picture of the input")
    expect(image).to_be_visible()
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [64, 64]
    house.call("POST", f"/api/v1/jobs/{job['id']}/cancel")


def test_masks_are_laid_over_the_picture(console):
    house = console.house
    done = house.ended(house.predict("paints", {"inputs": [painted.coded([[painted.RED, painted.BLUE]] * 2)]}))
    assert done["state"] == "succeeded", done
    page = console.open(f"jobs/{done['id']}")
    canvas = page.locator(".found canvas")
    # Over nothing, each class has a colour of its own; over a picture half of it.
    page.wait_for_function("canvas => canvas.width === 320", arg=canvas.element_handle())
    left, right = at(canvas, 0.1, 0.5), at(canvas, 0.9, 0.5)
    assert left != right
    expect(page.locator(".found .bars")).to_contain_text("Share of the picture")
    expect(page.locator(".found .bars tr").first).to_contain_text(re.compile("red|blue"))
    file = {"name": "cells.png", "mimeType": "image/png", "buffer": painted.png([[painted.RED, painted.BLUE]] * 2)}
    page.get_by_label("Show it on a picture of yours").set_input_files(file)
    page.wait_for_function(f"([canvas, before]) => JSON.stringify(({PIXEL})(canvas, [0.1, 0.5]).slice(0, 3)) !== before", arg=[canvas.element_handle(), json.dumps(left, separators=(",", ":"))])
    console.picture("mask")


def test_labels_of_a_job_that_is_over_are_bars(console):
    house = console.house
    done = house.ended(house.predict("names", {"inputs": [painted.coded()]}))
    assert done["state"] == "succeeded", done
    page = console.open(f"jobs/{done['id']}")
    expect(page.get_by_role("region", name="What was found").locator("meter")).to_have_count(5)
    assert page.locator(".found canvas").count() == 0


def test_a_tensor_of_a_hundred_megabytes_is_a_preview_with_its_size_and_a_file(console, tmp_path):
    house = console.house
    head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, FLOATS], "parameters": {"binary_data_size": LARGE}}]}).encode()
    body = head + struct.pack("<f", 1.5) * FLOATS
    request = urllib.request.Request(f"{house.url}/api/v1/predict/versioned?version=1", data=body, method="POST")
    request.add_header("inference-header-content-length", str(len(head)))
    request.add_header("content-type", "application/octet-stream")
    if house.keyed:
        request.add_header("authorization", f"Bearer {house.keys['admin']}")
    with urllib.request.urlopen(request, timeout=120) as answer:
        job = json.loads(answer.read())
    done = house.ended(job)
    assert done["state"] == "succeeded", done
    page = console.open(f"jobs/{done['id']}")
    tensor = page.locator(".tensor", has_text="y")
    expect(tensor).to_contain_text(f"64 of {FLOATS:,} values · 100 MiB")
    expect(tensor.locator("pre")).to_contain_text("1.5  1.5")
    with page.expect_download() as coming:
        tensor.get_by_role("link", name="Download").click()
    file = tmp_path / "y.npy"
    coming.value.save_as(file)
    assert coming.value.suggested_filename == "y.npy"
    raw = file.read_bytes()
    assert raw.startswith(b"\x93NUMPY") and f"'shape': (1, {FLOATS},)".encode() in raw[:128]
    assert len(raw) % 64 == 0 and len(raw) - LARGE <= 128 and raw[-4:] == struct.pack("<f", 1.5)
