"""torch.ops.astfast: what torch.library demands of an op, torch's own results, and a model compiled and exported."""

import contextlib
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import astfast
from astfast.backends.cuda.ops import CudaOps
from astfast.errors import BackendError
from astfast.integrations import torch_op_impls, torch_ops
from astfast.integrations.torch_module import AstModule
from astfast.integrations.torch_op_impls import CpuOpImpl, CudaOpImpl
from tests import launchers
from tests.backends.cuda import test_ops as test_cuda_backend
from tests.cases import checkpoints

D, WIDE, HEADS, TOKENS = 48, 72, 3, 7


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm() -> tuple[torch.Tensor, torch.Tensor, float]:
    return 1 + 0.3 * random(D, seed=1), random(D, seed=2), 1e-5


def linear(n: int, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return (random(n, k, seed=3) / k**0.5).to(dtype), random(n, seed=4)


def calls(
    dtype: torch.dtype, stream: torch.dtype, prefix_tokens: int = 2, pooled: int = 2
) -> dict[str, tuple[Any, tuple, Callable[[], torch.Tensor]]]:
    """Op by name: the op, arguments, and torch's result for them in float64."""
    x = (random(2, TOKENS, D, seed=5) + 3).to(stream)  # a stream whose rows are not zero-mean
    q, kv = random(2, TOKENS, D, seed=6, dtype=dtype), random(2, TOKENS, 2 * D, seed=7, dtype=dtype)
    hidden = random(2, TOKENS, WIDE, seed=8, dtype=dtype)
    rows, averaged = x[:, :2], x[:, :pooled]
    (gamma, beta, eps), (wide, wide_bias) = norm(), linear(WIDE, D, dtype)
    narrow, narrow_bias = linear(D, WIDE, dtype)
    patches, patch_bias = linear(D, 16, dtype)
    spectrogram = random(2, 10, 8, seed=9)
    prefix, position = random(prefix_tokens, D, seed=10), random(prefix_tokens + 3 * 4, D, seed=12)
    waves, lengths = 0.1 * random(2, 900, seed=13), torch.tensor([900, 500], dtype=torch.int32)

    def normed(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.double(), (D,), gamma.double(), beta.double(), eps)

    def attend() -> torch.Tensor:
        parts = (y.double().unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, kv[..., :D], kv[..., D:]))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    def tokens() -> torch.Tensor:
        kernel = patches.double().view(D, 1, 4, 4)  # [D, 1, mel, time]
        image = spectrogram.to(dtype).double().transpose(1, 2).unsqueeze(1)
        y = F.conv2d(image, kernel, patch_bias.double(), stride=(2, 2)).flatten(2).transpose(1, 2)
        return torch.cat([prefix.double().expand(2, -1, -1), y], 1) + position.double()

    def spectra() -> torch.Tensor:
        from astfast.backends.reference import ReferenceOps
        from astfast.front_end import KaldiFbank

        clips = [wave[:n].numpy() for wave, n in zip(waves, lengths, strict=True)]
        return ReferenceOps(1, torch.float64).log_mel(clips, KaldiFbank(16000, 20, 4, -4.0, 3.0, True), None)

    return {
        "log_mel": (torch_ops.log_mel, (waves, lengths, 16000, 20, 4, -4.0, 3.0, True), spectra),
        "patch_embed": (
            torch_ops.patch_embed,
            (spectrogram, patches, patch_bias, prefix, position, 4, 2, 2),
            tokens,
        ),
        "norm_linear": (
            torch_ops.norm_linear,
            (x, gamma, beta, eps, wide, wide_bias, False),
            lambda: F.linear(normed(x), wide.double(), wide_bias.double()),
        ),
        "norm_linear of the first rows, gelu": (
            torch_ops.norm_linear,
            (rows, gamma, beta, eps, wide, wide_bias, True),
            lambda: F.gelu(F.linear(normed(rows), wide.double(), wide_bias.double())),
        ),
        "attention": (torch_ops.attention, (q, kv, HEADS), attend),
        "linear_residual": (
            torch_ops.linear_residual,
            (hidden, narrow, narrow_bias, x),
            lambda: x.double() + F.linear(hidden.double(), narrow.double(), narrow_bias.double()),
        ),
        "pool": (torch_ops.pool, (averaged, gamma, beta, eps), lambda: normed(averaged).mean(1)),
        "head": (
            torch_ops.head,
            (x[:, 0].float(), gamma, beta, eps, wide.float(), wide_bias),
            lambda: F.linear(normed(x[:, 0]), wide.double(), wide_bias.double()),
        ),
    }


