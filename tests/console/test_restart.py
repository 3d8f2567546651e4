"""A server that is killed and started again under an open page. After the other files: the
monitor goes on telling of the worker that was killed.
"""

from conftest import Console
from playwright.sync_api import expect


def test_a_server_that_restarts_is_said_to_be_away_and_comes_back(house, browser):
    console = Console(house, browser)
    console.expected += ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING", "status of 503", "status of 404", "ERR_SOCKET"]
    page = console.open("models")
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible()
    house.kill()
    expect(page.locator(".unreachable")).to_contain_text("cannot be reached")
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible()
    house.start()
    expect(page.locator(".unreachable")).to_have_text("", timeout=60_000)
    expect(page.locator("tbody tr", has_text="digits").first).to_be_visible(timeout=60_000)
    # What is told by events is told again, too.
    page = console.open("queues")
    house.call("POST", "/api/v1/queues/digits/pause")
    expect(page.locator("tbody tr", has_text="digits").locator(".state", has_text="paused")).to_be_visible(timeout=60_000)
    house.call("POST", "/api/v1/queues/digits/resume")
    console.close()
