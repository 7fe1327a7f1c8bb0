"""The site of the documents builds without a warning, and describes the public API."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGES = ("stylize", "train", "attack")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not all(find_spec(name) for name in ("material", "mkdocs", "mkdocstrings")):
        pytest.skip("needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_describes_every_public_class_and_function(site: Path, package: str) -> None:
    stub = (PROJECT / package / "__init__.pyi").read_text()
    public = {name for name in re.findall(r"import \w+ as (\w+)", stub) if not name.isupper()}
    page = (site / "reference" / f"{package}.html").read_text()
    described = set(re.findall(rf'<h\d id="{package}\.(\w+)"', page))
    assert public == described


def test_the_readme_is_the_first_page(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert 'src="pairs.png"' in page
    assert 'href="training.html"' in page
    assert 'href="CONTRIBUTING.html"' in page
