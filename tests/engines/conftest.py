"""What all tests of engines share."""

import pytest


@pytest.fixture(autouse=True)
def on_one_thread(one_thread: None) -> None: ...
