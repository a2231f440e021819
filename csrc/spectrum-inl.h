// Power spectra of frames of any size, for any vector type, in float64: the logarithm magnifies rounding errors in
// the empty bins beside a loud one.
//
// Simd gives, with the operators of GCC's vector extensions, `Float` and `Int` of `lanes` float32 or int32, `Half` and
// `Double` of half as many float32 or float64, and
//   fma(a, b, c)                  a b + c, rounded once; fms: a b - c, fnma: c - a b, which the compiler doesn't
//                                 make of fma where it keeps the negative number for another use
//   widen(x)                      Half -> Double
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

template <class Simd>
inline typename Simd::Double widen(const float* x) {  // lanes / 2 of them
    return Simd::widen(*reinterpret_cast<const typename Simd::Half*>(x));
}

// Sum over n rows of `lanes` floats each, of which x points at one half.
template <class Simd>
inline typename Simd::Double sum_of(const float* x, int n) {
    typename Simd::Double sum = {};
    int i = 0;
    for (; i + 4 <= n; i += 4, x += 4 * Simd::lanes) {
        sum += (widen<Simd>(x) + widen<Simd>(x + Simd::lanes)) +
               (widen<Simd>(x + 2 * Simd::lanes) + widen<Simd>(x + 3 * Simd::lanes));
    }
    for (; i < n; ++i, x += Simd::lanes) sum += widen<Simd>(x);
    return sum;
}

// A run of frames in each lane: their samples, transposed as the frames come to need them, and sums of these. Frames
// overlap: a hop of frame_shift samples is [0, rest) and [rest, frame_shift) of it, and a frame is `hops` hops and the
// first `rest` samples of one more, so each sample is transposed and added up only once.
template <class Simd>
struct Signal {
    using Double = typename Simd::Double;
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
            Simd::transpose_load(rows, ready, reinterpret_cast<typename Simd::Float*>(x) + ready);
        }
        for (; ready < end; ++ready) {
            for (int f = 0; f < Simd::lanes; ++f) x[ready * Simd::lanes + f] = rows[f][ready];
        }
    }

    // Means of the frame_length samples from step * frame_shift on, for lanes of one half; zero where they stay.
    Double mean(int step, int half) {
        if (!t.remove_mean) return Double{};
        const int hops = t.frame_length / t.frame_shift, rest = t.frame_length % t.frame_shift;
        for (; parts < 2 * (step + hops) + 1; ++parts) {
            const int length = parts % 2 == 0 ? rest : t.frame_shift - rest;
            const float* const part = x + summed * Simd::lanes;
            sums[2 * parts] = sum_of<Simd>(part, length);
            sums[2 * parts + 1] = sum_of<Simd>(part + Simd::lanes / 2, length);
            summed += length;
        }
        Double sum = {};
        for (int part = 2 * step; part < 2 * (step + hops) + 1; ++part) sum += sums[2 * part + half];
        return sum * (1.0 / t.frame_length);
    }
};

// Minus the mean, pre-emphasised, windowed, padded with zeros to an even length of at least three quarters.
template <class Simd>
inline void window_frame(const LogMelTables& t, const float* samples, typename Simd::Double mean,
                         typename Simd::Double* y) {
    using Double = typename Simd::Double;
    const Double emphasis = splat<Double>(-t.pre_emphasis);
    Double previous = widen<Simd>(samples) - mean;
    int i = 0;
    for (; i < t.frame_length; ++i) {
        const Double current = widen<Simd>(samples + i * Simd::lanes) - mean;
        y[i] = Simd::fma(previous, emphasis, current) * t.window[i];
        previous = current;
    }
    for (; i % 2 != 0 || 2 * i < 3 * t.points; ++i) y[i] = Double{};
}

template <class Simd>
inline __attribute__((always_inline)) void rotate(typename Simd::Double* z, typename Simd::Double re,
                                                  typename Simd::Double im, const double* w) {
    using Double = typename Simd::Double;
    const Double c = splat<Double>(w[0]), s = splat<Double>(w[1]);
    z[0] = Simd::fma(re, c, -(im * s));
    z[1] = Simd::fma(re, s, im * c);
}

enum class Twiddle { kNone, kAll };
enum class Inputs { kAll, kLastIsZero };

