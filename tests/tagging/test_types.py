"""What a type checker says of calls: one input has one result, a batch of any kind a list."""

import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
from numpy.typing import NDArray

import astfast
from tests import ROOT

if TYPE_CHECKING:
    from typing_extensions import assert_type

    from astfast.tagging.tags import ErrorRecord, Segment, Tag

    def one_input(tagger: astfast.Tagger, file: BinaryIO, wave: NDArray[np.float32]) -> None:
        assert_type(tagger.classify("x.wav"), list[Tag])
        assert_type(tagger.classify(Path("x.wav"), top_k=3), list[Tag])
        assert_type(tagger.classify(b"RIFF"), list[Tag])
        assert_type(tagger.classify(file), list[Tag])
        assert_type(tagger.classify({"array": wave, "sampling_rate": 16_000}), list[Tag])
        assert_type(tagger.classify((wave, 16_000)), list[Tag])
        assert_type(tagger.classify((16_000, wave)), list[Tag])
        assert_type(tagger.classify("x.wav", on_error="return"), list[Tag] | ErrorRecord)
        assert_type(tagger.segments("x.wav", window=1.0), list[Segment])
        assert_type(tagger.segments((wave, 16_000), on_error="return"), list[Segment] | ErrorRecord)

    def batches(tagger: astfast.Tagger, paths: list[str], by_name: dict[str, Path]) -> None:
        assert_type(tagger.classify(paths), list[list[Tag]])
        assert_type(tagger.classify(("a.wav", "b.wav")), list[list[Tag]])
        assert_type(tagger.classify(iter(paths)), list[list[Tag]])
        assert_type(tagger.classify(path for path in paths), list[list[Tag]])
        assert_type(tagger.classify(map(Path, paths)), list[list[Tag]])
        assert_type(tagger.classify(Path().glob("*.wav")), list[list[Tag]])
        assert_type(tagger.classify(set(paths)), list[list[Tag]])
        assert_type(tagger.classify(frozenset(paths)), list[list[Tag]])
        assert_type(tagger.classify(deque(paths)), list[list[Tag]])
        assert_type(tagger.classify(by_name.keys()), list[list[Tag]])
        assert_type(tagger.classify(by_name.values()), list[list[Tag]])
        assert_type(tagger.classify(iter(paths), on_error="return"), list[list[Tag] | ErrorRecord])
        assert_type(tagger.segments(set(paths)), list[list[Segment]])
        assert_type(tagger.segments(iter(paths), on_error="return"), list[list[Segment] | ErrorRecord])

    def either(tagger: astfast.Tagger, wave: NDArray[np.float32]) -> None:
        """An array is one clip or a batch of them, by its shape."""
        assert_type(tagger.classify(wave), Any)
        assert_type(tagger.segments(wave, on_error="return"), Any)

    def errors(tagger: astfast.Tagger) -> str:
        for result in tagger.stream(["x.wav"], on_error="return"):
            if isinstance(result, dict):
                assert_type(result, ErrorRecord)
                return f"{result['kind']}: {result['error']}"
        return ""


@pytest.mark.slow
def test_the_type_checker_agrees(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "-m", "tests.tagging.test_types"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    mine = [line for line in found.stdout.splitlines() if line.startswith("tests/tagging/test_types.py")]
    assert not [line for line in mine if ": error:" in line], mine
    assert "checked" in found.stdout or "no issues" in found.stdout
