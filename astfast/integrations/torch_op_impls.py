"""The ops on plain torch tensors with weights as a checkpoint has them, served by the native engine or by the GPU.

Weights are packed when an op first meets them and the packed form is kept for as long as the weight tensor lives; a
weight that was changed in place since is packed again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from astfast.errors import BackendError
from astfast.front_end import FrontEnd
from astfast.ops import Embed, Head, LayerNorm, Linear, NormLinear, map_arrays
from astfast.pcm import INT16_FULL_SCALE

_packed: Any = WeakTensorKeyDictionary()  # weight -> {op and settings: (versions, others, packed)}


def remembered(make: Callable[[], Any], key: Any, weight: torch.Tensor, *others: torch.Tensor) -> Any:
    """``make()``, or what it gave for these very tensors under ``key`` if none of them was written to since."""
    if any(x.is_inference() for x in (weight, *others)):
        return make()  # torch does not count the writes to an inference tensor
    versions = [x._version for x in (weight, *others)]
    entries = _packed.setdefault(weight, {})
    entry = entries.get(key)
    # The other tensors are kept, so that no new one can take the place of an old one in memory.
    if entry is None or entry[0] != versions or any(a is not b for a, b in zip(entry[1], others, strict=True)):
        entry = entries[key] = versions, others, make()
    return entry[2]


class Server(Protocol):
    """Who computes the ops of ``torch_ops``; contracts as in ``backends.base``, but nothing is written in place."""

    def log_mel(self, waves: torch.Tensor, lengths: torch.Tensor, front_end: FrontEnd) -> torch.Tensor: ...
    def patch_embed(self, spectrogram: torch.Tensor, w: Embed) -> torch.Tensor: ...
    def norm_linear(self, x: torch.Tensor, w: NormLinear, gelu: bool) -> torch.Tensor: ...
    def attention(self, q: torch.Tensor, kv: torch.Tensor, heads: int) -> torch.Tensor: ...
    def linear_residual(self, x: torch.Tensor, w: Linear, residual: torch.Tensor) -> torch.Tensor: ...
    def pool(self, x: torch.Tensor, w: LayerNorm) -> torch.Tensor: ...
    def head(self, x: torch.Tensor, w: Head) -> torch.Tensor: ...


def server_of(device: torch.device) -> Server:
    """Who serves the tensors of a device. Raises BackendError for a device that nobody serves."""
    if device.type == "cpu":
        return CpuServer()
    if device.type == "cuda":
        return GpuServer(functools.partial(_gpu, device))
    raise BackendError(f"there are no astfast ops on {device}: move the tensors to a CPU or a CUDA device")


class CpuServer:
    """The native engine. The stream is float32; weights and activations are float32 or bfloat16."""

    def log_mel(self, waves: torch.Tensor, lengths: torch.Tensor, front_end: FrontEnd) -> torch.Tensor:
        if waves.dtype == torch.int16:
            waves = waves / INT16_FULL_SCALE
        clips = [wave[:length] for wave, length in zip(_numpy(waves), lengths.tolist(), strict=True)]
        out = torch.empty(len(waves), front_end.max_length, front_end.num_mel_bins)
        _cpu(1, "float32").log_mel(clips, front_end, _numpy(out))
        return out

    def patch_embed(self, spectrogram: torch.Tensor, w: Embed) -> torch.Tensor:
        ops = _cpu_for(w.projection)
        leaves = w.projection.weight, w.projection.bias, w.prefix, w.position
        packed = remembered(lambda: ops.pack_embed(_arrays(w)), ("embed", ops.precision, w.geometry), *leaves)
        out = torch.empty(len(spectrogram), *w.position.shape)
        ops.patch_embed(_numpy(spectrogram), packed, _numpy(out))
        return out

    def norm_linear(self, x: torch.Tensor, w: NormLinear, gelu: bool) -> torch.Tensor:
        ops = _cpu_for(w.linear)
        leaves = w.linear.weight, w.linear.bias, w.norm.weight, w.norm.bias
        packed = remembered(
            lambda: ops.pack_norm_linear(_arrays(w)), ("norm_linear", ops.precision, w.norm.eps), *leaves
        )
        out = x.new_empty(*x.shape[:2], len(w.linear.weight), dtype=w.linear.weight.dtype)
        ops.norm_linear(_numpy(x), packed, _numpy(out), "gelu" if gelu else None)
        return out

    def attention(self, q: torch.Tensor, kv: torch.Tensor, heads: int) -> torch.Tensor:
        out = torch.empty(q.shape, dtype=q.dtype)
        _cpu(heads, _precision(q)).attention(_numpy(q), _numpy(kv), _numpy(out))
        return out

    def linear_residual(self, x: torch.Tensor, w: Linear, residual: torch.Tensor) -> torch.Tensor:
        ops = _cpu_for(w)
        packed = remembered(lambda: ops.pack_linear(_arrays(w)), ("linear", ops.precision), w.weight, w.bias)
        out = residual.clone(memory_format=torch.contiguous_format)
        ops.linear_residual(_numpy(x), packed, _numpy(out))
        return out

    def pool(self, x: torch.Tensor, w: LayerNorm) -> torch.Tensor:
        ops = _cpu(1, "float32")
        packed = remembered(lambda: ops.pack_norm(_arrays(w)), ("norm", w.eps), w.weight, w.bias)
        out = torch.empty(x.shape[0], x.shape[2])
        ops.pool(_numpy(x), packed, _numpy(out))
        return out

    def head(self, x: torch.Tensor, w: Head) -> torch.Tensor:
        ops = _cpu(1, "float32")
        leaves = w.linear.weight, w.linear.bias, w.norm.weight, w.norm.bias
        packed = remembered(lambda: ops.pack_head(_arrays(w)), ("head", w.norm.eps), *leaves)
        out = torch.empty(len(x), len(w.linear.weight))
        ops.head(_numpy(x), packed, _numpy(out))
        return out


class GpuServer:
    """The GPU backend. Stream, activations and weights are of one type.

    The rows of a plain stream are not zero-mean, so their statistics are taken in a pass of their own: the engine,
    whose stream is centred, is faster. ``make_ops(heads, precision)`` makes the backend, its stream not scaled.
    """

    def __init__(self, make_ops: Callable[[int, str], Any]) -> None:
        self._make_ops = make_ops

    def log_mel(self, waves: torch.Tensor, lengths: torch.Tensor, front_end: FrontEnd) -> torch.Tensor:
        out = waves.new_empty(len(waves), front_end.max_length, front_end.num_mel_bins, dtype=torch.float32)
        on_device = waves.contiguous(), lengths.to(waves.device, torch.int32)
        result: torch.Tensor = self._make_ops(1, "float32").log_mel_of_batch(*on_device, front_end, out)
        return result

    def patch_embed(self, spectrogram: torch.Tensor, w: Embed) -> torch.Tensor:
        ops = self._make_ops(1, _precision(w.projection.weight))
        p = w.patch_size

        def pack() -> Any:
            from astfast.backends.cuda.packing import PackedEmbed

            weight = w.projection.weight.view(-1, p, p).transpose(1, 2).reshape(-1, p * p)  # mel bins fastest
            table = w.position.float().clone()
            prefix = len(w.prefix)
            table[:prefix] += w.prefix
            table[prefix:] += w.projection.bias
            return PackedEmbed(weight.contiguous(), table, prefix, *w.geometry)

        leaves = w.projection.weight, w.projection.bias, w.prefix, w.position
        packed = remembered(pack, ("gpu embed", w.geometry), *leaves)
        stream = ops.patch_embed(
            spectrogram.float().contiguous(), packed, ops.empty((len(spectrogram), *w.position.shape), "stream")
        )
        result: torch.Tensor = stream.x
        return result

    def norm_linear(self, x: torch.Tensor, w: NormLinear, gelu: bool) -> torch.Tensor:
        from astfast.backends.cuda.fallback_ops import sums_of_squares
        from astfast.backends.cuda.packing import Stream

        ops = self._make_ops(1, _precision(w.linear.weight))
        leaves = w.linear.weight, w.linear.bias, w.norm.weight, w.norm.bias
        packed = remembered(
            lambda: ops.pack_norm_linear(_arrays(w)), ("gpu norm_linear", ops.precision, w.norm.eps), *leaves
        )
        centred = x.float() - x.float().mean(-1, keepdim=True)  # the packed weight subtracts the mean of x itself
        sumsq = x.new_empty(*x.shape[:2], -(-x.shape[2] // 64), dtype=torch.float32)
        sums_of_squares(centred, sumsq)
        out = ops.empty((*x.shape[:2], len(w.linear.weight)), "activation")
        result: torch.Tensor = ops.norm_linear(Stream(_rows(x), sumsq), packed, out, "gelu" if gelu else None)
        return result

    def attention(self, q: torch.Tensor, kv: torch.Tensor, heads: int) -> torch.Tensor:
        ops = self._make_ops(heads, _precision(q))
        result: torch.Tensor = ops.attention(_rows(q), _rows(kv), ops.empty(tuple(q.shape), "activation"))
        return result.contiguous()

    def linear_residual(self, x: torch.Tensor, w: Linear, residual: torch.Tensor) -> torch.Tensor:
        from astfast.backends.cuda.packing import PackedLinear

        ops = self._make_ops(1, _precision(w.weight))
        packed = remembered(
            lambda: PackedLinear(w.weight.contiguous(), w.bias.float(), w.bias.to(w.weight.dtype)),
            "gpu linear",
            w.weight,
            w.bias,
        )
        stream = ops.empty(tuple(residual.shape), "stream")
        stream.x.copy_(residual)
        result: torch.Tensor = ops.linear_residual(_rows(x), packed, stream).x
        return result

    def pool(self, x: torch.Tensor, w: LayerNorm) -> torch.Tensor:
        from astfast.backends.cuda.packing import Stream

        ops = self._make_ops(1, _precision(x))
        packed = remembered(lambda: ops.pack_norm(_arrays(w)), ("gpu norm", w.eps), w.weight, w.bias)
        out = x.new_empty(x.shape[0], x.shape[2], dtype=torch.float32)
        result: torch.Tensor = ops.pool(Stream(_rows(x), x), packed, out)  # which reads no statistics
        return result

    def head(self, x: torch.Tensor, w: Head) -> torch.Tensor:
        ops = self._make_ops(1, "float32")
        leaves = w.linear.weight, w.linear.bias, w.norm.weight, w.norm.bias
        packed = remembered(lambda: ops.pack_head(_arrays(w)), ("gpu head", w.norm.eps), *leaves)
        out = x.new_empty(len(x), len(w.linear.weight))
        result: torch.Tensor = ops.head(x.contiguous(), packed, out)
        return result


@functools.cache
def _cpu(heads: int, precision: str) -> Any:
    from astfast.backends.cpu.ops import CpuOps

    return CpuOps(heads, precision)


@functools.cache
def _gpu(device: torch.device, heads: int, precision: str) -> Any:
    from astfast.backends.cuda.ops import open_gpu

    return open_gpu(heads, precision, str(device), stream_scale=1.0)


def _cpu_for(w: Linear) -> Any:
    return _cpu(1, _precision(w.weight))


def _precision(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _rows(x: torch.Tensor) -> torch.Tensor:
    """x with contiguous columns; its rows may be strided."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _numpy(x: torch.Tensor) -> Any:
    """The same memory as numpy sees it; bfloat16 as the native engine takes it, as uint16."""
    x = _rows(x.detach())
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _arrays(w: Any) -> Any:
    """A leaf of the weights with float32 numpy arrays in the place of its tensors."""
    return map_arrays(lambda x: x.detach().to("cpu", torch.float32).numpy(), w)
