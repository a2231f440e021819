"""A family of models written in a test: what it takes to add one, and that nothing outside models/ knows AST alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import astfast
from astfast import labels as label_tables
from astfast import models
from astfast.checkpoints.lazy_tensor import LazyTensor, zeros
from astfast.checkpoints.safetensors import write_safetensors
from astfast.errors import BackendError, CheckpointError
from astfast.front_end import FrontEnd, KaldiFbank
from astfast.models.base import Checkpoint, ModelConfig
from astfast.models.export import convert
from astfast.models.recognise import load
from astfast.ops import Embed, Head, LayerNorm, Linear, patch_grid
from tests import ROOT
from tests.cases.checkpoints import assert_close, edit_json

RATE, MELS, FRAMES, PATCH, LABELS = 22_050, 64, 96, 16, 5

# The family: patches of 16 x 16 -> mean over all of them -> one linear layer ------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ModelConfig):
    embedding_size: int = 0
    num_attention_heads: int = 1
    front_end: FrontEnd = field(default_factory=lambda: KaldiFbank(RATE, MELS, FRAMES, mean=-6.0, std=4.0))

    @property
    def num_tokens(self) -> int:
        f, t = patch_grid(self.max_length, self.num_mel_bins, PATCH, PATCH, PATCH)
        return f * t


@dataclass(frozen=True)
class ToyWeights:
    embed: Any
    norm: Any
    head: Any


class Toy:
    name = "Toy"
    layouts = ("the toy's own",)
    fields = frozenset({"max_length"})

    def recognises(self, files):
        return (files.config or {}).get("model_type") == "toy"

    def read(self, files, overrides, labels):
        d = files.config["width"]
        names = label_tables.from_id2label(files.config["id2label"], files.source)
        front_end = KaldiFbank(RATE, MELS, overrides.get("max_length", FRAMES), mean=-6.0, std=4.0)
        config = ToyConfig(labels=names, embedding_size=d, front_end=front_end)
        t = {**files.tensors, "prefix": zeros(0, d), "position": zeros(config.num_tokens, d)}

        def pair(kind, name, *rest):
            return kind(t[f"{name}.weight"], t[f"{name}.bias"], *rest)

        embed = Embed(pair(Linear, "patches"), t["prefix"], t["position"], PATCH, PATCH, PATCH)
        head = Head(pair(LayerNorm, "head.norm", 1e-6), pair(Linear, "head"))
        weights = ToyWeights(embed, pair(LayerNorm, "norm", 1e-6), head)
        return Checkpoint(self, config, weights, files.source, self.layouts[0], files.paths)

    def pack(self, ops, w):
        return ToyWeights(ops.pack_embed(w.embed), ops.pack_norm(w.norm), ops.pack_head(w.head))

    def workspace(self, config):
        return {
            "spectrogram": ((config.max_length, config.num_mel_bins), "output"),
            "tokens": ((config.num_tokens, config.embedding_size), "stream"),
            "embedding": ((config.embedding_size,), "output"),
            "logits": ((config.num_labels,), "output"),
        }

    def shared(self, config):
        return ()

    def embed(self, ops, w, spectrogram, ws):
        return ops.pool(ops.patch_embed(spectrogram, w.embed, ws["tokens"]), w.norm, ws["embedding"])

    def forward(self, ops, w, spectrogram, ws):
        return ops.head(self.embed(ops, w, spectrogram, ws), w.head, ws["logits"])

    def export(self, config, weights):
        raise CheckpointError("a toy has no layout of transformers")


# What it does ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A toy checkpoint with random weights, while the family is one of astfast's."""
    monkeypatch.setattr(models, "FAMILIES", (*models.FAMILIES, Toy))
    rng = np.random.default_rng(0)
    width = 32
    shapes = {"patches": (width, PATCH * PATCH), "norm": (width,), "head.norm": (width,), "head": (LABELS, width)}
    tensors = {}
    for name, shape in shapes.items():
        scale = 1 / shape[-1] ** 0.5 if len(shape) == 2 else 1
        for parameter, size in (("weight", shape), ("bias", shape[:1])):
            values = (scale * rng.standard_normal(size)).astype(np.float32)
            tensors[f"{name}.{parameter}"] = LazyTensor(size, lambda values=values: values.copy())
    folder = tmp_path / "toy"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", tensors, "float32")
    (folder / "config.json").write_text("{}")
    edit_json(
        folder / "config.json", model_type="toy", width=width, id2label={str(i): f"sound {i}" for i in range(LABELS)}
    )
    return folder


def clips(count):
    rng = np.random.default_rng(1)
    return [(0.1 * rng.standard_normal(RATE)).astype(np.float32) for _ in range(count)]


