"""Memory of samples: used again, but never while somebody holds it, and no small part keeps a large one."""

import io
import threading

import numpy as np
import pytest
import soundfile

from astfast.audio import memory
from astfast.audio.inputs import load_audio
from tests.cases.recordings import RATE, clips


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_arrays", memory._Arrays())


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


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_memory_that_nobody_holds_is_used_again(channels: int) -> None:
    content = wav(np.stack(clips(channels, 0.5), axis=1))
    load_audio(content, target_rate=8_000)
    first = list(map(id, memory._arrays.kept))
    assert len(first) == (1 if channels == 1 else 2)
    load_audio(content, target_rate=8_000)
    assert list(map(id, memory._arrays.kept)) == first
    kept = load_audio(content, target_rate=RATE).wave
    before = kept.copy()
    load_audio(wav(np.ones((RATE // 2, channels))), target_rate=RATE)
    np.testing.assert_array_equal(kept, before)


def test_a_small_part_keeps_no_large_array() -> None:
    memory.empty(1_000_000)
    for values in (499_999, 10):
        base = memory.empty(values).base
        assert base is not None
        assert len(base) <= 2 * values
    assert len(memory.empty(500_000)) == 500_000


def test_each_thread_has_its_own() -> None:
    memory.empty(1000)
    found = []
    thread = threading.Thread(target=lambda: found.append(list(memory._arrays.kept)))
    thread.start()
    thread.join()
    assert found == [[]]
