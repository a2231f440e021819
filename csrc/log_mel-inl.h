// The log-mel kernel over blocks of V::lanes frames, for any vector type. Included once by each tier's file, inside its
// target region, after every other header: all of it has internal linkage, so no tier's code can be linked into another.
//
// V gives: `Float`, a vector of `lanes` float32 with the operators of GCC's vector extensions, `Int`, one of int32, and
//   transpose_load(rows, i, x)    x[k] lane f = rows[f][i + k],  k = 0..3
//   transpose_store(x, rows, i)   rows[f][i + k] = x[k] lane f,  k = 0..3
// Nothing here may be contracted into fused multiply-adds: not every tier has them, and all must give the same bits.
// No division by zero, no rounding mode and no library call is involved, so the same operations give the same bits.

namespace astfast {
namespace {

// Natural logarithm of normal positive numbers, at most 1 ulp off: x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)),
// log x = e ln 2 + f - f^2 / 2 + f^3 q(f), q a minimax polynomial (relative error of the whole 2^-27).
template <class V>
inline typename V::Float log_of(typename V::Float x) {
    using Float = typename V::Float;
    using Int = typename V::Int;
    constexpr float kLn2High = 0x1.62e4p-1f;  // few bits, so that its product with e is exact
    constexpr float kLn2Low = 0x1.7f7d1cp-20f;
    constexpr int kSqrtHalf = 0x3f3504f3;
    const Int bits = (Int)x;
    const Int e = (bits - kSqrtHalf) >> 23;
    const Float f = (Float)(bits - (e << 23)) - 1.0f;
    const Float exponent = __builtin_convertvector(e, Float);
    Float q = f * -0x1.392084p-4f + 0x1.055d2ep-3f;
    q = q * f + -0x1.0d6f5ap-3f;
    q = q * f + 0x1.22d814p-3f;
    q = q * f + -0x1.54749cp-3f;
    q = q * f + 0x1.99a03ep-3f;
    q = q * f + -0x1.00021ep-2f;
    q = q * f + 0x1.555554p-2f;
    const Float square = f * f;
    const Float tail = exponent * kLn2Low + (f * square * q - 0.5f * square);
    return exponent * kLn2High + (f + tail);
}

// Frames at rows[f] -> windowed samples x [2 * points] vectors: mean removed, pre-emphasised, zero-padded.
template <class V>
inline void window_frames(const LogMelTables& t, const float* const* rows, typename V::Float* x) {
    using Float = typename V::Float;
    const int n = t.frame_length;
    const float per_sample = 1.0f / static_cast<float>(n);

    Float sums[4] = {};
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        V::transpose_load(rows, i, x + i);
        for (int k = 0; k < 4; ++k) sums[k] += x[i + k];
    }
    for (; i < n; ++i) {
        for (int f = 0; f < V::lanes; ++f) x[i][f] = rows[f][i];
        sums[i % 4] += x[i];
    }
    const Float mean = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * per_sample;

    // What rounding left in: the mean of what remains, which is small and so has small errors of its own.
    Float rests[4] = {};
    for (i = 0; i < n; ++i) {
        x[i] -= mean;
        rests[i % 4] += x[i];
    }
    const Float rest = ((rests[0] + rests[1]) + (rests[2] + rests[3])) * per_sample;

