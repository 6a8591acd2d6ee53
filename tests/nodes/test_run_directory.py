from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq
from zserve.nodes.run_directory import (
    MAX_SOCKET_PATH,
    RunDirectory,
    base_directory,
    find_fabrics,
    the_only_fabric,
)

from zserve.channel.sockets import bind_router
from zserve.errors import ServeError
from zserve.registry.store import Store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_is_private_and_leaves_nothing(run_base: Path) -> None:
    with RunDirectory("shop") as directory:
        assert directory.path.parent == run_base
        assert directory.path.name == f"shop-{os.getpid()}"
        assert [mode(path) for path in (run_base, directory.path, directory.code)] == [0o700] * 3
        assert directory.socket_address("router") == f"ipc://{directory.path}/router.sock"
    assert not run_base.exists()


def test_two_of_one_name_and_process_live_side_by_side(run_base: Path) -> None:
    with RunDirectory("shop") as first, RunDirectory("shop") as second:
        assert first.path != second.path
        second.remove()
        assert first.path.exists()
        assert run_base.exists()


def test_a_name_cannot_lead_out_of_the_base(run_base: Path) -> None:
    with RunDirectory("../../etc/passwd " + "x" * 500) as directory:
        assert directory.path.parent == run_base
        assert len(directory.path.name) < 50


def test_what_a_dead_process_left_is_swept(run_base: Path) -> None:
    code = (
        "import os\n"
        "from zserve.nodes.run_directory import RunDirectory\n"
        "directory = RunDirectory('dead')\n"
        "directory.announce(address='ipc:///x')\n"
        "(directory.path / 'router.sock').touch()\n"
        "print(directory.path, flush=True)\n"
        "os._exit(0)\n"
    )
    left = Path(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    assert left.exists()
    assert find_fabrics() == []
    with RunDirectory("alive") as directory:
        assert not left.exists()
        assert directory.path.exists()


def test_a_live_one_is_not_swept(run_base: Path) -> None:
    with RunDirectory("one") as one:
        one.announce(address="ipc:///one")
        code = "from zserve.nodes.run_directory import RunDirectory\nRunDirectory('two').remove()\n"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert one.path.exists()
        assert [fabric.name for fabric in find_fabrics()] == ["one"]


def test_files_that_are_not_fabrics_are_left_alone(run_base: Path) -> None:
    run_base.mkdir(mode=0o700)
    (run_base / "notes.txt").write_text("mine")
    (run_base / "link").symlink_to("/tmp")
    with RunDirectory("x"):
        pass
    assert (run_base / "notes.txt").read_text() == "mine"
    assert (run_base / "link").is_symlink()


def test_the_only_fabric(run_base: Path) -> None:
    with pytest.raises(ServeError, match=r"no fabric of yours runs.*zserve run"):
        the_only_fabric()
    with RunDirectory("a") as a, RunDirectory("b") as b:
        a.announce(address="ipc:///a", http="http://127.0.0.1:1")
        assert the_only_fabric().address == "ipc:///a"
        b.announce(address="ipc:///b")
        with pytest.raises(ServeError, match=r"(?s)2 fabrics.*--address ipc:///a  a .*--address ipc:///b  b"):
            the_only_fabric()


def test_a_broken_fabric_file_is_passed_over(run_base: Path) -> None:
    with RunDirectory("a") as a:
        (a.path / "fabric.json").write_text("{")
        assert find_fabrics() == []


@pytest.mark.parametrize("trouble", ["open", "link", "file"])
def test_a_base_that_is_not_private_is_refused(run_base: Path, trouble: str) -> None:
    if trouble == "open":
        run_base.mkdir()
        run_base.chmod(0o755)
    elif trouble == "link":
        target = run_base.parent / "target"
        target.mkdir(mode=0o700)
        run_base.symlink_to(target)
    else:
        run_base.touch()
    with pytest.raises(ServeError, match="ZSERVE_RUN_DIR") as caught:
        RunDirectory("x")
    assert str(run_base) in str(caught.value)
    assert find_fabrics() == []


def test_a_path_that_is_too_long_is_one_clear_error_and_leaves_nothing(
    run_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = run_base.parent / ("x" * MAX_SOCKET_PATH)
    monkeypatch.setenv("ZSERVE_RUN_DIR", str(long))
    with pytest.raises(ServeError, match=r"too long for sockets.*shorter"):
        RunDirectory("x")
    assert not long.exists()


def test_where_the_base_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZSERVE_RUN_DIR", "/some/where")
    assert base_directory() == Path("/some/where")
    monkeypatch.delenv("ZSERVE_RUN_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert base_directory() == tmp_path / "zserve"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert base_directory() == Path(f"/tmp/zserve-{os.getuid()}")


def test_a_file_that_a_dying_process_makes_while_the_folder_is_removed_goes_too(
    run_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = RunDirectory("late")
    rmtree = shutil.rmtree
    times: list[int] = []

    def remove_with_company(path: Path, **options: Any) -> None:
        times.append(1)
        rmtree(path, **options)
        if len(times) < 3:
            path.mkdir()
            (path / "late").touch()

    monkeypatch.setattr(shutil, "rmtree", remove_with_company)
    made.remove()
    assert len(times) == 3
    assert not run_base.exists()


def test_what_is_in_it_is_private_whatever_the_umask(run_base: Path) -> None:
    before = os.umask(0)
    try:
        with RunDirectory("private") as run:
            run.announce(address=run.socket_address("router"))
            context: zmq.Context[Any] = zmq.Context()
            router, _ = bind_router(context, run.socket_address("router"))
            (run.path / "state").mkdir(mode=0o700)
            store = Store(run.path / "state" / "registry.sqlite")
            store.load()
            modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [run_base, *run_base.rglob("*")]}
            store.close()
            router.close(0)
            context.term()
    finally:
        os.umask(before)
    assert len(modes) >= 7
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
