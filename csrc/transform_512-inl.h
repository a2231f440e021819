// Power spectra of frames of up to 512 samples by transforms of 512 points, in float32: those of 16 kHz, which nearly
// all published checkpoints expect. Any other size is spectrum-inl.h's.
//
// The points are 32 rows of 16. With n = 16 a + b, k = c + 32 d and W(x) = exp(-2 pi i x),
//   X[k] = sum over b of W(b d / 16) W(b c / 512) Z[b, c],  Z[b, c] = sum over a of x[n] W(a c / 32),
// so that every sample and every Z is read and written once. Z are real transforms by split radix, c = 0..16; the outer
// sums are of radix 4, where a - w b is computed as 2 a - (a + w b): six fused operations instead of eight.

namespace astfast {
namespace {

template <class Simd>
struct Complex {
    typename Simd::Float re, im;
};

constexpr float kCos32[] = {1.0f,           0x1.f6297cp-1f, 0x1.d906bcp-1f,
                            0x1.a9b662p-1f, 0x1.6a09e6p-1f, 0x1.1c73b4p-1f,
                            0x1.87de2ap-2f, 0x1.8f8b84p-3f, 0.0f};  // cos(2 pi k / 32)

// W(-k / 32), 0 <= k <= 24.
template <class Simd>
inline __attribute__((always_inline)) Complex<Simd> root_32(int k) {
    using Float = typename Simd::Float;
    return {splat<Float>(k <= 8    ? kCos32[k]
                         : k <= 16 ? -kCos32[16 - k]
                                   : -kCos32[k - 16]),
            splat<Float>(k <= 8    ? kCos32[8 - k]
                         : k <= 16 ? kCos32[k - 8]
                                   : -kCos32[24 - k])};
}

// x conj w
template <class Simd>
inline __attribute__((always_inline)) Complex<Simd> rotated(Complex<Simd> x, Complex<Simd> w) {
    return {Simd::fma(x.im, w.im, x.re * w.re), Simd::fnma(x.re, w.im, x.im * w.re)};
}

// to + x conj w
template <class Simd>
inline __attribute__((always_inline)) Complex<Simd> add_rotated(Complex<Simd> to, Complex<Simd> x, Complex<Simd> w) {
    return {Simd::fma(x.im, w.im, Simd::fma(x.re, w.re, to.re)), Simd::fnma(x.re, w.im, Simd::fma(x.im, w.re, to.im))};
}

// x[j] + x[j + 16] and x[j] - x[j + 16]
template <class Simd>
struct Pair {
    typename Simd::Float sum, dif;
};

// X[0 .. N / 2] of N real numbers x[j], j = first_input, first_input + 32 / N, ..., of which input(j) is the Pair. Each
// is asked for when it is needed, so that few registers hold them. The imaginary parts of X[0] and X[N / 2] are zero
// and not set.
template <class Simd, int N, class Input>
inline __attribute__((always_inline)) void real_dft(const Input& input, int first_input, Complex<Simd>* x) {
    using Float = typename Simd::Float;
    constexpr int kStride = 32 / N;
    if constexpr (N == 2) {
        const Pair<Simd> pair = input(first_input);
        x[0].re = pair.sum;
        x[1].re = pair.dif;
    } else if constexpr (N == 4) {
        const Pair<Simd> a = input(first_input), b = input(first_input + 8);
        x[0].re = a.sum + b.sum;
        x[1] = {a.dif, -b.dif};
        x[2].re = a.sum - b.sum;
    } else {
        Complex<Simd> even[N / 4 + 1], first[N / 8 + 1], third[N / 8 + 1];  // of x[2 j], x[4 j + 1], x[4 j + 3]
        real_dft<Simd, N / 2>(input, first_input, even);
        real_dft<Simd, N / 4>(input, first_input + kStride, first);
        real_dft<Simd, N / 4>(input, first_input + 3 * kStride, third);
        const Float odd = first[0].re + third[0].re;
        x[0].re = even[0].re + odd;
        x[N / 4] = {even[N / 4].re, third[0].re - first[0].re};
        x[N / 2].re = even[0].re - odd;
#pragma GCC unroll 4
        for (int k = 1; k < N / 8; ++k) {
            const Complex<Simd> a = even[k], b = even[N / 4 - k];
            const Complex<Simd> t = rotated<Simd>(first[k], root_32<Simd>(k * kStride));
            const Complex<Simd> s = add_rotated<Simd>(t, third[k], root_32<Simd>(3 * k * kStride));
            const Float d_re = Simd::fma(splat<Float>(-2.0f), t.re, s.re);  // of the difference, negated
            const Float d_im = Simd::fms(splat<Float>(2.0f), t.im, s.im);
            x[k] = {a.re + s.re, a.im + s.im};
            x[N / 2 - k] = {a.re - s.re, s.im - a.im};
            x[N / 4 + k] = {b.re + d_im, d_re - b.im};
            x[N / 4 - k] = {b.re - d_im, d_re + b.im};
        }
        const Float half = splat<Float>(kCos32[4]);
        const Complex<Simd> a = even[N / 8];
        const Float d = first[N / 8].re - third[N / 8].re, s = first[N / 8].re + third[N / 8].re;
        x[N / 8] = {Simd::fma(half, d, a.re), Simd::fnma(half, s, a.im)};
        x[3 * N / 8] = {Simd::fnma(half, d, a.re), Simd::fms(splat<Float>(-kCos32[4]), s, a.im)};
    }
}

// (a + w b, a - w b)
template <class Simd>
inline __attribute__((always_inline)) void rotate_and_add(Complex<Simd>& a, Complex<Simd>& b, typename Simd::Float w_re,
                                                          typename Simd::Float w_im) {
    using Float = typename Simd::Float;
    const Float two = splat<Float>(2.0f);
    const Float re = Simd::fnma(b.im, w_im, Simd::fma(b.re, w_re, a.re));
    const Float im = Simd::fma(b.re, w_im, Simd::fma(b.im, w_re, a.im));
    b = {Simd::fms(two, a.re, re), Simd::fms(two, a.im, im)};
    a = {re, im};
}

// (a - i w b, a + i w b)
template <class Simd>
inline __attribute__((always_inline)) void turn_and_add(Complex<Simd>& a, Complex<Simd>& b, typename Simd::Float w_re,
                                                        typename Simd::Float w_im) {
    using Float = typename Simd::Float;
    const Float two = splat<Float>(2.0f);
    const Float re = Simd::fma(b.im, w_re, Simd::fma(b.re, w_im, a.re));
    const Float im = Simd::fnma(b.re, w_re, Simd::fma(b.im, w_im, a.im));
    b = {Simd::fms(two, a.re, re), Simd::fms(two, a.im, im)};
    a = {re, im};
}

// x[k] = sum over j of x[j] w^j W(j k / 4), with `w` = w, w^2 as (re, im).
template <class Simd>
inline __attribute__((always_inline)) void radix_4(Complex<Simd>& x0, Complex<Simd>& x1, Complex<Simd>& x2,
                                                   Complex<Simd>& x3, const float* w) {
    using Float = typename Simd::Float;
    const Float w_re = splat<Float>(w[0]), w_im = splat<Float>(w[1]);
    const Float w2_re = splat<Float>(w[2]), w2_im = splat<Float>(w[3]);
    rotate_and_add<Simd>(x0, x2, w2_re, w2_im);
    rotate_and_add<Simd>(x1, x3, w2_re, w2_im);
    rotate_and_add<Simd>(x0, x1, w_re, w_im);  // -> 0, 2
    turn_and_add<Simd>(x2, x3, w_re, w_im);    // -> 1, 3
    const Complex<Simd> one = x2;
    x2 = x1;
    x1 = one;
}

// Of frames of kLength samples, a multiple of 16; the points beyond them are zero.
template <class Simd, int kLength>
struct Transform512 {
    using Float = typename Simd::Float;
    static constexpr int kRow = 33;

