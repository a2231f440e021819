"""A fine-tune of every family and layout runs; a tensor that is missing, of another shape or one too many is named, and
the family with it, whichever it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astfast
from astfast.checkpoints import sources
from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError
from astfast.models.recognise import from_files, load
from tests.cases import checkpoints, dass, timm_vit
from tests.models.ced.test_ced import write_hub as write_ced_hub
from tests.models.maest.test_maest import EXTRACTOR
from tests.models.maest.test_maest import write_hub as write_maest_hub

D = 64
# What a shape says that contradicts the config, or no published model has.
IN_WORDS = ("outputs, but config.json", "position embeddings", "positions ", "mel bins", "hidden size")
SIZES = dass.Sizes((1, 1), (16, 32), labels=7)
FIVE = dass.Sizes((1, 1), (16, 32), labels=5)


def saved(state: timm_vit.State, path: Path) -> Path:
    torch.save(dict(state), path)
    return path


def ced() -> timm_vit.State:
    return timm_vit.random_state(timm_vit.ced_shapes(D, 1, 527))


def passt(labels: int, grid: tuple[int, int]) -> timm_vit.State:
    return timm_vit.random_state(timm_vit.passt_shapes(D, 1, labels, grid))


def ast(labels: int = 527, frames: int = 1024, mels: int = 128) -> torch.nn.Module:
    strides = {"frequency_stride": 10, "time_stride": 10}
    return checkpoints.random_model(
        num_hidden_layers=2, max_length=frames, num_mel_bins=mels, num_labels=labels, **strides
    )


WRITERS: dict[str, Callable[[Path], Path]] = {
    "AST, v4": lambda folder: checkpoints.write_v4(ast(), folder),
    "AST, v5": lambda folder: checkpoints.write_v5(ast(), folder),
    "AST, authors": lambda folder: checkpoints.write_authors(ast(), folder / "ast.pth"),
    "DASS, authors": lambda folder: dass.write_authors(
        dass.random_state(dass.Sizes((1, 1), (16, 32), labels=527)), folder / "dass.pth"
    ),
    "DASS, hub": lambda folder: dass.write_hub(dass.random_state(SIZES), SIZES, folder, 66, 48),
    "CED, hub": lambda folder: write_ced_hub(folder, ced(), embed_dim=D, depth=1, num_heads=1),
    "CED, authors": lambda folder: saved(ced(), folder / "ced.pt"),
    "PaSST": lambda folder: saved(passt(527, (12, 99)), folder / "passt.pt"),
    "MAEST, authors": lambda folder: saved(passt(400, (9, 62)), folder / "maest.ckpt"),
    "MAEST, hub": write_maest_hub,
}


def ced_of(labels: int, positions: int) -> timm_vit.State:
    return timm_vit.random_state(timm_vit.ced_shapes(D, 1, labels, positions))


def maest_of_206_frames(folder: Path) -> Path:
    checkpoints.write_v4(ast(5, 206, 96), folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | {"max_length": 206}))
    return folder


FILE = {"mean": -4.0, "std": 4.0}  # what no file of the authors' says
STRIDES = {"frequency_stride": 10, "time_stride": 10}
FINE_TUNES: dict[str, tuple[Callable[[Path], Path], dict[str, Any], int]] = {  # writer, keywords, frames
    "AST, v4": (lambda folder: checkpoints.write_v4(ast(5, 206), folder), {}, 206),
    "AST, v5": (lambda folder: checkpoints.write_v5(ast(5, 206), folder), {}, 206),
    "AST, authors": (
        lambda folder: checkpoints.write_authors(ast(5, 206), folder / "ast.pth"),
        FILE | STRIDES | {"max_length": 206},
        206,
    ),
    "DASS, hub": (lambda folder: dass.write_hub(dass.random_state(FIVE), FIVE, folder, 100, 48), {}, 100),
    "DASS, authors": (
        lambda folder: dass.write_authors(dass.random_state(FIVE), folder / "dass.pth"),
        FILE | {"max_length": 100, "num_mel_bins": 48},
        100,
    ),
    "CED, hub": (
        lambda folder: write_ced_hub(
            folder, ced_of(5, 187), embed_dim=D, depth=1, num_heads=1, outputdim=5, target_length=3000
        ),
        {},
        3000,
    ),
    "CED, authors": (lambda folder: saved(ced_of(5, 20), folder / "ced.pt"), {}, 320),
    "PaSST": (lambda folder: saved(passt(5, (12, 30)), folder / "passt.pt"), {}, 315),
    "PaSST, stride 14": (lambda folder: saved(passt(5, (9, 30)), folder / "passt.pt"), {"time_stride": 14}, 435),
    "MAEST, authors": (lambda folder: saved(passt(5, (9, 45)), folder / "maest.ckpt"), {"time_stride": 10}, 450),
    "MAEST, hub": (maest_of_206_frames, {}, 206),
}


@pytest.mark.parametrize("layout", FINE_TUNES)
def test_a_fine_tune_of_other_labels_and_length_runs(layout: str, tmp_path: Path) -> None:
    write, keywords, frames = FINE_TUNES[layout]
    source = write(tmp_path)
    found = load(source, **keywords)
    assert (found.family.name, found.config.num_labels, found.config.max_length) == (
        layout.partition(",")[0],
        5,
        frames,
    )
    tagger = astfast.load(source, device="cpu", precision="float32", **keywords)
    logits = tagger.forward(np.zeros((1, frames, found.config.num_mel_bins), np.float32))
    assert logits.shape == (1, 5)
    assert np.isfinite(logits).all()


@pytest.fixture(scope="module", params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param.partition(",")[0], WRITERS[request.param](tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def files(written: tuple[str, Path]) -> tuple[str, CheckpointFiles]:
    family, source = written
    found = sources.find(source, None, None, True)
    assert from_files(found).family.name == family
    return family, found


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.999])
def test_a_truncated_file_is_named(written: tuple[str, Path], kept: float, tmp_path: Path) -> None:
    _, source = written
    copy = tmp_path / source.name
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copy(source, copy)
    cut = copy / "model.safetensors" if copy.is_dir() else copy
    whole = cut.read_bytes()
    cut.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(CheckpointError, match=re.escape(cut.name)):
        from_files(sources.find(copy, None, None, True))


def message(files: CheckpointFiles, **tensors: LazyTensor | None) -> str | None:
    """What is said of the checkpoint with some of its tensors replaced, None where it loads."""
    changed = {name: x for name, x in {**files.tensors, **tensors}.items() if x is not None}
    try:
        from_files(files._replace(tensors=changed), FILE if files.source.endswith(".pth") else {})
    except CheckpointError as error:
        return str(error)
    return None


def other_shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """One less and one more along each dimension, none at all along it; a dimension less, one more, no dimension."""
    for axis, size in enumerate(shape):
        for other in (size - 1, size + 1, 0):
            yield (*shape[:axis], other, *shape[axis + 1 :])
    yield from (shape[1:], (*shape, 2), ())


def read(files: CheckpointFiles) -> Iterator[tuple[str, LazyTensor]]:
    """The tensors that count: not DeiT's classifiers, which nothing reads."""
    return ((name, x) for name, x in files.tensors.items() if "head_dist" not in name and "v.head." not in name)


