"""Swagger UI in a real browser: "Execute" on the filled-in example answers.

Run through `scripts/check_swagger_ui`; NOBAT_SCREENSHOTS names a folder to
keep pictures in.
"""

import base64
import itertools
import json
import os
import pathlib
import subprocess
import time
import urllib.request

import pytest
import websocket

LIMIT_S = 60


class Page:
    """A page of a headless browser, over the DevTools protocol."""

    def __init__(self, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=LIMIT_S) as answer:
            (address,) = [tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page"]
        self.socket = websocket.create_connection(address, timeout=LIMIT_S, suppress_origin=True)
        self.ids = itertools.count(1)

    def call(self, method, **params):
        call = next(self.ids)
        self.socket.send(json.dumps({"id": call, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == call:
                assert "error" not in message, message
                return message["result"]

    def value(self, script):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script):
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            if found := self.value(script):
                return found
            time.sleep(0.1)
        raise AssertionError(f"never: {script}; the page shows {self.value('document.body.innerText')[:500]}")

    def picture(self, name):
        if folder := os.environ.get("NOBAT_SCREENSHOTS"):
            data = self.call("Page.captureScreenshot", format="png")["data"]
            (pathlib.Path(folder) / f"{name}.png").write_bytes(base64.b64decode(data))


@pytest.fixture
def page(tmp_path):
    command = [os.environ["CHROMIUM"], "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1600"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={tmp_path}", "about:blank"]
    browser = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in browser.stderr:
            if line.startswith("DevTools listening on "):
                break
        else:
            raise RuntimeError("the browser did not start")
        yield Page(line.split("127.0.0.1:")[1].split("/")[0])
    finally:
        browser.terminate()
        browser.wait(timeout=LIMIT_S)


@pytest.mark.parametrize(
    "tag, operation, status, said",
    [
        ("predict", "predict", "202", '"state": "queued"'),
        ("tensorflow-serving", "tf_predict", "200", '"label": 7'),
        ("open-inference-protocol", "v2_infer", "200", '"model_name": "digits"'),
    ],
)
def test_execute_on_the_filled_in_example_answers(server, page, tag, operation, status, said):
    page.call("Page.navigate", url=f"{server.url}/docs/#/{tag}/{operation}")
    block = f"document.querySelector('#operations-{tag}-{operation}')"
    page.wait(f"!!{block}?.querySelector('button.execute')")
    page.value(f"{block}.querySelector('button.execute').click()")
    answered = f"{block}?.querySelector('.live-responses-table tr.response .response-col_status')?.innerText"
    assert page.wait(answered).split()[0] == status
    shown = page.value(f"{block}.querySelector('.live-responses-table').innerText")
    page.value(f"{block}.querySelector('.live-responses-table').scrollIntoView()")
    page.picture(operation)
    assert said in shown, shown