    const LogMelTables& t;
    Float* z;  // [16, kRow]

    // power [256, lanes] of a frame whose mean is -negated.
    void operator()(const Float* frame, Float negated, float* power) {
        inner(frame, negated);
        outer(reinterpret_cast<Float*>(power));
    }

    // Z [16, kRow] of a frame whose mean is -negated: Z[b, 0] and Z[b, 16], which are real, then the others.
    __attribute__((noinline)) void inner(const Float* frame, Float negated) {
        for (int b = 0; b < 16; ++b) {
            const Float* const samples = frame + b;
            const float* const w = t.float_window + b;
            const auto input = [=](int a) __attribute__((always_inline)) -> Pair<Simd> {
                const Float x = samples[16 * a] + negated;
                const Float weight = splat<Float>(w[16 * a]);
                if (a + 16 >= kLength / 16) return {x * weight, x * weight};
                const Float y = (samples[16 * a + 256] + negated) * splat<Float>(w[16 * a + 256]);
                return {Simd::fma(x, weight, y), Simd::fms(x, weight, y)};
            };
            Complex<Simd> x[17];
            real_dft<Simd, 32>(input, 0, x);
            Float* const row = z + b * kRow;
            row[0] = x[0].re;
            row[1] = x[16].re;
#pragma GCC unroll 15
            for (int c = 1; c < 16; ++c) row[2 * c] = x[c].re, row[2 * c + 1] = x[c].im;
        }
    }

    static Float squared(Complex<Simd> x) { return Simd::fma(x.re, x.re, x.im * x.im); }

    // |X|^2. Those of c > 16 are at 512 - k.
    __attribute__((noinline)) void outer(Float* power) const {
        const float* w = t.outer_twiddles;
        const Float* column = z + 2;
        for (int c = 1; c < 16; ++c, w += 20, column += 2) {
            Complex<Simd> x[16];
#pragma GCC unroll 4
            for (int b = 0; b < 4; ++b) {
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j) {
                    x[4 * b + j] = {column[(4 * j + b) * kRow], column[(4 * j + b) * kRow + 1]};
                }
                radix_4<Simd>(x[4 * b], x[4 * b + 1], x[4 * b + 2], x[4 * b + 3], w);
            }
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q) {
                radix_4<Simd>(x[q], x[4 + q], x[8 + q], x[12 + q], w + 4 + 4 * q);
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
        const auto edge = [this](int a) __attribute__((always_inline)) -> Pair<Simd> {
            const Float x = z[a / 2 * kRow], y = z[(a / 2 + 8) * kRow];
            return {x + y, x - y};
        };
        const auto padded = [this](int a) __attribute__((always_inline)) -> Pair<Simd> {
            return {z[a * kRow + 1], z[a * kRow + 1]};
        };
        Complex<Simd> even[9], odd[17];
        real_dft<Simd, 16>(edge, 0, even);
        real_dft<Simd, 32>(padded, 0, odd);
        power[0] = even[0].re * even[0].re;
#pragma GCC unroll 7
        for (int d = 1; d < 8; ++d) power[32 * d] = squared(even[d]);
#pragma GCC unroll 8
        for (int d = 0; d < 8; ++d) power[16 + 32 * d] = squared(odd[2 * d + 1]);
    }
};

}  // namespace
}  // namespace astfast
