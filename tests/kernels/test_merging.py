"""Token merging on a GPU: in Triton's interpreter, emulated, and in PyTorch's ops, against the reference in float64;
compiled for every architecture."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from astfast.backends.cpu.ops import CpuOps
from astfast.backends.cuda.fallback_ops import sums_of_squares
from astfast.backends.cuda.ops import CudaOps, Target
from astfast.backends.cuda.packing import Stream
from astfast.backends.reference import ReferenceOps
from astfast.kernels.launch import Launcher
from astfast.models import vit
from astfast.models.ast.config import AstConfig
from astfast.ops import LayerNorm
from tests.cases.recorded_launches import record
from tests.emulation.emulator import Emulator
from tests.kernels.test_compiled import GPUS, SHARED_LIMIT, compiled
from tests.launchers import Recorder, interpret, signature
from tests.models.test_vit import HEADS, MLP, D, pruned, random_layer

GPU = Target(80, 4, "a GPU that is not here")


class PyTorchOps(CudaOps):
    """Every call in PyTorch's ops, as an autotuner would run it whose kernels all failed."""

    def _run(self, call: Any) -> torch.Tensor:
        return call.run_torch()


def opened(kind: type[CudaOps], heads: int, precision: str = "float32", launcher: Launcher = interpret) -> CudaOps:
    return kind(heads, precision, "cpu", launcher=launcher, target=GPU)


def stream(ops: CudaOps, x: torch.Tensor) -> Stream:
    made = ops.empty(tuple(x.shape), "stream")
    made.x.copy_(x)
    return made


def check(ops: CudaOps, shape: tuple[int, int, int], counts: tuple[int, ...], prefix: int) -> None:
    """Merges so many tokens, one after another, as a stack of layers does: the first of size one, then of the sizes
    that were left."""
    rng = np.random.default_rng(1)
    clips, tokens, d = shape
    x = torch.from_numpy(rng.standard_normal(shape, np.float32)).to(ops.empty((1,), "activation").dtype)
    whole, sizes = stream(ops, x), None
    exact_sizes = None
    reference = ReferenceOps(ops.heads, torch.float64)
    for count in counts:
        qkv = torch.from_numpy(rng.standard_normal((clips, tokens, 3 * d), np.float32)).to(x.dtype)
        keys = qkv[..., d : 2 * d]
        exact, exact_sizes = reference.merge_tokens(whole.x.double(), keys.double(), exact_sizes, count, prefix)
        merged, sizes = ops.merge_tokens(whole, keys, sizes, count, prefix)
        assert torch.equal(sizes.double(), exact_sizes)
        rounding = max(2.0**-21, torch.finfo(x.dtype).eps / 2)  # of a sum of eight, or of the result
        torch.testing.assert_close(merged.x.double(), exact, rtol=rounding, atol=rounding)
        squares = merged.x.double().square().sum(-1)
        torch.testing.assert_close(merged.sumsq.double().sum(-1), squares, rtol=1e-6, atol=0)
        whole, tokens = merged, tokens - count


@pytest.mark.parametrize("kind", [CudaOps, PyTorchOps])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(("tokens", "counts", "prefix"), [(24, (1, 10), 2), (15, (5, 5), 0), (3, (1,), 0)])
def test_merged_tokens_are_those_of_the_reference(
    tokens: int, counts: tuple[int, ...], prefix: int, precision: str, kind: type[CudaOps]
) -> None:
    check(opened(kind, 3, precision), (2, tokens, 72), counts, prefix)


@pytest.mark.parametrize("arch", [80, 90])
def test_compiled_code_merges_as_the_reference(arch: int) -> None:
    """More sources than a tile of them, with the race detectors."""
    check(opened(CudaOps, 2, "bfloat16", Emulator(arch)), (1, 79, 96), (20,), 2)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_compiled_code_merges_a_stack_of_layers_as_the_reference(arch: int, precision: str) -> None:
    check(opened(CudaOps, 3, precision, Emulator(arch)), (2, 79, 72), (30, 11, 3), 2)


