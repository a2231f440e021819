// The log-mel kernel for any vector type. Included once by each tier's file, inside its target region, after every
// other header: all of it has internal linkage, so no tier's code can be linked into another.
//
// From the frame to its power spectrum all is float64, because the logarithm magnifies what rounding leaves in the
// empty bins beside a loud one; energies and their logarithms are float32.
//
// V gives, with the operators of GCC's vector extensions, `Float` and `Int` of `lanes` float32 or int32, `Half` and
// `Double` of half as many float32 or float64, and
//   fma(a, b, c)                  a b + c, rounded once
//   transpose_load(rows, i, x)    x[k] lane f = rows[f][i + k],  k = 0..3
//   transpose_store(x, rows, i)   rows[f][i + k] = x[k] lane f,  k = 0..3
// What is fused is written as fma and the compiler may fuse nothing else, so that all tiers give the same bits.

namespace astfast {
namespace {

// The same number in all lanes. Subtracting zero is the identity, which the compiler knows; adding it is not, for -0.
template <class Vector, class Scalar>
inline Vector splat(Scalar x) {
    return x - Vector{};
}

template <class V>
inline typename V::Double widen(const float* x) {  // lanes / 2 of them
    return __builtin_convertvector(*reinterpret_cast<const typename V::Half*>(x), typename V::Double);
}

// Natural logarithm of normal positive numbers, at most 2 ulp off: x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)),
// log x = e ln 2 + f - f^2 / 2 + f^3 q(f); q is minimax for the relative error of the whole, 2^-27.
template <class V>
inline typename V::Float log_of(typename V::Float x) {
    using Float = typename V::Float;
    using Int = typename V::Int;
    constexpr int kSqrtHalf = 0x3f3504f3;  // its bits
    const Int above = reinterpret_cast<Int>(x) - kSqrtHalf;
    const Float exponent = __builtin_convertvector(above >> 23, Float);
    const Float f = reinterpret_cast<Float>((above & 0x7fffff) + kSqrtHalf) - 1.0f;
    Float q = V::fma(f, splat<Float>(-0x1.392084p-4f), splat<Float>(0x1.055d2ep-3f));
    q = V::fma(q, f, splat<Float>(-0x1.0d6f5ap-3f));
    q = V::fma(q, f, splat<Float>(0x1.22d814p-3f));
    q = V::fma(q, f, splat<Float>(-0x1.54749cp-3f));
    q = V::fma(q, f, splat<Float>(0x1.99a03ep-3f));
    q = V::fma(q, f, splat<Float>(-0x1.00021ep-2f));
    q = V::fma(q, f, splat<Float>(0x1.555554p-2f));
    q = V::fma(q, f, splat<Float>(-0.5f));
    return V::fma(exponent, splat<Float>(0x1.62e430p-1f), V::fma(f * f, q, f));
}

// Sum over n rows of `lanes` floats each, of which x points at one half.
template <class V>
inline typename V::Double sum_of(const float* x, int n) {
    typename V::Double sum = {};
    int i = 0;
    for (; i + 4 <= n; i += 4, x += 4 * V::lanes) {
        sum += (widen<V>(x) + widen<V>(x + V::lanes)) + (widen<V>(x + 2 * V::lanes) + widen<V>(x + 3 * V::lanes));
    }
    for (; i < n; ++i, x += V::lanes) sum += widen<V>(x);
    return sum;
}

// A run of frames in each lane: their samples, transposed as the frames come to need them, and sums of these. Frames
// overlap: a hop of frame_shift samples is [0, rest) and [rest, frame_shift) of it, and a frame is `hops` hops and the
// first `rest` samples of one more, so each sample is transposed and added up only once.
template <class V>
struct Signal {
    using Double = typename V::Double;
    const LogMelTables& t;
    const float* const* rows;  // [lanes]
    int samples;               // of a row
    float* x;                  // [samples, lanes]
    Double* sums;              // [parts of hops, 2 halves]
    int ready = 0;             // samples in x
    int summed = 0;            // samples in sums
    int parts = 0;             // parts in sums

    void transpose_to(int end) {
        for (; ready < end && ready + 4 <= samples; ready += 4) {
            V::transpose_load(rows, ready, reinterpret_cast<typename V::Float*>(x) + ready);
        }
        for (; ready < end; ++ready) {
            for (int f = 0; f < V::lanes; ++f) x[ready * V::lanes + f] = rows[f][ready];
        }
    }

