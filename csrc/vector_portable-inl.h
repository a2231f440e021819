// Vectors of four floats in GCC's own vector extensions: SSE2 on any x86-64, NEON on any Arm.
//
// Contract of a tier's vector type Simd: kLanes, the types F (float32) and I (int32) with operators, and the functions
// below. max and min return their second argument where one of the two is NaN. Included by one tier's file, inside its
// target region: everything has internal linkage.

namespace astfast {
namespace {

struct Portable {
    static constexpr int kLanes = 4;
    typedef float F __attribute__((vector_size(16)));
    typedef std::int32_t I __attribute__((vector_size(16)));

    static F zero() { return F{}; }
    static F set(float x) { return F{x, x, x, x}; }
    static F load(const float* p) {
        F x;
        std::memcpy(&x, p, sizeof x);
        return x;
    }
    static void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
    static F load_partial(const float* p, int n) {  // lanes from n on are zero
        F x{};
        std::memcpy(&x, p, static_cast<std::size_t>(n) * sizeof(float));
        return x;
    }
    static void store_partial(float* p, F x, int n) { std::memcpy(p, &x, static_cast<std::size_t>(n) * sizeof(float)); }
    static F accumulate(F acc, F a, F b) { return fma(a, b, acc); }
    static F fma(F a, F b, F c) { return a * b + c; }
    // a b - product, rounded once: the rounding error of a product.
    static F remainder(F a, F b, F product) {
        for (int i = 0; i < kLanes; ++i)
            product[i] = static_cast<float>(double{a[i]} * double{b[i]} - double{product[i]});
        return product;
    }
    static F max(F a, F b) { return a > b ? a : b; }
    static F min(F a, F b) { return a < b ? a : b; }
    static F nearest(F x) {  // integer, ties to even, |x| < 2^22
        const F magic = set(0x1.8p23f);
        return (x + magic) - magic;
    }
    static F divide(F a, F b) { return a / b; }
    static F sqrt(F x) {
        for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
        return x;
    }
    // x * 2^n for whole n <= 0; zero from n = -126 on.
    static F scale(F x, F n) {
        const I exponent = __builtin_convertvector(max(n, set(-127.0f)), I) + 127;
        return x * reinterpret_cast<F>(exponent << 23);
    }
    static float sum(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
    static float largest(F x) {
        const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
        return a > b ? a : b;
    }
    static std::int32_t largest(I x) {  // of whole numbers from zero on
        const std::int32_t a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
        return a > b ? a : b;
    }

    // bfloat16: the upper half of a float32, rounded to nearest even; NaN stays NaN.
    static F round_bf16(F x) {
        const I bits = reinterpret_cast<I>(x);
        const I rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff;
        const I result = x == x ? rounded : (bits | 0x400000) & ~0xffff;
        return reinterpret_cast<F>(result);
    }
    static F load_bf16(const std::uint16_t* p) { return load_partial_bf16(p, kLanes); }
    static F load_partial_bf16(const std::uint16_t* p, int n) {
        I bits{};
        for (int i = 0; i < n; ++i) bits[i] = p[i] << 16;
        return reinterpret_cast<F>(bits);
    }
    static void store_bf16(std::uint16_t* p, F x) { store_partial_bf16(p, x, kLanes); }
    static void store_partial_bf16(std::uint16_t* p, F x, int n) {
        const I bits = reinterpret_cast<I>(round_bf16(x));
        for (int i = 0; i < n; ++i) p[i] = static_cast<std::uint16_t>(bits[i] >> 16);
    }

    // dst[i * stride + j] = src[j][i] for i < n <= kLanes, j < kLanes.
    static void transpose(const std::uint32_t* const* src, std::uint32_t* dst, std::int64_t stride, int n) {
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < kLanes; ++j) dst[i * stride + j] = src[j][i];
        }
    }
};

}  // namespace
}  // namespace astfast
