// Power spectra of frames of 400 samples every 160 by transforms of 512 points: those of 16 kHz, which all published
// checkpoints hear. In float32 but for the mean. Any other size is spectrum-inl.h's.
//
// The points are 32 rows of 16. With n = 16 a + b, k = c + 32 d and W(x) = exp(-2 pi i x),
//   X[k] = sum over b of W(b d / 16) W(b c / 512) Z[b, c],  Z[b, c] = sum over a of x[n] W(a c / 32),
// so that every sample and every Z is read and written once. Z are real transforms by split radix, c = 0..16; the outer
// sums are of radix 4, where a - w b is computed as 2 a - (a + w b): six fused operations instead of eight.

namespace astfast {
namespace {

template <class V>
struct Complex {
    typename V::Float re, im;
};

constexpr float kCos32[] = {1.0f,           0x1.f6297cp-1f, 0x1.d906bcp-1f,
                            0x1.a9b662p-1f, 0x1.6a09e6p-1f, 0x1.1c73b4p-1f,
                            0x1.87de2ap-2f, 0x1.8f8b84p-3f, 0.0f};  // cos(2 pi k / 32)

// to + x W(k / 32), 0 <= k <= 24.
template <class V>
inline __attribute__((always_inline)) Complex<V> add_rotated(Complex<V> to, Complex<V> x, int k) {
    using Float = typename V::Float;
    const Float c = splat<Float>(k <= 8 ? kCos32[k] : k <= 16 ? -kCos32[16 - k] : -kCos32[k - 16]);
    const Float s = splat<Float>(k <= 8 ? kCos32[8 - k] : k <= 16 ? kCos32[k - 8] : -kCos32[24 - k]);
    return {V::fma(x.im, s, V::fma(x.re, c, to.re)), V::fma(-x.re, s, V::fma(x.im, c, to.im))};
}

// X[0 .. N / 2] of N real numbers x[j], j = 0, 32 / N, ..., given as sum[j] = x[j] + x[j + 16] and dif[j] = x[j] - x[j
// + 16]. The imaginary parts of X[0] and X[N / 2] are zero and not set.
template <class V, int N>
inline __attribute__((always_inline)) void real_dft(const typename V::Float* sum, const typename V::Float* dif,
                                                    Complex<V>* x) {
    using Float = typename V::Float;
    constexpr int kStride = 32 / N;
    if constexpr (N == 2) {
        x[0].re = sum[0];
        x[1].re = dif[0];
    } else if constexpr (N == 4) {
        x[0].re = sum[0] + sum[8];
        x[1] = {dif[0], -dif[8]};
        x[2].re = sum[0] - sum[8];
    } else {
        Complex<V> even[N / 4 + 1], first[N / 8 + 1], third[N / 8 + 1];  // of x[2 j], x[4 j + 1], x[4 j + 3]
        real_dft<V, N / 2>(sum, dif, even);
        real_dft<V, N / 4>(sum + kStride, dif + kStride, first);
        real_dft<V, N / 4>(sum + 3 * kStride, dif + 3 * kStride, third);
        const Float odd = first[0].re + third[0].re;
        x[0].re = even[0].re + odd;
        x[N / 4] = {even[N / 4].re, third[0].re - first[0].re};
        x[N / 2].re = even[0].re - odd;
#pragma GCC unroll 4
        for (int k = 1; k < N / 8; ++k) {
            const Complex<V> a = even[k], b = even[N / 4 - k];
            const Complex<V> t = add_rotated<V>(Complex<V>{Float{}, Float{}}, first[k], k * kStride);
            const Complex<V> s = add_rotated<V>(t, third[k], 3 * k * kStride);
            const Float d_re = V::fma(splat<Float>(-2.0f), t.re, s.re);  // of the difference, negated
            const Float d_im = V::fma(splat<Float>(2.0f), t.im, -s.im);
            x[k] = {a.re + s.re, a.im + s.im};
            x[N / 2 - k] = {a.re - s.re, s.im - a.im};
            x[N / 4 + k] = {b.re + d_im, d_re - b.im};
            x[N / 4 - k] = {b.re - d_im, d_re + b.im};
        }
        const Float half = splat<Float>(kCos32[4]);
        const Complex<V> a = even[N / 8];
        const Float d = first[N / 8].re - third[N / 8].re, s = first[N / 8].re + third[N / 8].re;
        x[N / 8] = {V::fma(half, d, a.re), V::fma(-half, s, a.im)};
        x[3 * N / 8] = {V::fma(-half, d, a.re), V::fma(-half, s, -a.im)};
    }
}

// (a + w b, a - w b)
template <class V>
inline __attribute__((always_inline)) void rotate_and_add(Complex<V>& a, Complex<V>& b, typename V::Float w_re,
                                                          typename V::Float w_im) {
    using Float = typename V::Float;
    const Float two = splat<Float>(2.0f);
    const Float re = V::fma(-b.im, w_im, V::fma(b.re, w_re, a.re));
    const Float im = V::fma(b.re, w_im, V::fma(b.im, w_re, a.im));
    b = {V::fma(two, a.re, -re), V::fma(two, a.im, -im)};
    a = {re, im};
}

// x[k] = sum over j of x[j] w^j W(j k / 4), with `w` = w, w^2 as (re, im).
template <class V>
inline __attribute__((always_inline)) void radix_4(Complex<V>& x0, Complex<V>& x1, Complex<V>& x2, Complex<V>& x3,
                                                   const float* w) {
    using Float = typename V::Float;
    const Float w_re = splat<Float>(w[0]), w_im = splat<Float>(w[1]);
    const Float w2_re = splat<Float>(w[2]), w2_im = splat<Float>(w[3]);
    rotate_and_add<V>(x0, x2, w2_re, w2_im);
    rotate_and_add<V>(x1, x3, w2_re, w2_im);
    rotate_and_add<V>(x0, x1, w_re, w_im);   // -> 0, 2
    rotate_and_add<V>(x2, x3, w_im, -w_re);  // -> 1, 3: by -i w
    const Complex<V> one = x2;
    x2 = x1;
    x1 = one;
}

template <class V>
struct Spectrum400 {
    using Float = typename V::Float;
    using Double = typename V::Double;
    static constexpr int kLength = 400, kShift = 160, kPart = 80, kRow = 33;

