"""`nobat top` in a real terminal: what it shows, and that it gives the terminal back."""

import os
import pty
import re
import select
import signal
import subprocess
import time

LEAVES = b"\x1b[?1049l"


class Terminal:
    """A pseudo-terminal of 120 by 40 with a program in it."""

    def __init__(self, house, *args):
        self.seen = b""
        environment = {**os.environ, "TERM": "xterm-256color", "NOBAT_URL": house.url, "COLUMNS": "120", "LINES": "40"}
        if house.keyed:
            environment["NOBAT_API_KEY"] = house.keys["admin"]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(os.environ["NOBAT_BIN"], [os.environ["NOBAT_BIN"], "top", *args], environment)
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def until(self, wanted, limit=60):
        deadline = time.monotonic() + limit
        while wanted not in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", self.seen) and wanted not in self.seen:
            assert time.monotonic() < deadline, f"no {wanted} in {self.seen[-2000:]}"
            ready, _, _ = select.select([self.fd], [], [], 0.2)
            if ready:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError:
                    break
        return self

    def end(self):
        """Its exit status once all that it wrote is read."""
        deadline = time.monotonic() + 30
        while True:
            ready, _, _ = select.select([self.fd], [], [], 0.2)
            if ready:
                try:
                    self.seen += os.read(self.fd, 65536)
                    continue
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, "it does not end"


def test_top_shows_the_queues_and_gives_the_terminal_back(house):
    for leave in (lambda top: os.write(top.fd, b"q"), lambda top: os.kill(top.pid, signal.SIGTERM), lambda top: os.write(top.fd, b"\x03")):
        top = Terminal(house)
        top.until(b"QUEUE").until(b"digits").until(b"WORKER")
        leave(top)
        assert top.end() == 0
        assert LEAVES in top.seen, "the terminal is as it was"


def test_top_is_plain_text_where_there_is_no_terminal(house):
    environment = {**os.environ, "NOBAT_URL": house.url}
    if house.keyed:
        environment["NOBAT_API_KEY"] = house.keys["admin"]
    shown = subprocess.run([os.environ["NOBAT_BIN"], "top"], env=environment, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "digits" in shown.stdout and "QUEUE" in shown.stdout and "\x1b" not in shown.stdout
    environment["NOBAT_URL"] = "http://127.0.0.1:1"
    away = subprocess.run([os.environ["NOBAT_BIN"], "top", "--once"], env=environment, capture_output=True, text=True, timeout=60)
    assert away.returncode == 1 and "cannot be reached" in away.stderr
