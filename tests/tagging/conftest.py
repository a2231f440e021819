"""The tagger that most tests of this folder call."""

from pathlib import Path

import pytest

import astfast


@pytest.fixture(scope="module")
def tagger(tiny_model: Path) -> astfast.Tagger:
    return astfast.load(tiny_model, device="cpu", precision="float32")
