"""The command line without a fabric: usage, help, errors, exit status."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from zserve.nodes import cli
from zserve.nodes.commands import node
from zserve.nodes.run_directory import RunDirectory

LIMIT_S = 20.0


def zserve(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the command line in this process."""
    runner = CliRunner()
    with runner.isolation(env=env) as (out, err, *_):
        status = cli.run(list(arguments))
        return status, out.getvalue().decode(), err.getvalue().decode()


def one_error(err: str) -> str:
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("zserve: error: ")
    return lines[0]


@pytest.mark.parametrize("command", [[], *[[name] for name in cli._COMMANDS], ["traffic", "set"], ["traffic", "show"]])
def test_help_teaches_with_an_example(command: list[str]) -> None:
    status, out, err = zserve(*command, "--help")
    assert (status, err) == (0, "")
    assert "Usage: zserve" in out
    if command not in (["traffic"], ["traffic", "show"]):
        assert f"  zserve {' '.join(command)}".rstrip() in out


def test_no_command_shows_the_help_and_is_bad_usage() -> None:
    status, _, err = zserve()
    assert status == 2
    assert "Commands:" in err


def test_version() -> None:
    assert zserve("--version") == (0, "zserve 0.1.0\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "no such command 'rnu'; the commands are: run, node"),
        (["run"], "missing argument 'MODULE[:NAME]'"),
        (["run", "hello.py"], "is a file; name its module: `zserve run hello`"),
        (["run", "examples/hello.py"], "`zserve run hello --app-dir examples`"),
        (["run", "1hello"], "is not MODULE or MODULE:NAME"),
        (["run", "hello", "--port", "70000"], "'--port'"),
        (["run", "hello", "--app-dir", "/nowhere"], "'/nowhere' does not exist"),
        (["run", "hello", "--log-level", "loud"], "'loud' is not one of"),
        (["run", "hello", "--prot", "1"], "no such option"),
        (["node"], "missing option '--role'"),
        (["node", "--role", "boss"], "'boss' is not one of"),
        (["node", "--role", "gateway"], "a gateway needs --join"),
        (["node", "--role", "worker"], "a worker needs --join"),
        (["node", "--role", "gateway", "--role", "worker"], "a gateway and a router can share a process"),
        (["node", "--role", "gateway", "--join", "127.0.0.1:1", "--slots", "2"], "--slots is for a worker"),
        (["node", "--role", "router", "--no-busy-poll"], "--busy-poll is for a gateway or a worker"),
        (["node", "--role", "router", "--http", ":80"], "--http is for a gateway"),
        (["node", "--role", "router", "--max-routers", "2"], "--max-routers is for a gateway or a worker"),
        (["node", "--role", "gateway", "--join", "127.0.0.1:1", "--app-dir", "."], "is for a worker or a router"),
        (["node", "--role", "worker", "--join", "127.0.0.1:1", "--queueing-policy", "a:B"], "is for a router, not"),
        (["node", "--role", "router", "--queueing-policy", "best"], "--queueing-policy must be one of random, round_"),
        (["run", "hello", "--queueing-policy", "my policy"], "or 'package.module:Class', not 'my policy'"),
        (["run", "hello", "--policy-kwargs", '{"limit": 1}'], "'limit' is unknown; policy 'random' takes none"),
        (["run", "hello", "--policy-kwargs", "[1]"], "'[1]' is not a JSON object"),
        (["run", "hello", "--policy-kwargs", "{limit"], "'{limit' is not JSON"),
        (["run", "hello", "--queueing-policy", "a:B", "--policy-kwargs", '{"x": NaN}'], "not {'x': nan}"),
        (["traffic", "set", "digits", "a=1", "--policy-kwargs", "1"], "'1' is not a JSON object"),
        (["node", "--role", "router", "--bind", "0.0.0.0:7700"], "allow it with --insecure"),
        (["node", "--role", "worker", "--join", "tcp://10.0.0.1:7700"], "allow it with --insecure"),
        (["node", "--role", "worker", "--join", "nonsense"], "they look like tcp://host:port"),
        (["node", "--role", "worker", "--join", "127.0.0.1:1", "--resource", "gpu"], "is not LABEL=AMOUNT"),
        (["node", "--role", "worker", "--join", "127.0.0.1:1", "--slots", "0"], "'--slots'"),
        (["traffic", "set", "digits"], "missing argument"),
        (["traffic", "set", "digits", "SVM"], "does not look like BACKEND=WEIGHT"),
        (["traffic", "set", "digits", "SVM=x"], "does not look like BACKEND=WEIGHT"),
        (["traffic", "set", "digits", "a=1", "a=0"], "a backend is named twice"),
        (["status", "--address", "nonsense"], "address must look like"),
        (["status", "--watch", "0"], "'--watch'"),
        (["deploy"], "missing argument 'FILE'"),
        (["deploy", "app.toml", "--json"], "--json does not ask: give --yes or --dry-run with it"),
        (["--config", "/nowhere.toml", "status"], "cannot read the settings file /nowhere.toml"),
    ],
)
def test_bad_usage_is_one_clear_line(arguments: list[str], message: str) -> None:
    status, out, err = zserve(*arguments)
    assert (status, out) == (2, "")
    assert message in one_error(err)
    assert "--help` explains" in err


