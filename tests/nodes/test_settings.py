"""Precedence: command line, environment, file, default; and what is wrong with a file is said."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from zserve.nodes.settings import SettingsError, defaults_from_file, setting


@click.command("run")
@setting("--slots", type=int, default=64)
@setting("--port", type=int, default=8000)
@setting("--app-dir", default=".")
@setting("--join", multiple=True)
@click.option("--yes", is_flag=True)
def run(slots: int, port: int, app_dir: str, join: tuple[str, ...], yes: bool) -> None:
    click.echo(f"{slots} {port} {app_dir} {','.join(join)}")


@click.command("node")
@setting("--slots", type=int, default=64)
def node(slots: int) -> None:
    click.echo(slots)


COMMANDS = {"run": run, "node": node}


def invoke(*arguments: str, file: Path | None = None, environment: dict[str, str] | None = None) -> str:
    defaults = defaults_from_file(file, COMMANDS)["run"] if file is not None else None
    result = CliRunner().invoke(run, arguments, env=environment, default_map=defaults)
    assert result.exit_code == 0, result.output
    return result.output.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "zserve.toml"
    path.write_text('slots = 1\njoin = ["a", "b"]\n[run]\nslots = 2\napp-dir = "x"\n')
    return path


def test_each_source_beats_the_next(file: Path) -> None:
    assert invoke() == "64 8000 ."
    assert invoke(file=file) == "2 8000 x a,b"
    assert invoke(file=file, environment={"ZSERVE_SLOTS": "3", "ZSERVE_APP_DIR": "y"}) == "3 8000 y a,b"
    assert invoke("--slots", "4", file=file, environment={"ZSERVE_SLOTS": "3"}) == "4 8000 x a,b"


def test_a_repeatable_option_from_the_environment() -> None:
    assert invoke(environment={"ZSERVE_JOIN": "tcp://a:1 tcp://b:2"}) == "64 8000 . tcp://a:1,tcp://b:2"


def test_a_table_is_for_its_command_only(file: Path) -> None:
    assert defaults_from_file(file, COMMANDS)["node"] == {"slots": 1}


def test_what_kubernetes_puts_into_the_environment_is_no_port() -> None:
    assert invoke(environment={"ZSERVE_PORT": "tcp://10.0.0.1:8000"}) == "64 8000 ."
    assert invoke(environment={"ZSERVE_PORT": "9"}) == "64 9 ."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slots = ", "not valid TOML"),
        ("slotz = 1", "unknown setting 'slotz'; settings are: app-dir, join, port, slots"),
        ("yes = true", "unknown setting 'yes'"),
        ("[node]\nport = 1", r"unknown setting 'port' in \[node\]; it has: slots"),
        ("run = 1", r"run must be a table \(\[run\]\), not 1"),
        ("[other]\nslots = 1", "unknown setting 'other'"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "zserve.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        defaults_from_file(path, COMMANDS)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*: No such file"):
        defaults_from_file(tmp_path / "none.toml", COMMANDS)