    const LogMelTables& t;
    const float* const* rows;  // [lanes]
    Float* p;                  // [samples of a row], pre-emphasised
    Double* sums;              // [parts, 2 halves]: of the samples
    Float* z;                  // [16, kRow]
    int parts = 0;             // in p and sums
    Float last = {};           // sample of the last part

    // The next samples of each lane's run, transposed.
    void read_part() {
        const Float emphasis = splat<Float>(static_cast<float>(-t.pre_emphasis));
        Double low = {}, high = {};
        for (int i = parts * kPart; i < (parts + 1) * kPart; i += 8) {
            Float x[8];
            V::transpose_load(rows, i, x);
            V::transpose_load(rows, i + 4, x + 4);
            p[i] = V::fma(last, emphasis, x[0]);
            for (int k = 1; k < 8; ++k) p[i + k] = V::fma(x[k - 1], emphasis, x[k]);
            last = x[7];
            const Float sum = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
            low += widen<V>(reinterpret_cast<const float*>(&sum));
            high += widen<V>(reinterpret_cast<const float*>(&sum) + V::lanes / 2);
        }
        sums[2 * parts] = low;
        sums[2 * parts + 1] = high;
        ++parts;
    }

    // What pre-emphasis leaves of the mean of a frame.
    Float offset(int first_part) const {
        using Half = typename V::Half;
        const double scale = (1.0 - static_cast<float>(t.pre_emphasis)) / kLength;
        Float mean;
        for (int half = 0; half < 2; ++half) {
            Double sum = {};
            for (int part = first_part; part < first_part + kLength / kPart; ++part) sum += sums[2 * part + half];
            reinterpret_cast<Half*>(&mean)[half] = __builtin_convertvector(sum * scale, Half);
        }
        return mean;
    }

