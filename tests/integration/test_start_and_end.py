"""Starting and ending: what goes wrong is said in one line, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .fabric import APPS, Fabric, eventually
from .running import RunningApp

pytestmark = pytest.mark.integration

HELLO = """
import zserve as serve

@serve.route("/hello")
def hello():
    return "hello"
"""


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    (tmp_path / "hello_app.py").write_text(HELLO)
    return tmp_path


def zserve(*arguments: str, timeout_s: float = 40.0, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zserve", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **env},
        check=False,
    )


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("zserve: error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def processes_of(app: RunningApp) -> list[int]:
    """Every live process that knows the application's run directory."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc").exists() else ():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(app.run_base).encode() in environment and state != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing(app_dir: Path, number: int) -> None:
    with RunningApp("hello_app", app_dir) as app:
        assert httpx.get(app.url + "/hello").text == "hello"
        assert app.stop(number) == 0
        assert processes_of(app) == []
        assert app.leftovers() == []


def test_a_run_that_is_killed_leaves_no_process(app_dir: Path) -> None:
    with RunningApp("hello_app", app_dir) as app:
        assert httpx.get(app.url + "/hello").text == "hello"
        app.process.kill()
        app.process.wait(10)
        eventually(lambda: not processes_of(app), "all processes have ended")
        assert app.leftovers() == []


def test_a_run_that_is_interrupted_while_it_starts_leaves_nothing(app_dir: Path) -> None:
    (app_dir / "slow_app.py").write_text("import time\ntime.sleep(3)\n" + HELLO)
    app = RunningApp("slow_app", app_dir)
    try:
        eventually(lambda: list(app.run_base.iterdir()), "it has begun")
        app.process.send_signal(signal.SIGINT)
        app.process.wait(30)
        eventually(lambda: not processes_of(app), "all processes have ended")
        assert app.leftovers() == []
    finally:
        app.__exit__(None, None, None)


def test_a_second_ctrl_c_does_not_wait(app_dir: Path) -> None:
    (app_dir / "stuck_app.py").write_text(HELLO.replace('return "hello"', "import time; time.sleep(60)"))
    with RunningApp("stuck_app", app_dir) as app:
        client = socket.create_connection(tuple(app.url.removeprefix("http://").split(":")), timeout=5)  # type: ignore[arg-type]
        with client:
            client.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            app.process.send_signal(signal.SIGINT)
            eventually(lambda: "Ctrl-C again" in app.output(), "it says that it drains")
            begin = time.monotonic()
            app.process.send_signal(signal.SIGINT)
            app.process.wait(20)
            assert time.monotonic() - begin < 15
        eventually(lambda: not processes_of(app), "all processes have ended")


def test_a_module_that_does_not_exist(tmp_path: Path) -> None:
    done = zserve("run", "no_such_module_here", "--app-dir", str(tmp_path), "--port", "0")
    assert done.returncode == 3
    assert "no_such_module_here" in one_error(done)


def test_a_module_that_fails_on_import(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nraise RuntimeError('no database today')\n")
    done = zserve("run", "broken", "--app-dir", str(tmp_path), "--port", "0")
    assert done.returncode == 3
    assert "no database today" in done.stderr
    assert "broken.py" in done.stderr


def test_a_module_that_declares_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty_app.py").write_text("x = 1\n")
    done = zserve("run", "empty_app", "--app-dir", str(tmp_path), "--port", "0")
    assert done.returncode == 3
    assert "serve.route" in one_error(done)


def test_a_constructor_that_fails_is_shown_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "bad_model.py").write_text(
        "import zserve as serve\n"
        "@serve.route('/m')\n"
        "class Model:\n"
        "    def __init__(self):\n"
        "        raise FileNotFoundError('weights.bin')\n"
        "    def __call__(self, request):\n"
        "        return 'x'\n"
    )
    done = zserve("run", "bad_model", "--app-dir", str(tmp_path), "--port", "0")
    assert done.returncode == 3
    assert done.stderr.count("weights.bin'") == 1, "in the line of the code"
    assert done.stderr.count("FileNotFoundError: weights.bin") == 1
    assert done.stderr.count("in __init__") == 1


