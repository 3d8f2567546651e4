"""`nobat serve` over a folder of models, on free ports, ended with the tests."""

import json
import os
import pathlib
import re
import subprocess
import threading
import time
import urllib.request

START_LIMIT_S = 900
SETTLED_S = 30


class Server:
    """Use it in `with`. `settings` are environment variables of the server."""

    def __init__(self, models, folder, settings):
        self.models, self.folder, self.settings = pathlib.Path(models), pathlib.Path(folder), settings

    def __enter__(self):
        command = [os.environ["NOBAT_BIN"], "serve", "--models", self.models, "--data", self.folder / "data"]
        command += ["--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", ""]
        self.log = open(self.folder / "server.log", "wb")
        started = time.monotonic()
        environment = {**os.environ, **self.settings}
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        watchdog = threading.Timer(START_LIMIT_S, self.process.kill)
        watchdog.start()
        welcome = ""
        for line in self.process.stdout:
            welcome += line
            found = dict(re.findall(r"^  (http|grpc)\s+(?:http://)?(\S+)", welcome, re.MULTILINE))
            if len(found) == 2:
                break
        else:
            watchdog.cancel()
            self.process.wait()
            raise RuntimeError(f"the server did not start: {welcome}\n{self.read_log()[-2000:]}")
        watchdog.cancel()
        # What it still prints goes nowhere, but is read.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.http, self.grpc = found["http"], found["grpc"]
        self.loaded_s = time.monotonic() - started
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError("the server did not drain within 60 s") from None
        self.log.close()
        if code != 0:
            raise RuntimeError(f"the server ended with {code}: {self.read_log()[-2000:]}")

    def read_log(self):
        return (self.folder / "server.log").read_text(errors="replace")

    def index(self):
        """State and reason of each model."""
        request = urllib.request.Request(f"http://{self.http}/v2/repository/index", b"{}", method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return {model["name"]: (model.get("state"), model.get("reason", "")) for model in json.load(answer)}

    def settled(self):
        """The index, once no model is on its way: a gateway hears of them a moment after they load."""
        until = time.monotonic() + SETTLED_S
        while True:
            index = self.index()
            if all(state != "LOADING" for state, _ in index.values()) or time.monotonic() > until:
                return index
            time.sleep(0.2)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=60) as answer:
            return json.load(answer)
