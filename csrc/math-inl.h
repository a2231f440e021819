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

// 2^f for f in [-1/2, 1/2], relative error 2^-13.7.
template <class V>
inline typename V::F fast_exp2_fraction(typename V::F f) {
    return polynomial<V>(f, 0x1.fff692p-1f, 0x1.62f31ap-1f, 0x1.f0de1ap-3f, 0x1.c3f760p-5f);
}

// 2^t for t <= 0.
template <class V>
inline typename V::F fast_exp2(typename V::F t) {
    const auto clamped = V::max(V::set(-150.0f), t);
    const auto n = V::nearest(clamped);
    return V::scale(fast_exp2_fraction<V>(clamped - n), n);
}

// e^(x - low) = 2^n (1 + s) for x <= 0 and a tiny `low`; n is whole. x - n ln 2 is taken in two steps, the first exact.
template <class V>
struct ExpParts {
    typename V::F n, s;

    explicit ExpParts(typename V::F x, typename V::F low) {
        const auto clamped = V::max(V::set(-104.0f), x);
        n = V::nearest(clamped * V::set(0x1.715476p+0f));
        auto r = V::fma(n, V::set(-0x1.62e400p-1f), clamped);
        r = V::fma(n, V::set(-0x1.7f7d1cp-20f), r) - low;
        const auto q =
            polynomial<V>(r, 0x1.fffffcp-2f, 0x1.555490p-3f, 0x1.5558f4p-5f, 0x1.123a6cp-7f, 0x1.6a2354p-10f);
        s = V::fma(r * r, q, r);
    }
};

// e^x for x <= 0.
template <class V>
inline typename V::F exact_exp(typename V::F x) {
    const ExpParts<V> e(x, V::zero());
    return V::scale(e.s + V::set(1.0f), e.n);
}

template <class V, bool kFast>
inline typename V::F exp_of(typename V::F x) {
    if constexpr (kFast) return fast_exp2<V>(x * V::set(0x1.715476p+0f));
    return exact_exp<V>(x);
}

// gelu(x) = x Phi(x) = max(x, 0) - |x| Phi(-|x|): no cancellation, so that the tail keeps its relative precision.
template <class V, bool kFast>
inline typename V::F gelu_of(typename V::F x) {
    const auto positive = V::max(V::zero(), x);
    if constexpr (kFast) {
        // log2 Phi(-t) is a polynomial to 2^-10; beyond 13.5 t Phi(-t) < 2^-130.
        const auto t = V::min(V::set(13.5f), positive - V::min(V::zero(), x));
        const auto log2_phi = polynomial<V>(t, -0x1.0038b8p+0f, -0x1.246646p+0f, -0x1.e56264p-2f, -0x1.673daep-5f,
                                            0x1.5cb238p-8f, -0x1.a54a48p-12f, 0x1.19fd0ap-16f, -0x1.3d8b16p-22f);
        return V::fma(-t, fast_exp2<V>(log2_phi), positive);
    } else {
        // |x| < 1: Phi(x) = 1/2 + x P(x^2). Beyond: Phi(-t) = exp(-t^2 / 2) R(u), u = (t - 3) / (t + 3), with
        // R = c0 + c1 u + u^2 q(u). What rounds is kept small there: t^2 / 2, u and c0 + c1 u are a rounded part and
        // its remainder, and the exponential's factor 1 + s enters by its s.
        const auto p = polynomial<V>(x * x, 0x1.988454p-2f, -0x1.105832p-4f, 0x1.46ce4cp-7f, -0x1.36fd42p-10f,
                                     0x1.dbff10p-14f, -0x1.00d528p-17f);
        const auto centre = x * V::fma(x, p, V::set(0.5f));
        const auto t = V::min(V::set(14.5f), positive - V::min(V::zero(), x));
        const auto half = t * V::set(0.5f);
        const auto square = half * t;
        const ExpParts<V> e(-square, V::remainder(half, t, square));
        const auto above = t + V::set(3.0f), below = t - V::set(3.0f);
        const auto u = V::divide(below, above);
        const auto residual = V::fma(u, t - (above - V::set(3.0f)), V::remainder(u, above, below));
        const auto u_low = residual * ((u - V::set(1.0f)) * V::set(0x1.555556p-3f));  // 1 / (t + 3) = (1 - u) / 6
        const auto c0 = V::set(0x1.f1b89cp-4f), c1 = V::set(-0x1.a6b66ap-3f);
        const auto product = u * c1, line = c0 + product;
        const auto rest = (product - (line - c0)) + V::remainder(u, c1, product);
        const auto q = polynomial<V>(u, 0x1.f8bac2p-4f, -0x1.7a9478p-5f, 0x1.91f124p-8f, 0x1.7caf96p-9f,
                                     -0x1.03add0p-10f, -0x1.5e96f4p-12f, 0x1.0eb518p-13f, 0x1.480640p-15f);
        const auto slope = V::fma(u + u, q, c1);
        const auto curve = V::fma(u * u, q, V::fma(slope, u_low, rest));
        const auto correction = V::fma(e.s, line, V::fma(e.s, curve, curve));
        const auto tail = V::fma(-t, V::scale(line + correction, e.n), positive);
        return t < V::set(1.0f) ? centre : tail;
    }
}

}  // namespace
}  // namespace astfast
