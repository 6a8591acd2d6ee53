"""A gateway with tokens and TLS, as real processes."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from zserve.security.tokens import token_line

from .fabric import Fabric, eventually
from .running import RunningApp

pytestmark = pytest.mark.integration

TOKEN = "zst_a-token-for-tests"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    return _certificate(folder, "one")


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def https(certificate: tuple[Path, Path]) -> Iterator[Fabric]:
    cert, key = certificate
    with tempfile.TemporaryDirectory(prefix="zs-") as folder:
        fabric = Fabric(Path(folder))
        tokens = Path(folder) / "tokens"
        tokens.write_text(token_line(TOKEN, "tests") + "\n")
        tokens.chmod(0o644)
        try:
            fabric.start("router")
            fabric.start("gateway", "--tls-cert", str(cert), "--tls-key", str(key), "--tokens", str(tokens))
            fabric.start("worker")
            fabric.serve("echo", "app_basic:echo", methods=("GET", "POST"))
            yield fabric
        finally:
            fabric.close()


@pytest.fixture
def client(https: Fabric, certificate: tuple[Path, Path]) -> Iterator[httpx.Client]:
    verify = ssl.create_default_context(cafile=str(certificate[0]))
    with httpx.Client(base_url=https.gateways[0].http, verify=verify, timeout=30.0) as client:
        yield client


def test_https_serves_whoever_shows_a_token(client: httpx.Client) -> None:
    assert client.base_url.scheme == "https"
    shown = {"authorization": f"Bearer {TOKEN}"}
    answer = client.post("/echo", headers=shown, content=b"x" * 300_000)
    assert answer.status_code == 200
    assert len(answer.json()["body"]) == 300_000
    assert client.get("/-/routes", headers=shown).json()["/echo"]


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer nonsense"}, {"authorization": f"Basic {TOKEN}"}])
def test_without_a_token_there_is_401_and_nothing_is_told(client: httpx.Client, headers: dict[str, str]) -> None:
    for path in ("/echo", "/no/such/route", "/-/routes", "/-/metrics", "/-/readyz", "/-/fabric"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="zserve"'), path
        assert answer.text == "a token is needed here: Authorization: Bearer ...\n"
    answer = client.post("/echo", headers=headers, content=b"x" * 100_000)
    assert answer.status_code == 401
    assert client.get("/-/healthz", headers=headers).text == "ok\n"


def test_tokens_and_certificates_are_renewed_without_a_restart(
    https: Fabric, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    before = cert.read_text(), key.read_text()
    url = https.gateways[0].http
    tokens = https.folder / "tokens"

    def status(token: str, authority: Path) -> int:
        context = ssl.create_default_context(cafile=str(authority))
        return httpx.get(f"{url}/echo", headers={"authorization": f"Bearer {token}"}, verify=context).status_code

    try:
        _replace(tokens, token_line("zst_other", "tests") + "\n")
        eventually(lambda: status("zst_other", cert) == 200, "the new token is let in", 30.0)
        assert status(TOKEN, cert) == 401
        fresh_cert, fresh_key = _certificate(tmp_path, "two")
        _replace(key, fresh_key.read_text(), 0o600)
        _replace(cert, fresh_cert.read_text())
        eventually(lambda: status("zst_other", fresh_cert) == 200, "the new certificate is shown", 30.0)
    finally:
        _replace(key, before[1], 0o600)
        _replace(cert, before[0])
        _replace(tokens, token_line(TOKEN, "tests") + "\n")
        eventually(lambda: status(TOKEN, cert) == 200, "all is as before", 30.0)


def _replace(path: Path, text: str, mode: int = 0o644) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(mode)
    os.replace(fresh, path)


def test_zserve_run_takes_tokens_a_certificate_and_limits_too(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "run_app.py").write_text(
        "import zserve as serve\n@serve.route('/echo', methods=['POST'])\ndef echo(request):\n    return request.data\n"
    )
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line(TOKEN, "tests") + "\n")
    cert, key = certificate
    shown = {"authorization": f"Bearer {TOKEN}"}
    arguments = ["--tls-cert", str(cert), "--tls-key", str(key), "--tokens", str(tokens), "--max-body-bytes", "1000"]
    with (
        RunningApp("run_app", tmp_path, *arguments, "--gateways", "2") as app,
        httpx.Client(base_url=app.url, verify=ssl.create_default_context(cafile=str(cert)), timeout=30.0) as client,
    ):
        assert app.url.startswith("https://")
        assert client.post("/echo", content=b"x").status_code == 401
        assert client.post("/echo", content=b"x" * 1000, headers=shown).content == b"x" * 1000
        assert client.post("/echo", content=b"x" * 1001, headers=shown).status_code == 413


def test_a_certificate_that_does_not_fit_its_key_ends_the_start_with_one_line(
    fabric: Fabric, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    other, _ = _certificate(tmp_path, "other")
    node = fabric.start("gateway", "--join", f"ipc://{fabric.folder}/none", "--tls-cert", str(other),
                        "--tls-key", str(certificate[1]), ready=False)  # fmt: skip
    assert node.process.wait(30.0) == 1
    assert "can not be used: key values mismatch" in node.log.read_text()
    assert "Traceback" not in node.log.read_text()
