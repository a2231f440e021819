"""What a checkpoint doesn't say: assumed as transformers does, or as the published models are, with a warning."""

import json
import shutil

import pytest
from transformers import ASTFeatureExtractor

import astfast
from astfast import labels
from astfast.errors import CheckpointError
from astfast.models.recognise import load
from tests.cases.checkpoints import GEOMETRY, edit_json, random_model, write_authors, write_v4

OWN = {"num_hidden_layers": 1, "num_labels": 50, "frequency_stride": 10, "time_stride": 10}


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    """A fine-tune of 50 classes of its own, of the geometry of a published model."""
    return write_v4(random_model(**OWN, num_mel_bins=128, max_length=128), tmp_path_factory.mktemp("fifty"))


@pytest.mark.parametrize("present", [True, False])
def test_a_folder_without_normalisation_has_that_of_transformers(fifty, tmp_path, present):
    shutil.copytree(fifty, tmp_path, dirs_exist_ok=True)
    if present:
        edit_json(tmp_path / "preprocessor_config.json", mean=None, std=None)
    else:
        (tmp_path / "preprocessor_config.json").unlink()
    loaded = load(tmp_path)
    theirs = ASTFeatureExtractor()
    front_end = loaded.config.front_end
    assert (front_end.mean, front_end.std, front_end.sampling_rate) == (theirs.mean, theirs.std, theirs.sampling_rate)
    (note,) = loaded.notes
    assert (
        "doesn't say all of what it was trained with; taken are mean=-4.2677393 and std=4.5689974 of AudioSet" in note
    )
    assert not load(tmp_path, mean=-4.2677393, std=4.5689974).notes
    assert not load(fifty).notes


def test_a_folder_with_labels_of_audioset_needs_no_warning(tmp_path):
    names = dict(enumerate(labels.packaged(527)))
    model = random_model(num_hidden_layers=1, num_labels=527)
    model.config.id2label = names
    write_v4(model, tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    assert not load(tmp_path).notes


def test_a_bare_file_names_all_that_is_assumed(fifty, tmp_path):
    path = write_authors(random_model(**OWN, num_mel_bins=128, max_length=128), tmp_path / "ast.pth")
    (note,) = load(path).notes
    for part in (
        *("frequency_stride=10", "time_stride=10", "max_length=128", "num_attention_heads=1"),
        *("the 50 labels of ESC-50", "mean=-6.6268077 and std=5.358466 of ESC-50"),
    ):
        assert part in note
    given = {"frequency_stride": 10, "time_stride": 10, "max_length": 128, "num_attention_heads": 1}
    (note,) = load(path, **given, mean=-1.0, std=2.0).notes
    assert "taken are the 50 labels of ESC-50: pass" in note
    assert not load(path, **given, mean=-1.0, std=2.0, labels=[str(i) for i in range(50)]).notes


def test_heads_of_a_folder_without_config_are_assumed(v4, tmp_path):
    shutil.copy(v4 / "model.safetensors", tmp_path)
    given = {name: value for name, value in GEOMETRY.items() if name != "num_attention_heads"}
    (note,) = load(tmp_path, **given).notes
    assert "taken are num_attention_heads=1:" in note


def test_load_shows_the_warning_at_the_callers_line(fifty, tmp_path):
    shutil.copytree(fifty, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="mean=-4.2677393 and std=4.5689974 of AudioSet") as caught:
        astfast.load(tmp_path, backend="cpu", precision="float32").labels  # noqa: B018
    assert {warning.filename for warning in caught} == {__file__}


# Feature extractors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"feature_extractor_type": "OtherFeatureExtractor"},
        {"feature_extractor_type": ["x"]},
        {"feature_extractor_type": "ASTFeatureExtractor", "auto_map": {"AutoFeatureExtractor": "code.MyExtractor"}},
    ],
)
def test_other_feature_extractors_are_refused_by_name(v4, tmp_path, fields):
    shutil.copytree(v4, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    named = r"(OtherFeatureExtractor|\['x'\]|code\.MyExtractor)"
    with pytest.raises(
        CheckpointError,
        match=rf"has the feature extractor '?{named}'?: astfast runs ASTFeatureExtractor, MAESTFeatureExtractor",
    ):
        load(tmp_path)