// A radix-4 butterfly of a decimation in frequency: z[k] = (x[2k], x[2k + 1]) at k = 0, quarter, 2 quarter, 3 quarter.
// `w` is w, w^2, w^3.
template <class Simd, Twiddle kTwiddle, Inputs kInputs = Inputs::kAll>
inline __attribute__((always_inline)) void butterfly(typename Simd::Double* x, int quarter, const double* w) {
    using Double = typename Simd::Double;
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
        rotate<Simd>(b, re1, im1, w);
        rotate<Simd>(c, re2, im2, w + 2);
        rotate<Simd>(d, re3, im3, w + 4);
    }
}

// Complex FFT of t.points points in place; output k is left at t.position[k]. Points that begin beyond frame_length, in
// the last quarter, are zero and not read.
template <class Simd>
inline void fft(const LogMelTables& t, typename Simd::Double* x) {
    const double* w = t.twiddles;
    int length = t.points;
    if (length >= 4) {
        const int quarter = length / 4;
        const int used = (t.frame_length + 1) / 2 - 3 * quarter;  // points of the last quarter
        for (int j = 0; j < quarter; ++j) {
            if (j < used) {
                butterfly<Simd, Twiddle::kAll>(x + 2 * j, quarter, w + 6 * j);
            } else {
                butterfly<Simd, Twiddle::kAll, Inputs::kLastIsZero>(x + 2 * j, quarter, w + 6 * j);
            }
        }
        w += 6 * quarter;
        length = quarter;
    }
    for (; length >= 4; length /= 4) {
        const int quarter = length / 4;
        for (int block = 0; block < t.points; block += length)
            butterfly<Simd, Twiddle::kNone>(x + 2 * block, quarter, w);
        for (int j = 1; j < quarter; ++j) {
            for (int block = 0; block < t.points; block += length) {
                butterfly<Simd, Twiddle::kAll>(x + 2 * (block + j), quarter, w + 6 * j);
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

template <class Simd>
inline void store_power(float* power, typename Simd::Double re, typename Simd::Double im) {
    using Half = typename Simd::Half;
    *reinterpret_cast<Half*>(power) = __builtin_convertvector(Simd::fma(re, re, im * im), Half);
}

// Spectrum z of the points (even sample, odd sample) -> power[k] of the samples, k < N, `lanes` floats apart. With
// A = z[k] + conj z[N-k], B = z[k] - conj z[N-k] and W = exp(-2 pi i k / 2N): X[k] = A - i W B and X[N-k] =
// conj(A + i W B), up to the factor 1/2 that is in the window.
template <class Simd>
inline void power_spectrum(const LogMelTables& t, const typename Simd::Double* x, float* power) {
    using Double = typename Simd::Double;
    store_power<Simd>(power, 2.0 * (x[0] + x[1]), Double{});
    for (int k = 1; 2 * k <= t.points; ++k) {
        const Double* const low = x + 2 * t.position[k];
        const Double* const high = x + 2 * t.position[t.points - k];
        const Double a_re = low[0] + high[0], a_im = low[1] - high[1];
        const Double b_re = low[0] - high[0], b_im = low[1] + high[1];
        Double o[2];  // -i W B
        rotate<Simd>(o, b_im, -b_re, t.split + 2 * k);
        store_power<Simd>(power + k * Simd::lanes, a_re + o[0], a_im + o[1]);
        store_power<Simd>(power + (t.points - k) * Simd::lanes, a_re - o[0], a_im - o[1]);
    }
}

template <class Simd>
struct Spectrum {
    using Double = typename Simd::Double;
    const LogMelTables& t;
    Signal<Simd> signal;
    Double* x;   // [points, 2]
    int halves;  // with one, the second half of the lanes gets what the first has

    // power [points, lanes] of frame `step` of each lane's run.
    void operator()(int step, float* power) {
        const int start = step * t.frame_shift;
        signal.transpose_to(start + t.frame_length);
        for (int half = 0; half < halves; ++half) {
            const int lane = half * Simd::lanes / 2;
            window_frame<Simd>(t, signal.x + start * Simd::lanes + lane, signal.mean(step, half), x);
            fft<Simd>(t, x);
            power_spectrum<Simd>(t, x, power + lane);
        }
        for (int i = 0; halves == 1 && i < t.points * Simd::lanes; i += Simd::lanes) {
            std::memcpy(power + i + Simd::lanes / 2, power + i, Simd::lanes / 2 * sizeof(float));
        }
    }
};

}  // namespace
}  // namespace astfast
