"""Layers that all Vision Transformers share: the pruned last layer is the whole one, cut to its first P rows."""

from dataclasses import replace

import pytest
import torch

from astfast.backends.reference import ReferenceOps
from astfast.models import vit
from astfast.ops import LayerNorm, Linear, NormLinear

D, HEADS, MLP, TOKENS = 12, 3, 20, 9


def random_layer(generator: torch.Generator) -> vit.Layer:
    def linear(n: int, k: int) -> Linear:
        return Linear(torch.randn(n, k, generator=generator) / k**0.5, torch.randn(n, generator=generator))

    def norm() -> LayerNorm:
        return LayerNorm(torch.randn(D, generator=generator), torch.randn(D, generator=generator), 1e-6)

    qkv, fc1 = (NormLinear(norm(), linear(n, D)) for n in (3 * D, MLP))
    return vit.Layer(qkv, linear(D, D), fc1, linear(D, MLP))


def pruned(layer: vit.Layer, rows: int) -> vit.LastLayer:
    norm, weight, bias = layer.qkv.norm, layer.qkv.linear.weight, layer.qkv.linear.bias
    q, kv = (NormLinear(norm, Linear(weight[part], bias[part])) for part in (slice(D), slice(D, None)))
    return vit.LastLayer(rows, q, kv, layer.proj, layer.fc1, layer.fc2)


@pytest.mark.parametrize("rows", [1, 2, 3, TOKENS])
def test_the_pruned_last_layer_gives_the_first_rows(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    layers = [random_layer(generator) for _ in range(2)]
    x = torch.randn(2, TOKENS, D, generator=generator)
    ops = ReferenceOps(HEADS, torch.float64)
    ws = dict.fromkeys(vit.encoder_workspace(TOKENS, D, MLP, rows))
    packed = [vit.pack_layer(ops, layer) for layer in layers]
    whole = vit.encode(ops, packed, None, x.double(), ws)
    assert whole.shape == (2, TOKENS, D)
    last = vit.pack_last_layer(ops, pruned(layers[1], rows))
    assert last.rows == rows
    some = vit.encode(ops, packed[:1], last, x.double(), ws)
    assert some.shape == (2, rows, D)
    assert torch.allclose(some, whole[:, :rows], rtol=0, atol=1e-12)
    wrong = vit.encode(ops, packed[:1], replace(last, q=replace(last.q, norm=packed[0].qkv.norm)), x.double(), ws)
    assert not torch.allclose(wrong, whole[:, :rows], rtol=0, atol=1e-3)


def test_workspace_has_buffers_of_a_last_layer_only_with_prefix_tokens() -> None:
    whole, some = vit.encoder_workspace(TOKENS, D, MLP, 0), vit.encoder_workspace(TOKENS, D, MLP, 3)
    assert some.keys() - whole.keys() == {"last_q", "last_kv", "last_context", "last_hidden"}
    assert some["last_hidden"] == ((3, MLP), "operand")
    assert {name: some[name] for name in whole} == whole
