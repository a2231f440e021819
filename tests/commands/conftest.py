"""Audio files that tests of several commands share."""

from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two short clips and a file that is no audio."""
    folder = tmp_path / "files"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one.wav", "two, with a comma.flac"):
        soundfile.write(folder / name, 0.1 * rng.standard_normal(20_000), 16_000)
    (folder / "bad.wav").write_text("no audio at all")
    return [str(folder / name) for name in ("one.wav", "two, with a comma.flac", "bad.wav")]
