// Products of packed operands: a tile of C in registers, a panel of C with its epilogue. gemm_policy-inl.h says what
// Gemm gives.

namespace astfast {
namespace {

// C[rows, kVectors * kLanes] (+)= A B for kRows rows, each element in one accumulator. Sums start from
// Gemm::initial_sum(panel_end, vector), or go on from C where panel_end is null. C holds them in Gemm::Sum's own type,
// or kScaled as floats times the scales of the panel's columns; its rows are c_stride floats apart. beside(multiply)
// may do work of its own between parts of the product. Not inlined: GCC 12 spills sums where what calls this wants
// registers too.
template <class Gemm, int kRows, int kVectors, bool kScaled, class Beside>
[[gnu::noinline]] void dot_tile(const std::byte* a, std::int64_t a_stride, const std::byte* b, std::int64_t units,
                                const std::byte* panel_end, float* c, std::int64_t c_stride, const Beside& beside) {
    using Simd = typename Gemm::Simd;
    using Sum = typename Gemm::Sum;
    constexpr int kWidth = kVectors * Simd::kLanes;
    constexpr int kSteps = static_cast<int>(unit_bytes<Gemm>) / 4;
    Sum acc[kRows][kVectors];
    const auto each_sum = [&](const auto& fn) ALWAYS_INLINE {
        unrolled<kRows>([&](auto r)
                            ALWAYS_INLINE { unrolled<kVectors>([&](auto v) ALWAYS_INLINE { fn(r, v, acc[r][v]); }); });
    };
    const auto each_of_c = [&](const auto& fn) ALWAYS_INLINE {
        float* row = c;
        each_sum([&](int r, int v, Sum& sum) ALWAYS_INLINE {
            if (v == 0 && r > 0) row += c_stride;
            asm("" : "+r"(row));  // or GCC 12 has the addresses of all rows ready before the products, and spills them
            fn(row + v * Simd::kLanes, v, sum);
        });
    };
    if (panel_end != nullptr) {
        each_sum([&](int, int v, Sum& sum) ALWAYS_INLINE { sum = Gemm::initial_sum(panel_end, v); });
    } else {
        each_of_c([&](const float* at, int, Sum& sum) ALWAYS_INLINE { sum = reinterpret_cast<Sum>(Simd::load(at)); });
    }
    const auto multiply = [&](auto step) ALWAYS_INLINE {
        typename Gemm::Vector bs[kVectors], as;
        unrolled<kVectors>([&](auto v) ALWAYS_INLINE {
            const std::byte* at = b + (step / kSteps * kWidth + v * Simd::kLanes) * 4;
            if constexpr (Gemm::kStreams && step % kSteps == 0) __builtin_prefetch(at + kWidth * 4 * 8);
            if constexpr (kSteps == 1) {
                bs[v] = Gemm::load(at);
            } else {
                bs[v] = Gemm::load(at, step % kSteps);
            }
        });
        each_sum([&](int r, int v, Sum& sum) ALWAYS_INLINE {
            if (v == 0) as = Gemm::broadcast(a + r * a_stride + step * 4);
            if constexpr (std::is_same_v<Beside, Alone>) {
                sum = Gemm::dot(sum, as, bs[v]);
            } else {
                Sum next = Gemm::dot(sum, as, bs[v]);  // a copy: GCC 12 keeps sums that asm names in memory
                asm("" : "+v"(next));                  // or it moves the products past one another, and spills
                sum = next;
            }
        });
    };
    if constexpr (!std::is_same_v<Beside, Alone>) {
        beside([&]() ALWAYS_INLINE {
            if (units < Beside::kUnits) return;
            unrolled<Beside::kUnits * kSteps>(multiply);
            units -= Beside::kUnits;
            a += Beside::kUnits * kSteps * 4;
            b += Beside::kUnits * kWidth * 4;
        });
    }
    constexpr int kUnroll = std::max(1, Gemm::kStepsTogether / kSteps);  // units
    for (; units >= kUnroll; units -= kUnroll, a += kUnroll * kSteps * 4, b += kUnroll * kWidth * 4) {
        unrolled<kUnroll * kSteps>(multiply);
    }
    for (; units > 0; --units, a += kSteps * 4, b += kWidth * 4) unrolled<kSteps>(multiply);
    each_of_c([&](float* at, int v, Sum& sum) ALWAYS_INLINE {
        auto y = reinterpret_cast<typename Simd::F>(sum);
        if constexpr (kScaled) {
            asm("" : "+v"(sum));  // or GCC 12 keeps sums where they are to be scaled, in memory
            const auto* scales = reinterpret_cast<const float*>(panel_end);
            y = Gemm::as_float(sum) * Simd::load(scales + v * Simd::kLanes);
        }
        Simd::store(at, y);
    });
}

// Up to kRows rows in tiles of kRows, then of 4, 2 and 1. Before each of the former come `bytes_ahead` bytes of the B
// that is needed next into the second-level cache.
template <class Gemm, int kRows, int kVectors, bool kScaled, class Beside>
inline void dot_rows(const std::byte* a, std::int64_t a_stride, std::int64_t rows, const std::byte* b,
                     std::int64_t units, const std::byte* panel_end, float* c, std::int64_t c_stride,
                     std::int64_t bytes_ahead, const Beside& beside) {
    const std::byte* ahead = b + units * kVectors * Gemm::Simd::kLanes * 4;
    const auto tiles_of = [&](auto size) {
        constexpr int kSize = decltype(size)::value;
        for (; rows >= kSize; rows -= kSize, a += kSize * a_stride, c += kSize * c_stride) {
            if constexpr (kSize == kRows) {
                for (const std::byte* end = ahead + bytes_ahead; ahead < end; ahead += 256) {
                    unrolled<4>([&](auto line) ALWAYS_INLINE { __builtin_prefetch(ahead + line * 64, 0, 2); });
                }
            }
            dot_tile<Gemm, kSize, kVectors, kScaled>(a, a_stride, b, units, panel_end, c, c_stride, beside);
        }
    };
    tiles_of(std::integral_constant<int, kRows>{});
    tiles_of(std::integral_constant<int, 4>{});
    tiles_of(std::integral_constant<int, 2>{});
    tiles_of(std::integral_constant<int, 1>{});
}

// Every tile reads its whole panel from the second-level cache.
struct WholePanels {
    static constexpr std::int64_t kBlockUnits = std::int64_t{1} << 40, kChunkBytes = kBlockUnits;
    static constexpr int kTiles = 1, kPanelsTogether = 1, kStepsTogether = 1;
    static constexpr bool kStreams = true;
};

// For caches that are small, or shared: kTiles tiles of rows pass over a block of a panel that stays in the first-level
// cache before the next one. Where rows are so long that few fit the second-level cache, it holds chunks of many rows
// instead, each multiplied by kPanelsTogether panels. Sums wait in C: the same additions in the same order.
struct BlocksOfPanels {
    static constexpr std::int64_t kBlockUnits = 128, kChunkBytes = 3072;
    static constexpr int kTiles = 20, kPanelsTogether = 8, kStepsTogether = 8;
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

