// Arithmetic of the BF16 instructions, eight floats at once. It rounds to nearest even and takes and gives zero for
// numbers below the normal ones, whatever MXCSR says.
#pragma once

namespace astfast::bf16 {

[[gnu::always_inline]] inline __m256 flushed(__m256 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256 kept = _mm256_cmp_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(0x1p-126f), _CMP_NLT_UQ);
    return _mm256_and_ps(x, _mm256_or_ps(kept, sign));
}

[[gnu::always_inline]] inline __m256 even(__m256i pairs) {
    return flushed(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)));
}

[[gnu::always_inline]] inline __m256 odd(__m256i pairs) {
    return flushed(_mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
}

// a b + c, where none of them is a denormal.
[[gnu::always_inline]] inline __m256 fma(__m256 a, __m256 b, __m256 c) {
    return flushed(_mm256_fmadd_ps(a, b, c));
}

inline std::uint16_t rounded(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude < 0x00800000) return static_cast<std::uint16_t>((bits & 0x80000000) >> 16);
    if (magnitude > 0x7f800000) return static_cast<std::uint16_t>(bits >> 16 | 0x40);  // a quiet NaN
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace astfast::bf16
