"""``astfast verify``: its rows, its verdict and what it says where something can't be compared."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from astfast import catalogue
from astfast.backends import module_of
from astfast.benchmarking import verification
from astfast.checkpoints import hub
from astfast.commands.main import main
from astfast.errors import CheckpointError
from tests import ROOT
from tests.cases import checkpoints
from tests.cases.checkpoints import edit_json


def rows_of(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_backend_and_precision_is_a_row(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_model), "--json"]) == 0
    rows = rows_of(capsys)
    ran = {(row["backend"], row["precision"]) for row in rows if row["backend"] != "cuda"}
    assert ran == {(b, p) for b in ("cpu", "reference") for p in module_of(b).precisions()}
    itself = next(row for row in rows if row["backend"] == "reference")
    assert (itself["relative_error"], itself["score_difference"], itself["crossings"]) == (0, 0, 0)
    assert (itself["top_1"], itself["top_5"], itself["clips"]) == (1, 1, 3)
    int8 = next(row for row in rows if row["precision"] == "int8")
    assert 0 < int8["relative_error"] < 0.5
    assert int8["published_difference"] is None


def test_table_on_files(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dog = str(ROOT / "samples" / "dog.ogg")
    assert main(["verify", str(tiny_model), "--backend", "cpu", "--precision", "float32", "--audio", dog, dog]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert "tags that differ" in head
    assert row.split()[:3] == ["cpu", "float32", "yes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "cpu", "--precision", "float16"], "no backend that was asked for runs in float16 here"),
        (["--anchor", "sample_audio.flac"], "is no published model: name with --published the one that it is a copy"),
    ],
)
def test_nothing_to_compare_is_an_error(
    options: list[str], message: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tiny_model), *options]) not in (0, 1)
    assert message in capsys.readouterr().err


def test_a_result_that_does_not_agree_is_named_and_exits_with_1(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(verification.AGREEMENT, "bfloat16", 1e-9)
    assert main(["verify", str(tiny_model), "--backend", "cpu", "--json"]) == 1
    assert {row["precision"]: row["agrees"] for row in rows_of(capsys)} == {
        "float32": True,
        "bfloat16": False,
        "int8": True,
    }


def test_numbers_that_overflow_are_a_problem_of_their_row(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = verification.astfast.load

    def broken(*arguments: object, **options: object) -> object:
        tagger = load(*arguments, **options)
        if options["precision"] == "int8":
            monkeypatch.setattr(tagger._lazy.get(), "_run", lambda batch, _: np.full((len(batch), 7), np.nan))
        return tagger

    monkeypatch.setattr(verification.astfast, "load", broken)
    assert main(["verify", str(tiny_model), "--backend", "cpu"]) == 1
    output = capsys.readouterr()
    assert "cpu int8: cpu int8: logits not finite" in output.err
    assert output.out.splitlines()[-1].split()[:5] == ["cpu", "int8", "NO", "-", "-"]


def test_what_cannot_run_is_said_and_what_was_asked_for_is_an_error(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        verification.backends, "unavailable", lambda name, *_: "no such GPU" if name == "cuda" else None
    )
    assert main(["verify", str(tiny_model), "--precision", "float32"]) == 0
    assert "cuda left out: no such GPU" in capsys.readouterr().err
    assert main(["verify", str(tiny_model), "--backend", "cuda"]) == 2
    assert "the cuda backend can't run here: no such GPU" in capsys.readouterr().err


def test_without_torch_the_cpu_in_float32_is_the_reference(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        verification.backends, "unavailable", lambda name, *_: None if name == "cpu" else "PyTorch is not installed"
    )
    assert main(["verify", str(tiny_model)]) == 0
    output = capsys.readouterr()
    assert "compared with the CPU backend in float32" in output.err
    assert "reference left out: PyTorch is not installed" in output.err
    assert "int8" in output.out


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    wave = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "anchor.flac", wave, 16_000)
    return tmp_path / "anchor.flac"


def published(monkeypatch: pytest.MonkeyPatch, logits: tuple[float, ...]) -> None:
    known = catalogue.MODELS[0]._replace(name="mine", hub_id="me/mine", first_logits=logits)
    monkeypatch.setattr(catalogue, "MODELS", (*catalogue.MODELS, known))


@pytest.mark.parametrize(("shift", "status"), [(0.0, 0), (9e-5, 0), (2e-4, 1)])
def test_published_logits_of_the_anchor_clip(
    shift: float,
    status: int,
    tmp_path: Path,
    anchor: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The logits that transformers gives on the extractor's own features, or others by ``shift``."""
    from transformers import ASTFeatureExtractor

    model = checkpoints.random_model(num_mel_bins=128)
    folder = checkpoints.write_v4(model, tmp_path / "model")
    edit_json(folder / "preprocessor_config.json", mean=-4.27, std=4.57)
    extractor = ASTFeatureExtractor.from_pretrained(folder)
    wave = soundfile.read(anchor, dtype="float32")[0]
    features = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_values"]
    theirs = checkpoints.transformers_logits(model, features)[0]
    published(monkeypatch, tuple(float(x) + shift for x in theirs[:3]))
    command = ["verify", str(folder), "--published", "mine", "--anchor", str(anchor), "--backend", "cpu", "--json"]
    assert main(command) == status
    rows = {row["precision"]: row for row in rows_of(capsys)}
    assert rows["float32"]["agrees"] == (status == 0)
    assert rows["float32"]["published_difference"] == pytest.approx(shift, abs=5e-5)
    assert rows["bfloat16"]["published_difference"] > 1e-4
    assert rows["bfloat16"]["agrees"]


def test_an_anchor_clip_that_cannot_be_had_leaves_the_reference(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_hub(*_: str) -> Path:
        raise CheckpointError("sample_audio.flac of the data set x/y can't be had from the model hub (offline)")

    published(monkeypatch, (0.0,))
    monkeypatch.setattr(hub, "dataset_file", no_hub)
    assert main(["verify", str(tiny_model), "--published", "mine", "--backend", "reference"]) == 0
    assert "(offline); compared with the reference alone" in capsys.readouterr().err
    assert main(["verify", str(tiny_model), "--published", "ced-mini", "--backend", "reference"]) == 0
    assert "ced-mini: its authors publish no logits" in capsys.readouterr().err
    assert main(["verify", str(tiny_model), "--published", "nothing", "--backend", "reference"]) == 2
    assert "nothing is no published model" in capsys.readouterr().err


def test_a_file_that_is_no_audio_is_named(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    assert main(["verify", str(tiny_model), "--audio", str(tmp_path / "bad.wav")]) == 2
    assert "bad.wav" in capsys.readouterr().err
