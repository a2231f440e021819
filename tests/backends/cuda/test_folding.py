"""Centring and folding are exact: in float64 the folded layers are the layers, outliers included."""

import numpy as np
import pytest

from astfast.backends.cuda import folding
from astfast.front_end import KaldiFbank, analysis_window
from astfast.ops import Embed, LayerNorm, Linear, NormLinear

RNG = np.random.default_rng(0)
D, N, T = 48, 40, 11
EXACT = 1e-11  # of values around 1 after some hundred float64 operations


def layer_norm(x: np.ndarray, w: LayerNorm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + w.eps) * w.weight + w.bias


def rms_norm(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def stream(size: float) -> np.ndarray:
    """[T, D] with massive activations in two channels and a mean far from zero."""
    x = RNG.standard_normal((T, D))
    x[:, 5] += 900
    x[:, 9] -= 300
    return size * x


@pytest.fixture
def norm_linear() -> NormLinear:
    norm = LayerNorm(1 + RNG.standard_normal(D), RNG.standard_normal(D), 1e-6)
    return NormLinear(norm, Linear(RNG.standard_normal((N, D)), RNG.standard_normal(N)))


@pytest.mark.parametrize("size", [1.0, 1e-6])  # at 1e-6 the variance is of the size of eps
@pytest.mark.parametrize("scale", [1.0, 2.0**-5])
def test_a_folded_layer_norm_is_one_factor_a_row(norm_linear: NormLinear, size: float, scale: float) -> None:
    x = stream(size)
    expected = layer_norm(x, norm_linear.norm) @ norm_linear.linear.weight.T + norm_linear.linear.bias
    weight, bias = folding.rms_linear(norm_linear)
    zero_mean = scale * folding.centred(x, 1)
    got = rms_norm(zero_mean, norm_linear.norm.eps * scale**2) @ weight.T + bias
    np.testing.assert_allclose(got, expected, rtol=EXACT, atol=EXACT)


def test_what_is_left_of_a_mean_is_subtracted_as_layer_norm_would(norm_linear: NormLinear) -> None:
    x = folding.centred(RNG.standard_normal((T, D)), 1)
    weight, _ = folding.rms_linear(norm_linear)
    np.testing.assert_allclose((x + 3.0) @ weight.T, x @ weight.T, rtol=EXACT, atol=EXACT)


def test_a_residual_layer_adds_nothing_to_the_mean() -> None:
    w = Linear(RNG.standard_normal((D, N)), RNG.standard_normal(D))
    x, scale = RNG.standard_normal((T, N)), 0.25
    weight, bias = folding.residual_linear(w, scale)
    got = scale * (x @ weight.T) + bias
    np.testing.assert_allclose(got.mean(-1), 0, atol=EXACT)
    np.testing.assert_allclose(got, scale * folding.centred(x @ w.weight.T + w.bias, 1), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_the_embedding_is_the_projection_with_mel_bins_fastest(prefix: int) -> None:
    p, scale = 3, 0.5
    projection = Linear(RNG.standard_normal((D, p * p)), RNG.standard_normal(D))
    w = Embed(projection, RNG.standard_normal((prefix, D)), RNG.standard_normal((T, D)), p, 2, 2)
    weight, table = folding.embedding(w, scale)
    patch = RNG.standard_normal((p, p))  # [mel, time]
    projected = projection.weight @ patch.ravel() + projection.bias
    for token in range(T):
        value = (w.prefix[token] if token < prefix else projected) + w.position[token]
        product = weight @ patch.T.ravel() if token >= prefix else 0.0
        np.testing.assert_allclose(scale * product + table[token], scale * (value - value.mean()), atol=EXACT)


def test_a_head_is_folded_without_centring(norm_linear: NormLinear) -> None:
    x = stream(1.0)
    bare = LayerNorm(np.ones(D), np.zeros(D), norm_linear.norm.eps)
    weight, bias = folding.normalised_linear(norm_linear)
    expected = layer_norm(x, norm_linear.norm) @ norm_linear.linear.weight.T + norm_linear.linear.bias
    np.testing.assert_allclose(layer_norm(x, bare) @ weight.T + bias, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("rate", [16_000, 22_050], ids=["frames of 400 samples", "of 551"])
def test_the_spectral_matrix_is_window_and_fft_of_a_folded_frame(rate: int) -> None:
    front_end = KaldiFbank(sampling_rate=rate)
    n, bins = front_end.frame_length, front_end.fft_length // 2
    frame = RNG.standard_normal(n)
    spectrum = np.fft.rfft(frame * analysis_window(n), front_end.fft_length)[:-1]
    from_the_centre = spectrum * np.exp(1j * np.pi * (n - 1) * np.arange(bins) / front_end.fft_length)
    matrix = folding.spectral_matrix(front_end)
    early, late = frame[: len(matrix)], frame[::-1][: len(matrix)]
    np.testing.assert_allclose((late + early) @ matrix[:, :bins], from_the_centre.real, atol=1e-10)
    np.testing.assert_allclose((late - early) @ matrix[:, bins:], from_the_centre.imag, atol=1e-10)
