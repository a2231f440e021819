"""config.json and preprocessor_config.json of every family: what they may say, what is refused by name, and what is
unknown and said to be ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PretrainedConfig

from astfast.errors import CheckpointError
from astfast.models.fields import FORMULA, VARIANTS
from astfast.models.recognise import load
from tests.cases import checkpoints, dass, timm_vit
from tests.models.ced.test_ced import write_hub as write_ced_hub
from tests.models.maest.test_maest import write_hub as write_maest_hub

D = 64


def ced(folder: Path) -> Path:
    state = timm_vit.random_state(timm_vit.ced_shapes(D, 1, 5))
    names = {str(i): f"sound {i}" for i in range(5)}
    return write_ced_hub(folder, state, embed_dim=D, depth=1, num_heads=1, outputdim=5, id2label=names)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "AST": lambda folder: checkpoints.write_v4(checkpoints.random_model(num_hidden_layers=1), folder),
    "DASS": lambda folder: dass.write_hub(dass.random_state(dass.TINY), dass.TINY, folder, 66, 48),
    "CED": ced,
    "MAEST": write_maest_hub,
}
OWN: dict[str, dict[str, list[Any]]] = {  # beside VARIANTS; what each family's own tests have is left out
    "AST": {"hidden_act": ["gelu_new", "relu"], "problem_type": ["ranking"]},
    "DASS": {"hidden_act": ["silu"], "problem_type": ["ranking"]},
    "CED": {
        "problem_type": ["single_label_classification", "ranking"],
        "pad_last": [False],
        "qkv_bias": [False],
    },
    "MAEST": {"hidden_act": ["gelu_new"], "problem_type": ["ranking"]},
}
OTHER_VALUES = {name: ["another"] for name in VARIANTS} | {"is_decoder": [True], "pruned_heads": [{"0": [1]}]}
PUBLISHED_CED = ("drop_rate", "attn_drop_rate", "drop_path_rate")


@pytest.fixture(scope="module", params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, WRITERS[request.param](tmp_path_factory.mktemp("whole"))


def loaded(source: Path, tmp_path: Path, file: str = "config.json", **changes: Any) -> tuple[str, ...]:
    """The notes on a copy of a folder with another config.json, or another ``file``."""
    folder = tmp_path / source.name
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.name != file:
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path)
    (folder / file).unlink(missing_ok=True)
    (folder / file).write_bytes((source / file).read_bytes())
    checkpoints.edit_json(folder / file, **changes)
    return load(folder).notes


def test_every_value_without_a_formula_is_refused_by_name(written: tuple[str, Path], tmp_path: Path) -> None:
    family, source = written
    for name, values in (OTHER_VALUES | OWN[family]).items():
        for value in values:
            with pytest.raises(CheckpointError, match=rf"\b{name} in .*config\.json is .*: (astfast runs|it must be)"):
                loaded(source, tmp_path, **{name: value})


def test_every_class_of_somebodys_own_is_refused_by_name(written: tuple[str, Path], tmp_path: Path) -> None:
    _, source = written
    own = {"architectures": ["MyModel"], "auto_map": {"AutoModelForAudioClassification": "owner/repo--code.MyModel"}}
    for field, value in own.items():
        with pytest.raises(CheckpointError, match=rf"{field} in .*config\.json names the class .*MyModel'"):
            loaded(source, tmp_path, **{field: value})


CLASSES = {
    "AST": ("ASTForAudioClassification", "ASTModel", "ASTConfig", "ASTFeatureExtractor"),
    "DASS": ("DASSForAudioClassification", "DASSModel", "DASSConfig", "DASSFeatureExtractor"),
    "CED": ("CedForAudioClassification", "CedModel", "CedConfig", "CedFeatureExtractor"),
    "MAEST": ("ASTForAudioClassification", "ASTModel", "ASTConfig", "MAESTFeatureExtractor"),
}


def test_the_published_classes_may_be_named(written: tuple[str, Path], tmp_path: Path) -> None:
    family, source = written
    classes = CLASSES[family]
    autos = ("AutoModelForAudioClassification", "AutoModel", "AutoConfig", "AutoFeatureExtractor")
    code = {auto: f"owner/repo--code.{name}" for auto, name in zip(autos, classes, strict=True)}
    assert loaded(source, tmp_path, architectures=[classes[0]], auto_map=code) == ()


def test_every_formula_of_features_is_known_or_refused_by_name(written: tuple[str, Path], tmp_path: Path) -> None:
    _, source = written
    for field in FORMULA:
        with pytest.raises(
            CheckpointError, match=rf"\b{field}\b.*preprocessor_config|preprocessor_config.*\b{field}\b"
        ):
            loaded(source, tmp_path, "preprocessor_config.json", **{field: 0.123})


@pytest.mark.parametrize("written", ["AST", "DASS"], indirect=True)
def test_a_formula_may_be_said_as_it_is(written: tuple[str, Path], tmp_path: Path) -> None:
    _, source = written
    assert loaded(source, tmp_path, "preprocessor_config.json", dither=0.0, frame_shift=10, window_type="hanning") == ()


def test_an_unknown_field_of_the_extractor_is_said_to_be_ignored(written: tuple[str, Path], tmp_path: Path) -> None:
    _, source = written
    (note,) = loaded(
        source, tmp_path, "preprocessor_config.json", loudness=-23, image_processor_type="Other", none=None
    )
    assert note.endswith(
        "preprocessor_config.json has fields that astfast doesn't know, and ignores: image_processor_type, loudness"
    )


def test_a_window_by_name_is_said_to_be_ignored(written: tuple[str, Path], tmp_path: Path) -> None:
    """Where extractors store its values, which they compute anew, it changes nothing."""
    _, source = written
    assert loaded(source, tmp_path, "preprocessor_config.json", window=[0.5], mel_filters=[[1.0]]) == ()
    (note,) = loaded(source, tmp_path, "preprocessor_config.json", window="hamming")
    assert note.endswith("ignores: window")


def test_an_unknown_field_is_said_to_be_ignored(written: tuple[str, Path], tmp_path: Path) -> None:
    _, source = written
    (note,) = loaded(source, tmp_path, talking_heads=True, gated_mlp=1, _private=2, nothing=None)
    assert note.endswith("config.json has fields that astfast doesn't know, and ignores: gated_mlp, talking_heads")


def test_fields_that_transformers_and_the_authors_write_need_no_warning(
    written: tuple[str, Path], tmp_path: Path
) -> None:
    """The defaults of every config, whichever of them a version writes, and dropout of training."""
    _, source = written
    common = {name: 0 if value is None else value for name, value in PretrainedConfig().to_dict().items()}
    del common["id2label"], common["label2id"], common["model_type"], common["problem_type"]
    training = dict.fromkeys((*PUBLISHED_CED, "use_checkpoint", "initializer_range", "hidden_dropout_prob"), 0.1)
    assert loaded(source, tmp_path, **common, **training) == ()
