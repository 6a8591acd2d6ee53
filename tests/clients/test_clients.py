"""Real HTTP clients against a real fabric: what they send is understood, and they understand what comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ..integration.fabric import eventually
from ..integration.running import RunningApp
from .browser import Browser

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with RunningApp("app_clients", Path(__file__).parent) as app:
        yield app.url


def program(*names: str) -> str:
    """The first of these programs that is there; without any, the test is skipped."""
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip(f"{names[0]} is not installed here")


def output(*command: str, status: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


# --- Python -----------------------------------------------------------------------------------------------------------


def test_requests(url: str) -> None:
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        assert session.get(f"{url}/hello", params={"name": "Grüße"}, timeout=20).text == "hello Grüße"
        assert session.post(f"{url}/echo", json={"a": 1}, timeout=20).json()["json"] == {"a": 1}
        sent = session.post(f"{url}/upload", files={"file": ("ä.txt", b"content")}, timeout=20).json()
        assert sent == {"file": "content", "name": "ä.txt"}
        chunked = session.post(f"{url}/echo", data=(b"x" * 1000 for _ in range(100)), timeout=20).json()
        assert chunked["size"] == 100_000
        with session.get(f"{url}/lines", stream=True, timeout=20) as answer:
            assert list(answer.iter_lines()) == [f"line {number}".encode() for number in range(1000)]
        assert [session.get(f"{url}/cookies", timeout=20).text for _ in range(2)] == ["had none", "had yes"]
        assert session.get(f"{url}/fails", timeout=20).status_code == 500
        assert session.head(f"{url}/hello", timeout=20).headers["content-length"] == "11"
        assert session.options(f"{url}/hello", timeout=20).status_code in (200, 204, 405)


def test_urllib3(url: str) -> None:
    urllib3 = pytest.importorskip("urllib3")
    with urllib3.PoolManager(maxsize=1) as pool:
        for _ in range(5):
            assert pool.request("GET", f"{url}/hello").data == b"hello world"
        assert pool.connection_from_url(url).num_connections == 1, "the connection is kept"


def test_httpx(url: str) -> None:
    async def ask() -> list[int]:
        import asyncio

        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            return [one.status_code for one in await asyncio.gather(*[client.get("/hello") for _ in range(50)])]

    import asyncio

    assert asyncio.run(ask()) == [200] * 50


# --- curl -------------------------------------------------------------------------------------------------------------


def test_curl(url: str, tmp_path: Path) -> None:
    curl = program("curl")
    assert output(curl, "-s", f"{url}/hello?name=you") == "hello you"
    assert output(curl, "-s", "--http1.0", f"{url}/hello") == "hello world"
    assert output(curl, "-s", "--http1.0", f"{url}/lines").endswith("line 999\n")
    head = output(curl, "-sI", f"{url}/hello").lower()
    assert head.startswith("http/1.1 200")
    assert "content-length: 11" in head
    large = tmp_path / "large"
    large.write_bytes(b"x" * 5_000_000)
    # A body of more than 1 MB: curl sends "Expect: 100-continue" and waits for the word.
    sent = json.loads(output(curl, "-s", "--data-binary", f"@{large}", f"{url}/echo"))
    assert sent["size"] == 5_000_000
    small = tmp_path / "small.txt"
    small.write_text("small")
    assert json.loads(output(curl, "-s", "-F", f"file=@{small}", f"{url}/upload")) == {
        "file": "small",
        "name": "small.txt",
    }
    form = "%{http_code} %{num_connects}\n"
    codes = output(curl, "-s", "-w", form, f"{url}/hello", f"{url}/nowhere", "-o", os.devnull, "-o", os.devnull)
    assert codes == "200 1\n404 0\n", "both over one connection"


def test_curl_reads_server_sent_events(url: str) -> None:
    curl = program("curl")
    # 28: the time is over; the stream would go on for a minute.
    said = output(curl, "-sN", "--max-time", "3", f"{url}/events", status=28)
    assert said == "".join(f"id: {number}\ndata: tick {number}\n\n" for number in range(3))


# --- JavaScript -------------------------------------------------------------------------------------------------------

NODE = """
const url = process.argv[1];
(async () => {
  const hello = await (await fetch(url + "/hello?name=node")).text();
  const post = await (await fetch(url + "/echo", {method: "POST", body: JSON.stringify([1]),
                                                  headers: {"content-type": "application/json"}})).json();
  let lines = 0;
  for await (const chunk of (await fetch(url + "/lines")).body)
    lines += Buffer.from(chunk).toString().split("\\n").length - 1;
  const form = new FormData();
  form.append("file", new Blob(["blob"]), "b.txt");
  const upload = await (await fetch(url + "/upload", {method: "POST", body: form})).json();
  const leave = new AbortController();
  let event = "";
  for await (const chunk of (await fetch(url + "/events", {signal: leave.signal})).body) {
    event += Buffer.from(chunk).toString();
    if (event.includes("tick 2")) break;
  }
  leave.abort();
  const missing = (await fetch(url + "/nowhere")).status;
  console.log(JSON.stringify([hello, post.json, lines, upload.file, event.split("\\n").length, missing]));
  process.exit(0);
})().catch(error => { console.error(error); process.exit(1); });
"""


def test_node_fetch(url: str) -> None:
    node = program("node", "nodejs")
    major = int(output(node, "--version").strip().lstrip("v").partition(".")[0])
    if major < 18:
        pytest.skip(f"node {major} has no fetch")
    assert json.loads(output(node, "-e", NODE, url)) == ["hello node", [1], 1000, "blob", 10, 404]


def test_a_browser(url: str, tmp_path: Path) -> None:
    """EventSource, fetch and FormData."""
    with Browser(tmp_path) as browser:
        browser.open(f"{url}/page")
        got = ["0=tick 0", "1=tick 1", "2=tick 2"]
        assert eventually(lambda: httpx.get(f"{url}/report", timeout=20).json(), "it reports what it got", 60.0) == [
            json.dumps({"got": got}, separators=(",", ":")) + " from the browser"
        ]
