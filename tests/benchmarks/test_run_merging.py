"""Token merging's benchmark, and the model of AST-base's sizes that it makes of the built-in one."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import astfast
from benchmarks import models, report, rows, run_accuracy, run_merging, widened


def test_merging_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of labelled recordings; the one of another fold and one that isn't there are left out."""
    (tmp_path / "audio").mkdir()
    for name in ("dog", "rain", "rooster"):
        shutil.copy(rows.ROOT / "samples" / f"{name}.ogg", tmp_path / "audio")
    listed = ["dog.ogg,4,dog", "rain.ogg,4,wind", "rooster.ogg,1,rooster", "lost.ogg,4,cat"]
    (tmp_path / "clips.csv").write_text("\n".join(["filename,fold,category", *listed]))
    arguments = ["--model", "built-in", "--precision", "float32", "--share", "0.5", "--recordings", str(tmp_path)]
    arguments += ["--clips", "9"]  # all that are there
    run_merging.main(
        [*arguments, "--threads", "1", "--turns", "1", "--seconds", "0", "--out", str(tmp_path / "merging_some.jsonl")]
    )
    found = rows.read(tmp_path / "merging_some.jsonl")
    assert [(row["measure"], row["share"]) for row in found] == [(m, s) for m in ("speed", "scores") for s in (0, 0.5)]
    whole, merged = found[2:]
    assert (whole["clips"], whole["top_1"], whole["rms_error"], whole["overlap"]) == (2, 0.5, 0, 1)
    assert 0 < merged["rms_over_spread"] < 0.5
    assert "top-1 50.00%" in capsys.readouterr().out
    lines = report.merging_table(found).splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("| built-in | float32 | 50% | ")
    (tmp_path / "clips.csv").write_text("filename,fold,category\nlost.ogg,4,cat")
    with pytest.raises(FileNotFoundError, match="none of the recordings of fold 4"):
        run_merging.labelled(tmp_path)


@pytest.mark.parametrize("script", [run_merging, run_accuracy])
def test_one_clip_has_no_spread(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--clips", "1"])
    assert "argument --clips: 1 clips: errors are given against the spread between clips" in capsys.readouterr().err


def test_a_widened_model_gives_the_logits_of_the_built_in_one(tmp_path: Path) -> None:
    """On the same patches, to float32's rounding."""
    folder = widened.checkpoint("ast-5s", tmp_path)
    own, wide = (astfast.load(source, device="cpu", precision="float32", threads=1) for source in (None, folder))
    assert wide.config == replace(own.config, hidden_size=768, num_attention_heads=12, intermediate_size=3072), (
        "the sizes of AST-base"
    )
    features = models.features(1, own.config)
    expected = own.forward(features)
    np.testing.assert_allclose(wide.forward(features), expected, atol=2e-4 * np.abs(expected).max())
    with pytest.raises(ValueError, match="tiny is not made of the built-in model: ast-base and ast-5s are"):
        widened.checkpoint("tiny", tmp_path)


def test_positions_of_a_widened_model() -> None:
    """Between those of the original, by frequency and by share of the time."""
    old = {"num_mel_bins": 48, "max_length": 64, "patch_size": 16, "frequency_stride": 16, "time_stride": 16}
    new = {**old, "max_length": 128, "frequency_stride": 8}
    grid = np.arange(3)[:, None] * 100.0 + np.arange(4)  # [F, T]
    prefix = np.array([-1.0, -2.0])
    moved = widened.moved(np.concatenate([prefix, grid.ravel()])[None, :, None].astype(np.float32), old, new)
    np.testing.assert_array_equal(moved[0, :2, 0], prefix)
    expected = np.arange(5)[:, None] * 50.0 + np.array([0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
    np.testing.assert_allclose(moved[0, 2:, 0].reshape(5, 8), expected)
