"""DASS against the formulas in plain PyTorch (tests/cases/dass.py), from both published layouts, at any length."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import astfast
from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cpu.tiers import native
from astfast.backends.cuda.ops import CudaOps
from astfast.backends.cuda.target import Target
from astfast.backends.reference import ReferenceOps
from astfast.engines.eager import EagerEngine
from astfast.errors import CheckpointError
from astfast.models.dass import forward
from astfast.models.export import convert
from astfast.models.recognise import load
from tests.cases import checkpoints, dass
from tests.fakes.recording_runtime import RecordingRuntime, gpu_engine
from tests.launchers import interpret

FRAMES, MELS = 66, 37
FRONT_END = {"max_length": FRAMES, "num_mel_bins": MELS, "mean": dass.MEAN, "std": dass.STD}
TIERS = [name for name, missing in native().tiers() if not missing]
SIZES = [(FRAMES, MELS), (1, 1), (2, 5), (97, 16), (33, 64)]


@pytest.fixture(scope="module")
def state():
    return dass.random_state(dass.TINY)


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    return dass.write_hub(state, dass.TINY, tmp_path_factory.mktemp("dass") / "hub", FRAMES, MELS)


@pytest.fixture(scope="module")
def authors(state, tmp_path_factory):
    return dass.write_authors(state, tmp_path_factory.mktemp("dass") / "dass.pth")


def exact(state, x, function=dass.logits):
    """By the plain PyTorch in float64."""
    with torch.no_grad():
        wide = {name: tensor.double() for name, tensor in state.items()}
        return function(wide, torch.from_numpy(x).double()).numpy()


def outputs(checkpoint, x, function=forward.forward):
    """By the reference backend in float32."""
    ops = ReferenceOps(1)
    with torch.no_grad():
        ws = dict.fromkeys(forward.workspace(checkpoint.config))
        return function(ops, forward.pack(ops, checkpoint.weights), x, ws).numpy()


def assert_close(ours, theirs):
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize(("frames", "mels"), SIZES)
def test_logits_at_any_length(state, folder, authors, frames, mels):
    x = dass.spectrograms(frames, mels)
    size = {"max_length": frames, "num_mel_bins": mels}
    expected = exact(state, x)
    assert_close(outputs(load(folder, **size), x), expected)
    assert_close(outputs(load(authors, **FRONT_END | size), x), expected)
    assert load(folder, **size).approximate is None


def test_embeddings(state, folder):
    x = dass.spectrograms(FRAMES, MELS)
    assert_close(outputs(load(folder), x, forward.embed), exact(state, x, dass.embedding))


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "tensors", "parameters"), [(dass.SMALL, 276, 29.9), (dass.MEDIUM, 492, 48.7)])
def test_published_sizes(sizes, tensors, parameters, tmp_path):
    state = dass.random_state(sizes)
    assert len(state) == tensors
    millions = sum(tensor.numel() for tensor in state.values()) / 1e6
    assert millions == pytest.approx(parameters, abs=0.1)  # published in tenths, rounded one way or the other
    checkpoint = load(dass.write_authors(state, tmp_path / "published.pth"))
    config = checkpoint.config
    assert (config.depths, config.dims, config.ranks) == (sizes.depths, sizes.dims, (6, 12, 24, 48))
    assert config.grids == ((512, 64), (256, 32), (128, 16), (64, 8), (32, 4))
    assert (config.labels[0], config.num_tokens, config.embedding_size) == ("Speech", 256 * 32, 768)
    assert (config.front_end.mean, config.front_end.std) == (-4.2677393, 4.5689974)
    x = dass.spectrograms(333, 128, clips=1)
    assert_close(outputs(checkpoint, x), exact(state, x))


KINDS = sorted({re.sub(r"layers\.\d\.blocks\.\d", "layers.1.blocks.1", name) for name in dass.random_state(dass.TINY)})


@pytest.mark.parametrize("name", KINDS)
def test_every_tensor_is_read_into_its_place(name, state, folder):
    """Other values in any tensor change the logits, and as they do by the formulas."""
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(state[name].shape).astype(np.float32))
    changed = {**state, name: state[name] + 0.5 * noise}
    x = dass.spectrograms(18, 12, clips=1)
    checkpoint = load(dass.write_hub(changed, dass.TINY, folder.parent / "changed", 18, 12))
    expected = exact(changed, x)
    assert_close(outputs(checkpoint, x), expected)
    assert np.abs(expected - exact(state, x)).max() > 1e-3 * np.abs(expected).max()


def test_the_epsilon_of_layer_norms(state, folder, monkeypatch):
    """Images of little variance tell 1e-5 from its neighbours."""
    flat = {name: tensor * (1e-3 if "patch_embed.5" in name else 1) for name, tensor in state.items()}
    x = dass.spectrograms(FRAMES, MELS)
    checkpoint = load(dass.write_hub(flat, dass.TINY, folder.parent / "flat", FRAMES, MELS))
    assert_close(outputs(checkpoint, x), exact(flat, x))
    for other in (1e-6, 1e-4):
        monkeypatch.setattr(dass, "EPS", other)
        with pytest.raises(AssertionError):
            assert_close(outputs(checkpoint, x), exact(flat, x))


def test_a_file_without_data_parallel_and_with_1_x_1_convolutions(state, tmp_path):
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for name, tensor in plain.items():
        if name.endswith(("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
            plain[name] = tensor[..., None, None]
    x = dass.spectrograms(FRAMES, MELS)
    checkpoint = load(dass.write_authors(plain, tmp_path / "plain.pth"), **FRONT_END)
    assert_close(outputs(checkpoint, x), exact(state, x))


def test_a_bare_model_gives_embeddings(state, folder, tmp_path):
    dass.write_hub(state, dass.TINY, tmp_path, FRAMES, MELS)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {name.removeprefix("dass."): t for name, t in tensors.items() if not name.startswith("head")},
        tmp_path / "model.safetensors",
    )
    checkpoint = load(tmp_path)
    assert (checkpoint.layout, checkpoint.config.labels) == ("DASS on the hub, bare DASSModel", ())
    x = dass.spectrograms(FRAMES, MELS)
    np.testing.assert_array_equal(outputs(checkpoint, x, forward.embed), outputs(load(folder), x, forward.embed))


@pytest.mark.parametrize("labels", [1, 527])
def test_any_number_of_labels(labels, tmp_path):
    sizes = dass.Sizes((1, 1), (16, 24), labels)
    state = dass.random_state(sizes)
    x = dass.spectrograms(20, 20)
    checkpoint = load(dass.write_hub(state, sizes, tmp_path, 20, 20))
    assert checkpoint.config.labels[-1] == f"sound {labels - 1}"
    assert_close(outputs(checkpoint, x), exact(state, x))


def test_labels_of_a_file_without_config(state, authors):
    names = [f"class {i}" for i in range(7)]
    assert load(authors, labels=names, **FRONT_END).config.labels == tuple(names)
    with pytest.raises(CheckpointError, match="7 outputs, but labels= names 6"):
        load(authors, labels=names[1:], **FRONT_END)
    with pytest.raises(CheckpointError, match=r"dass\.pth .*mean and std .* can't be told.*7 labels"):
        load(authors)


@pytest.mark.parametrize("layout", ["hub", "authors"])
@pytest.mark.parametrize("part", ["x_proj", "Ds", "patch", "downsample", "fc1.bias", "dt_projs_bias", "head.bias"])
def test_a_damaged_file_names_family_and_tensor(layout, part, state, tmp_path):
    hub = layout == "hub"
    name = next(n for n in (dass.hub_state(state) if hub else state) if part in n)

    def written(tensors):
        if not hub:
            return dass.write_authors(tensors, tmp_path / "broken.pth")
        dass.write_hub(state, dass.TINY, tmp_path, FRAMES, MELS)
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path

    tensors = dass.hub_state(state) if hub else dict(state)
    broken = {
        "lacks": {n: t for n, t in tensors.items() if n != name},
        "beside those of a DASS": {**tensors, f"{name}.more": tensors[name].clone()},
        "another shape": {**tensors, name: torch.cat([tensors[name], tensors[name][:1]])},
    }
    for problem, content in broken.items():
        named = name.removeprefix("module.")
        with pytest.raises(CheckpointError, match=rf"DASS.*{problem}.*{named}"):
            load(written(content), **FRONT_END)


def edited(state, tmp_path, **changes):
    dass.write_hub(state, dass.TINY, tmp_path, FRAMES, MELS)
    own = ("feature_extractor_type", "auto_map", "sampling_rate", "std")
    extractor = {n: changes.pop(n) for n in list(changes) if n in own}
    checkpoints.edit_json(tmp_path / "config.json", **changes)
    checkpoints.edit_json(tmp_path / "preprocessor_config.json", **extractor)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 8}, "patch_size in .* is 8: astfast runs a DASS with 4 only"),
        ({"depths": [1, 2, 2, 1]}, r"depths 1-2-2-1\) lacks 18 tensors: dass.layers.2.blocks.1"),
        ({"depths": [1, 1, 1, 1]}, "has, beside those of a DASS, 18 tensors: dass.layers.1.blocks.1"),
        ({"depths": [10**9] * 4}, r"its config says depths \[1000000000"),
        ({"depths": "2-2-8-2"}, "depths in .* it must be a list of integers above 0"),
        ({"depths": [2, 0, 8, 2]}, "depths in .* it must be a list of integers above 0"),
        ({"num_classes": 9}, r"num_classes in config\.json is 9, that of its tensors 7"),
        ({"mlp_ratio": 9.0}, r"mlp_ratio in config\.json is 9\.0, that of its tensors"),
        ({"embed_dim": 9}, r"embed_dim in config\.json is 9, that of its tensors"),
        ({"ssm_conv": 5}, "ssm_conv in .* is 5: astfast runs a DASS with 3 only"),
        ({"forward_type": "v05"}, "forward_type in .* is 'v05'"),
        ({"gmlp": True}, "gmlp in .* is True"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps in .* is 1e-06"),
        ({"dims": [20, 40, 33]}, "4 depths and 3 dims"),
        ({"dims": [20, 40, 33, 71]}, r"another shape.* is \[70.*not \[71"),
        ({"max_length": 100}, "max_length is 100 in config.json and 66 in preprocessor_config.json. Pass max_length="),
        ({"max_length": "long"}, "max_length in .*config.json is 'long'"),
        ({"feature_extractor_type": "WhisperFeatureExtractor"}, "feature extractor 'WhisperFeatureExtractor'"),
        ({"auto_map": {"AutoFeatureExtractor": "code.Other"}}, r"\(DASS\): .* feature extractor 'code\.Other'"),
        ({"std": 0.0}, r"std in preprocessor_config\.json is 0\.0"),
        ({"id2label": {"0": "a"}}, r"7 outputs, but config\.json names 1"),
        ({"model_type": "vmamba"}, "of a vmamba model: astfast runs AST.* DASS"),
    ],
)
def test_a_config_is_believed_whole_or_refused(changes, message, state, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        load(edited(state, tmp_path, **changes))


def test_fields_of_a_call_win(state, tmp_path):
    folder = edited(state, tmp_path, max_length=100)
    assert load(folder, max_length=80, mean=-1.0).config.front_end.mean == -1.0
    with pytest.raises(TypeError, match=r"time_stride=: the fields of .* \(DASS\) are"):
        load(folder, time_stride=10)
    with pytest.raises(CheckpointError, match="max_length in the call is 0"):
        load(folder, max_length=0)


def test_converting_keeps_every_bit(state, folder, authors, tmp_path):
    notes = convert(authors, tmp_path / "converted", **FRONT_END)
    assert "modeling_dass.py" in notes[0]
    x = dass.spectrograms(FRAMES, MELS)
    converted = load(tmp_path / "converted")
    assert converted.layout == "DASS on the hub"
    np.testing.assert_array_equal(outputs(converted, x), outputs(load(authors, **FRONT_END), x))
    written, published = (load_file(path / "model.safetensors") for path in (tmp_path / "converted", folder))
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in published.items()}
    for name, tensor in published.items():
        assert torch.equal(written[name], tensor), name
    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    assert (config["model_type"], config["depths"], config["num_classes"]) == ("dass", [1, 2, 1, 1], 7)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_tagger_from_waveforms(state, folder, backend):
    rng = np.random.default_rng(0)
    waves = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (12_000, 3_000)]
    tagger = astfast.load(folder, backend=backend, device="cpu", precision="float32")
    features = tagger.features(waves, sampling_rate=16_000)
    assert features.shape == (2, FRAMES, MELS)
    expected = exact(state, features)
    assert_close(tagger.logits(waves, sampling_rate=16_000), expected)
    best = tagger.classify(waves[0], sampling_rate=16_000, top_k=1)
    assert best[0]["label"] == f"sound {expected[0].argmax()}"


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("frames", "mels"), SIZES[:2])
def test_native_logits(state, folder, frames, mels, tier):
    """float32 by the formulas; bfloat16 no further from them than twice what PyTorch's own is."""
    checkpoint = load(folder, max_length=frames, num_mel_bins=mels)
    x = dass.spectrograms(frames, mels, clips=4)
    expected = exact(state, x)
    engines = {p: EagerEngine(CpuOps(1, p, 2, tier), checkpoint) for p in ("float32", "bfloat16", "int8")}
    assert_close(engines["float32"].logits(x), expected)
    with torch.no_grad():
        rounded = {name: tensor.bfloat16() for name, tensor in state.items()}
        by_torch = dass.logits(rounded, torch.from_numpy(x).bfloat16()).float().numpy()
    assert np.abs(engines["bfloat16"].logits(x) - expected).max() <= 2 * np.abs(by_torch - expected).max()
    assert np.abs(engines["int8"].logits(x) - expected).max() <= 8 * np.abs(by_torch - expected).max()
    assert_close(engines["float32"].embed(x), exact(state, x, dass.embedding))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_native_logits_alone_and_in_any_company(folder, precision, tier):
    """Bitwise: a clip alone, in any batch, with any number of threads."""
    x = dass.spectrograms(FRAMES, MELS, clips=5)
    checkpoint = load(folder)
    alone = [EagerEngine(CpuOps(1, precision, 1, tier), checkpoint).logits(x[i : i + 1])[0] for i in range(5)]
    for threads, batch_size in ((1, 5), (2, 2), (3, 1)):
        engine = EagerEngine(CpuOps(1, precision, threads, tier), checkpoint, batch_size)
        np.testing.assert_array_equal(engine.logits(x[::-1]), np.stack(alone)[::-1])


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "mels"), [SIZES[0], SIZES[2]])
def test_interpreted_gpu_logits(state, folder, frames, mels):
    """float32 by the formulas; float16 no further from them than twice what PyTorch's own is."""
    checkpoint = load(folder, max_length=frames, num_mel_bins=mels)
    x = dass.spectrograms(frames, mels)
    expected = exact(state, x)
    target = Target("gfx942", 4, "a GPU that is not here")  # whose float32 products are no TF32
    whole, half = (
        EagerEngine(CudaOps(1, precision, "cpu", launcher=interpret, target=target), checkpoint)
        for precision in ("float32", "float16")
    )
    assert_close(whole.logits(x), expected)
    with torch.no_grad():
        rounded = {name: tensor.half() for name, tensor in state.items()}
        by_torch = dass.logits(rounded, torch.from_numpy(x).half()).float().numpy()
    assert np.abs(half.logits(x) - expected).max() <= 2 * np.abs(by_torch - expected).max()


