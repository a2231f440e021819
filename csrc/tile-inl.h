// Tiles of C, the innermost loops of products: sums in registers, and what becomes of them. gemm_policy-inl.h says what
// Gemm gives.

namespace astfast {
namespace {

// C, where rows of sums are stored one after the other, in their own type or as floats times the scales of their
// columns.
template <class Gemm, bool kScaled>
struct StoredRows {
    using Simd = typename Gemm::Simd;
    using Sum = typename Gemm::Sum;
    static constexpr bool kResumes = true;  // sum(row, vector) is one that was stored

    float* c;
    std::int64_t stride;  // floats from one row to the next
    const float* scales;  // of columns, if kScaled

    Sum sum(std::int64_t row, int v) const {
        return reinterpret_cast<Sum>(Simd::load(c + row * stride + v * Simd::kLanes));
    }

    template <int kVectors>
    ALWAYS_INLINE void next(const Sum (&sums)[kVectors]) {
        unrolled<kVectors>([&](auto v) ALWAYS_INLINE {
            auto y = reinterpret_cast<typename Simd::F>(sums[v]);
            if constexpr (kScaled) y = Gemm::as_float(sums[v]) * Simd::load(scales + v * Simd::kLanes);
            Simd::store(c + v * Simd::kLanes, y);
        });
        c += stride;
    }
};

// kRows rows of A times kVectors vectors of columns of B, each element in one accumulator. Sums start from
// Gemm::initial_sum(panel_end, vector), or go on from those in C where panel_end is null. beside(multiply) may do work
// of its own between parts of the product. The last kLast units (there are as many) are multiplied by a group of rows
// after the other, each stored beside the products of the next: 24 stores of 64 bytes at once would hold up a Zen 4
// for 50 cycles, 6 at a time cost it nothing. Not inlined: GCC 12 spills sums where what calls this wants registers
// too.
template <class Gemm, int kRows, int kVectors, int kLast, class Stored, class Beside>
[[gnu::noinline]] void dot_tile(const std::byte* a, std::int64_t a_stride, const std::byte* b, std::int64_t units,
                                const std::byte* panel_end, Stored& rows_of_c, const Beside& beside) {
    using Simd = typename Gemm::Simd;
    using Sum = typename Gemm::Sum;
    constexpr int kWidth = kVectors * Simd::kLanes;
    constexpr int kSteps = static_cast<int>(unit_bytes<Gemm>) / 4;
    constexpr bool kAlone = std::is_same_v<Beside, Alone>;
    constexpr int kGroup = kLast > 0 ? Gemm::kRowsOfGroup : kRows;
    static_assert(kRows % kGroup == 0);
    Stored stored = rows_of_c;  // a copy, in registers
    Sum acc[kRows][kVectors];
    const auto each_sum = [&](const auto& fn) ALWAYS_INLINE {
        unrolled<kRows>([&](auto r)
                            ALWAYS_INLINE { unrolled<kVectors>([&](auto v) ALWAYS_INLINE { fn(r, v, acc[r][v]); }); });
    };
    if (!Stored::kResumes || panel_end != nullptr) {
        each_sum([&](int, int v, Sum& sum) ALWAYS_INLINE { sum = Gemm::initial_sum(panel_end, v); });
    } else if constexpr (Stored::kResumes) {
        each_sum([&](int r, int v, Sum& sum) ALWAYS_INLINE { sum = stored.sum(r, v); });
    }
    const auto keep_in_register = [](Sum& sum) ALWAYS_INLINE {
        Sum same = sum;  // a copy: GCC 12 keeps sums that asm names in memory
        asm("" : "+v"(same));
        sum = same;
    };
    // A step of rows [first, first + count).
    const auto multiply_rows = [&](auto step, auto first, auto count) ALWAYS_INLINE {
        typename Gemm::Vector bs[kVectors];
        unrolled<kVectors>([&](auto v) ALWAYS_INLINE {
            const std::byte* at = b + (step / kSteps * kWidth + v * Simd::kLanes) * 4;
            if constexpr (Gemm::kStreams && count == kRows && step % kSteps == 0) {
                __builtin_prefetch(at + kWidth * 4 * 8);
            }
            if constexpr (kSteps == 1) {
                bs[v] = Gemm::load(at);
            } else {
                bs[v] = Gemm::load(at, step % kSteps);
            }
            if constexpr (count < kRows) asm("" : "+v"(bs[v]));  // or it is loaded once for every row
        });
        unrolled<count>([&](auto i) ALWAYS_INLINE {
            const auto as = Gemm::broadcast(a + (first + i) * a_stride + step * 4);
            unrolled<kVectors>([&](auto v) ALWAYS_INLINE {
                Sum& sum = acc[first + i][v];
                sum = Gemm::dot(sum, as, bs[v]);
                if constexpr (!kAlone) keep_in_register(sum);  // or GCC 12 moves the products past one another
            });
        });
    };
    const auto multiply = [&](auto step) ALWAYS_INLINE {
        multiply_rows(step, std::integral_constant<int, 0>{}, std::integral_constant<int, kRows>{});
    };
    if constexpr (!kAlone) {
        beside([&]() ALWAYS_INLINE {
            if constexpr (Beside::kHasUnits) {
                units -= beside.units;
                std::int64_t left = beside.units;
                do {  // at least once, or GCC 12 has sums in memory
                    unrolled<kSteps>(multiply);
                    a += kSteps * 4;
                    b += kWidth * 4;
                } while (--left > 0);
            } else {
                if (units < Beside::kUnits) return;
                unrolled<Beside::kUnits * kSteps>(multiply);
                units -= Beside::kUnits;
                a += Beside::kUnits * kSteps * 4;
                b += Beside::kUnits * kWidth * 4;
            }
        });
    }
    constexpr int kUnroll = std::max(1, Gemm::kStepsTogether / kSteps);  // units
    for (units -= kLast; units >= kUnroll; units -= kUnroll, a += kUnroll * kSteps * 4, b += kUnroll * kWidth * 4) {
        unrolled<kUnroll * kSteps>(multiply);
    }
    for (; units > 0; --units, a += kSteps * 4, b += kWidth * 4) unrolled<kSteps>(multiply);
    if constexpr (kLast > 0) {  // or GCC 12 spills in the loop before what is short of registers here
        each_sum([&](int, int, Sum& sum) ALWAYS_INLINE { keep_in_register(sum); });
    }
    unrolled<kRows / kGroup>([&](auto group) ALWAYS_INLINE {
        constexpr int kFirst = decltype(group)::value * kGroup;
        unrolled<kLast * kSteps>([&](auto step) ALWAYS_INLINE {
            multiply_rows(step, std::integral_constant<int, kFirst>{}, std::integral_constant<int, kGroup>{});
        });
        unrolled<kGroup>([&](auto i) ALWAYS_INLINE { stored.next(acc[kFirst + i]); });
    });
    rows_of_c = stored;
}

// Up to kRows rows in tiles of kRows, then of 4, 2 and 1. Before each of the former come `bytes_ahead` bytes of the B
// that is needed next into the second-level cache.
template <class Gemm, int kRows, int kVectors, class Stored, class Beside>
inline void dot_rows(const std::byte* a, std::int64_t a_stride, std::int64_t rows, const std::byte* b,
                     std::int64_t units, const std::byte* panel_end, Stored& stored, std::int64_t bytes_ahead,
                     const Beside& beside) {
    const std::byte* ahead = b + units * kVectors * Gemm::Simd::kLanes * 4;
    const auto tiles_of = [&](auto size) {
        constexpr int kSize = decltype(size)::value;
        for (; rows >= kSize; rows -= kSize, a += kSize * a_stride) {
            if constexpr (kSize == kRows) {
                for (const std::byte* end = ahead + bytes_ahead; ahead < end; ahead += 256) {
                    unrolled<4>([&](auto line) ALWAYS_INLINE { __builtin_prefetch(ahead + line * 64, 0, 2); });
                }
            }
            constexpr int kLast = kSize == kRows && std::is_same_v<Beside, Alone> ? Gemm::kLastUnits : 0;
            if (units >= kLast) {
                dot_tile<Gemm, kSize, kVectors, kLast>(a, a_stride, b, units, panel_end, stored, beside);
            } else {
                dot_tile<Gemm, kSize, kVectors, 0>(a, a_stride, b, units, panel_end, stored, beside);
            }
        }
    };
    tiles_of(std::integral_constant<int, kRows>{});
    tiles_of(std::integral_constant<int, 4>{});
    tiles_of(std::integral_constant<int, 2>{});
    tiles_of(std::integral_constant<int, 1>{});
}

// Every tile reads its whole panel from the second-level cache, beside the epilogue of the tile before.
struct WholePanels {
    static constexpr std::int64_t kBlockUnits = std::int64_t{1} << 40, kChunkBytes = kBlockUnits;
    static constexpr int kTiles = 1, kPanelsTogether = 1, kStepsTogether = 1;
    static constexpr int kLastUnits = 6, kRowsOfGroup = 2;
    static constexpr bool kStreams = true;
};

// For caches that are small, or shared: kTiles tiles of rows pass over a block of a panel that stays in the first-level
// cache before the next one. Where rows are so long that few fit the second-level cache, it holds chunks of many rows
// instead, each multiplied by kPanelsTogether panels. Sums wait in C: the same additions in the same order.
struct BlocksOfPanels {
    static constexpr std::int64_t kBlockUnits = 128, kChunkBytes = 3072;
    static constexpr int kTiles = 20, kPanelsTogether = 8, kStepsTogether = 8;
    static constexpr int kLastUnits = 0, kRowsOfGroup = 1;
    static constexpr bool kStreams = false;
};

// The shape of a tier's tiles: how wide they are at most and for weights, in vectors, how many vectors of C a core
// holds in registers, and which of the two above they go by.
template <class Simd, int kWidest, int kRegisters, int kVectorsOfWeights, class Order>
struct TileShape : Order {
    static constexpr int kMaxVectors = kWidest, kMaxWidth = kWidest * Simd::kLanes;
    static constexpr int kPanel = kVectorsOfWeights * Simd::kLanes, kColumnsTogether = kPanel;
    // Rows of a tile that many vectors wide.
    static constexpr int rows_of(int vectors) { return vectors == 1 ? kRegisters / 2 : kRegisters / vectors; }

    static constexpr int kRowTile = rows_of(kVectorsOfWeights), kRowsTogether = 1;
};

}  // namespace
}  // namespace astfast
