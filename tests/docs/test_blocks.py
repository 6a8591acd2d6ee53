"""Pages for users are right: their blocks are run, in order, in an empty folder."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from .blocks import Reader, blocks

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial types curl, which is not installed here")
@pytest.mark.timeout(300)
def test_tutorial() -> None:
    run("tutorial.md")


@pytest.mark.timeout(300)
def test_how_to() -> None:
    run("how-to.md")


@pytest.mark.timeout(300)
def test_http() -> None:
    run("http.md")


@pytest.mark.timeout(300)
def test_coming_from_ray_serve() -> None:
    run("coming-from-ray-serve.md")


def run(name: str) -> None:
    page = (DOCS / name).read_text()
    assert list(blocks(page))
    with tempfile.TemporaryDirectory(prefix="zs-") as folder, Reader(Path(folder)) as reader:
        reader.read(page)
        reader.stop()
        assert list(reader.run_dir.rglob("*")) == [], "nothing is left behind"


def test_how_to_has_each_heading_of_the_seeds() -> None:
    ours = set(re.findall(r"^## (.*)$", (DOCS / "how-to.md").read_text(), re.MULTILINE))
    for seed in (ROOT / "tests/conformance/seeds").glob("*.txt"):
        text = seed.read_text()
        headings = {found.strip() for found in re.findall(r"^(\S.*)\n[-=]{3,}$", text, re.MULTILINE)}
        headings -= {"Serve In Depth", "Key Concepts"}  # the titles
        assert headings <= ours, f"{seed.name}: {sorted(headings - ours)}"


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