    static constexpr int kRowTile = rows_of(kVectorsOfWeights), kRowsTogether = 1, kQueryTile = 24;
};

template <class Gemm>
constexpr std::int64_t panel_bytes(std::int64_t k) {
    return units_of<Gemm>(k) * Gemm::kPanel * 4 + (Gemm::kQuantised ? PanelScales::bytes(Gemm::kPanel) : 0);
}

// The multiply() of tiers whose instructions dot vectors; Gemm derives from it.
template <class Gemm>
struct DotTiles {
    // A panel's width for a matrix of n columns: the widest that wastes no vector.
    static std::int64_t width_for(std::int64_t n) {
        const std::int64_t vectors = (n + Gemm::Simd::kLanes - 1) / Gemm::Simd::kLanes;
        for (int width = Gemm::kMaxVectors; width > 1; --width) {
            if (vectors % width == 0) return width * Gemm::Simd::kLanes;
        }
        return vectors == 1 ? Gemm::Simd::kLanes : 2 * Gemm::Simd::kLanes;
    }

    // c [rows, width] (+)= A B over `units` units. kFar: B is worth being fetched ahead. kScaled: as dot_tile has it,
    // for one block of units.
    template <bool kFar = false, bool kScaled = false, class Beside = Alone>
    static void tile(const std::byte* a, std::int64_t a_stride, std::int64_t rows, const std::byte* b,
                     std::int64_t units, std::int64_t width, const std::byte* panel_end, float* c,
                     std::int64_t c_stride, const Beside& beside = {}) {
        for (std::int64_t u = 0; u < units; u += Gemm::kBlockUnits, panel_end = nullptr) {
            const std::int64_t count = std::min<std::int64_t>(Gemm::kBlockUnits, units - u);
            const auto multiply = [&](auto vectors) {
                constexpr int kVectors = decltype(vectors)::value;
                if constexpr (kVectors <= Gemm::kMaxVectors) {
                    constexpr int kRows = std::min(Gemm::rows_of(kVectors), Beside::kMaxRows);
                    const std::int64_t ahead = kFar && !Gemm::kStreams ? count * width * 4 * kRows / rows : 0;
                    dot_rows<Gemm, kRows, kVectors, kScaled>(a + u * unit_bytes<Gemm>, a_stride, rows,
                                                             b + u * width * 4, count, panel_end, c, c_stride, ahead,
                                                             beside);
                }
            };
            switch (width / Gemm::Simd::kLanes) {
                case 1:
                    multiply(std::integral_constant<int, 1>{});
                    break;
                case 2:
                    multiply(std::integral_constant<int, 2>{});
                    break;
                case 3:
                    multiply(std::integral_constant<int, 3>{});
                    break;
                default:
                    multiply(std::integral_constant<int, 4>{});
            }
        }
    }

