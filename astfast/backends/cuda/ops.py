"""The Ops protocol on a GPU (CUDA or ROCm): each op is a call that a Triton kernel or PyTorch's own ops can run.

Only the default launcher and runtime need a GPU: with the interpreter, an emulator or a recorder as the launcher, the
same code runs on CPU or "meta" tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from astfast.backends.cuda import centred_log_mel, fallback_ops, float8_ops, image_ops, token_merging
from astfast.backends.cuda.autotune import Autotuner
from astfast.backends.cuda.autotune_cache import KernelResult
from astfast.backends.cuda.op_call import OpCall
from astfast.backends.cuda.packing import DTYPES, PackedEmbed, PackedFrontEnd, PackedLinear, Packing, Stream
from astfast.backends.cuda.runtime import Runtime, inference, runtime_for
from astfast.backends.cuda.target import Target, has_float8, persistent_kernels, target_of
from astfast.centred_log_mel import CentredLogMel
from astfast.errors import BackendError
from astfast.front_end import LOG_FLOOR, PRE_EMPHASIS, FrontEnd, KaldiFbank, unknown
from astfast.kernels import attention, head, launch, linear, log_mel, patch_embed, statistics, tuning
from astfast.ops import Array, ConvNorm, Depthwise, Embed, Head, LayerNorm, Linear, NormLinear, Ops, Scan
from astfast.pcm import INT16_FULL_SCALE

TOKENS_AT_ONCE = 40_000  # 32 clips of AST-base: enough tiles to fill any GPU
DETERMINISTIC_CLIPS = 8  # for which tiles are chosen, whatever the batch, where bits must not depend on it


class CudaOps:
    """The Ops protocol on one GPU. Raises BackendError for a precision that the GPU backend or this GPU doesn't have.

    - ``heads``: attention heads of the model.
    - ``launcher``, ``target``, ``tiles``, ``runtime``: for tests and benchmarks; by default those of ``device``.
    - ``autotuner``: chooses between kernels and PyTorch's ops; None runs all kernels unchecked.
    - ``deterministic``: the same tiles for every batch size, so that results of a clip don't depend on its batch.
    - ``stream_scale``: factor of the residual stream in memory; None for the one that suits the precision.
    """

    name = "cuda"
    engine = "cuda_graphs"

    def __init__(
        self,
        heads: int,
        precision: str = "bfloat16",
        device: str = "cuda",
        *,
        launcher: launch.Launcher = launch.run,
        target: Target | None = None,
        tiles: tuning.Tiles | None = None,
        runtime: Runtime | None = None,
        autotuner: Autotuner | None = None,
        deterministic: bool = False,
        stream_scale: float | None = None,
    ) -> None:
        if precision not in DTYPES:
            raise BackendError(f"the GPU backend has no precision {precision!r}: use one of {', '.join(DTYPES)}")
        self.heads = heads
        self.precision = precision
        self.device = torch.device(device)
        self.runtime = runtime or runtime_for(self.device)
        self.target = target or target_of(self.device)
        if precision == "float8" and not has_float8(self.target.arch):
            raise BackendError(
                f"{self.target.name} has no float8 products, which came with compute capability 8.9: use bfloat16"
            )
        self.hardware = self.target.name
        self.deterministic = deterministic
        self._packing = Packing(precision, self.device, stream_scale)
        self._launch = launcher
        self._autotuner = autotuner
        self._tiles = tiles or tuning.tiles_for(self.target.arch, self._packing.operand_dtype.itemsize)
        # float32 products run on tensor cores where there are any, as three TF32 products.
        nvidia = isinstance(self.target.arch, int)
        self._products = "tf32x3" if nvidia and precision == "float32" else "ieee"
        self._persistent = persistent_kernels(self.target.arch)
        self._front_ends: dict[FrontEnd, PackedFrontEnd] = {}
        self._centred: dict[FrontEnd, centred_log_mel.Tables] = {}

    def pack_embed(self, w: Embed) -> PackedEmbed:
        return self._packing.embed(w)

    def pack_norm_linear(self, w: NormLinear, value_columns: int = 0) -> PackedLinear:
        return self._packing.norm_linear(w, value_columns)

    def pack_linear(self, w: Linear, input_layer: NormLinear | None = None, into: str = "stream") -> PackedLinear:
        if into == "output":
            return self._packing.output_linear(w)
        return self._packing.linear(w, input_layer, centred=into == "stream")

    def pack_norm(self, w: LayerNorm) -> PackedLinear:
        return self._packing.norm(w)

    def pack_head(self, w: Head | Linear) -> PackedLinear:
        return self._packing.head(w)

    def pack_norm_linear_residual(self, w: NormLinear) -> PackedLinear:
        return image_ops.pack_norm_linear_residual(self._packing, w)

    def pack_conv_norm(self, w: ConvNorm) -> image_ops.PackedConvNorm:
        return image_ops.pack_conv_norm(self._packing, w)

    def pack_depthwise(self, w: Depthwise) -> torch.Tensor:
        return image_ops.pack_depthwise(self._packing, w)

    def pack_scan(self, w: Scan) -> image_ops.PackedScan:
        return image_ops.pack_scan(self._packing, w)

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        if kind in ("stream", "image"):
            parts = statistics.statistics_parts(shape[-1]) * (2 if kind == "image" else 1)
            x, sumsq = self._empty(shape, self._packing.dtype), self._empty((*shape[:-1], parts), torch.float32)
            return Stream(x, sumsq, self._empty(shape, self._packing.operand_dtype) if self._packing.float8 else None)
        types = {"activation": self._packing.dtype, "operand": self._packing.operand_dtype}
        return self._empty(shape, types.get(kind, torch.float32))

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def micro_batch(self, num_tokens: int) -> int:
        return max(1, TOKENS_AT_ONCE // num_tokens)

    def inference(self) -> AbstractContextManager[Any]:
        return inference(self.runtime)

    def record(self, forward: Callable[[Ops, Array], Array], buffer: Array) -> Callable[[Array], Array]:  # noqa: ARG002
        return partial(forward, self)

    def to_host(self, x: torch.Tensor) -> NDArray[np.float32]:
        return np.array(x.cpu().numpy(), dtype=np.float32)

    def op_results(self) -> dict[str, KernelResult]:
        """Autotuning results of the calls that these ops have run, or know from earlier processes, by their key."""
        return {} if self._autotuner is None else dict(self._autotuner.results)

    def _run(self, call: OpCall) -> torch.Tensor:
        if self._autotuner is not None:
            return self._autotuner.run(call)
        self._launch(call.launch())
        return call.clips[call.result]

    def known(self, front_end: FrontEnd) -> KaldiFbank | CentredLogMel:
        """The front end, if ``log_mel`` has its formula. Raises UnsupportedModel for another."""
        if not isinstance(front_end, KaldiFbank | CentredLogMel):
            raise unknown(front_end, self.name)
        return front_end

    def log_mel(self, waves: Sequence[NDArray[np.float32]], front_end: FrontEnd, out: torch.Tensor) -> torch.Tensor:
        samples = min(max(map(len, waves)), front_end.input_samples)
        batch = np.zeros((len(waves), samples), np.float32)
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = wave[:samples]
        lengths = np.array([min(len(wave), samples) for wave in waves], np.int32)
        on_device = torch.from_numpy(batch).to(self.device), torch.from_numpy(lengths).to(self.device)
        return self.log_mel_on_device(*on_device, front_end, out)

    def log_mel_on_device(
        self, waves: torch.Tensor, lengths: torch.Tensor, front_end: FrontEnd, out: torch.Tensor
    ) -> torch.Tensor:
        """``log_mel`` of waveforms on the device: [B, samples] float32 in [-1, 1] or int16, lengths [B] int32."""
        front_end = self.known(front_end)
        if isinstance(front_end, CentredLogMel):
            return self._centred_log_mel(waves, lengths, front_end, out)
        if front_end not in self._front_ends:
            self._front_ends[front_end] = self._packing.front_end(front_end)
        constants = self._front_ends[front_end]
        call = OpCall(
            "log_mel",
            log_mel.log_mel,
            fallback_ops.log_mel,
            clips={"waves": waves, "lengths": lengths, "out": out},
            weights={"matrix": constants.spectral, "mel": constants.mel},
            settings={
                "frame_length": front_end.frame_length,
                "frame_shift": front_end.frame_shift,
                "emphasis": PRE_EMPHASIS,
                "gain": 1.0 / INT16_FULL_SCALE if waves.dtype == torch.int16 else 1.0,
                "floor": LOG_FLOOR,
                "shift": front_end.shift,
                "scale": front_end.scale,
            },
            result="out",
            written=("out",),
            tuning={"precision": "ieee", "tile": self._tiles.log_mel},
            sensitivity=partial(fallback_ops.sensitivity_of_logs, unit=front_end.scale),
        )
        return self._run(self._with_tensor_cores(call))

    def _centred_log_mel(
        self, waves: torch.Tensor, lengths: torch.Tensor, front_end: CentredLogMel, out: torch.Tensor
    ) -> torch.Tensor:
        if front_end not in self._centred:
            self._centred[front_end] = centred_log_mel.tables(front_end, self.device)
        for call in centred_log_mel.calls(
            waves, lengths, front_end, self._centred[front_end], out, self._tiles.log_mel
        ):
            self._run(self._with_tensor_cores(call))
        return out

    def _with_tensor_cores(self, call: OpCall) -> OpCall:
        """The call of a front end with its products on tensor cores as another kernel, where a GPU has TF32."""
        if "precision" not in call.tuning or not isinstance(self.target.arch, int):
            return call
        settings = {"precision": "tf32x3", "tile": self._tiles.tf32_log_mel}
        return replace(call, others=(call.on("tf32x3", call.kernel, settings),))

    def patch_embed(self, spectrogram: Any, w: PackedEmbed, out: Stream) -> Stream:
        if isinstance(spectrogram, np.ndarray):
            spectrogram = torch.from_numpy(np.ascontiguousarray(spectrogram, np.float32)).to(self.device)
        call = OpCall(
            "patch_embed",
            patch_embed.patch_embed,
            fallback_ops.patch_embed,
            clips={"spectrogram": spectrogram, "stream": out.x, "sumsq": out.sumsq},
            weights={"weight": w.weight, "table": w.rows_of(spectrogram.shape[1], spectrogram.shape[2])},
            settings={
                "scale": self._packing.scale,
                "prefix": w.prefix,
                "patch_size": w.patch_size,
                "frequency_stride": w.frequency_stride,
                "time_stride": w.time_stride,
            },
            result="stream",
            written=("stream", "sumsq"),
            tuning={"precision": self._products, "tile": self._tiles.patch_embed},
        )
        self._run(call)
        return out

    def _tile(self, table: tuple[tuning.Tile, ...], x: torch.Tensor | Stream, w: PackedLinear) -> tuning.Tile:
        clips = DETERMINISTIC_CLIPS if self.deterministic else x.shape[0]
        return tuning.linear_tile(table, clips * x.shape[1], len(w.weight), self.target.multiprocessors)

    def _with_persistent(self, call: OpCall, kernel: str, tile: tuning.Tile | None, *rows: torch.Tensor) -> OpCall:
        """The call with Hopper's persistent kernel as another one, where this GPU, Triton and these rows have it."""
        if self._persistent is None or tile is None or not self._persistent.fits(*rows, *call.weights.values()):
            return call
        settings = {"tile": tile, "programs": self.target.multiprocessors}
        return replace(call, others=(*call.others, call.on("persistent", getattr(self._persistent, kernel), settings)))

    def norm_linear(
        self, x: Stream, w: PackedLinear, out: torch.Tensor, activation: Literal["gelu"] | None = None
    ) -> torch.Tensor:
        if w.weight_scale is not None:
            x8 = self._run(float8_ops.quantise_call(x, w, self._tiles.quantise_rows))
            tile = self._tile(self._tiles.norm_linear, x8, w)
            return self._run(float8_ops.linear_call(x8, w, out, activation, tile))
        centred = statistics.are_centred(x.shape[-1], x.sumsq)
        tile = self._tile(self._tiles.norm_linear, x, w)
        call = OpCall(
            "norm_linear" if centred else "norm_linear of an image",
            linear.norm_linear,
            fallback_ops.norm_linear,
            clips={"x": x.x, "sumsq": x.sumsq, "out": out},
            weights={"weight": w.weight, "bias": w.bias},
            settings={"eps": w.eps, "activation": activation},
            result="out",
            written=("out",),
            tuning={"precision": self._products, "tile": tile},
            rounded={"bias": w.rounded_bias},
        ).with_tiles(tuning.larger_tiles(self._tiles.norm_linear, tile, x.shape[0] * x.shape[1]))
        if centred:
            call = self._with_persistent(call, "norm_linear", self._tiles.persistent_norm_linear, x.x, out)
        return self._run(call)

    def attention(
        self, q: torch.Tensor, kv: torch.Tensor, out: torch.Tensor, sizes: torch.Tensor | None = None
    ) -> torch.Tensor:
        few = q.shape[1] <= self._tiles.few_queries.m
        tile = self._tiles.few_queries if few else self._tiles.attention
        call = OpCall(
            "attention" if sizes is None else "attention with sizes",
            attention.attention,
            fallback_ops.attention,
            clips={"q": q, "kv": kv, "out": out} | _sizes(sizes),
            weights={},
            settings={"heads": self.heads},
            result="out",
            written=("out",),
            tuning={"precision": self._products, "tile": tile},
        )
        return self._run(call)

    def linear_residual(self, x: torch.Tensor, w: PackedLinear, residual: Stream) -> Stream:
        return self._add_linear(x, None, w, residual)

    def norm_linear_residual(self, x: Stream, w: PackedLinear, residual: Stream) -> Stream:
        return self._add_linear(x.x, x.sumsq, w, residual)

    def _add_linear(self, x: torch.Tensor, x_sumsq: torch.Tensor | None, w: PackedLinear, residual: Stream) -> Stream:
        """The sum of the residual and a layer of x, or of LN(x) where there are statistics of its rows."""
        centred = statistics.are_centred(residual.shape[-1], residual.sumsq)
        normalised = x_sumsq is not None
        # The statistics of an image, and of an x that is normalised, need the registers of the widest tiles.
        table = self._tiles.residual if centred else tuple(t for t in self._tiles.residual if t.n <= 128)
        tile = self._tile(table, x, w)
        call = OpCall(
            f"{'norm_' * normalised}linear_residual{'' if centred else ' of an image'}",
            linear.linear_residual,
            fallback_ops.linear_residual,
            clips={"x": x, "stream": residual.x, "sumsq": residual.sumsq}
            | ({} if x_sumsq is None else {"x_sumsq": x_sumsq}),
            weights=w.tensors,
            settings={"scale": self._packing.scale} | ({"eps": w.eps} if normalised else {}),
            result="stream",
            written=("sumsq",),
            updated=("stream",),
            tuning={"precision": self._products, "tile": tile},
            rounded={"bias": w.rounded_bias},
        ).with_tiles(tuning.larger_tiles(table, tile, x.shape[0] * x.shape[1]))
        if centred:
            call = self._with_persistent(call, "linear_residual", self._tiles.persistent_residual, x, residual.x)
        self._run(call)
        return residual

    def linear(self, x: torch.Tensor, w: PackedLinear, out: torch.Tensor) -> torch.Tensor:
        return self._run(image_ops.linear_call(x, w, out, self._products, self._tile(self._tiles.narrow, x, w)))

    def conv_norm(
        self,
        x: Any,
        w: image_ops.PackedConvNorm,
        grid: tuple[int, int],
        out: Stream,
        activation: Literal["gelu"] | None = None,
    ) -> Stream:
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self.device)
        tile = self._tile(self._tiles.narrow, out, w.conv)
        for call in image_ops.conv_norm_calls(x, w, grid, out, activation, self._packing.scale, self._products, tile):
            self._run(call)
        return out

    def depthwise_silu(
        self, x: torch.Tensor, w: torch.Tensor, grid: tuple[int, int], out: torch.Tensor
    ) -> torch.Tensor:
        return self._run(image_ops.depthwise_silu_call(x, w, grid, out, self._tiles.depthwise))

    def selective_scan(
        self, x: torch.Tensor, projected: torch.Tensor, w: image_ops.PackedScan, grid: tuple[int, int], out: Stream
    ) -> Stream:
        for call in image_ops.scan_calls(x, projected, w, grid, out, self._packing.scale, self._tiles.scan):
            self._run(call)
        return out

    def merge_tokens(
        self, x: Stream, keys: torch.Tensor, sizes: torch.Tensor | None, count: int, prefix: int
    ) -> tuple[Stream, torch.Tensor]:
        """As ``Ops.merge_tokens``, but into a stream and sizes of their own."""
        clips, tokens, width = x.shape
        merged = self.empty((clips, tokens - count, width), "stream")
        new_sizes = self.empty((clips, tokens - count), "output")
        for call in token_merging.calls(x, keys, _sizes(sizes), self.heads, prefix, merged, new_sizes):
            self._run(call)
        return merged, new_sizes

    def pool(self, x: Stream, w: PackedLinear, out: torch.Tensor, sizes: torch.Tensor | None = None) -> torch.Tensor:
        call = OpCall(
            "pool" if sizes is None else "pool with sizes",
            head.pool,
            fallback_ops.pool,
            clips={"stream": x.x, "out": out} | _sizes(sizes),
            weights={"weight": w.weight, "bias": w.bias},
            settings={"eps": w.eps},
            result="out",
            written=("out",),
        )
        return self._run(call)

    def head(self, x: torch.Tensor, w: PackedLinear, out: torch.Tensor) -> torch.Tensor:
        if w.eps is None:
            return self._run(image_ops.linear_call(x[:, None], w, out[:, None], "ieee", self._tiles.head))[:, 0]
        call = OpCall(
            "head",
            head.head,
            fallback_ops.head,
            clips={"x": x, "out": out},
            weights={"weight": w.weight, "bias": w.bias},
            settings={"eps": w.eps},
            result="out",
            written=("out",),
            tuning={"precision": "ieee", "tile": self._tiles.head},
        )
        return self._run(call)


def _sizes(sizes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {} if sizes is None else {"sizes": sizes}