@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "--json"], ["routes"], ["shutdown"], ["traffic", "set", "a", "b=1"]]
)
def test_without_a_fabric_on_this_machine(arguments: list[str]) -> None:
    status, out, err = zserve(*arguments)
    assert (status, out) == (1, "")
    assert "no fabric of yours runs on this machine; start one with `zserve run MODULE`" in one_error(err)


def test_several_fabrics_on_this_machine_are_listed() -> None:
    with RunDirectory("shop") as shop, RunDirectory("bank") as bank:
        shop.announce(address="ipc:///shop.sock", http="http://127.0.0.1:1")
        bank.announce(address="ipc:///bank.sock", http="http://127.0.0.1:2")
        status, _, err = zserve("status")
    assert status == 1
    assert "--address ipc:///shop.sock  shop  http://127.0.0.1:1" in err
    assert "--address ipc:///bank.sock  bank" in err


def test_an_address_where_no_router_is(tmp_path: Path) -> None:
    status, out, err = zserve("status", "--address", f"ipc://{tmp_path}/none.sock")
    assert (status, out) == (1, "")
    assert f"{tmp_path}/none.sock" in one_error(err)
    assert zserve("status", env={"ZSERVE_ADDRESS": f"ipc://{tmp_path}/none.sock"})[2] == err


def test_a_traceback_only_under_debug(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/none.sock"
    assert "Traceback" not in zserve("status", "--address", address)[2]
    assert "Traceback" in zserve("status", "--address", address, "--debug")[2]


def test_settings_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "zserve.toml"
    file.write_text(f'address = "ipc://{tmp_path}/none.sock"\n[node]\nrole = ["boss"]\n')
    assert f"{tmp_path}/none.sock" in one_error(zserve("--config", str(file), "status")[2])
    assert "'boss' is not one of" in one_error(zserve("--config", str(file), "node")[2])
    assert "'boss' is not one of" in one_error(zserve("node", env={"ZSERVE_CONFIG": str(file)})[2])


def test_settings_of_a_policy_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "zserve.toml"
    file.write_text("[run]\nqueueing_policy = 'fixed_packing'\npolicy_kwargs = { packing_num = 0 }\n")
    assert "packing_num must be a whole number from 1, not 0" in zserve("--config", str(file), "run", "hello")[2]
    env = {"ZSERVE_POLICY_KWARGS": '{"packing_num": -1}'}
    assert "packing_num must be a whole number from 1, not -1" in zserve(
        "--config", str(file), "run", "hello", env=env
    )[2]


@pytest.mark.parametrize("roles", [["gateway"], ["gateway", "router"], ["worker"]], ids="+".join)
@pytest.mark.parametrize("argument", ["--busy-poll", "--no-busy-poll"])
def test_who_may_poll(monkeypatch: pytest.MonkeyPatch, roles: list[str], argument: str) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(node, "run_role", lambda options: seen.append(options) or 0)
    line = [word for role in roles for word in ("--role", role)]
    assert zserve("node", *line, "--join", "tcp://127.0.0.1:1", argument)[0] == 0
    (options,) = seen
    assert getattr(options, "gateway", options).busy_poll == (argument == "--busy-poll")


# --- in a process of its own ------------------------------------------------------------------------------------------


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zserve", *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (None, "missing", ["there is no module 'missing' in ", "--app-dir"]),
        ("import no_such_thing\n", "app", ["cannot import app: ModuleNotFoundError: No module named 'no_such_thing'"]),
        ("def f(:\n", "app", ["cannot import app: SyntaxError", "line 1"]),
        ("def f():\n    return 1 / 0\nf()\n", "app", ["cannot import app: ZeroDivisionError", "line 2, in f"]),
        ("import sys\nsys.exit('no licence')\n", "app", ["importing app ended the program (exit 'no licence')"]),
        ("x = 1\n", "app", ["app declares nothing to serve; put @serve.route"]),
        ("x = 1\n", "app:y", ["app has no 'y'; `zserve run app`"]),
        ("def f(): pass\n", "app:f", ["app:f is not declared; put @serve.route"]),
    ],
)
def test_an_application_that_cannot_be_served_ends_with_3(
    tmp_path: Path, run_base: Path, source: str | None, target: str, expected: list[str]
) -> None:
    if source is not None:
        (tmp_path / "app.py").write_text(textwrap.dedent(source))
    done = run_command("run", target, "--app-dir", str(tmp_path), "--port", "0")
    assert done.returncode == 3, done.stderr
    for text in expected:
        assert text in done.stderr
    assert "importlib" not in done.stderr
    assert done.stderr.count("zserve: error:") == 1
    assert not run_base.exists()


def test_a_port_in_use_is_one_clear_error(tmp_path: Path, run_base: Path) -> None:
    (tmp_path / "app.py").write_text("import zserve as serve\n@serve.route('/x')\ndef x(): return 'x'\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("run", "app", "--app-dir", str(tmp_path), "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} on 127.0.0.1 is in use" in one_error(done.stderr)
    assert not run_base.exists()


def test_output_into_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "zserve", "--help"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S
        )
    finally:
        os.close(write)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_the_command_line_starts_fast() -> None:
    """`zserve run` must not import, before it starts the fabric, what only other commands need."""
    code = "import sys, zserve.nodes.cli, zserve.nodes.commands.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"zmq", "asyncio", "uvloop", "werkzeug", "uvicorn", "zserve.control", "orjson"}
