"""Every model that is published on the hub: its facts in the catalogue, and all its results against the published
logits and the reference (pytest -m network)."""

from __future__ import annotations

import pytest

import astfast
from astfast.benchmarking import verification
from astfast.catalogue import MODELS, PublishedModel
from astfast.errors import CheckpointError

ON_THE_HUB = [model for model in MODELS if model.hub_id is not None]


@pytest.mark.network
@pytest.mark.parametrize("model", ON_THE_HUB, ids=lambda model: model.name)
def test_published_model(model: PublishedModel) -> None:
    try:
        exact = verification.reference(model.name)
        anchor = (model, verification.anchor_clip(None, 16_000)) if model.first_logits else None
    except CheckpointError as error:
        if "downloaded" in str(error) or "can't be had" in str(error):
            pytest.skip(str(error))
        raise
    config = exact.config
    assert config.num_labels == model.labels
    if model.tokens is not None:
        seconds = config.front_end.frames_read(10 * config.front_end.sampling_rate)
        assert config.at_length(seconds).num_tokens == model.tokens
        assert (config.hidden_size, config.num_hidden_layers) == (model.hidden, model.layers)
    rows = list(
        verification.verify(
            model.name, exact, verification.clips_of(exact, ()), anchor=anchor, report=lambda message: None
        )
    )
    assert {row.backend for row in rows} >= {"cpu", "reference"}
    assert [row for row in rows if not row.agrees] == []


def test_without_a_hub_the_error_names_the_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hub every published name is an error that names its hub id, and the network tests skip with it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for model in ON_THE_HUB:
        said = "" if model.revision is None else f" at revision {model.revision}"
        with pytest.raises(
            CheckpointError, match=f"{model.hub_id} is not in the local cache{said} and can't be downloaded"
        ):
            astfast.load(model.name, device="cpu")
