"""The performance model reproduces its check figure, then predicts; no figure in here was measured on a GPU."""

import pytest

from astfast.backends.cuda.ops import Target
from astfast.front_end import KaldiFbank
from astfast.models.ast.config import AstConfig
from benchmarks import gpu_model
from benchmarks.gpu_model import GPUS, occupancy_of_waves
from tests.cases.recorded_launches import record

AITEMPLATE_VIT_B16_A100 = 5273  # images/s of 224 x 224, float16
AST_BASE = AstConfig(labels=tuple(map(str, range(527))))


def test_reproduces_aitemplates_vit_b16_on_an_a100() -> None:
    """Its ViT has full last layer and LayerNorms that are passes over memory, which ours does without."""
    batch, gpu = 128, GPUS["A100"]
    vit = AstConfig(
        num_hidden_layers=2,
        frequency_stride=16,
        time_stride=16,
        front_end=KaldiFbank(num_mel_bins=224, max_length=224),
        labels=tuple(map(str, range(1000))),
    )
    launches = record(vit, batch, "float16", Target(80, gpu.multiprocessors, "A100"))
    layer = [launch for launch in launches if launch.name != "log_mel_kernel"][1:6]
    assert [launch.name.split("_")[0] for launch in layer] == ["norm", "attention", "linear", "norm", "linear"]
    layer_norm = 2 * batch * vit.num_tokens * vit.hidden_size * 2 / (gpu_model.BANDWIDTH_SHARE * gpu.bandwidth)
    seconds = 12 * (gpu_model.total(layer, gpu) + 2 * layer_norm)
    assert batch / seconds == pytest.approx(AITEMPLATE_VIT_B16_A100, rel=0.2)


def test_predicts_the_aim_for_an_h100_at_batch_32() -> None:
    """Waveforms to top-k, batch after batch: 2,300 clips/s. Alone, the upload is hidden behind nothing."""
    predicted = gpu_model.batch_seconds(AST_BASE, 32, "bfloat16", Target(90, 132, "H100"), GPUS["H100"])
    there, stream, alone = (32 / predicted[way] for way in gpu_model.WAYS)
    assert there > stream > alone
    assert stream >= 2300
    assert predicted[gpu_model.WAYS[1]] > gpu_model.upload(2 * 32 * AST_BASE.front_end.input_samples, GPUS["H100"])


def test_what_surrounds_a_graph_is_paid_for() -> None:
    gpu, clip = GPUS["H100"], 2 * AST_BASE.front_end.input_samples
    one, many = (gpu_model.around_the_graph(clips * clip, clips, 527, gpu) for clips in (1, 32))
    assert set(one) == {"inputs", "activation", "sort", "best"}
    assert all(many[step] >= one[step] > 0 for step in one)
    assert many["inputs"] > 2 * 32 * clip / gpu.bandwidth
    assert gpu_model.upload(32 * clip, gpu) > 32 * clip / gpu.host_bandwidth


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("clips", [1, 32])
def test_no_prediction_beats_the_floor(gpu: str, clips: int) -> None:
    target = Target({"H100": 90, "H200": 90, "A100": 80, "RTX 4090": 89}[gpu], GPUS[gpu].multiprocessors, gpu)
    for launch in record(AST_BASE, clips, "bfloat16", target):
        predicted = gpu_model.predict(launch, GPUS[gpu])
        assert predicted.seconds > predicted.floor > 0


@pytest.mark.parametrize(("programs", "share"), [(1, 0.01), (100, 1.0), (101, 101 / 200), (200, 1.0)])
def test_the_last_wave_is_paid_in_full(programs: int, share: float) -> None:
    assert occupancy_of_waves(programs, 100) == pytest.approx(share)