    // Means of the frame_length samples from step * frame_shift on, for lanes of one half.
    Double mean(int step, int half) {
        const int hops = t.frame_length / t.frame_shift, rest = t.frame_length % t.frame_shift;
        for (; parts < 2 * (step + hops) + 1; ++parts) {
            const int length = parts % 2 == 0 ? rest : t.frame_shift - rest;
            const float* const part = x + summed * V::lanes;
            sums[2 * parts] = sum_of<V>(part, length);
            sums[2 * parts + 1] = sum_of<V>(part + V::lanes / 2, length);
            summed += length;
        }
        Double sum = {};
        for (int part = 2 * step; part < 2 * (step + hops) + 1; ++part) sum += sums[2 * part + half];
        return sum * (1.0 / t.frame_length);
    }
};

// Mean removed, pre-emphasised, windowed, padded with zeros to an even length of at least three quarters.
template <class V>
inline void window_frame(const LogMelTables& t, const float* samples, typename V::Double mean, typename V::Double* y) {
    using Double = typename V::Double;
    const Double emphasis = splat<Double>(-t.pre_emphasis);
    Double previous = widen<V>(samples) - mean;
    int i = 0;
    for (; i < t.frame_length; ++i) {
        const Double current = widen<V>(samples + i * V::lanes) - mean;
        y[i] = V::fma(previous, emphasis, current) * t.window[i];
        previous = current;
    }
    for (; i % 2 != 0 || 2 * i < 3 * t.points; ++i) y[i] = Double{};
}

template <class V>
inline __attribute__((always_inline)) void rotate(typename V::Double* z, typename V::Double re, typename V::Double im,
                                                  const double* w) {
    using Double = typename V::Double;
    const Double c = splat<Double>(w[0]), s = splat<Double>(w[1]);
    z[0] = V::fma(re, c, -(im * s));
    z[1] = V::fma(re, s, im * c);
}

enum class Twiddle { kNone, kAll };
enum class Inputs { kAll, kLastIsZero };

// A radix-4 butterfly of a decimation in frequency: z[k] = (x[2k], x[2k + 1]) at k = 0, quarter, 2 quarter, 3 quarter.
// `w` is w, w^2, w^3.
template <class V, Twiddle kTwiddle, Inputs kInputs = Inputs::kAll>
inline __attribute__((always_inline)) void butterfly(typename V::Double* x, int quarter, const double* w) {
    using Double = typename V::Double;
    Double* const a = x;
    Double* const b = x + 2 * quarter;
    Double* const c = x + 4 * quarter;
    Double* const d = x + 6 * quarter;
    const Double sum_ac_re = a[0] + c[0], sum_ac_im = a[1] + c[1], dif_ac_re = a[0] - c[0], dif_ac_im = a[1] - c[1];
    Double sum_bd_re = b[0], sum_bd_im = b[1], dif_bd_re = b[0], dif_bd_im = b[1];
    if constexpr (kInputs == Inputs::kAll) {
        sum_bd_re += d[0], sum_bd_im += d[1], dif_bd_re -= d[0], dif_bd_im -= d[1];
    }
    a[0] = sum_ac_re + sum_bd_re;
    a[1] = sum_ac_im + sum_bd_im;
    const Double re1 = dif_ac_re + dif_bd_im, im1 = dif_ac_im - dif_bd_re;  // (a - c) - i (b - d)
    const Double re2 = sum_ac_re - sum_bd_re, im2 = sum_ac_im - sum_bd_im;
    const Double re3 = dif_ac_re - dif_bd_im, im3 = dif_ac_im + dif_bd_re;  // (a - c) + i (b - d)
    if constexpr (kTwiddle == Twiddle::kNone) {
        b[0] = re1, b[1] = im1, c[0] = re2, c[1] = im2, d[0] = re3, d[1] = im3;
    } else {
        rotate<V>(b, re1, im1, w);
        rotate<V>(c, re2, im2, w + 2);
        rotate<V>(d, re3, im3, w + 4);
    }
}

// Complex FFT of t.points points in place; output k is left at t.position[k]. Points that begin beyond frame_length, in
// the last quarter, are zero and not read.
template <class V>
inline void fft(const LogMelTables& t, typename V::Double* x) {
    const double* w = t.twiddles;
    int length = t.points;
    if (length >= 4) {
        const int quarter = length / 4;
        const int used = (t.frame_length + 1) / 2 - 3 * quarter;  // points of the last quarter
        for (int j = 0; j < quarter; ++j) {
            if (j < used) {
                butterfly<V, Twiddle::kAll>(x + 2 * j, quarter, w + 6 * j);
            } else {
                butterfly<V, Twiddle::kAll, Inputs::kLastIsZero>(x + 2 * j, quarter, w + 6 * j);
            }
        }
        w += 6 * quarter;
        length = quarter;
    }
    for (; length >= 4; length /= 4) {
        const int quarter = length / 4;
        for (int block = 0; block < t.points; block += length) butterfly<V, Twiddle::kNone>(x + 2 * block, quarter, w);
        for (int j = 1; j < quarter; ++j) {
            for (int block = 0; block < t.points; block += length) {
                butterfly<V, Twiddle::kAll>(x + 2 * (block + j), quarter, w + 6 * j);
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

template <class V>
inline void store_power(float* power, typename V::Double re, typename V::Double im) {
    using Half = typename V::Half;
    *reinterpret_cast<Half*>(power) = __builtin_convertvector(V::fma(re, re, im * im), Half);
}

// Spectrum z of the points (even sample, odd sample) -> power[k] of the samples, k < N, `lanes` floats apart. With
// A = z[k] + conj z[N-k], B = z[k] - conj z[N-k] and W = exp(-2 pi i k / 2N): X[k] = A - i W B and X[N-k] =
// conj(A + i W B), up to the factor 1/2 that is in the window.
template <class V>
inline void power_spectrum(const LogMelTables& t, const typename V::Double* x, float* power) {
    using Double = typename V::Double;
    store_power<V>(power, 2.0 * (x[0] + x[1]), Double{});
    for (int k = 1; 2 * k <= t.points; ++k) {
        const Double* const low = x + 2 * t.position[k];
        const Double* const high = x + 2 * t.position[t.points - k];
        const Double a_re = low[0] + high[0], a_im = low[1] - high[1];
        const Double b_re = low[0] - high[0], b_im = low[1] + high[1];
        Double o[2];  // -i W B
        rotate<V>(o, b_im, -b_re, t.split + 2 * k);
        store_power<V>(power + k * V::lanes, a_re + o[0], a_im + o[1]);
        store_power<V>(power + (t.points - k) * V::lanes, a_re - o[0], a_im - o[1]);
    }
}

// Four neighbouring filters, which read equally many bins, so that their sums run side by side.
template <class V>
inline void mel_bands(const LogMelTables& t, const MelFilters& filters, const float* power, typename V::Float* bands) {
    using Float = typename V::Float;
    Float energies[4] = {};
    const float* weights = t.weights + filters.first_weight;
    for (int i = 0; i < filters.bins; ++i, weights += 4) {
        for (int k = 0; k < 4; ++k) {
            const Float bin = *reinterpret_cast<const Float*>(power + (filters.first_bin[k] + i) * V::lanes);
            energies[k] = V::fma(bin, splat<Float>(weights[k]), energies[k]);
        }
    }
    for (int k = 0; k < 4; ++k) {
        const Float energy = energies[k] > t.floor ? energies[k] : splat<Float>(t.floor);
        bands[k] = (log_of<V>(energy) - t.shift) * t.scale;
    }
}

// Lane f computes the frames first[f], first[f] + 1, ... Where the lanes don't divide the frames evenly, the last ones
// begin earlier and compute some frames that their neighbours compute too, which gives the same bits.
template <class V>
void log_mel(const LogMelTables& t, const float* wave, std::int64_t frames, float* out, float* scratch) {
    using Float = typename V::Float;
    using Double = typename V::Double;
    const int steps = static_cast<int>((frames + V::lanes - 1) / V::lanes);
    const float* in[V::lanes];
    float* rows[V::lanes];
    for (int f = 0; f < V::lanes; ++f) {
        const std::int64_t first = f * steps < frames - steps ? f * steps : frames - steps;
        in[f] = wave + first * t.frame_shift;
        rows[f] = out + first * t.num_mel_bins;
    }
    const Scratch parts = scratch_of(t, V::lanes, frames);
    Double* const x = reinterpret_cast<Double*>(scratch);
    float* const power = scratch + parts.power;
    Signal<V> signal{t, in, (steps - 1) * t.frame_shift + t.frame_length, scratch + parts.signal,
                     reinterpret_cast<Double*>(scratch + parts.sums)};
    for (int step = 0; step < steps; ++step) {
        const int start = step * t.frame_shift;
        signal.transpose_to(start + t.frame_length);
        for (int half = 0; half < 2; ++half) {
            const int lane = half * V::lanes / 2;
            window_frame<V>(t, signal.x + start * V::lanes + lane, signal.mean(step, half), x);
            fft<V>(t, x);
            power_spectrum<V>(t, x, power + lane);
        }
        for (int mel = 0; mel < t.num_mel_bins; mel += 4) {
            Float bands[4];
            mel_bands<V>(t, t.filters[mel / 4], power, bands);
            if (mel + 4 <= t.num_mel_bins) {
                V::transpose_store(bands, rows, mel);
            } else {
                for (int f = 0; f < V::lanes; ++f) {
                    for (int k = 0; mel + k < t.num_mel_bins; ++k) rows[f][mel + k] = bands[k][f];
                }
            }
        }
        for (int f = 0; f < V::lanes; ++f) rows[f] += t.num_mel_bins;
    }
}

}  // namespace
}  // namespace astfast
