"""A server with real models for every test of the console, and a browser to look at it.

Two houses: `embedded` without keys, `redis` with them. A test that asks for `console` runs
in both.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import axe_playwright_python
import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "crates" / "nobat-worker" / "tests" / "models"
AXE = (pathlib.Path(axe_playwright_python.__path__[0]) / "axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]
PLAIN = ("fails_on_marked_row", "identity_bytes", "identity_int64", "two_by_two", "slow", "optional_input")
# A name that would be harm if it were more than text.
MARK = "<img src=x onerror=\"document.title='owned'\">"
# Models may be called so; a test loads them.
STRANGE = ["<img src=x onerror=document.title='owned'>", "a\u202eb", "'; DROP TABLE jobs; --", "{{7*7}}", "\"><b>", "سلام", "%2e%2e", "#?&=+"]
LIMIT_S = 60
# The slowest page asks again after ten seconds.
expect.set_options(timeout=30_000)
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
CONFIG = """
[gateway]
max_body_bytes = 134217728
[gateway.webhooks]
secrets = ["whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"]
[gateway.webhooks.addresses]
allow_http = true
allow_private = true
[scheduler]
enabled = true
[[scheduler.periodic]]
name = "nightly"
schedule = "30 2 * * *"
timezone = "Asia/Tehran"
predict = { model = "identity_int64", request = { inputs = [{ name = "x", datatype = "INT64", shape = [1, 1], data = [7] }] } }
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class House:
    """A server and what stands behind it."""

    def __init__(self, folder, redis, keyed):
        self.folder, self.redis, self.keyed = folder, redis, keyed
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.models = folder / "models"
        self.keys = {}
        self.processes = []
        lay_out(self.models)
        (folder / "nobat.toml").write_text(CONFIG)
        if keyed:
            for scope in ("admin", "read"):
                command = [os.environ["NOBAT_BIN"], "keys", "new", scope, "--scope", scope, "--keys", folder / "keys.toml"]
                made = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
                self.keys[scope] = re.search(r"nobat_\w+", made).group()
        if redis:
            self.redis_port = free_port()
            command = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
            self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            deadline = time.monotonic() + LIMIT_S
            while subprocess.run(["redis-cli", "-p", str(self.redis_port), "ping"], capture_output=True).returncode:
                assert time.monotonic() < deadline, "Redis did not start"
                time.sleep(0.05)
        self.server = None
        self.start()

    def start(self):
        command = [os.environ["NOBAT_BIN"], "serve", "--config", self.folder / "nobat.toml", "--models", self.models]
        command += ["--data", self.folder / "data", "--listen", f"127.0.0.1:{self.port}", "--grpc", "", "--metrics", ""]
        if self.keyed:
            command += ["--keys", self.folder / "keys.toml"]
        if self.redis:
            command += ["--redis", f"redis://127.0.0.1:{self.redis_port}"]
        log = open(self.folder / "server.log", "ab")
        self.server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=2).close()
                return
            except OSError:
                log.flush()
                tail = (self.folder / "server.log").read_text()[-2000:]
                assert self.server.poll() is None and time.monotonic() < deadline, f"the server did not start: {tail}"
                time.sleep(0.1)

    def kill(self):
        self.server.kill()
        self.server.wait(timeout=LIMIT_S)

    def stop(self):
        self.server.terminate()
        assert self.server.wait(timeout=LIMIT_S) == 0, "the server did not drain"
        for process in self.processes:
            process.terminate()
            process.wait(timeout=LIMIT_S)

    def call(self, method, path, body=None, key="admin"):
        """A call of the API; the answer as JSON."""
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        if self.keyed:
            request.add_header("authorization", f"Bearer {self.keys[key]}")
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
                text = answer.read()
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{method} {path}: {refused.code} {refused.read().decode()}") from None
        return json.loads(text) if text else None

    def predict(self, model, body, **query):
        text = "&".join(f"{name}={value}" for name, value in query.items())
        return self.call("POST", f"/api/v1/predict/{model}?{text}", body)

    def ended(self, job):
        """Waits for a job's end."""
        state = self.call("GET", f"/api/v1/jobs/{job['id']}?wait=30")
        assert state["finished_at"], state
        return state


