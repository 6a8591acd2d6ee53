"""What a file for ``zserve deploy`` may say, and how each mistake in it is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from zserve.nodes.deploy_file import DeployFile, DeployFileError, read_deploy_file
from zserve.nodes.toml_lines import TomlLines

from zserve.config import BackendConfig
from zserve.registry.values import EndpointValue

WHOLE = """
[backends."SVM:v1"]
code = "shop.models:SVM"
init_args = [5, "x"]
init_kwargs = { gamma = 0.001 }
config = { num_replicas = 2, max_batch_size = 32 }

[backends.old]
code = "shop:old"
version = "7"
batchable = true

[backends.old.config]
user_config = { threshold = [0.5] }

[endpoints.digits]
route = "/digits/{n:int}"
methods = ["post", "GET"]
traffic = { "SVM:v1" = 1, old = 0 }
shadows = { old = 0.5, "SVM:v1" = 0 }
policy = "fixed_packing"
policy_kwargs = { packing_num = 8 }

[endpoints.inner]
"""


def read(tmp_path: Path, text: str) -> DeployFile:
    file = tmp_path / "app.toml"
    file.write_text(text)
    return read_deploy_file(file)


def test_all_that_can_be_said(tmp_path: Path) -> None:
    content = read(tmp_path, WHOLE)
    svm, old = content.backends
    assert (svm.name, svm.code) == ("SVM:v1", "shop.models:SVM")
    assert (svm.init_args, svm.init_kwargs) == ([5, "x"], {"gamma": 0.001})
    assert svm.config == BackendConfig(num_replicas=2, max_batch_size=32)
    assert (svm.version, svm.batchable) == (None, None)
    assert (old.version, old.batchable, old.config.user_config) == ("7", True, {"threshold": [0.5]})
    digits, inner = content.endpoints
    assert digits.has_policy
    assert digits.value == EndpointValue(
        route="/digits/{n:int}",
        methods=["POST", "GET"],
        traffic={"SVM:v1": 1.0, "old": 0.0},
        shadows={"old": 0.5},
        policy="fixed_packing",
        policy_kwargs={"packing_num": 8},
    )
    assert (inner.value, inner.has_policy) == (EndpointValue(), False)


BACKEND = '[backends.b]\ncode = "m:f"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "app.toml:1: 'x' is not known here; the keys are: backends, endpoints"),
        ("endpoints = 3", "app.toml:1: 'endpoints' must be tables ([endpoints.NAME]), not 3"),
        ("\n[[endpoints]]", "app.toml:2: 'endpoints' must be tables"),
        ("[endpoints]\nd = 3", "app.toml:2: [endpoints.d] must be a table ([endpoints.NAME]), not 3"),
        ("[backends.a", "app.toml is not valid TOML: Expected ']' at the end of a table declaration"),
        ("", "names no endpoint and no backend"),
        (BACKEND + "cod = 1", "app.toml:3: [backends.b] cod: is not known here; the keys are: code, init_args"),
        ('[backends."a b:1"]\ncode = "m"', "app.toml:2: [backends.\"a b:1\"] code: must look like 'package.mod"),
        ("[backends.b]\ncode = 3", "app.toml:2: [backends.b] code: must be a string, not 3"),
        ("[backends.b]\ninit_args = [1]", 'app.toml:1: [backends.b] needs code = "package.module:attribute"'),
        (BACKEND + "init_args = 1", "app.toml:3: [backends.b] init_args: must be a list, not 1"),
        (BACKEND + "init_args = [1979-05-27]", "app.toml:3: [backends.b] init_args: may hold strings, numbers"),
        (BACKEND + "init_kwargs = {x = nan}", "app.toml:3: [backends.b] init_kwargs: may hold strings, numbers"),
        (BACKEND + "version = 'a b'", "app.toml:3: [backends.b] version: must be 1 to 40 letters"),
        (BACKEND + "batchable = true", "app.toml:3: [backends.b] batchable: is for a backend with version"),
        (
            BACKEND + 'config = { num_replicas = "two" }',
            "app.toml:3: [backends.b] config.num_replicas: num_replicas must be a whole number, not 'two'",
        ),
        (
            BACKEND + "[backends.b.config]\nnum_replicas = 2\nmax_batch_sise = 2",
            "app.toml:5: [backends.b] config.max_batch_sise: unknown backend config 'max_batch_sise'; the keys are",
        ),
        (BACKEND + "config.slo_ms = -1", "app.toml:3: [backends.b] config.slo_ms: slo_ms must be between 0.001 and"),
        (BACKEND + "config.user_config = 07:32:00", "app.toml:3: [backends.b] config.user_config: may hold strings"),
        ('[backends." b"]', "app.toml:1: [backends.\" b\"] name must be printable text without surrounding space"),
        ('[endpoints.d]\nroute = "d"', "app.toml:2: [endpoints.d] route must begin with '/', not 'd'"),
        ("[endpoints.d]\nroute = 3", "app.toml:2: [endpoints.d] route must be a string or None, not 3"),
        ('[endpoints.d]\nroute = "/-/d"', "app.toml:2: [endpoints.d] route must not be under '/-/'"),
        ('[endpoints.d]\nmethods = "GET"', "app.toml:2: [endpoints.d] methods must be a list"),
        ('[endpoints.d]\nmethods = ["GTE"]', "app.toml:2: [endpoints.d] methods: 'GTE' is not one of GET"),
        ("[endpoints.d]\ntraffic = { a = 0.5, b = 0.6 }", "app.toml:2: [endpoints.d] traffic: the weights must sum to"),
        ('[endpoints.d]\ntraffic = { a = "x" }', "app.toml:2: [endpoints.d] traffic['a'] must be a number"),
        ("[endpoints.d]\ntraffic = 1.0", "app.toml:2: [endpoints.d] traffic must be a dict of backend to weight"),
        ("[endpoints.d]\n\nshadows.b = 3", "app.toml:3: [endpoints.d] shadows.b: proportion must be between 0 and 1"),
        ('[endpoints.d]\npolicy = "best"', "app.toml:1: [endpoints.d] policy must be one of random, round_robin"),
        ("[endpoints.d]\npolicy = 1", "app.toml:1: [endpoints.d] policy must be a string, not 1"),
        ("[endpoints.d]\npolicy_kwargs.packing_num = 1", "app.toml:2: [endpoints.d] policy_kwargs: needs policy"),
    ],
)
def test_a_mistake_is_named_with_file_line_table_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DeployFileError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DeployFileError, match=r"cannot read .*none\.toml: No such file"):
        read_deploy_file(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DeployFileError, match="is not text in UTF-8"):
        read_deploy_file(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("backends",), 2),
        (("backends", "SVM:v1", "init_args"), 4),
        (("backends", "old", "config", "user_config"), 14),
        (("backends", "SVM:v1", "config", "num_replicas"), 6),  # inside of an inline table: where that begins
        (("endpoints", "inner"), 24),
        (("elsewhere",), 0),
    ],
)
def test_lines_of_tables_and_keys(place: tuple[str, ...], line: int) -> None:
    assert TomlLines(WHOLE).find(place) == line


def test_text_that_looks_like_a_table_is_not_taken_for_one() -> None:
    text = '[a]\nx = """\n[b]\ny = 1\n"""\nz = """one line"""\n"k=[c]" = [\n  1,\n]\n[b]\ny = 2\n'
    lines = TomlLines(text)
    assert lines.find(("b",)) == 10
    assert lines.find(("b", "y")) == 11
    assert lines.find(("a", "z")) == 6
    assert lines.find(("a", "k=[c]")) == 7