    // epilogue_at(r, p) takes the rows of panel p from row r on.
    template <class EpilogueAt>
    static void multiply(const std::byte* a, std::int64_t rows, std::int64_t k, const std::byte* b, std::int64_t panels,
                         const EpilogueAt& epilogue_at) {
        static_assert(dots_vectors<Gemm>());
        constexpr std::int64_t kRows = Gemm::kRowTile * Gemm::kTiles;
        constexpr std::int64_t kChunk = Gemm::kChunkBytes / unit_bytes<Gemm>;
        const std::int64_t units = units_of<Gemm>(k), stride = row_bytes<Gemm>(k), panel = panel_bytes<Gemm>(k);
        alignas(64) float c[Gemm::kPanelsTogether][kRows * Gemm::kPanel];
        for (std::int64_t r = 0; r < rows; r += kRows) {
            const std::int64_t count = std::min(kRows, rows - r);
            for (std::int64_t u = 0; u < units; u += kChunk) {
                for (std::int64_t p = 0; p < panels; ++p) {
                    const std::byte* panel_end = u == 0 ? b + p * panel + units * Gemm::kPanel * 4 : nullptr;
                    tile<true>(a + r * stride + u * unit_bytes<Gemm>, stride, count,
                               b + p * panel + u * Gemm::kPanel * 4, std::min(kChunk, units - u), Gemm::kPanel,
                               panel_end, c[p], Gemm::kPanel);
                }
            }
            for (std::int64_t p = 0; p < panels; ++p) {
                auto epilogue = epilogue_at(r, p);
                for (std::int64_t i = 0; i < count; ++i) {
                    epilogue.next_row(c[p] + i * Gemm::kPanel, row_scale<Gemm>(a, r + i, k));
                }
            }
        }
    }
};

// Walks the rows of an output without a division for each.
template <class T>
class RowCursor {
  public:
    RowCursor(const Rows<void>& rows, std::int64_t row)
        : rows_(rows), clip_(row / rows.per_clip), index_(row % rows.per_clip) {}
    T* get() const { return static_cast<T*>(rows_.data) + clip_ * rows_.clip_stride + index_ * rows_.row_stride; }
    std::int64_t index() const { return index_; }  // within the clip
    void next() {
        if (++index_ == rows_.per_clip) {
            index_ = 0;
            ++clip_;
        }
    }

  private:
    const Rows<void>& rows_;
    std::int64_t clip_, index_;
};

// The epilogue of a panel of C: bias, activation, residual or position, row by row.
template <class Gemm, Epilogue kKind>
class PanelEpilogue {
    using Simd = typename Gemm::Simd;

