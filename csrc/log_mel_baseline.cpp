// Log-mel on vectors of four floats: SSE2 on any x86-64, NEON on any Arm.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "log_mel.h"

#pragma GCC optimize("O3,fp-contract=off")

#include "log_mel-inl.h"

namespace astfast {
namespace {

struct Four {
    static constexpr int lanes = 4;
    typedef float Float __attribute__((vector_size(16), may_alias));
    typedef std::int32_t Int __attribute__((vector_size(16)));
    typedef float Half __attribute__((vector_size(8), may_alias));
    typedef double Double __attribute__((vector_size(16), may_alias));

    // An instruction on Arm; on x86-64 a call of the library, which is slow where the processor has no such
    // instruction.
    static Float fma(Float a, Float b, Float c) {
        for (int k = 0; k < 4; ++k) c[k] = std::fma(a[k], b[k], c[k]);
        return c;
    }
    static Float fms(Float a, Float b, Float c) { return fma(a, b, -c); }
    static Float fnma(Float a, Float b, Float c) { return fma(-a, b, c); }
    static Double fma(Double a, Double b, Double c) {
        for (int k = 0; k < 2; ++k) c[k] = std::fma(a[k], b[k], c[k]);
        return c;
    }
    static Double widen(Half x) { return __builtin_convertvector(x, Double); }

    static void transpose_load(const float* const* rows, int i, Float* x) {
        for (int k = 0; k < 4; ++k) x[k] = Float{rows[0][i + k], rows[1][i + k], rows[2][i + k], rows[3][i + k]};
    }
    static void transpose_store(const Float* x, float* const* rows, int i) {
        for (int f = 0; f < 4; ++f) {
            for (int k = 0; k < 4; ++k) rows[f][i + k] = x[k][f];
        }
    }
};

}  // namespace

const LogMelKernel log_mel_baseline = {"baseline", Four::lanes, log_mel<Four>};

}  // namespace astfast
