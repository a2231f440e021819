"""Fixtures that several test files share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cases import checkpoints


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, and none reaches a model hub unless it is marked ``network``."""
    monkeypatch.setenv("ASTFAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Of torch: small products by many threads wait for each other, on a machine that does other things too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """A small random transformers model that tests of checkpoints write in all layouts."""
    return checkpoints.random_model()


@pytest.fixture(scope="module")
def v4(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as a folder in the layout of transformers 4."""
    return checkpoints.write_v4(model, tmp_path_factory.mktemp("v4"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model as a Hugging Face folder."""
    return checkpoints.write_v4(checkpoints.random_model(seed=0), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one with the same labels, of another geometry and with another front end."""
    model = checkpoints.random_model(seed=1, num_hidden_layers=2, time_stride=9, max_length=91)
    return checkpoints.write_v4(model, tmp_path_factory.mktemp("other"))