def test_a_port_in_use(app_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = zserve("run", "hello_app", "--app-dir", str(app_dir), "--port", str(port))
        assert done.returncode == 1
        assert str(port) in one_error(done)
        node = zserve("node", "--role", "gateway", "--http", f"127.0.0.1:{port}", "--join", "tcp://127.0.0.1:1")
        assert node.returncode == 1
        assert str(port) in one_error(node)


def test_a_router_address_in_use(fabric: Fabric) -> None:
    address = fabric.start("router", "--bind", "tcp://127.0.0.1:0").address
    done = zserve("node", "--role", "router", "--bind", address)
    assert done.returncode == 1
    assert address in one_error(done)


def test_an_unreachable_join(fabric: Fabric) -> None:
    for role in ("gateway", "worker"):
        done = zserve(
            "node", "--role", role, *(["--http", "127.0.0.1:0"] if role == "gateway" else []),
            "--join", "tcp://127.0.0.1:9", "--join-timeout", "1",
        )  # fmt: skip
        assert done.returncode == 1
        assert "tcp://127.0.0.1:9" in one_error(done)
    done = zserve("status", "--address", "tcp://127.0.0.1:9")
    assert done.returncode == 1
    assert "tcp://127.0.0.1:9" in one_error(done)


def test_a_node_that_comes_before_its_router_waits_for_it(fabric: Fabric) -> None:
    address = f"ipc://{fabric.folder}/later"
    gateway = fabric.start("gateway", "--join", address)
    assert httpx.get(gateway.http + "/-/readyz").status_code == 503
    early = httpx.get(gateway.http + "/hello")
    assert (early.status_code, early.headers["retry-after"]) == (503, "1"), "nobody has told it what there is"
    fabric.start("worker", "--join", address)
    fabric.start("router", "--bind", address)
    fabric.serve("hello", "app_basic:hello")
    # A write waits for the nodes that have joined by then, and this gateway may still be about to.
    eventually(lambda: httpx.get(gateway.http + "/hello").text == "hello", "it serves")
    eventually(lambda: httpx.get(gateway.http + "/-/readyz").status_code == 200, "ready")


def test_tcp_beyond_loopback_needs_an_explicit_word() -> None:
    done = zserve("node", "--role", "router", "--bind", "tcp://0.0.0.0:0")
    assert done.returncode == 2
    assert "--insecure" in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # the router may have it open still


def test_a_full_disk_is_said_once_and_serving_goes_on(fabric: Fabric, small_disk: Path) -> None:
    router = fabric.start("router", "--state-dir", str(small_disk / "state"))
    fabric.start("gateway")
    fabric.start("worker")
    fabric.serve("hello", "app_basic:hello")
    _fill(small_disk)
    for number in range(20):
        fabric.call(
            "create_endpoint", name=f"e{number}", route=f"/e{number}/{'x' * 1000}", methods=["GET"], backend="hello"
        )
    eventually(lambda: "serving goes on from memory" in router.log.read_text(), "the error is logged")
    assert httpx.get(fabric.gateways[0].http + "/hello").text == "hello"
    assert len(fabric.call("list_endpoints")) == 21
    assert router.log.read_text().count("serving goes on from memory") == 1
    (small_disk / "ballast").unlink()
    eventually(lambda: "saved again" in router.log.read_text(), "it recovers by itself")


def _fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def test_a_state_dir_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = zserve("node", "--role", "router", "--bind", "tcp://127.0.0.1:0", "--state-dir", str(tmp_path / "file"))
    assert done.returncode in (1, 2)
    assert "file" in done.stderr


def test_a_router_that_starts_again_has_what_it_was_told(fabric: Fabric, tmp_path: Path) -> None:
    address = f"ipc://{fabric.folder}/kept"
    router = fabric.start("router", "--bind", address, "--state-dir", str(tmp_path / "state"))
    fabric.call("create_backend", name="hello", code="app_basic:hello", version="1")
    fabric.call("create_endpoint", name="hello", route="/hello", methods=["GET"], backend="hello")
    eventually(lambda: router.stop(signal.SIGTERM) == 0, "stopped")
    fabric.routers.clear()
    fabric.start("router", "--bind", address, "--state-dir", str(tmp_path / "state"))
    assert fabric.call("list_endpoints")["hello"]["route"] == "/hello"


def test_what_the_workers_can_not_import_is_reported(fabric: Fabric) -> None:
    fabric.start("router")
    fabric.start("worker")
    fabric.call("create_backend", name="gone", code="no_such_module:f", version="1")
    with pytest.raises(Exception, match="no_such_module"):
        fabric.call("wait_backend", name="gone", timeout_s=20.0)
    assert (APPS / "app_basic.py").exists()
