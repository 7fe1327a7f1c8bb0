"""The images that all planted models are judged on."""

from pathlib import Path

import pytest

from tests.attack.planted.networks import write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("planted") / "shards")


@pytest.fixture(scope="session")
def few_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("few") / "shards", 48)
