from __future__ import annotations

import functools
import os
import random
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.registry.record import Record
from zserve.registry.registry import Registry
from zserve.registry.store import Store, StoreError
from zserve.registry.values import EndpointValue, encode_value

NOW = 1_700_000_000_000


def registry_of(count: int) -> Registry:
    registry = Registry(b"a" * 16)
    for number in range(count):
        registry.write(f"endpoint/e{number:03}", encode_value(EndpointValue(route=f"/{number}")), None, NOW)
    return registry


def stored(path: Path, count: int = 100) -> list[Record]:
    """Save *count* records in a new file."""
    records = registry_of(count).records()
    store = Store(path)
    store.load()
    store.save(records)
    store.close()
    return records


def load(path: Path) -> tuple[list[Record], list[str]]:
    store = Store(path)
    try:
        return store.load()
    finally:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


def test_a_new_file_is_empty_and_private(path: Path) -> None:
    assert load(path) == ([], [])
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_saved_is_loaded_again(path: Path) -> None:
    registry = registry_of(3)
    store = Store(path)
    store.load()
    store.save(registry.records(), wall_ms=NOW)
    current = registry.get("endpoint/e001")
    assert current is not None
    registry.write("endpoint/e001", None, current.stamp, NOW)
    store.save(registry.records(), wall_ms=NOW + 5)
    store.close()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "the log was folded in"
    again = Store(path)
    assert again.load() == (registry.records(), [])
    assert again.saved_ms == NOW + 5
    again.close()


def test_what_the_registry_forgot_is_removed(path: Path) -> None:
    records = stored(path, 3)
    store = Store(path)
    store.load()
    store.save(records[:2])
    store.close()
    assert load(path)[0] == records[:2]


def test_a_save_survives_a_kill(path: Path) -> None:
    records = registry_of(5).records()
    store = Store(path)
    store.load()
    store.save(records)
    # What kill -9 leaves: the file and its log, without the farewell.
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    log = Path(f"{path}-wal")
    if log.exists():
        Path(f"{copy}-wal").write_bytes(log.read_bytes())
    assert load(copy) == (records, [])
    store.close()


def test_one_file_is_for_one_router(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zserve.registry.store._BUSY_S", 0.05)
    store = Store(path)
    store.load()
    with pytest.raises(StoreError, match="in use by another router"):
        Store(path).load()
    store.close()
    assert load(path) == ([], [])


def test_after_a_failed_load_nothing_is_removed_that_was_never_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zserve.registry.store._BUSY_S", 0.05)
    records = stored(path, 3)
    former = Store(path)
    former.load()
    store = Store(path)
    with pytest.raises(StoreError):
        store.load()
    former.close()
    other = Registry(b"b" * 16).write("endpoint/new", encode_value(EndpointValue()), None, NOW)
    older = Registry(b"0" * 16).write("endpoint/e000", encode_value(EndpointValue()), None, NOW - 1000)
    store.save([older, other])
    store.close()
    assert load(path)[0] == [*records, other]


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 5000, 100_000])
def test_a_file_of_random_bytes_is_set_aside(path: Path, size: int) -> None:
    garbage = random.Random(size).randbytes(size)
    path.write_bytes(garbage)
    records, notes = load(path)
    assert records == []
    assert len(notes) == 1
    assert "is damaged" in notes[0]
    assert path.with_name("registry.sqlite.corrupt-1").read_bytes() == garbage
    assert load(path) == ([], []), "a new file was begun"


def test_each_damaged_file_is_kept(path: Path) -> None:
    for number in (1, 2, 3):
        path.write_bytes(bytes([number]) * 2000)
        load(path)
        assert path.with_name(f"registry.sqlite.corrupt-{number}").read_bytes() == bytes([number]) * 2000


def test_a_torn_file_is_detected_and_what_is_left_of_it_used(path: Path) -> None:
    records = stored(path, 200)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096] + bytes(4096))
    found, notes = load(path)
    assert "is damaged" in notes[0]
    assert 0 < len(found) < len(records)
    assert all(record in records for record in found)
    assert load(path) == (found, []), "what could be saved is in the new file"


def test_a_flipped_bit_in_a_record_is_detected(path: Path) -> None:
    records = stored(path, 3)
    connection = sqlite3.connect(path)
    (body,) = connection.execute("SELECT body FROM records WHERE key = 'endpoint/e001'").fetchone()
    connection.execute("UPDATE records SET body = ? WHERE key = 'endpoint/e001'", (body[:-1] + b"x",))
    connection.commit()
    connection.close()
    found, notes = load(path)
    assert found == [records[0], records[2]]
    assert notes == [f"{path}: the record 'endpoint/e001' is damaged and was left out"]


@functools.cache
def good_file() -> tuple[list[Record], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.sqlite"
        return stored(path, 60), path.read_bytes()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["cut", "noise", "zeros"]), st.floats(0, 0.999), st.integers(1, 9000))
def test_no_damage_goes_unnoticed_or_stops_the_router(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    where: float,
    length: int,
) -> None:
    path = tmp_path_factory.mktemp("state") / "registry.sqlite"
    records, whole = good_file()
    raw = bytearray(whole)
    at = int(where * len(raw))
    if kind == "cut":
        del raw[at:]
    else:
        filler = random.Random(at).randbytes(length) if kind == "noise" else bytes(length)
        raw[at : at + length] = filler[: len(raw) - at]
    path.write_bytes(raw)
    found, notes = load(path)
    known = {record.key: record for record in records}
    assert all(known.get(record.key) == record for record in found), "nothing invented"
    if len(found) < len(records) and raw:
        assert notes
    assert load(path)[0] == found


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    stored(path, 1)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer version"):
        load(path)
    with pytest.raises(StoreError, match="newer version"):
        Store(path).save(registry_of(2).records())
    assert path.read_bytes() == before


def test_a_file_of_another_program_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE records (key TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        load(path)


def test_a_full_disk_is_one_clear_line_and_saving_is_taken_up_again(path: Path) -> None:
    store = Store(path)
    store.load()
    few, many = registry_of(2).records(), registry_of(400).records()
    store.save(few)
    assert store._connection is not None
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match=r"cannot save the registry to .*: database or disk is full") as caught:
        store.save(many)
    assert "\n" not in str(caught.value)
    assert store.failures == 1
    store.save(many)  # the limit went with the connection, as a full disk goes with the files that filled it
    store.close()
    assert load(path)[0] == many


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="cannot open"):
            load(path)
    finally:
        path.parent.chmod(0o700)


def test_a_folder_that_is_not_there(path: Path) -> None:
    store = Store(path.parent / "none" / "registry.sqlite")
    with pytest.raises(StoreError, match=r"cannot open .*: unable to open database file"):
        store.load()
    with pytest.raises(StoreError, match="cannot save the registry to"):
        store.save(registry_of(1).records())
