"""Layouts, geometries and logits of checkpoints that load; what is refused stands in test_broken_checkpoints.py."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from astfast import labels
from astfast.backends.reference import ReferenceOps
from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.errors import CheckpointError
from astfast.models import vit
from astfast.models.ast.geometry import PUBLISHED
from astfast.models.ast.position_embeddings import adapted
from astfast.models.recognise import load
from tests.cases.checkpoints import (
    GEOMETRY,
    MEAN,
    STD,
    assert_close,
    authors_state_dict,
    edit_json,
    logits,
    random_model,
    spectrogram,
    transformers_logits,
    write_authors,
    write_bin,
    write_v4,
    write_v5,
)


def test_outlier_weights_are_no_easy_case(model):
    """Logits differ between clips and labels, so that a wrong tensor could not hide."""
    out = transformers_logits(model, spectrogram(model.config))
    assert out.std(axis=1).min() > 0.5
    assert np.abs(out[0] - out[1]).max() > 0.05


WRITERS = {
    "v4": write_v4,
    "v5": write_v5,
    "bin": write_bin,
    "sharded": lambda model, folder: write_v4(model, folder, shard="40KB"),
    "authors": lambda model, folder: write_authors(model, folder / "ast.pth"),
}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_logits(model, v4, tmp_path, layout):
    source = WRITERS[layout](model, tmp_path)
    if layout == "sharded":
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
    overrides = {**GEOMETRY, "layer_norm_eps": 1e-12} if layout == "authors" else {}
    loaded = load(source, **overrides)
    x = spectrogram(model.config)
    assert np.array_equal(logits(loaded, x), logits(load(v4), x))
    assert_close(logits(loaded, x), transformers_logits(model, x))
    assert loaded.layout == {"v5": "transformers v5", "authors": "the authors' .pth"}.get(layout, "transformers v4")
    assert loaded.approximate is None
    expected = load(v4).config
    if layout == "authors":
        assert loaded.config.labels == tuple(f"LABEL_{i}" for i in range(7))
    else:
        assert loaded.config == expected
        assert loaded.config.labels[1] == "sound 1, b"
    assert loaded.config.front_end == expected.front_end
    assert (expected.front_end.mean, expected.front_end.std) == (MEAN, STD)


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_authors_state_dict_wrapped_or_nested(model, v4, tmp_path, prefix, nested):
    state = {name.replace("module.", prefix, 1): value for name, value in authors_state_dict(model).items()}
    content = {nested: state, "epoch": 3, "optimizer": {"lr": 1e-5, "step": torch.tensor(7)}} if nested else state
    torch.save(content, tmp_path / "ast.pth")
    loaded = load(tmp_path / "ast.pth", **GEOMETRY, layer_norm_eps=1e-12)
    x = spectrogram(model.config)
    assert np.array_equal(logits(loaded, x), logits(load(v4), x))


def test_published_pth_has_159_tensors():
    assert len(authors_state_dict(random_model(num_hidden_layers=12))) == 159


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_other_dtypes_are_read_to_the_bit(model, v4, tmp_path, dtype, kind):
    state = {name: value.to(dtype) for name, value in load_file(v4 / "model.safetensors").items()}
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((v4 / name).read_text())
    if kind == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        save_file(state, tmp_path / "model.safetensors")
    rounded = random_model()
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.to(dtype))
    x = spectrogram(model.config)
    assert_close(logits(load(tmp_path), x), transformers_logits(rounded, x))
    last = load(tmp_path).weights.last.fc2
    expected = state["audio_spectrogram_transformer.encoder.layer.2.output.dense.weight"].float().numpy()
    assert np.asarray(last.weight).dtype == np.float32
    assert np.array_equal(np.asarray(last.weight), expected)


def test_strided_tensors_and_shared_storages(model, v4, tmp_path):
    """A transposed tensor, and slices of one storage, keep their strides and offsets in a .pth."""
    state = authors_state_dict(model)
    for name, value in state.items():
        if value.ndim == 2:
            state[name] = value.t().contiguous().t()
    storage = torch.cat([state["module.v.norm.weight"], state["module.v.norm.bias"]])
    state["module.v.norm.weight"], state["module.v.norm.bias"] = storage.chunk(2)
    torch.save(state, tmp_path / "ast.pth")
    x = spectrogram(model.config)
    loaded = load(tmp_path / "ast.pth", **GEOMETRY, layer_norm_eps=1e-12)
    assert np.array_equal(logits(loaded, x), logits(load(v4), x))


@pytest.mark.parametrize("writer", [write_v4, write_v5])
def test_bare_model_gives_embeddings_only(tmp_path, writer):
    bare = random_model(bare=True)
    loaded = load(writer(bare, tmp_path))
    assert loaded.weights.head is None
    assert loaded.config.labels == ()
    x = spectrogram(bare.config)
    ops = ReferenceOps(loaded.config.num_attention_heads)
    with torch.no_grad():
        ws = dict.fromkeys(vit.workspace(loaded.config))
        ours = vit.embed(ops, vit.pack(ops, loaded.weights), torch.from_numpy(x), ws).numpy()
        assert_close(ours, bare(torch.from_numpy(x)).pooler_output.numpy())
    with pytest.raises(CheckpointError, match="no classifier"):
        load(tmp_path, labels=["a"])


def test_model_without_qkv_bias(tmp_path):
    unbiased = random_model(qkv_bias=False)
    x = spectrogram(unbiased.config)
    assert_close(logits(load(write_v4(unbiased, tmp_path)), x), transformers_logits(unbiased, x))
    (tmp_path / "config.json").unlink()  # then the names tell it
    loaded = load(tmp_path / "model.safetensors", **GEOMETRY)
    assert_close(logits(loaded, x), transformers_logits(unbiased, x))


# LayerNorm epsilons ---------------------------------------------------------------------------------------------------


def test_authors_epsilons_match_float64_where_a_wrong_one_shows(tmp_path):
    """On weights whose activations have a variance near the epsilons: 1e-6 in the blocks, 1e-5 in the head."""
    model = random_model(spread=2e-3)
    path = write_authors(model, tmp_path / "ast.pth")
    x = spectrogram(model.config)

    def oracle(blocks: float, head: float) -> np.ndarray:
        twin = random_model(spread=2e-3).double()
        for name, module in twin.named_modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = head if name.startswith("classifier") else blocks
        with torch.no_grad():
            return twin(torch.from_numpy(x).double()).logits.numpy()

    right = oracle(1e-6, 1e-5)
    loaded = load(path, **GEOMETRY)
    assert (loaded.config.layer_norm_eps, loaded.config.head_layer_norm_eps) == (1e-6, 1e-5)
    assert np.abs(logits(loaded, x, torch.float64) - right).max() < 1e-9
    assert_close(logits(loaded, x), right)
    for wrong in (oracle(1e-12, 1e-5), oracle(1e-6, 1e-6), oracle(1e-6, 1e-12), oracle(1e-5, 1e-5)):
        assert np.abs(wrong - right).max() > 0.03


def test_epsilons_of_config_json(model, tmp_path):
    write_v4(model, tmp_path)
    assert (load(tmp_path).config.layer_norm_eps, load(tmp_path).config.head_layer_norm_eps) == (1e-12, 1e-12)
    edit_json(tmp_path / "config.json", layer_norm_eps=1e-5)
    assert (load(tmp_path).config.layer_norm_eps, load(tmp_path).config.head_layer_norm_eps) == (1e-5, 1e-5)
    edit_json(tmp_path / "config.json", head_layer_norm_eps=1e-7)
    assert (load(tmp_path).config.layer_norm_eps, load(tmp_path).config.head_layer_norm_eps) == (1e-5, 1e-7)
    overridden = load(tmp_path, layer_norm_eps=0, head_layer_norm_eps=1e-3).config
    assert (overridden.layer_norm_eps, overridden.head_layer_norm_eps) == (0.0, 1e-3)
    edit_json(tmp_path / "config.json", layer_norm_eps=None, head_layer_norm_eps=None)
    assert load(tmp_path).config.layer_norm_eps == 1e-12


# Geometry -------------------------------------------------------------------------------------------------------------

# (strides, mels, frames) -> grid, tokens: every published checkpoint (models.md) and an odd one.
GEOMETRIES = [
    ((10, 10), 128, 1024, (12, 101), 1214),
    ((12, 12), 128, 1024, (10, 85), 852),
    ((14, 14), 128, 1024, (9, 73), 659),
    ((16, 16), 128, 1024, (8, 64), 514),
    ((10, 10), 128, 512, (12, 50), 602),
    ((10, 10), 128, 128, (12, 12), 146),
    ((11, 13), 64, 301, (5, 22), 112),
]


@pytest.mark.parametrize(("strides", "mels", "frames", "grid", "tokens"), GEOMETRIES)
def test_geometry(tmp_path, strides, mels, frames, grid, tokens):
    odd = strides == (11, 13)
    width = {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 200} if odd else {}
    model = random_model(
        num_hidden_layers=1,
        frequency_stride=strides[0],
        time_stride=strides[1],
        num_mel_bins=mels,
        max_length=frames,
        **width,
    )
    config = load(write_v4(model, tmp_path)).config
    assert (config.grid, config.num_tokens) == (grid, tokens)
    x = spectrogram(model.config, clips=1)
    assert_close(logits(load(tmp_path), x), transformers_logits(model, x))

    path = write_authors(model, tmp_path / "ast.pth")
    if odd:
        with pytest.raises(CheckpointError, match=r"pass num_attention_heads="):
            load(path, mean=MEAN, std=STD)
        with pytest.raises(CheckpointError, match=r"110 position embeddings.*pass frequency_stride="):
            load(path, mean=MEAN, std=STD, num_attention_heads=3)
        derived = load(
            path,
            mean=MEAN,
            std=STD,
            num_attention_heads=3,
            frequency_stride=11,
            time_stride=13,
            max_length=301,
            num_mel_bins=64,
        )
        assert derived.config.num_attention_heads == 3
    else:
        derived = load(path, mean=MEAN, std=STD)
        assert derived.config.num_attention_heads == 1  # hidden / 64
        assert (strides[0], frames) in PUBLISHED
    assert (derived.config.grid, derived.config.max_length, derived.config.num_mel_bins) == (grid, frames, mels)
    assert derived.approximate is None


@pytest.mark.parametrize(
    ("count", "mean", "std"), [(527, -4.2677393, 4.5689974), (35, -6.845978, 5.5654526), (50, -6.6268077, 5.358466)]
)
def test_pth_has_the_labels_and_normalisation_of_its_data_set(tmp_path, count, mean, std):
    model = random_model(
        num_hidden_layers=1, num_labels=count, frequency_stride=10, time_stride=10, num_mel_bins=128, max_length=128
    )
    config = load(write_authors(model, tmp_path / "ast.pth")).config
    assert config.labels == labels.packaged(count)
    assert (config.front_end.mean, config.front_end.std) == (mean, std)
    assert load(tmp_path / "ast.pth", mean=-1, std=2).config.front_end.mean == -1.0


def test_pth_of_unknown_labels_asks_for_the_normalisation(model, tmp_path):
    path = write_authors(model, tmp_path / "ast.pth")
    geometry = {name: value for name, value in GEOMETRY.items() if name not in ("mean", "std")}
    for given in ({}, {"mean": MEAN}, {"std": STD}):
        with pytest.raises(CheckpointError, match="pass mean= and std="):
            load(path, **geometry, **given)
    assert not load(path, **geometry, do_normalize=False).config.front_end.do_normalize


def test_square_patch_lists_and_other_head_sizes(model, tmp_path):
    write_v4(model, tmp_path)
    edit_json(tmp_path / "config.json", patch_size=[16, 16])
    assert load(tmp_path).config.patch_size == 16
    edit_json(tmp_path / "config.json", patch_size=[16, 8])
    with pytest.raises(CheckpointError, match=r"patch_size .*\[16, 8\]"):
        load(tmp_path)
    edit_json(tmp_path / "config.json", patch_size=16, head_dim=32)
    with pytest.raises(CheckpointError, match="head_dim 32"):
        load(tmp_path)


def test_small_patches(tmp_path):
    small = random_model(patch_size=2, hidden_size=32, intermediate_size=37, num_attention_heads=2)
    x = spectrogram(small.config)
    assert_close(logits(load(write_v4(small, tmp_path)), x), transformers_logits(small, x))


# Other lengths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [1, 5, 6, 7, 12])
@pytest.mark.parametrize("native", [6, 7])
def test_positions_are_adapted_as_the_authors_do(time, native):
    """Cropped from the middle, or bilinear with align_corners=False, as in the authors' ASTModel."""
    grid = torch.randn(1, 3 * native + 2, 8, generator=torch.Generator().manual_seed(time))
    ours = np.asarray(adapted(LazyTensor(grid.shape, grid.numpy), (3, native), time))
    image = grid[:, 2:].transpose(1, 2).reshape(1, 8, 3, native)
    if time <= native:
        start = int(native / 2) - int(time / 2)
        image = image[:, :, :, start : start + time]
    else:
        image = torch.nn.functional.interpolate(image.double(), size=(3, time), mode="bilinear")
    theirs = torch.cat([grid[0, :2].to(image.dtype), image.reshape(8, 3 * time).T]).numpy()
    assert ours.shape == (3 * time + 2, 8)
    rounded = 4 * np.finfo(np.float32).eps / 2  # two weights, two products and a sum of values up to the maximum
    assert np.abs(ours - theirs).max() <= rounded * np.abs(theirs).max()


