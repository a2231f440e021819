"""The published checkpoints on their anchor clips: needs the model hub (pytest -m network)."""

import numpy as np
import pytest
import torch

from astfast.backends.reference import ReferenceOps
from astfast.errors import CheckpointError
from astfast.models.ast import forward as ast
from astfast.models.recognise import load

TOLERANCE = 1e-4
AUDIOSET_ANCHORS = {
    "MIT/ast-finetuned-audioset-10-10-0.4593": (-0.8760, -7.0042, -8.6602),
    "MIT/ast-finetuned-audioset-10-10-0.450": (-1.1986, -7.0903, -8.2718),
    "MIT/ast-finetuned-audioset-10-10-0.448": (-2.6128, -8.0080, -9.4344),
    "MIT/ast-finetuned-audioset-10-10-0.448-v2": (-1.5080, -7.4534, -8.8917),
    "MIT/ast-finetuned-audioset-12-12-0.447": (-0.5050, -6.5833, -8.0843),
    "MIT/ast-finetuned-audioset-14-14-0.443": (-0.3826, -7.0336, -8.2413),
    "MIT/ast-finetuned-audioset-16-16-0.442": (-1.2113, -6.9101, -8.3470),
}
SPEECH_COMMANDS_ANCHOR = (6.1589, -8.0566, -8.7984)


def first_logits(model: str, wave: np.ndarray) -> np.ndarray:
    try:
        checkpoint = load(model)
    except CheckpointError as error:
        if "can't be downloaded" not in str(error):
            raise
        pytest.skip(f"the model hub can't be reached: {error}")
    ops = ReferenceOps(checkpoint.config.num_attention_heads)
    features = ops.log_mel([wave], checkpoint.config.front_end)
    with torch.no_grad():
        ws = dict.fromkeys(ast.workspace(checkpoint.config))
        return ast.forward(ops, ast.pack(ops, checkpoint.weights), features, ws)[0, :3].numpy()


@pytest.fixture(scope="module")
def audioset_clip() -> np.ndarray:
    import soundfile
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    try:
        path = hf_hub_download(
            "nielsr/audio-spectogram-transformer-checkpoint", "sample_audio.flac", repo_type="dataset"
        )
    except LocalEntryNotFoundError as error:
        pytest.skip(f"the anchor clip can't be downloaded: {error}")
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    return wave


@pytest.mark.network
@pytest.mark.parametrize("model", AUDIOSET_ANCHORS)
def test_audioset_anchor(model, audioset_clip):
    assert np.abs(first_logits(model, audioset_clip) - AUDIOSET_ANCHORS[model]).max() <= TOLERANCE


@pytest.mark.network
def test_speech_commands_anchor():
    datasets = pytest.importorskip("datasets", reason="the anchor clip is read with the datasets package")
    try:
        clips = datasets.load_dataset("google/speech_commands", "v0.02", split="validation", streaming=True)
        wave = np.asarray(next(iter(clips))["audio"]["array"], np.float32)
    except (OSError, ValueError, RuntimeError) as error:
        pytest.skip(f"the anchor clip can't be downloaded: {error}")
    logits = first_logits("MIT/ast-finetuned-speech-commands-v2", wave)
    assert np.abs(logits - SPEECH_COMMANDS_ANCHOR).max() <= TOLERANCE
