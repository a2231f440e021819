// exp and GELU by polynomials, for any vector type. kFast is for bfloat16 results: error below a tenth of their ulp.
// Coefficients: minimax in relative error, rounded to float32; tests/backends/cpu/test_math.py sweeps the whole range.

namespace astfast {
namespace {

template <class Simd>
inline typename Simd::F polynomial(typename Simd::F, float c) {
    return Simd::set(c);
}

// c0 + c1 x + c2 x^2 + ...
template <class Simd, class... Rest>
inline typename Simd::F polynomial(typename Simd::F x, float c0, Rest... rest) {
    return Simd::fma(polynomial<Simd>(x, rest...), x, Simd::set(c0));
}

// 2^f for f in [-1/2, 1/2], relative error 2^-13.7.
template <class Simd>
inline typename Simd::F fast_exp2_fraction(typename Simd::F f) {
    return polynomial<Simd>(f, 0x1.fff692p-1f, 0x1.62f31ap-1f, 0x1.f0de1ap-3f, 0x1.c3f760p-5f);
}

// 2^t for t from -150 to 0.
template <class Simd>
inline typename Simd::F fast_exp2_within(typename Simd::F t) {
    const auto n = Simd::nearest(t);
    return Simd::scale(fast_exp2_fraction<Simd>(t - n), n);
}

// 2^t for t <= 0.
template <class Simd>
inline typename Simd::F fast_exp2(typename Simd::F t) {
    return fast_exp2_within<Simd>(Simd::max(Simd::set(-150.0f), t));
}

template <class Simd>
inline typename Simd::F magnitude(typename Simd::F x) {
    return reinterpret_cast<typename Simd::F>(reinterpret_cast<typename Simd::I>(x) & 0x7fffffff);
}

// e^(x - low) = 2^n (1 + s) for x <= 0 and a tiny `low`; n is whole. x - n ln 2 is taken in two steps, the first exact.
template <class Simd>
struct ExpParts {
    typename Simd::F n, s;