def lay_out(folder):
    folder.mkdir()
    for name in PLAIN:
        shutil.copy(MODELS / f"{name}.onnx", folder)
    shutil.copytree(ROOT / "models" / "digits", folder / "digits")
    names = '", "'.join("zero one two three four five six seven eight nine".split())
    (folder / "digits" / "model.toml").write_text(f'[settings]\nclass_labels = {{ probabilities = ["{names}"] }}\n')
    for version, model in (("1", "identity_fp32"), ("2", "fixed_batch")):
        (folder / "versioned" / version).mkdir(parents=True)
        shutil.copy(MODELS / f"{model}.onnx", folder / "versioned" / version / "model.onnx")
    for name, task in {"finds": "detect", "paints": "segment", "names": "classify"}.items():
        shutil.copytree(ROOT / "tests" / "image_models" / task, folder / name)
    painted = json.loads((folder / "paints" / "config.json").read_text())
    painted["id2label"]["1"] = MARK
    (folder / "paints" / "config.json").write_text(json.dumps(painted))
    (folder / "digits-too").mkdir()
    (folder / "digits-too" / "model.toml").write_text('[[chain.steps]]\nmodel = "digits"\n')
    (folder / "hostile").mkdir()
    (folder / "hostile" / "model.toml").write_text(f"[[chain.steps]]\nname = {json.dumps(MARK)}\nmodel = \"fails_on_marked_row\"\n")
    (folder / "twice").mkdir()
    steps = [("first", "x", "between"), ("second", "between", "y")]
    chain = "".join(f'[[chain.steps]]\nname = "{name}"\nmodel = "identity_int64"\ninputs = {{ x = "{takes}" }}\noutputs = {{ y = "{gives}" }}\n' for name, takes, gives in steps)
    (folder / "twice" / "model.toml").write_text(chain)
    (folder / "versioned" / "model.toml").write_text('versions = "all"\nlabels = { stable = 1, canary = 2 }\n')


@pytest.fixture(scope="session", params=["embedded", "redis"])
def house(request, tmp_path_factory):
    is_redis = request.param == "redis"
    made = House(tmp_path_factory.mktemp(request.param), redis=is_redis, keyed=is_redis)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=os.environ["CHROMIUM"], args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class Console:
    """The console in one tab. What the page complains of fails the test."""

    def __init__(self, house, browser, key="admin", **options):
        self.house = house
        options = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options}
        self.context = browser.new_context(**options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        if folder := os.environ.get("NOBAT_PAGES"):
            self.context.route("**/console/**", lambda route: route.fulfill(path=pathlib.Path(folder) / route.request.url.split("/console/", 1)[1]))
        self.complaints = []
        self.expected = []
        self.foreign = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(LIMIT_S * 1000)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda asked: self.foreign.append(asked.url) if not asked.url.startswith((house.url, "data:", "blob:")) else None)
        self.key = key

    def _hear(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def expect_refusals(self, *statuses):
        """Chromium reports each refused request; these are part of the test."""
        self.expected += [f"status of {status}" for status in statuses]

    def open(self, where=""):
        self.page.goto(f"{self.house.url}/#/{where}")
        self.page.locator("main h1").wait_for()
        if self.house.keyed and self.key:
            self.sign_in()
        return self.page

    def sign_in(self):
        """Gives the page the key that it asks for, if it does, in whatever language."""
        field = self.page.locator("form.sign-in input")
        if field.count():
            field.fill(self.house.keys[self.key])
            self.page.locator("form.sign-in button").click()
            field.wait_for(state="detached")
            self.page.locator("main h1").wait_for()

    def look(self):
        """What axe finds that matters."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("rules => axe.run(document, { runOnly: rules })", RULES)
        return [(one["id"], one["impact"], [node["target"] for node in one["nodes"]][:3]) for one in found["violations"]]

    @property
    def takes_pictures(self):
        return "NOBAT_SCREENSHOTS" in os.environ

    def picture(self, name):
        if self.takes_pictures:
            self.page.screenshot(path=pathlib.Path(os.environ["NOBAT_SCREENSHOTS"]) / f"{name}.png")

    def close(self):
        self.context.close()
        left = [text for text in self.complaints if not any(part in text for part in self.expected)]
        assert not left, left
        assert not self.foreign, f"asked others: {self.foreign}"


@pytest.fixture
def console(house, browser):
    made = Console(house, browser)
    yield made
    made.close()
