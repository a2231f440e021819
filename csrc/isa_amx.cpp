// AMX: a tile is 32 x 32, four accumulators of 16 x 16 float32, each fed with 16 x 32 by 32 x 16 bfloat16 at a time.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "tiers.h"

#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12, on its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,amx-tile,amx-bf16,amx-int8")

// clang-format off
#include "vector_avx512-inl.h"
#include "math-inl.h"
#include "pack-inl.h"
#include "gemm-inl.h"
#include "attention-inl.h"
#include "float_gemm-inl.h"
#include "bf16_vector-inl.h"
#include "tier-inl.h"
// clang-format on

namespace astfast {
namespace {

struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tile registers are set up while a kernel runs and released after it, so that nobody else pays for saving them.
struct TileSession {
    TileSession() {
        const TileConfig config;
        _tile_loadconfig(&config);
    }
    ~TileSession() { _tile_release(); }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;
};

struct AmxBf16Gemm : Bf16Operands {
    using Session = TileSession;
    static constexpr int kUnits = 16;  // a row of a tile: 64 bytes
    static constexpr int kPanel = 32, kMaxWidth = 32;
    static constexpr int kRowTile = 32, kQueryTile = 32;

    static std::int64_t width_for(std::int64_t) { return kPanel; }

    // What the step after the next one loads: a tile's sixteen rows lie in as many places, which no hardware prefetcher
    // follows, and a load from the second-level cache is long beside the products that wait for it.
    template <int kRows>
    static void prefetch(const std::byte* a, std::int64_t a_stride, const std::byte* b) {
#pragma GCC unroll 32
        for (int r = 0; r < kRows; ++r) __builtin_prefetch(a + r * a_stride);
#pragma GCC unroll 32
        for (int line = 0; line < 32; ++line) __builtin_prefetch(b + line * 64);
    }

    // Rows of A that there are not are read as they lie in the buffer: they reach only rows of C that nobody reads.
    static void tile(const std::byte* a, std::int64_t a_stride, std::int64_t rows, const std::byte* b,
                     std::int64_t units, std::int64_t /* width */, float* c) {
        constexpr std::int64_t kStride = kPanel * 4, kStep = 16 * kStride;
        _tile_zero(0);
        _tile_zero(1);
        if (rows > 16) {
            _tile_zero(2);
            _tile_zero(3);
            for (std::int64_t u = 0; u < units; u += 16, a += 64, b += kStep) {
                _tile_loadd(4, a, a_stride);
                _tile_loadd(6, b, kStride);
                _tile_loadd(7, b + 64, kStride);
                _tile_dpbf16ps(0, 4, 6);
                prefetch<32>(a + 128, a_stride, b + 2 * kStep);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, a + 16 * a_stride, a_stride);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(2, c + 16 * kPanel, kStride);
            _tile_stored(3, c + 16 * kPanel + 16, kStride);
        } else {
            for (std::int64_t u = 0; u < units; u += 16, a += 64, b += kStep) {
                _tile_loadd(4, a, a_stride);
                _tile_loadd(6, b, kStride);
                _tile_loadd(7, b + 64, kStride);
                _tile_dpbf16ps(0, 4, 6);
                prefetch<16>(a + 128, a_stride, b + 2 * kStep);
                _tile_dpbf16ps(1, 4, 7);
            }
        }
        _tile_stored(0, c, kStride);
        _tile_stored(1, c + 16, kStride);
    }

    static void pack_values(const Head& head, std::int64_t width, std::int64_t d, std::byte* panel) {
        pack_values_in_pairs(head, units_of<AmxBf16Gemm>(head.keys), width, d, panel);
    }
};

}  // namespace

const Kernels amx_bfloat16 = kernels_of<AmxBf16Gemm>("amx", Precision::kBfloat16);

}  // namespace astfast