    explicit ExpParts(typename Simd::F x, typename Simd::F low) {
        const auto clamped = Simd::max(Simd::set(-104.0f), x);
        n = Simd::nearest(clamped * Simd::set(0x1.715476p+0f));
        auto r = Simd::fma(n, Simd::set(-0x1.62e400p-1f), clamped);
        r = Simd::fma(n, Simd::set(-0x1.7f7d1cp-20f), r) - low;
        const auto q =
            polynomial<Simd>(r, 0x1.fffffcp-2f, 0x1.555490p-3f, 0x1.5558f4p-5f, 0x1.123a6cp-7f, 0x1.6a2354p-10f);
        s = Simd::fma(r * r, q, r);
    }
};

// e^x for x <= 0.
template <class Simd>
inline typename Simd::F exact_exp(typename Simd::F x) {
    const ExpParts<Simd> e(x, Simd::zero());
    return Simd::scale(e.s + Simd::set(1.0f), e.n);
}

// 2^t for t <= 1; from 2^-126.5 down zero.
template <class Simd>
inline typename Simd::F exact_exp2(typename Simd::F t) {
    using F = typename Simd::F;
    using I = typename Simd::I;
    const auto clamped = Simd::max(Simd::set(-127.0f), t);
    const auto magic = Simd::set(0x1.8000fep+23f);  // 1.5 * 2^23 + 127, the exponent of 1
    const auto shifted = clamped + magic;
    const auto r = clamped - (shifted - magic);
    const auto power = reinterpret_cast<F>(reinterpret_cast<I>(shifted) << 23);
    const auto q = polynomial<Simd>(r, 0x1.62e432p-1f, 0x1.ebfbe2p-3f, 0x1.c6ae72p-5f, 0x1.3b270ep-7f, 0x1.5f7276p-10f,
                                    0x1.470b4ap-13f);
    return Simd::fma(r * power, q, power);
}

template <class Simd, bool kFast>
inline typename Simd::F exp_of(typename Simd::F x) {
    if constexpr (kFast) return fast_exp2<Simd>(x * Simd::set(0x1.715476p+0f));
    return exact_exp<Simd>(x);
}

// gelu(x) = x Phi(x) = max(x, 0) - |x| Phi(-|x|): no cancellation, so that the tail keeps its relative precision.
template <class Simd, bool kFast>
inline typename Simd::F gelu_of(typename Simd::F x) {
    const auto positive = Simd::max(Simd::zero(), x);
    if constexpr (kFast) {
        // log2 Phi(-t) is a polynomial to 2^-10; beyond 13.5 t Phi(-t) < 2^-130.
        const auto t = Simd::min(Simd::set(13.5f), magnitude<Simd>(x));
        const auto log2_phi = polynomial<Simd>(t, -0x1.0038b8p+0f, -0x1.246646p+0f, -0x1.e56264p-2f, -0x1.673daep-5f,
                                               0x1.5cb238p-8f, -0x1.a54a48p-12f, 0x1.19fd0ap-16f, -0x1.3d8b16p-22f);
        return Simd::fma(-t, fast_exp2_within<Simd>(log2_phi), positive);
    } else {
        // |x| < 0.6: Phi(x) = 1/2 + x P(x^2). Beyond: t Phi(-t) = exp(-t^2 / 2) S(u), u = (t - b) / (t + a), where S is
        // close to a polynomial by a and its c0 = S(0) to a float32 by b. t^2 / 2 = m ln 2 + r / 2, r from the exact
        // t^2. c0 is added last: what is rounded before is small. m ends at 127, where 2^-m is zero and t Phi(-t) less
        // than 2^-127.
        using F = typename Simd::F;
        using I = typename Simd::I;
        const auto t = Simd::min(Simd::set(13.265f), magnitude<Simd>(x));
        const auto square = t * t;
        const auto p = polynomial<Simd>(square, 0x1.98844ep-2f, -0x1.105570p-4f, 0x1.45fc00p-7f, -0x1.1f32d6p-10f);
        const auto centre = x * Simd::fma(x, p, Simd::set(0.5f));
        const auto magic = Simd::set(0x1.8000fep+23f);  // 1.5 * 2^23 + 127, the exponent of 1
        const auto shifted = Simd::fma(square, Simd::set(-0x1.715476p-1f), magic);
        const auto m = magic - shifted;
        const auto power = reinterpret_cast<F>(reinterpret_cast<I>(shifted) << 23);  // 2^-m
        const auto r = Simd::fma(m, Simd::set(-0x1.7f7d1cp-19f), Simd::remainder(t, t, m * Simd::set(0x1.62e400p+0f)));
        const auto s = Simd::fma(
            r * r,
            polynomial<Simd>(r, 0x1.fffffcp-4f, -0x1.555492p-6f, 0x1.5558b0p-9f, -0x1.12399ep-12f, 0x1.6a4ef2p-16f),
            r * Simd::set(-0.5f));
        const auto u = Simd::divide(t - Simd::set(1.4755859375f), t + Simd::set(3.0625f));
        const auto c0 = Simd::set(0x1.3a4bf0p-2f);
        const auto curve = u * polynomial<Simd>(u, 0x1.4fac06p-2f, -0x1.e0d5ccp-2f, 0x1.509498p-2f, -0x1.478c60p-4f,
                                                -0x1.2a2b66p-5f, 0x1.1ee190p-6f, 0x1.3fbe1cp-7f, -0x1.7fe640p-8f);
        const auto scaled = c0 + Simd::fma(c0 + curve, s, curve);  // (c0 + curve) (1 + s)
        const auto tail = Simd::fma(-scaled, power, positive);
        return t < Simd::set(0.6f) ? centre : tail;
    }
}

}  // namespace
}  // namespace astfast