def test_each_missing_tensor_is_named(files: tuple[str, CheckpointFiles]) -> None:
    family, whole = files
    for name, _ in read(whole):
        said = message(whole, **{name: None}) or "nothing"
        assert family in said, (name, said)
        assert name.removeprefix("encoder.") in said, (name, said)


def test_each_surplus_tensor_is_named(files: tuple[str, CheckpointFiles]) -> None:
    family, whole = files
    for name, x in read(whole):
        said = message(whole, **{f"{name}.more": x}) or "nothing"
        assert family in said, (name, said)
        assert f"{name.removeprefix('encoder.')}.more" in said, (name, said)


def test_each_tensor_of_another_shape_is_named(files: tuple[str, CheckpointFiles]) -> None:
    """Unless the shape is that of another model, with other labels, positions or widths, which loads. Where two tensors
    of a module contradict each other, either may be named."""
    family, whole = files
    for name, x in read(whole):
        for shape in other_shapes(x.shape):
            said = message(whole, **{name: LazyTensor(shape, lambda shape=shape: np.zeros(shape, np.float32))})
            if said is None:
                assert len(shape) == len(x.shape), (name, shape)
            else:
                assert family in said, (name, shape, said)
                module, _, parameter = name.removeprefix("encoder.").rpartition(".")
                named = (module or parameter, *IN_WORDS)
                assert any(part in said for part in named), (name, shape, said)