  public:
    PanelEpilogue(const PanelOutput& out, std::int64_t row, std::int64_t panel_index, const std::byte* panel_end)
        : out_(out),
          column_(panel_index * Gemm::kPanel),
          n_(static_cast<int>(std::min<std::int64_t>(Gemm::kPanel, out.n - column_))),
          rows_{out.out.data, out.out.per_clip, out.out.clip_stride * kBytes, out.out.row_stride * kBytes},
          cursor_(rows_, row) {
        const auto* scales = reinterpret_cast<const float*>(panel_end);
        for_vectors<Simd>(n_, [&](std::int64_t i, int lanes) {
            Column& column = columns_[i / Simd::kLanes];
            column.bias = load_as_float<Simd>(out.bias + column_ + i, lanes);
            if constexpr (Gemm::kQuantised) column.scale = Simd::load(scales + i);
            if constexpr (shifts_rows<Gemm>) {  // as PanelScales has them
                column.initial_sum = Gemm::load_sum(scales + Gemm::kPanel + i);
            }
        });
    }
    PanelEpilogue(const PanelEpilogue&) = delete;
    PanelEpilogue& operator=(const PanelEpilogue&) = delete;

    // The next row: c [Gemm::kPanel] as the product left it, its scale where A is quantised.
    [[gnu::always_inline]] void next_row(const float* c, RowScale row_scale) {
        T* row = reinterpret_cast<T*>(cursor_.get()) + column_;
        prefetch(reinterpret_cast<const char*>(row) + Gemm::kRowTile * rows_.row_stride);
        const float* position = nullptr;
        if constexpr (kKind == Epilogue::kPosition) position = out_.position + cursor_.index() * out_.n + column_;
        const auto write = [&](auto vectors, std::int64_t i, int lanes) ALWAYS_INLINE {
            constexpr int kVectors = decltype(vectors)::value;
            typename Simd::F y[kVectors];
            const auto each = [&](const auto& fn) ALWAYS_INLINE {
                unrolled<kVectors>([&](auto v) ALWAYS_INLINE { fn(y[v], i + v * Simd::kLanes); });
            };
            each([&](auto& y, std::int64_t at) ALWAYS_INLINE {
                const Column& column = columns_[at / Simd::kLanes];
                y = Gemm::load_sum(c + at);
                if constexpr (Gemm::kQuantised) {
                    if constexpr (shifts_rows<Gemm>) {
                        y = Simd::fma(column.initial_sum, Simd::set(row_scale.shift), y);
                    }
                    y = Simd::fma(y, column.scale * Simd::set(row_scale.scale), column.bias);
                } else {
                    y = y + column.bias;
                }
            });
            each([&](auto& y, std::int64_t at) ALWAYS_INLINE {
                if constexpr (kKind == Epilogue::kGelu) y = gelu_of<Simd, sizeof(T) == 2>(y);
                if constexpr (kKind == Epilogue::kResidual) y = y + load_as_float<Simd>(row + at, lanes);
                if constexpr (kKind == Epilogue::kPosition) y = y + load_as_float<Simd>(position + at, lanes);
                store_from_float<Simd>(row + at, y, lanes);
            });
        };
        if (n_ == Gemm::kPanel) {
            write(std::integral_constant<int, Gemm::kPanel / Simd::kLanes>{}, 0, Simd::kLanes);
        } else {
            for_vectors<Simd>(n_,
                              [&](std::int64_t i, int lanes) { write(std::integral_constant<int, 1>{}, i, lanes); });
        }
        cursor_.next();
    }

  private:
    // Where a row of the next tile will be written: rows lie too far apart for the hardware prefetcher.
    static void prefetch(const char* row) {
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < Gemm::kPanel * kBytes; i += 64) __builtin_prefetch(row + i, 1);
    }

    static constexpr bool kActivation = kKind == Epilogue::kActivation || kKind == Epilogue::kGelu;
    using T = std::conditional_t<kActivation, typename Gemm::Activation, float>;
    static constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));

    const PanelOutput& out_;
    const std::int64_t column_;
    const int n_;
    const Rows<void> rows_;  // strides in bytes
    RowCursor<std::byte> cursor_;
    struct Column {  // a vector of them
        typename Simd::F bias, scale, initial_sum;
    };
    Column columns_[Gemm::kPanel / Simd::kLanes];  // as many as n_ has vectors
};