def numpy_logits(folder, spectrograms):
    """The toy in float64: [B, frames, mels] -> [B, labels]."""
    w = load(folder).weights
    b = len(spectrograms)
    x = spectrograms.astype(np.float64).transpose(0, 2, 1)  # [B, mels, frames]
    x = x.reshape(b, MELS // PATCH, PATCH, FRAMES // PATCH, PATCH).transpose(0, 1, 3, 2, 4).reshape(b, -1, PATCH**2)

    def linear(x, w):
        return x @ np.asarray(w.weight, np.float64).T + np.asarray(w.bias, np.float64)

    def norm(x, w):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + w.eps)
        return x * np.asarray(w.weight, np.float64) + np.asarray(w.bias, np.float64)

    embedding = norm(linear(x, w.embed.projection), w.norm).mean(1)
    return linear(norm(embedding, w.head.norm), w.head.linear)


def test_the_checklist_says_how_many_lines_it_takes():
    source = Path(__file__).read_text()
    family = source[source.index("# The family: ") : source.index("# What it does -")]
    lines = [line for line in family.splitlines() if line.strip() and not line.startswith("#")]
    checklist = (ROOT / "docs" / "architecture.md").read_text()
    assert f"adds a family of one linear layer, in {len(lines)} lines" in checklist


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_toy_family_classifies(folder, backend):
    tagger = astfast.load(folder, device="cpu", backend=backend, precision="float32")
    waves = clips(3)
    features = tagger.features(waves, sampling_rate=RATE)
    assert features.shape == (3, FRAMES, MELS)
    logits = tagger.logits(waves, sampling_rate=RATE)
    assert_close(logits, numpy_logits(folder, features))
    assert np.array_equal(tagger.forward(features), logits)
    assert tagger.embed(waves, sampling_rate=RATE).shape == (3, 32)
    best = tagger.classify(waves, sampling_rate=RATE, top_k=1)
    assert [tags[0]["label"] for tags in best] == [f"sound {row.argmax()}" for row in logits]
    segments = tagger.segments(waves[0], sampling_rate=RATE, window=0.5, hop=0.25, top_k=2)
    assert [len(segment["tags"]) for segment in segments] == [2] * len(segments)
    assert segments[1]["start"] == pytest.approx(0.25, abs=1 / RATE)


def test_both_backends_agree_from_the_waveform_on(folder):
    reference, cpu = (
        astfast.load(folder, device="cpu", backend=backend, precision="float32").logits(clips(2), sampling_rate=RATE)
        for backend in ("reference", "cpu")
    )
    assert_close(cpu, reference)


def test_keywords_are_those_of_the_family(folder):
    assert astfast.load(folder, device="cpu", max_length=80, backend="reference").config.num_tokens == 4 * 5
    with pytest.raises(TypeError, match=r"time_stride=: the fields of .* \(Toy\) are max_length"):
        astfast.load(folder, device="cpu", time_stride=10)
    with pytest.raises(TypeError, match=r"unknown keyword width=.*frequency_stride.*max_length"):
        astfast.load(folder, device="cpu", width=10)


def test_other_families_are_named_where_none_fits(folder):
    edit_json(folder / "config.json", model_type="wav2vec2")
    with pytest.raises(CheckpointError, match=r"of a wav2vec2 model: astfast runs AST, DASS, .* or Toy models"):
        astfast.load(folder, device="cpu")
    edit_json(folder / "config.json", model_type=None)
    with pytest.raises(
        CheckpointError, match=r"no AST, DASS, .* or Toy checkpoint.*head\.bias.*authors' \.pth;.*the toy's own"
    ):
        astfast.load(folder, device="cpu")


def test_a_family_without_a_layout_of_transformers_is_not_converted(folder, tmp_path):
    with pytest.raises(CheckpointError, match="a toy has no layout"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class OtherFormula(FrontEnd):
    @property
    def input_samples(self):
        return self.sampling_rate

    def num_frames(self, samples):
        return self.max_length


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_backend_names_the_front_end_that_it_lacks(folder, backend, monkeypatch):
    read = Toy.read

    def with_other_front_end(self, *arguments):
        loaded = read(self, *arguments)
        config = ToyConfig(labels=loaded.config.labels, embedding_size=32, front_end=OtherFormula(RATE, MELS, FRAMES))
        return Checkpoint(self, config, loaded.weights, loaded.source, loaded.layout)

    monkeypatch.setattr(Toy, "read", with_other_front_end)
    with pytest.raises(
        BackendError, match=f"the {backend} backend doesn't compute the model's front end, OtherFormula"
    ):
        astfast.load(folder, device="cpu", backend=backend, precision="float32").logits(clips(1), sampling_rate=RATE)