    // Z [16, kRow] of a frame: Z[b, 0] and Z[b, 16], which are real, then the others.
    void inner(const Float* frame, Float mean) {
        for (int b = 0; b < 16; ++b) {
            Float sum[16], dif[16];
            const float* const w = t.float_window + b;
#pragma GCC unroll 16
            for (int a = 0; a < 16; ++a) {
                const Float x = frame[16 * a + b] - mean;
                const Float weight = splat<Float>(w[16 * a]);
                if (a + 16 < kLength / 16) {
                    const Float y = (frame[16 * a + b + 256] - mean) * splat<Float>(w[16 * a + 256]);
                    sum[a] = V::fma(x, weight, y);
                    dif[a] = V::fma(x, weight, -y);
                } else {
                    sum[a] = dif[a] = x * weight;
                }
            }
            Complex<V> x[17];
            real_dft<V, 32>(sum, dif, x);
            Float* const row = z + b * kRow;
            row[0] = x[0].re;
            row[1] = x[16].re;
#pragma GCC unroll 15
            for (int c = 1; c < 16; ++c) row[2 * c] = x[c].re, row[2 * c + 1] = x[c].im;
        }
    }

    static Float squared(Complex<V> x) { return V::fma(x.re, x.re, x.im * x.im); }

    // |X|^2. Those of c > 16 are at 512 - k.
    void outer(Float* power) const {
        const float* w = t.outer_twiddles;
        for (int c = 1; c < 16; ++c, w += 20) {
            Complex<V> x[16];
#pragma GCC unroll 4
            for (int b = 0; b < 4; ++b) {
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j) {
                    const Float* const pair = z + (4 * j + b) * kRow + 2 * c;
                    x[4 * b + j] = {pair[0], pair[1]};
                }
                radix_4<V>(x[4 * b], x[4 * b + 1], x[4 * b + 2], x[4 * b + 3], w);
            }
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q) {
                radix_4<V>(x[q], x[4 + q], x[8 + q], x[12 + q], w + 4 + 4 * q);
#pragma GCC unroll 2
                for (int r = 0; r < 2; ++r) {
                    power[c + 32 * (q + 4 * r)] = squared(x[q + 4 * r]);
                    power[32 * (8 - q - 4 * r) - c] = squared(x[q + 4 * r + 8]);
                }
            }
        }
        edges(power);
    }

    // c = 0 and c = 16: the even and the odd outputs of 32 points of which the last 16 are zero.
    void edges(Float* power) const {
        Float sum[16], dif[16], padded[16];
#pragma GCC unroll 16
        for (int b = 0; b < 16; ++b) padded[b] = z[b * kRow + 1];
#pragma GCC unroll 8
        for (int b = 0; b < 8; ++b) {
            sum[2 * b] = z[b * kRow] + z[(b + 8) * kRow];
            dif[2 * b] = z[b * kRow] - z[(b + 8) * kRow];
        }
        Complex<V> even[9], odd[17];
        real_dft<V, 16>(sum, dif, even);
        real_dft<V, 32>(padded, padded, odd);
        power[0] = even[0].re * even[0].re;
#pragma GCC unroll 7
        for (int d = 1; d < 8; ++d) power[32 * d] = squared(even[d]);
#pragma GCC unroll 8
        for (int d = 0; d < 8; ++d) power[16 + 32 * d] = squared(odd[2 * d + 1]);
    }

    // power [256, lanes] of frame `step` of each lane's run.
    void operator()(int step, float* power) {
        const int first_part = step * (kShift / kPart);
        while (parts < first_part + kLength / kPart) read_part();
        Float* const frame = p + step * kShift;
        Float start;  // the first sample has no other before it
        for (int f = 0; f < V::lanes; ++f) start[f] = rows[f][step * kShift];
        frame[0] = start * splat<Float>(1.0f - static_cast<float>(t.pre_emphasis));
        inner(frame, offset(first_part));
        outer(reinterpret_cast<Float*>(power));
    }
};

}  // namespace
}  // namespace astfast
