"""Environment variables: values at their limits, and values that can't be."""

import os

import pytest

import astfast
from astfast import environment
from astfast.errors import BackendError


@pytest.mark.parametrize(
    ("value", "threads"),
    [("", None), ("1", 1), ("007", 7), (str(environment.MAX_THREADS), environment.MAX_THREADS)],
)
def test_number_of_threads(value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTFAST_NUM_THREADS", value)
    assert environment.num_threads() == threads


@pytest.mark.parametrize(
    "value", ["0", "-1", "1.5", "two", " 2", "٣", str(environment.MAX_THREADS + 1), "70000", "9" * 5_000]
)
def test_a_number_of_threads_that_can_not_be(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTFAST_NUM_THREADS", value)
    with pytest.raises(BackendError, match="set it to 1 to 4096 threads, or unset it") as raised:
        astfast.load(device="cpu")
    assert len(str(raised.value)) < 150


def test_an_unknown_tier_is_an_error_and_not_a_slow_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTFAST_CPU_TIER", "nosuch")
    for backend in ("auto", "cpu"):
        with pytest.raises(BackendError, match="'nosuch' is unknown: set ASTFAST_CPU_TIER to one of scalar, avx2"):
            astfast.load(backend=backend)


@pytest.mark.parametrize(("asked", "threads"), [(None, "1"), ("3", "3")])
def test_blas_threads_are_those_that_were_asked_for(
    asked: str | None, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if asked:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", asked)
    else:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "")  # so that what is set below is undone
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    environment.without_blas_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == threads