    Float previous = x[0] - rest;
    for (i = 0; i < n; ++i) {
        const Float current = x[i] - rest;
        x[i] = (current - previous * t.pre_emphasis) * t.window[i];
        previous = current;
    }
    for (; i < 2 * t.points; ++i) x[i] = Float{};
}

// One radix-4 butterfly of a decimation in frequency on z[0], z[quarter], z[2 quarter], z[3 quarter]; z[k] = (x[2k],
// x[2k + 1]). `w` is w, w^2, w^3, or null where all are 1.
template <class V, bool kTwiddle>
inline __attribute__((always_inline)) void butterfly(typename V::Float* x, int quarter, const float* w) {
    using Float = typename V::Float;
    Float* const a = x;
    Float* const b = x + 2 * quarter;
    Float* const c = x + 4 * quarter;
    Float* const d = x + 6 * quarter;
    const Float sum_ac_re = a[0] + c[0], sum_ac_im = a[1] + c[1], dif_ac_re = a[0] - c[0], dif_ac_im = a[1] - c[1];
    const Float sum_bd_re = b[0] + d[0], sum_bd_im = b[1] + d[1], dif_bd_re = b[0] - d[0], dif_bd_im = b[1] - d[1];
    a[0] = sum_ac_re + sum_bd_re;
    a[1] = sum_ac_im + sum_bd_im;
    const Float re1 = dif_ac_re + dif_bd_im, im1 = dif_ac_im - dif_bd_re;  // (a - c) - i (b - d)
    const Float re2 = sum_ac_re - sum_bd_re, im2 = sum_ac_im - sum_bd_im;
    const Float re3 = dif_ac_re - dif_bd_im, im3 = dif_ac_im + dif_bd_re;  // (a - c) + i (b - d)
    b[0] = kTwiddle ? re1 * w[0] - im1 * w[1] : re1;
    b[1] = kTwiddle ? re1 * w[1] + im1 * w[0] : im1;
    c[0] = kTwiddle ? re2 * w[2] - im2 * w[3] : re2;
    c[1] = kTwiddle ? re2 * w[3] + im2 * w[2] : im2;
    d[0] = kTwiddle ? re3 * w[4] - im3 * w[5] : re3;
    d[1] = kTwiddle ? re3 * w[5] + im3 * w[4] : im3;
}

// Complex FFT of t.points points in place; output k is left at t.position[k].
template <class V>
inline void fft(const LogMelTables& t, typename V::Float* x) {
    const float* w = t.twiddles;
    int length = t.points;
    for (; length >= 4; length /= 4) {
        const int quarter = length / 4;
        for (int block = 0; block < t.points; block += length) butterfly<V, false>(x + 2 * block, quarter, nullptr);
        for (int j = 1; j < quarter; ++j) {
            for (int block = 0; block < t.points; block += length) {
                butterfly<V, true>(x + 2 * (block + j), quarter, w + 6 * j);
            }
        }
        w += 6 * quarter;
    }
    if (length == 2) {
        for (int i = 0; i < 2 * t.points; i += 4) {
            const auto re = x[i], im = x[i + 1];
            x[i] = re + x[i + 2];
            x[i + 1] = im + x[i + 3];
            x[i + 2] = re - x[i + 2];
            x[i + 3] = im - x[i + 3];
        }
    }
}

// Spectrum z of the points (even sample, odd sample) -> power spectrum of the samples, bin k < N at x[2 position[k]].
// With A = z[k] + conj z[N-k], B = z[k] - conj z[N-k] and W = exp(-2 pi i k / 2N): X[k] = A - i W B and
// X[N-k] = conj(A + i W B), up to the factor 1/2 that is in the window.
template <class V>
inline void power_spectrum(const LogMelTables& t, typename V::Float* x) {
    using Float = typename V::Float;
    const Float dc = 2.0f * (x[0] + x[1]);
    x[0] = dc * dc;
    for (int k = 1; 2 * k <= t.points; ++k) {
        Float* const low = x + 2 * t.position[k];
        Float* const high = x + 2 * t.position[t.points - k];
        const float c = t.split[2 * k], s = t.split[2 * k + 1];
        const Float a_re = low[0] + high[0], a_im = low[1] - high[1];
        const Float b_re = low[0] - high[0], b_im = low[1] + high[1];
        const Float o_re = b_im * c + b_re * s, o_im = b_im * s - b_re * c;  // -i W B
        const Float low_re = a_re + o_re, low_im = a_im + o_im;
        const Float high_re = a_re - o_re, high_im = a_im - o_im;
        low[0] = low_re * low_re + low_im * low_im;
        high[0] = high_re * high_re + high_im * high_im;
    }
}

template <class V>
inline typename V::Float mel_band(const LogMelTables& t, const MelFilter& filter, const typename V::Float* x) {
    typename V::Float energy = {};
    const float* const weights = t.weights + filter.first_weight;
    const auto* const position = t.position + filter.first_bin;
    for (int i = 0; i < filter.bins; ++i) energy += x[2 * position[i]] * weights[i];
    energy = energy > t.floor ? energy : typename V::Float{} + t.floor;
    return (log_of<V>(energy) - t.shift) * t.scale;
}

template <class V>
void log_mel(const LogMelTables& t, const float* wave, std::int64_t frames, float* out, float* scratch) {
    using Float = typename V::Float;
    Float* const x = reinterpret_cast<Float*>(scratch);  // [2 * points]
    for (std::int64_t first = 0; first < frames; first += V::lanes) {
        const int count = static_cast<int>(frames - first < V::lanes ? frames - first : V::lanes);
        const float* in[V::lanes];
        float* rows[V::lanes];
        for (int f = 0; f < V::lanes; ++f) {
            const std::int64_t frame = first + (f < count ? f : 0);  // idle lanes repeat the block's first frame
            in[f] = wave + frame * t.frame_shift;
            rows[f] = out + frame * t.num_mel_bins;
        }
        window_frames<V>(t, in, x);
        fft<V>(t, x);
        power_spectrum<V>(t, x);
        int mel = 0;
        for (; mel + 4 <= t.num_mel_bins; mel += 4) {
            Float bands[4];
            for (int k = 0; k < 4; ++k) bands[k] = mel_band<V>(t, t.filters[mel + k], x);
            V::transpose_store(bands, rows, mel);
        }
        for (; mel < t.num_mel_bins; ++mel) {
            const Float band = mel_band<V>(t, t.filters[mel], x);
            for (int f = 0; f < count; ++f) rows[f][mel] = band[f];
        }
    }
}

}  // namespace
}  // namespace astfast