def test_another_length_is_said_to_be_approximate(model, v4, tmp_path):
    exact = load(v4, max_length=76 + 11)  # the last length with 6 patches along time
    assert exact.approximate is None
    longer = load(v4, max_length=76 + 12)
    assert longer.config.grid == (3, 7)
    assert "interpolated" in longer.approximate
    shorter = load(v4, max_length=75)
    assert shorter.config.grid == (3, 5)
    assert "cropped" in shorter.approximate
    x = spectrogram(model.config)
    assert logits(shorter, x[:, :75]).shape == (2, 7)
    assert logits(longer, np.pad(x, ((0, 0), (0, 12), (0, 0)))).shape == (2, 7)
    geometry = {**GEOMETRY, "max_length": 88}
    from_pth = load(write_authors(model, tmp_path / "ast.pth"), **geometry)
    assert "interpolated" in from_pth.approximate
    assert np.array_equal(np.asarray(from_pth.weights.embed.position), np.asarray(longer.weights.embed.position))


def test_published_pth_at_another_length(tmp_path):
    model = random_model(num_hidden_layers=1, frequency_stride=16, time_stride=16, num_mel_bins=128, max_length=1024)
    path = write_authors(model, tmp_path / "ast.pth")
    loaded = load(path, mean=MEAN, std=STD, max_length=512)
    assert (loaded.config.frequency_stride, loaded.config.grid) == (16, (8, 32))
    assert "64 patches along time and runs on 32" in loaded.approximate