template <class Gemm>
void gemm_panels(const std::byte* a, std::int64_t row, std::int64_t rows, std::int64_t k, const std::byte* b,
                 std::int64_t panel_index, std::int64_t panels, const PanelOutput& out) {
    const auto run = [&](auto kind) {
        Gemm::multiply(a, rows, k, b, panels, [&](std::int64_t r, std::int64_t p) {
            const std::byte* end = b + p * panel_bytes<Gemm>(k) + units_of<Gemm>(k) * Gemm::kPanel * 4;
            return PanelEpilogue<Gemm, decltype(kind)::value>(out, row + r, panel_index + p, end);
        });
    };
    switch (out.epilogue) {
        case Epilogue::kActivation:
            return run(std::integral_constant<Epilogue, Epilogue::kActivation>{});
        case Epilogue::kGelu:
            return run(std::integral_constant<Epilogue, Epilogue::kGelu>{});
        case Epilogue::kResidual:
            return run(std::integral_constant<Epilogue, Epilogue::kResidual>{});
        case Epilogue::kPosition:
            return run(std::integral_constant<Epilogue, Epilogue::kPosition>{});
        case Epilogue::kFloat32:
            return run(std::integral_constant<Epilogue, Epilogue::kFloat32>{});
    }
}

// One panel of B over k: write(j, row) makes column j of `columns`, a row of Gemm::WeightPacking' operands, and returns
// its scale. `operands` holds operand_bytes<Packing>(k) for each column.
template <class Gemm, class Write>
inline void pack_panel(std::int64_t columns, std::int64_t k, std::byte* operands, std::byte* panel,
                       const Write& write) {
    using Packing = typename Gemm::WeightPacking;
    const std::int64_t stride = operand_bytes<Packing>(k), units = units_of<Packing>(k);
    std::byte* const end = panel + units * Gemm::kPanel * 4;
    for (std::int64_t j = 0; j < columns; ++j) {
        const LinearRow<Packing> row(operands + j * stride);
        const float scale = write(j, row);
        if constexpr (Gemm::kQuantised) PanelScales::scales(end)[j] = scale;
    }
    if constexpr (Gemm::kQuantised) {
        for (std::int64_t j = 0; j < columns; ++j) {  // in a loop of its own: what was just stored is loaded late
            const LinearRow<Packing> row(operands + j * stride);
            PanelScales::initial_sums(end, Gemm::kPanel)[j] = Gemm::make_weights(row, k);
        }
        std::fill(PanelScales::scales(end) + columns, PanelScales::scales(end) + Gemm::kPanel, 0.0f);
        std::fill(PanelScales::initial_sums(end, Gemm::kPanel) + columns,
                  PanelScales::initial_sums(end, Gemm::kPanel) + Gemm::kPanel, 0);
    }
    for (std::int64_t j = 0; j < Gemm::kPanel; j += Gemm::kColumnsTogether) {
        const auto row = [&](std::int64_t i) {
            return reinterpret_cast<const std::uint32_t*>(operands + (j + i) * stride);
        };
        transpose_to_panel<Packing>(row, std::clamp<std::int64_t>(columns - j, 0, Gemm::kColumnsTogether), units,
                                    Gemm::kColumnsTogether, Gemm::kColumnsTogether,
                                    reinterpret_cast<std::uint32_t*>(panel) + j * units);
    }
}

template <class Gemm>
void pack_weight(const float* weight, std::int64_t row_stride, std::int64_t columns, std::int64_t k, std::byte* panel) {
    using Packing = typename Gemm::WeightPacking;
    const auto operands = std::make_unique<std::byte[]>(static_cast<std::size_t>(columns * operand_bytes<Packing>(k)));
    pack_panel<Gemm>(columns, k, operands.get(), panel, [&](std::int64_t j, const LinearRow<Packing>& row) {
        const float* source = weight + j * row_stride;
        return write_row<Packing>(row, k, [&](const auto& fn) { for_elements<typename Packing::Simd>(source, k, fn); });
    });
}

}  // namespace
}  // namespace astfast