# Half a unit in the last place of products that are summed to a few units, by the square root of their number.
BAR = {torch.float32: 1e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", calls(torch.float32, torch.float32))
def test_ops_on_cpu_tensors(name: str, dtype: torch.dtype) -> None:
    op, arguments, exact = calls(dtype, torch.float32)[name]
    before = [x.clone() for x in arguments if isinstance(x, torch.Tensor)]
    got = op(*arguments)
    assert (got.double() - exact()).abs().max() <= BAR[dtype]
    assert all(map(torch.equal, before, [x for x in arguments if isinstance(x, torch.Tensor)])), "an input was written"
    torch.library.opcheck(op, arguments)


@pytest.fixture
def interpreted_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path of a CUDA tensor but the GPU, for CPU tensors. Its stream has the type of the weights."""

    def make_ops(heads: int, precision: str) -> CudaOps:
        how = {"launcher": launchers.interpret, "target": test_cuda_backend.GPU, "tiles": test_cuda_backend.LARGE}
        return CudaOps(heads, precision, "cpu", stream_scale=1.0, **how)

    monkeypatch.setattr(torch_ops, "implementation", lambda _: contextlib.nullcontext(CudaOpImpl(make_ops)))
    monkeypatch.setattr(torch_ops, "stream_dtype", lambda weight: weight.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", calls(torch.float32, torch.float32))
def test_ops_on_the_gpus_kernels(name: str, dtype: torch.dtype, interpreted_gpu: None) -> None:
    op, arguments, exact = calls(dtype, dtype)[name]
    got = op(*arguments)
    assert got.dtype == (torch.float32 if name in ("log_mel", "pool", "head") else dtype)
    assert (got.double() - exact()).abs().max() <= BAR[dtype]


@pytest.mark.parametrize(("prefix", "rows"), [(0, TOKENS), (1, 1)])
@pytest.mark.parametrize("name", ["patch_embed", "pool"])
def test_any_number_of_prefix_tokens_and_pooled_rows(name: str, prefix: int, rows: int, interpreted_gpu: None) -> None:
    op, arguments, exact = calls(torch.float32, torch.float32, prefix, rows)[name]
    assert (op(*arguments).double() - exact()).abs().max() <= BAR[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", calls(torch.float32, torch.float32))
def test_ops_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    op, arguments, exact = calls(dtype, dtype)[name]
    on_device = tuple(x.cuda() if isinstance(x, torch.Tensor) else x for x in arguments)
    assert (op(*on_device).cpu().double() - exact()).abs().max() <= BAR[dtype]
    torch.library.opcheck(op, on_device)


def test_cpu_tensors_need_no_triton() -> None:
    """A CPU build of torch comes without it."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch, astfast.integrations.torch_module; "
        "torch.ops.astfast.pool(torch.ones(1, 2, 8), torch.ones(8), torch.ones(8), 1e-6)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stream_of_another_type_is_refused() -> None:
    _, arguments, _ = calls(torch.float32, torch.bfloat16)["norm_linear"]
    with pytest.raises(ValueError, match=r"x is torch\.bfloat16.*must be torch\.float32"):
        torch_ops.norm_linear(*arguments)


def test_other_devices_are_refused() -> None:
    with pytest.raises(BackendError, match="mps"), torch_op_impls.implementation(torch.device("mps")):
        pass


def test_packed_weights_are_remembered_changed_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    original = torch_op_impls.as_arrays
    monkeypatch.setattr(torch_op_impls, "as_arrays", lambda w: packed.append(1) or original(w))
    x, residual = random(1, TOKENS, WIDE), random(1, TOKENS, D)
    weight, bias = linear(D, WIDE, torch.float32)
    first = torch_ops.linear_residual(x, weight, bias, residual)
    assert torch.equal(torch_ops.linear_residual(x, weight, bias, residual), first)
    assert len(packed) == 1
    weight *= 2
    assert not torch.equal(torch_ops.linear_residual(x, weight, bias, residual), first)
    torch_ops.linear_residual(x, weight, bias.clone(), residual)
    assert len(packed) == 3
    with torch.inference_mode():
        own = weight.clone()
        doubled = torch_ops.linear_residual(x, own, bias, residual)
        own /= 2
        assert torch.allclose(torch_ops.linear_residual(x, own, bias, residual), first, rtol=0, atol=1e-6)
        assert not torch.equal(doubled, first)
    count = len(torch_op_impls.packed_weights)
    del weight
    gc.collect()
    assert len(torch_op_impls.packed_weights) == count - 1


@pytest.mark.parametrize("name", ["patch_embed", "norm_linear", "linear_residual", "pool", "head"])
def test_a_gpus_packed_weights_are_forgotten(name: str, interpreted_gpu: None) -> None:
    """They must not hold the tensors that they were made of."""
    count = len(torch_op_impls.packed_weights)
    op, arguments, _ = calls(torch.float32, torch.float32)[name]
    op(*arguments)
    assert len(torch_op_impls.packed_weights) == count + 1
    del arguments, _
    gc.collect()
    assert len(torch_op_impls.packed_weights) == count


@pytest.fixture
def model() -> torch.nn.Module:
    return checkpoints.random_model(seed=9)


def features(model: torch.nn.Module, clips: int = 2) -> torch.Tensor:
    return torch.from_numpy(checkpoints.spectrogram(model.config, clips))


def test_a_module_of_a_live_model_and_of_a_file(model: torch.nn.Module, tmp_path: Path) -> None:
    x = features(model)
    with torch.no_grad():
        expected = model(x).logits
    module = AstModule(model)
    assert (module(x) - expected).abs().max() <= 2e-4
    assert torch.equal(AstModule(checkpoints.write_v4(model, tmp_path))(x), module(x))
    assert "weights.layers.0.qkv.linear.weight" in module.state_dict()


def test_a_module_in_bfloat16_is_the_engine(model: torch.nn.Module) -> None:
    x = features(model)
    expected = astfast.accelerate(model, precision="bfloat16")(x).logits
    assert torch.equal(AstModule(model, torch.bfloat16)(x), expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_a_graph_break(model: torch.nn.Module, backend: str) -> None:
    module = AstModule(model)
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    with torch.no_grad():
        for clips in (2, 3):
            x = features(model, clips)
            assert torch.equal(compiled(x), module(x))


def test_exported_for_any_batch(model: torch.nn.Module) -> None:
    module = AstModule(model)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (features(model),), dynamic_shapes=({0: batch},))
    ops = {node.target.namespace for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    assert "astfast" in ops
    for clips in (1, 5):
        x = features(model, clips)
        assert torch.equal(program.module()(x), module(x))


def test_an_exported_program_can_be_saved_and_loaded_elsewhere(model: torch.nn.Module, tmp_path: Path) -> None:
    module, x = AstModule(model), features(model)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "ast.pt2")
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import sys, numpy as np, torch, astfast.integrations.torch_ops; folder = sys.argv[1]; "
        "program = torch.export.load(folder + '/ast.pt2').module(); "
        "np.save(folder + '/y.npy', program(torch.from_numpy(np.load(folder + '/x.npy'))).numpy())"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), module(x).numpy())


