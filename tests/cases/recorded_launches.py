"""Kernel launches of a whole forward pass, recorded on tensors without memory (torch's "meta" device)."""

from dataclasses import replace

import numpy as np
import torch

from astfast.backends.cuda.ops import CudaOps, Target
from astfast.kernels.launch import Launch
from astfast.models import vit
from astfast.models.dass import forward
from astfast.models.dass.config import DassConfig
from astfast.models.vit_config import VitConfig
from astfast.ops import ConvNorm, Depthwise, Embed, Head, LayerNorm, Linear, NormLinear, Scan
from tests.launchers import Recorder


def zero_weights(config: VitConfig) -> vit.Weights:
    """Weights of the right shapes, all zero; of the layers but the last only one."""
    d, m, p = config.hidden_size, config.intermediate_size, config.patch_size

    def norm() -> LayerNorm:
        return LayerNorm(np.zeros(d), np.zeros(d), config.layer_norm_eps)

    def linear(n: int, k: int) -> Linear:
        return Linear(np.broadcast_to(0.0, (n, k)), np.zeros(n))

    def norm_linear(n: int) -> NormLinear:
        return NormLinear(norm(), linear(n, d))

    prefix = config.prefix_tokens
    layer = vit.Layer(norm_linear(3 * d), linear(d, d), norm_linear(m), linear(d, m))
    last = vit.LastLayer(prefix, norm_linear(d), norm_linear(2 * d), linear(d, d), norm_linear(m), linear(d, m))
    position = np.zeros((config.num_tokens, d))
    strides = (config.frequency_stride, config.time_stride)
    embed = Embed(linear(d, p * p), np.zeros((prefix, d)), position, p, *strides)
    return vit.Weights(embed, (layer,), last if prefix else None, norm(), Head(norm(), linear(config.num_labels, d)))


def zero_images(config: DassConfig) -> forward.DassWeights:
    """Weights of a DASS of the right shapes, all zero; of the blocks of a stage only one."""

    def norm(n: int) -> LayerNorm:
        return LayerNorm(np.zeros(n), np.zeros(n), 1e-5)

    def linear(n: int, k: int) -> Linear:
        return Linear(np.broadcast_to(0.0, (n, k)), np.zeros(n))

    def stage(before: int, c: int, rank: int, mlp: int) -> forward.Stage:
        four = np.zeros((4, c))
        block = forward.Block(
            in_proj=NormLinear(norm(c), linear(c, c)),
            conv=Depthwise(np.zeros((c, 9))),
            x_proj=linear(4 * (rank + 2), c),
            scan=Scan(np.zeros((4, c, rank)), four, four, four),
            out_proj=NormLinear(norm(c), linear(c, c)),
            fc1=NormLinear(norm(c), linear(mlp, c)),
            fc2=linear(c, mlp),
        )
        return forward.Stage(ConvNorm(linear(c, 9 * before), norm(c)), (block,))

    before = (config.stem_dim, *config.dims)
    sizes = zip(before, config.dims, config.ranks, config.mlp_dims, strict=False)
    stem = ConvNorm(linear(config.stem_dim, 9), norm(config.stem_dim))
    head = linear(config.num_labels, config.embedding_size)
    return forward.DassWeights(stem, tuple(stage(*each) for each in sizes), norm(config.embedding_size), head)


def record_images(
    config: DassConfig, clips: int, precision: str, target: Target, backend: type[CudaOps] = CudaOps
) -> list[Launch]:
    """The launches of a DASS on one batch of spectrograms, of one block a stage."""
    recorder = Recorder()
    ops = backend(1, precision, "meta", launcher=recorder, target=target)
    packed = forward.pack(ops, zero_images(config))
    ws = {name: ops.empty((clips, *shape), kind) for name, (shape, kind) in forward.workspace(config).items()}
    forward.forward(ops, packed, ws["spectrogram"], ws)
    return recorder.launches


def record(
    config: VitConfig,
    clips: int,
    precision: str,
    target: Target,
    backend: type[CudaOps] = CudaOps,
    token_merging: float = 0.0,
) -> list[Launch]:
    """The launches of one batch, int16 waveforms to logits. A host synchronisation would raise: there is no memory."""
    recorder = Recorder()
    ops = backend(config.num_attention_heads, precision, "meta", launcher=recorder, target=target)
    run(config, clips, ops, token_merging)
    return recorder.launches


def run(config: VitConfig, clips: int, ops: CudaOps, token_merging: float = 0.0) -> None:
    """A forward pass of zero weights on a backend of the "meta" device."""
    packed = vit.pack(ops, zero_weights(config))
    layers = packed.layers * (config.num_hidden_layers - (packed.last is not None))
    weights = replace(packed, layers=layers, token_merging=token_merging)
    ws = {name: ops.empty((clips, *shape), kind) for name, (shape, kind) in vit.workspace(config).items()}
    waves = torch.empty((clips, config.front_end.input_samples), dtype=torch.int16, device="meta")
    lengths = torch.empty(clips, dtype=torch.int32, device="meta")
    spectrogram = ops.log_mel_on_device(waves, lengths, config.front_end, ws["spectrogram"])
    vit.forward(ops, weights, spectrogram, ws)
