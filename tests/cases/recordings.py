"""What tests of audio inputs make recordings with."""

import io
from typing import Any

import numpy as np
import soundfile

RATE = 16_000


def file_bytes(samples: np.ndarray, rate: int = RATE, **format_: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, **format_)
    return stream.getvalue()


def at_16k(samples: Any) -> dict[str, Any]:
    return {"array": samples, "sampling_rate": RATE}


def clips(count: int, seconds: float = 0.7) -> list[np.ndarray]:
    """Noise at 16 kHz."""
    rng = np.random.default_rng(count)
    return [0.1 * rng.standard_normal(int(RATE * seconds)).astype(np.float32) for _ in range(count)]