def test_cpu_implementation_takes_integer_waveforms() -> None:
    op, (waves, lengths, *settings), _ = calls(torch.float32, torch.float32)["log_mel"]
    integers = (waves * 32768).to(torch.int16)
    assert torch.equal(op(integers, lengths, *settings), op(integers / 32768, lengths, *settings))
    with torch_op_impls.implementation(waves.device) as ops:
        assert isinstance(ops, CpuOpImpl)


def test_ops_of_gpus_take_turns_each_on_its_tensors_device(monkeypatch: pytest.MonkeyPatch) -> None:
    current, seen = threading.local(), []

    @contextlib.contextmanager
    def guard(device: torch.device) -> Iterator[None]:
        current.device = device
        yield

    def call(index: int) -> None:
        device = torch.device("cuda", index)
        with torch_op_impls.implementation(device) as ops:
            seen.append("in")
            time.sleep(0.002)  # for others to get in between
            assert isinstance(ops, CudaOpImpl)
            assert current.device == device
            seen.append("out")

    monkeypatch.setattr(torch.cuda, "device", guard)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(call, [0, 1] * 4))
    assert seen == ["in", "out"] * 8


def test_ops_of_a_gpu_are_refused_in_a_forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    refused = pytest.raises(BackendError, match=r"cuda:1: CUDA does not survive a fork.*'spawn'")
    with refused, torch_op_impls.implementation(torch.device("cuda", 1)):
        pass
