"""The GPU backend through the product's own engine, without a GPU: the interpreter computes, the recorder counts."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from astfast import backends
from astfast.backends.cuda import backend
from astfast.backends.cuda import backend as cuda
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.backends.cuda.packing import DTYPES, STREAM_SCALE, Stream
from astfast.backends.reference import ReferenceOps
from astfast.engines.eager import EagerEngine
from astfast.errors import BackendError
from astfast.kernels.tuning import Tile, Tiles
from astfast.models import recognise as checkpoint
from astfast.models.ast.config import AstConfig
from tests import launchers
from tests.cases import checkpoints, recorded_launches
from tests.cases.plain_torch import PlainTorch

LARGE = Tiles(  # few programs: the interpreter spends its time between them
    norm_linear=(Tile(256, 256, 128, 4, 2),),
    residual=(Tile(256, 256, 128, 4, 2),),
    attention=Tile(128, 64, 0, 4, 2),
    few_queries=Tile(16, 64, 0, 4, 2),
    patch_embed=Tile(256, 128, 256, 4, 2),
    head=Tile(16, 16, 128, 4, 2),
)
GPU = Target(80, 4, "a GPU that is not here")
H100 = Target(90, 132, "H100")
ODD = {
    "hidden_size": 96,
    "num_attention_heads": 3,
    "intermediate_size": 200,
    "num_hidden_layers": 2,
    "frequency_stride": 11,
    "time_stride": 13,
    "num_mel_bins": 64,
    "max_length": 301,
}
SPEECH_COMMANDS = {  # the published geometry, 146 tokens, but for its depth
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "frequency_stride": 10,
    "time_stride": 10,
    "num_mel_bins": 128,
    "max_length": 128,
    "num_labels": 35,
}


def random_checkpoint(folder: Path, geometry: dict[str, int]) -> checkpoint.Checkpoint:
    return checkpoint.load(checkpoints.write_v4(checkpoints.random_model(seed=3, **geometry), folder))


def interpreted_engine(loaded: checkpoint.Checkpoint, precision: str) -> EagerEngine:
    ops = CudaOps(
        loaded.config.num_attention_heads, precision, "cpu", launcher=launchers.interpret, target=GPU, tiles=LARGE
    )
    return EagerEngine(ops, loaded)


@pytest.mark.parametrize(
    "geometry",
    [pytest.param(ODD, id="odd"), pytest.param(SPEECH_COMMANDS, id="speech commands", marks=pytest.mark.slow)],
)
def test_whole_model_in_the_interpreter(tmp_path: Path, geometry: dict[str, int]) -> None:
    loaded = random_checkpoint(tmp_path, geometry)
    config, heads = loaded.config, loaded.config.num_attention_heads
    rng = np.random.default_rng(0)
    clips = 8  # the error of one is a matter of chance
    spectrogram = (0.5 * rng.standard_normal((clips, config.max_length, config.num_mel_bins))).astype(np.float32)
    exact = EagerEngine(ReferenceOps(heads, torch.float64), loaded).logits(spectrogram.astype(np.float64))
    with PlainTorch():
        plain = EagerEngine(ReferenceOps(heads), loaded).logits(spectrogram)
        half = EagerEngine(ReferenceOps(heads, torch.float16), loaded).logits(spectrogram)
    engine = interpreted_engine(loaded, "float32")
    got = engine.logits(spectrogram)
    assert np.array_equal(engine.forward(torch.from_numpy(spectrogram)).numpy(), got)  # where it computes: no host
    assert np.abs(got - plain).max() <= 1e-3
    assert np.abs(got - exact).max() <= 4 * np.abs(plain - exact).max()  # as exact as torch, and better than 1e-3 asks

    half_of_ours = interpreted_engine(loaded, "float16").logits(spectrogram)
    assert np.abs(half_of_ours - exact).max() <= 2 * np.abs(half - exact).max()


def test_at_most_six_kernels_a_layer_and_no_host_synchronisation() -> None:
    config = AstConfig(num_hidden_layers=5, labels=tuple("abc"))
    names = Counter(entry.name for entry in recorded_launches.record(config, 2, "bfloat16", H100))
    assert names == {
        "log_mel_kernel": 1,
        "patch_embed_kernel": 1,
        "norm_linear_kernel": 2 * 4 + 3,
        "attention_kernel": 5,
        "linear_residual_kernel": 2 * 5,
        "pool_kernel": 1,
        "head_kernel": 1,
    }
    assert sum(names.values()) - 4 <= 6 * config.num_hidden_layers


def test_the_work_of_ast_base_is_that_of_the_design() -> None:
    launches = recorded_launches.record(AstConfig(labels=tuple(map(str, range(527)))), 1, "bfloat16", H100)
    model = [entry for entry in launches if entry.name != "log_mel_kernel"]
    assert sum(entry.work.flops for entry in model) == pytest.approx(242e9, rel=0.01)  # 261 less the last layer's 7.2%
    assert sum(entry.work.exponentials for entry in model) == pytest.approx(212e6 * 11 / 12, rel=0.01)


def test_a_stream_is_cut_with_its_sums_of_squares() -> None:
    whole = Stream(torch.zeros(4, 9, 130), torch.zeros(4, 9, 3))
    part = whole[:2][:, :2]
    assert part.shape == (2, 2, 130)
    assert part.sumsq.shape == (2, 2, 3)
    assert len(part) == 2


@pytest.mark.parametrize("precision", ["int8", "float64"])
def test_unknown_precisions_are_refused(precision: str) -> None:
    with pytest.raises(BackendError, match=precision):
        CudaOps(3, precision, "cpu", launcher=launchers.interpret, target=GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    with pytest.raises(BackendError, match=r"GPU|CPU build"):
        backends.choose(device="cuda")
    assert cuda.unavailable() is not None


def test_the_backend_names_every_precision_that_it_packs() -> None:
    assert cuda.precisions() == tuple(DTYPES)
    assert cuda.fastest_precision() in cuda.precisions()


def test_a_report_needs_no_torch() -> None:
    """``astfast doctor`` reads the cache on machines without PyTorch."""
    script = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from astfast.backends.cuda import autotune_cache, backend\n"
        "autotune_cache.store('a GPU', 'pool float32', autotune_cache.KernelResult('too slow'))\n"
        "print(backend.results(), backend.precisions(), backend.fastest_precision())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "['ops autotuned on a GPU', '  pool float32  torch   (kernel: too slow)']" in done.stdout


def test_every_precision_of_the_backend_has_its_types() -> None:
    assert set(backend.precisions()) == set(DTYPES) == set(STREAM_SCALE)


@pytest.mark.parametrize(
    ("clips", "product", "others"),
    [
        (1, "norm_linear", ["128x256x64/8w3s", "persistent"]),
        (1, "linear_residual", ["64x128x64/4w4se", "128x128x64/8w4se", "persistent"]),
        (32, "norm_linear", ["persistent"]),
        (32, "linear_residual", ["persistent"]),
    ],
)
def test_few_rows_may_take_larger_tiles(clips: int, product: str, others: list[str]) -> None:
    """Than those that give every multiprocessor one, if they are faster there; never for the last layer's two rows."""
    calls: list[OpCall] = []

    class Kept(CudaOps):
        def _run(self, call: OpCall) -> torch.Tensor:
            calls.append(call)
            return call.clips[call.result]

    config = AstConfig(num_hidden_layers=2, labels=("a", "b"))
    ops = Kept(12, "bfloat16", "meta", launcher=lambda launch: None, target=H100)
    recorded_launches.run(config, clips, ops)
    found = [call for call in calls if call.op == product]
    assert [other.variant for other in found[0].others] == others
    few = [call for call in found if call.clips["x"].shape[1] == 2]
    assert few
    assert all(not other.variant.startswith("128x") for call in few for other in call.others)
