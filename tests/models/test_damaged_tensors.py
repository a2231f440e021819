"""Every tensor of a small checkpoint of every family, missing, of another shape, or one too many: CheckpointError names
the family and the tensor, whichever it is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from astfast.checkpoints import sources
from astfast.checkpoints.lazy_tensor import LazyTensor
from astfast.checkpoints.sources import CheckpointFiles
from astfast.errors import CheckpointError
from astfast.models.recognise import from_files
from tests.cases import checkpoints, dass, timm_vit
from tests.models.ced.test_ced import write_hub as write_ced_hub
from tests.models.maest.test_maest import write_hub as write_maest_hub

D = 64
# What a shape says that contradicts the config, or no published model has.
IN_WORDS = ("outputs, but config.json", "position embeddings", "positions ", "mel bins", "hidden size")
SIZES = dass.Sizes((1, 1), (16, 32), labels=7)


def saved(state: timm_vit.State, path: Path) -> Path:
    torch.save(dict(state), path)
    return path


def ced() -> timm_vit.State:
    return timm_vit.random_state(timm_vit.ced_shapes(D, 1, 527))


def passt(labels: int, grid: tuple[int, int]) -> timm_vit.State:
    return timm_vit.random_state(timm_vit.passt_shapes(D, 1, labels, grid))


def ast() -> torch.nn.Module:
    return checkpoints.random_model(num_hidden_layers=2, max_length=1024, num_mel_bins=128, num_labels=527)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "AST, v4": lambda folder: checkpoints.write_v4(ast(), folder),
    "AST, v5": lambda folder: checkpoints.write_v5(ast(), folder),
    "DASS, hub": lambda folder: dass.write_hub(dass.random_state(SIZES), SIZES, folder, 66, 48),
    "CED, hub": lambda folder: write_ced_hub(folder, ced(), embed_dim=D, depth=1, num_heads=1),
    "CED, authors": lambda folder: saved(ced(), folder / "ced.pt"),
    "PaSST": lambda folder: saved(passt(527, (12, 99)), folder / "passt.pt"),
    "MAEST, authors": lambda folder: saved(passt(400, (9, 62)), folder / "maest.ckpt"),
    "MAEST, hub": write_maest_hub,
}


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
        from_files(files._replace(tensors=changed))
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
    """The tensors that count: not the classifier of the distillation token, which nothing reads."""
    return ((name, x) for name, x in files.tensors.items() if "head_dist" not in name)


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
