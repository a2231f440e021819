"""Blocks of libsndfile: their memory is used again, but never while somebody holds it."""

import io
import threading

import numpy as np
import pytest
import soundfile

from astfast.audio import libsndfile
from astfast.audio.inputs import load_audio
from tests.cases.recordings import RATE, clips


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libsndfile, "_memory", libsndfile._Memory())


def wav(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize("channel", ["mean", "max", 0])
def test_waves_that_are_kept_stay_as_they_are(channel: str) -> None:
    """At the model's rate a wave of one channel is the block itself."""
    waves = clips(5, 0.5)
    kept = [load_audio(wav(wave), target_rate=RATE, channel=channel).wave for wave in waves]  # type: ignore[arg-type]
    for wave, read in zip(waves, kept, strict=True):
        np.testing.assert_array_equal(read, wave.astype(np.float32))


def test_memory_that_nobody_holds_is_used_again() -> None:
    stereo = wav(np.stack(clips(2, 0.5), axis=1))
    load_audio(stereo, target_rate=RATE)
    first = id(libsndfile._memory.last)
    load_audio(stereo, target_rate=RATE)
    assert id(libsndfile._memory.last) == first
    held = libsndfile._memory.last
    assert held is not None
    part = held[:10]
    del held
    load_audio(stereo, target_rate=RATE)
    assert id(libsndfile._memory.last) != first
    assert len(part) == 10


def test_each_thread_has_its_own() -> None:
    load_audio(wav(clips(1, 0.5)[0]), target_rate=RATE)
    found = []
    thread = threading.Thread(target=lambda: found.append(libsndfile._memory.last))
    thread.start()
    thread.join()
    assert found == [None]
