// exp and GELU by polynomials, for any vector type. kFast is for bfloat16 results: error below a tenth of their ulp.
// Coefficients: minimax in relative error (Remez), rounded to float32; tests/test_cpu_math.py sweeps the whole range.

namespace astfast {
namespace {

template <class V>
inline typename V::F polynomial(typename V::F, float c) {
    return V::set(c);
}

// c0 + c1 x + c2 x^2 + ...
template <class V, class... Rest>
inline typename V::F polynomial(typename V::F x, float c0, Rest... rest) {
    return V::fma(polynomial<V>(x, rest...), x, V::set(c0));
}

// 2^t for t <= 0, relative error 2^-13.7.
template <class V>
inline typename V::F fast_exp2(typename V::F t) {
    const auto clamped = V::max(t, V::set(-150.0f));
    const auto n = V::nearest(clamped);
    const auto f = clamped - n;  // [-1/2, 1/2]
    return V::scale(polynomial<V>(f, 0x1.fff692p-1f, 0x1.62f31ap-1f, 0x1.f0de1ap-3f, 0x1.c3f760p-5f), n);
}

// e^x for x <= 0, within 2 ulp. x - n ln 2 is taken in two steps, the first of them exact.
template <class V>
inline typename V::F exact_exp(typename V::F x) {
    const auto clamped = V::max(x, V::set(-104.0f));
    const auto n = V::nearest(clamped * V::set(0x1.715476p+0f));
    auto r = V::fma(n, V::set(-0x1.62e400p-1f), clamped);
    r = V::fma(n, V::set(-0x1.7f7d1cp-20f), r);
    const auto q = polynomial<V>(r, 0x1.fffffcp-2f, 0x1.555490p-3f, 0x1.5558f4p-5f, 0x1.123a6cp-7f, 0x1.6a2354p-10f);
    return V::scale(V::fma(r * r, q, r) + V::set(1.0f), n);
}

template <class V, bool kFast>
inline typename V::F exp_of(typename V::F x) {
    if constexpr (kFast) return fast_exp2<V>(x * V::set(0x1.715476p+0f));
    return exact_exp<V>(x);
}

// gelu(x) = x Phi(x) = max(x, 0) - |x| Phi(-|x|): no cancellation, so that the tail keeps its relative precision.
template <class V, bool kFast>
inline typename V::F gelu_of(typename V::F x) {
    const auto positive = V::max(x, V::zero());
    if constexpr (kFast) {
        // log2 Phi(-t) is a polynomial to 2^-10; beyond 13.5 t Phi(-t) < 2^-130.
        const auto t = V::min(positive - V::min(x, V::zero()), V::set(13.5f));
        const auto log2_phi = polynomial<V>(t, -0x1.0038b8p+0f, -0x1.246646p+0f, -0x1.e56264p-2f, -0x1.673daep-5f,
                                            0x1.5cb238p-8f, -0x1.a54a48p-12f, 0x1.19fd0ap-16f, -0x1.3d8b16p-22f);
        return V::fma(-t, fast_exp2<V>(log2_phi), positive);
    } else {
        // Phi(-t) = exp(-t^2 / 2) R(u), u = (t - 3) / (t + 3); t^2 / 2 is carried as a rounded part and its remainder.
        const auto t = V::min(positive - V::min(x, V::zero()), V::set(14.5f));
        const auto u = V::divide(t - V::set(3.0f), t + V::set(3.0f));
        const auto r =
            polynomial<V>(u, 0x1.f1b89cp-4f, -0x1.a6b66ap-3f, 0x1.f8bad2p-4f, -0x1.7a943cp-5f, 0x1.91dcecp-8f,
                          0x1.7caf12p-9f, -0x1.01c35ap-10f, -0x1.637b16p-12f, 0x1.e26700p-14f, 0x1.bdf47cp-15f);
        const auto half = t * V::set(0.5f);
        const auto square = half * t;
        const auto remainder = V::fma(half, t, -square);
        const auto gaussian = exact_exp<V>(-square);
        return V::fma(-t, V::fma(-gaussian, remainder, gaussian) * r, positive);
    }
}

}  // namespace
}  // namespace astfast