# Memory, and what a load doesn't do -----------------------------------------------------------------------------------


def test_leaves_are_read_anew_and_nothing_is_kept(v4):
    leaf = load(v4).weights.layers[0].qkv.linear.weight
    assert leaf.shape == (192, 64)
    first, second = np.asarray(leaf), np.asarray(leaf)
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    assert not np.shares_memory(first, second)
    first[:] = 0
    assert np.array_equal(second, np.asarray(leaf))
    assert np.asarray(leaf, np.float64).dtype == np.float64


def test_loading_imports_no_torch(model, v4, tmp_path):
    path = write_authors(model, tmp_path / "ast.pth")
    code = (
        "import sys, numpy as np\n"
        "from astfast.models.recognise import load\n"
        f"for source, options in (({str(v4)!r}, {{}}), ({str(path)!r}, {GEOMETRY!r})):\n"
        "    np.asarray(load(source, **options).weights.last.kv.linear.weight)\n"
        "assert not {'torch', 'transformers', 'safetensors', 'huggingface_hub'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fingerprint_changes_with_the_file_and_the_config(model, tmp_path):
    write_v4(model, tmp_path)
    first = load(tmp_path).fingerprint
    assert first == load(tmp_path).fingerprint
    assert first != load(tmp_path, num_attention_heads=2).fingerprint
    write_v4(random_model(seed=5), tmp_path)
    assert first != load(tmp_path).fingerprint