@pytest.mark.slow
@pytest.mark.parametrize("arch", GPUS)
def test_every_kernel_compiles_without_spills(arch: int | str) -> None:
    for precision in ("bfloat16", "float32") if arch == 80 else ("bfloat16",):
        recorder = Recorder()
        ops = CudaOps(12, precision, "meta", launcher=recorder, target=GPUS[arch])
        x, qkv = ops.empty((2, 1214, 768), "stream"), ops.empty((2, 1214, 2304), "activation")
        merged, sizes = ops.merge_tokens(x, qkv[..., 768:1536], None, 100, 2)
        qkv = ops.empty((2, 1114, 2304), "activation")
        ops.merge_tokens(merged, qkv[..., 768:1536], sizes, 100, 2)
        for queries in (2, 1114):
            ops.attention(qkv[:, :queries, :768], qkv[..., 768:], ops.empty((2, queries, 768), "activation"), sizes)
        for launch in recorder.launches:
            made = compiled(launch, arch)
            assert made.spills == 0, f"{launch.name}: {made.spills} accesses to spilled registers"
            assert made.shared <= SHARED_LIMIT[arch] * 1024, f"{launch.name}: {made.shared} bytes of shared memory"


@pytest.mark.parametrize("rows", [0, 2])
def test_reference_cpu_and_gpu_agree_on_a_stack_of_layers(rows: int) -> None:
    """Of a model with prefix tokens, and of one whose tokens are pooled by their sizes."""
    generator = torch.Generator().manual_seed(3)
    layers = [random_layer(generator) for _ in range(3)]
    x = torch.randn(2, 25, D, generator=generator)
    x -= x.mean(-1, keepdim=True)  # as the stream on a GPU is
    results = []
    for ops in (ReferenceOps(HEADS, torch.float64), CpuOps(HEADS, "float32", threads=2), opened(CudaOps, HEADS)):
        buffers = vit.encoder_workspace(25, D, MLP, rows)
        ws = {name: ops.empty((2, *shape), kind) for name, (shape, kind) in buffers.items()}
        packed = [vit.pack_layer(ops, layer) for layer in layers[:2]]
        last = vit.pack_last_layer(ops, pruned(layers[2], rows)) if rows else None
        norm = ops.pack_norm(LayerNorm(np.ones(D, np.float32), np.zeros(D, np.float32), 1e-6))
        tokens: Any = x.double() if ops.name == "reference" else x.numpy().copy()
        if isinstance(ops, CudaOps):
            tokens = stream(ops, x)
            sums_of_squares(tokens.x, tokens.sumsq)
        states, sizes = vit.encode_merging(ops, packed, last, tokens, ws, 0.5)
        results.append(np.asarray(ops.pool(states, norm, ops.empty((2, D), "output"), sizes), np.float64))
    reference, cpu, gpu = results
    assert np.abs(reference - cpu).max() < 1e-4
    assert np.abs(reference - gpu).max() < 1e-4


@pytest.mark.parametrize("kind", [CudaOps, PyTorchOps])
def test_of_equal_cosines_the_first_token_counts(kind: type[CudaOps]) -> None:
    """All keys are one: the first tokens at even places become part of the first one at an odd place."""
    x = np.arange(1, 10, dtype=np.float32)[None, :, None] * np.ones(4, np.float32)
    keys = torch.zeros(1, 9, 4)
    keys[..., 1] = 1.0
    ops = opened(kind, 2)
    tokens, sizes = ops.merge_tokens(stream(ops, torch.from_numpy(x)), keys, None, 3, 1)
    assert tokens.x[0, :, 0].tolist() == [1.0, (2 + 3 + 4 + 6) / 4, 5.0, 7.0, 8.0, 9.0]
    assert sizes[0].tolist() == [1.0, 4.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("merging", [0.0, 0.5])
def test_clips_of_all_lengths_share_compiled_kernels(merging: float) -> None:
    """Numbers of tokens are arguments, not constants, in all kernels but attention, whose registers would spill:
    what is compiled goes by powers of two and tiles alone."""
    config = AstConfig(num_hidden_layers=12, labels=tuple(map(str, range(527))))
    kinds = {
        (launch.name, repr(signature(launch)), launch.num_warps, launch.num_stages)
        for frames in (333, 500, 777, 998, 1024)
        for launch in record(config.at_length(frames), 2, "bfloat16", GPUS[90], token_merging=merging)
    }
    counts = Counter(name for name, *_ in kinds)
    once = ("log_mel_kernel", "patch_embed_kernel", "directions_kernel", "match_kernel", "pool_kernel", "head_kernel")
    assert {counts[name] for name in once} <= {0, 1}
    tiles, pow2 = 4, 10
    assert counts["norm_linear_kernel"] <= 6 * tiles
    assert counts["linear_residual_kernel"] <= 2 * tiles
    assert max(counts["merge_kernel"], 2 * counts["plan_kernel"]) <= 2 * pow2