@pytest.mark.parametrize(("frames", "mels"), SIZES)
def test_gpu_graphs_of_pytorchs_ops(state, folder, frames, mels):
    """The engine with graphs, and what runs where no kernel does, at any length."""
    checkpoint = load(folder, max_length=frames, num_mel_bins=mels)
    runtime = RecordingRuntime()
    engine = gpu_engine(checkpoint, runtime)
    x = dass.spectrograms(frames, mels, clips=5)
    assert_close(engine.logits(x), exact(state, x))
    assert_close(engine.embed(x), exact(state, x, dass.embedding))
    assert runtime.captures


def test_an_ensemble_with_an_ast(state, tmp_path):
    """The front end is one and the same: features are computed once for both."""
    ast = checkpoints.write_v4(checkpoints.random_model(max_length=FRAMES, num_mel_bins=48), tmp_path / "ast")
    other = dass.write_hub(state, dass.TINY, tmp_path / "dass", FRAMES, 48)
    names = [f"class {i}" for i in range(7)]
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, 10_000).astype(np.float32)
    members = [astfast.load(path, labels=names, backend="cpu", precision="float32") for path in (ast, other)]
    both = astfast.load([ast, other], labels=names, backend="cpu", precision="float32")
    scores = [m.scores(wave, sampling_rate=16_000) for m in members]
    np.testing.assert_allclose(both.scores(wave, sampling_rate=16_000), np.mean(scores, axis=0), atol=1e-6)
