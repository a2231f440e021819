// Products of packed operands: rows times panels, and the epilogue of a panel. gemm_policy-inl.h says what Gemm gives.

namespace astfast {
namespace {

template <class Gemm>
constexpr std::int64_t panel_bytes(std::int64_t k) {
    return units_of<Gemm>(k) * Gemm::kPanel * 4 + (Gemm::kQuantised ? PanelScales::bytes(Gemm::kPanel) : 0);
}

// Panels that chunks of rows are multiplied by before the next ones are read.
template <class Gemm>
constexpr std::int64_t panels_together(std::int64_t k) {
    return units_of<Gemm>(k) * unit_bytes<Gemm> > Gemm::kChunkBytes ? Gemm::kPanelsTogether : 1;
}

// Beside of a tile: the rows of the one before it go through the epilogue of a panel of whole vectors, where it uses
// other units of the processor than products do, and the panel that is needed next comes into the second-level cache.
template <class Gemm, int kRows, class Epilogue, class ScaleOfRow>
struct RowsBefore {
    static constexpr bool kHasUnits = true;

    // Between two rows, of `units` that a tile has: GELU of a row takes as long as products of five, and no more than
    // twelve were faster.
    static std::int64_t units_a_row(std::int64_t units) { return std::min<std::int64_t>(12, units / kRows); }

    Epilogue& epilogue;
    const ScaleOfRow& scale;  // scale(row) is that of a row of A
    const float* c;           // of the tile before
    std::int64_t row;         // its first
    const std::byte* next_panel;
    std::int64_t bytes_a_row, units;

    template <class Multiply>
    ALWAYS_INLINE void operator()(const Multiply& multiply) const {
        const std::byte* ahead = next_panel + row * bytes_a_row;
        for (int i = 0; i < kRows; ++i) {
            multiply();
            for (const std::byte* const end = ahead + bytes_a_row; ahead < end; ahead += 64) {
                __builtin_prefetch(ahead, 0, 2);
            }
            epilogue.next_whole_row(c + i * Gemm::kPanel, scale(row + i));
        }
    }
};

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

    // A vector of C, as a product left it, in float32.
    static auto load_sum(const float* c) {
        return Gemm::as_float(reinterpret_cast<typename Gemm::Sum>(Gemm::Simd::load(c)));
    }

    // Rows of A times a panel of B of kVectors vectors, over `units` units, as dot_tile has it. kFar: B is worth being
    // fetched ahead.
    template <int kVectors, bool kFar = false, class Stored, class Beside = Alone>
    static void tile(const std::byte* a, std::int64_t a_stride, std::int64_t rows, const std::byte* b,
                     std::int64_t units, const std::byte* panel_end, const Stored& first_row,
                     const Beside& beside = {}) {
        constexpr int kRows = std::min(Gemm::rows_of(kVectors), Beside::kMaxRows),
                      kWidth = kVectors * Gemm::Simd::kLanes;
        for (std::int64_t u = 0; u < units; u += Gemm::kBlockUnits, panel_end = nullptr) {
            const std::int64_t count = std::min<std::int64_t>(Gemm::kBlockUnits, units - u);
            const std::int64_t ahead = kFar && !Gemm::kStreams ? count * kWidth * 4 * kRows / rows : 0;
            Stored stored = first_row;
            dot_rows<Gemm, kRows, kVectors>(a + u * unit_bytes<Gemm>, a_stride, rows, b + u * kWidth * 4, count,
                                            panel_end, stored, ahead, beside);
        }
    }

    // tile<vectors>(arguments...) for a panel of `width` columns.
    template <class... Arguments>
    static void tile_of_width(std::int64_t width, const Arguments&... arguments) {
        const auto of = [&](auto vectors) {
            constexpr int kVectors = decltype(vectors)::value;
            if constexpr (kVectors <= Gemm::kMaxVectors) tile<kVectors>(arguments...);
        };
        switch (width / Gemm::Simd::kLanes) {
            case 1:
                return of(std::integral_constant<int, 1>{});
            case 2:
                return of(std::integral_constant<int, 2>{});
            case 3:
                return of(std::integral_constant<int, 3>{});
            default:
                return of(std::integral_constant<int, 4>{});
        }
    }

    // epilogue_at(r, p) takes the rows of panel p from row r on.
    template <class EpilogueAt>
    static void multiply(const std::byte* a, std::int64_t rows, std::int64_t k, const std::byte* b, std::int64_t panels,
                         const EpilogueAt& epilogue_at) {
        const std::int64_t together = panels_together<Gemm>(k);
        for (std::int64_t first = 0; first < panels; first += together) {
            multiply_together(a, rows, k, b + first * panel_bytes<Gemm>(k), std::min(together, panels - first),
                              [&](std::int64_t r, std::int64_t p) { return epilogue_at(r, first + p); });
        }
    }

  private:
    // As many as panels_together(k), at most.
    template <class EpilogueAt>
    static void multiply_together(const std::byte* a, std::int64_t rows, std::int64_t k, const std::byte* b,
                                  std::int64_t panels, const EpilogueAt& epilogue_at) {
        static_assert(dots_vectors<Gemm>());
        constexpr int kVectors = Gemm::kPanel / Gemm::Simd::kLanes;
        constexpr int kRows = Gemm::kRowTile * Gemm::kTiles;
        constexpr std::int64_t kChunk = Gemm::kChunkBytes / unit_bytes<Gemm>;
        const std::int64_t units = units_of<Gemm>(k), stride = row_bytes<Gemm>(k), panel = panel_bytes<Gemm>(k);
        const auto scale = row_scales<Gemm>(a, k);
        std::int64_t r = 0;
        if constexpr (Gemm::kLastUnits > 0) r = multiply_whole_tiles(a, rows, k, b, epilogue_at, scale);
        alignas(64) float c[Gemm::kPanelsTogether][kRows * Gemm::kPanel];
        for (; r < rows; r += kRows) {
            const std::int64_t count = std::min<std::int64_t>(kRows, rows - r);
            for (std::int64_t u = 0; u < units; u += kChunk) {
                for (std::int64_t p = 0; p < panels; ++p) {
                    const std::byte* panel_end = u == 0 ? b + p * panel + units * Gemm::kPanel * 4 : nullptr;
                    tile<kVectors, true>(a + r * stride + u * unit_bytes<Gemm>, stride, count,
                                         b + p * panel + u * Gemm::kPanel * 4, std::min(kChunk, units - u), panel_end,
                                         StoredRows<Gemm, false>{c[p], Gemm::kPanel, nullptr});
                }
            }
            for (std::int64_t p = 0; p < panels; ++p) {
                auto epilogue = epilogue_at(r, p);
                for (std::int64_t i = 0; i < count; ++i) epilogue.next_row(c[p] + i * Gemm::kPanel, scale(r + i));
            }
        }
    }

    // The same of one panel, and of those rows only that make whole tiles, each finished beside the products of the
    // next. Returns how many rows that were.
    template <class EpilogueAt, class ScaleOfRow>
    static std::int64_t multiply_whole_tiles(const std::byte* a, std::int64_t rows, std::int64_t k, const std::byte* b,
                                             const EpilogueAt& epilogue_at, const ScaleOfRow& scale) {
        constexpr int kVectors = Gemm::kPanel / Gemm::Simd::kLanes, kRows = Gemm::kRowTile;
        auto epilogue = epilogue_at(0, 0);
        using Beside = RowsBefore<Gemm, kRows, decltype(epilogue), ScaleOfRow>;
        const std::int64_t units = units_of<Gemm>(k), stride = row_bytes<Gemm>(k), panel = panel_bytes<Gemm>(k);
        const std::int64_t whole = rows / kRows * kRows;
        const std::int64_t units_a_row = Beside::units_a_row(units - Gemm::kLastUnits);
        if (whole == 0 || !epilogue.is_whole() || units_a_row < 1) return 0;
        alignas(64) float c[kRows * Gemm::kPanel];
        const auto multiply_tile = [&](std::int64_t row, const auto& beside) {
            StoredRows<Gemm, false> stored{c, Gemm::kPanel, nullptr};
            dot_tile<Gemm, kRows, kVectors, Gemm::kLastUnits>(a + row * stride, stride, b, units,
                                                              b + units * Gemm::kPanel * 4, stored, beside);
        };
        // Rows fill half of the second-level cache: is there room for this panel and the next one?
        const std::int64_t lines_a_row = 2 * panel < rows * stride ? panel / 64 / whole + 1 : 0;
        Beside before{epilogue, scale, c, 0, b + panel, lines_a_row * 64, units_a_row};
        multiply_tile(0, Alone{});
        for (; before.row + kRows < whole; before.row += kRows) multiply_tile(before.row + kRows, before);
        before([] {});
        return whole;
    }
};

// Walks the rows of an output without a division or a product for each.
class RowCursor {
  public:
    // From `row` on; elements have so many bytes.
    RowCursor(const Rows<void>& rows, std::int64_t row, std::int64_t bytes)
        : row_(static_cast<std::byte*>(rows.data) +
               (row / rows.per_clip * rows.clip_stride + row % rows.per_clip * rows.row_stride) * bytes),
          stride_(rows.row_stride * bytes),
          to_next_clip_((rows.clip_stride - rows.per_clip * rows.row_stride) * bytes),
          per_clip_(rows.per_clip),
          left_(per_clip_ - row % per_clip_) {}
    std::byte* get() const { return row_; }
    std::int64_t stride() const { return stride_; }           // bytes
    std::int64_t index() const { return per_clip_ - left_; }  // within the clip
    void next() {
        row_ += stride_;
        if (--left_ == 0) {
            row_ += to_next_clip_;
            left_ = per_clip_;
        }
    }

  private:
    std::byte* row_;
    std::int64_t stride_, to_next_clip_, per_clip_, left_;
};

// The epilogue of a panel of C: bias, activation, residual or position, row by row.
template <class Gemm, Epilogue kKind>
class PanelEpilogue {
    using Simd = typename Gemm::Simd;

  public:
    static constexpr bool kHasGelu = kKind == Epilogue::kGelu;

    PanelEpilogue(const PanelOutput& out, std::int64_t row, std::int64_t panel_index, const std::byte* panel_end)
        : out_(out),
          column_(panel_index * Gemm::kPanel),
          n_(static_cast<int>(std::min<std::int64_t>(Gemm::kPanel, out.n - column_))),
          cursor_(out.out, row, kBytes) {
        const auto* scales = reinterpret_cast<const float*>(panel_end);
        for_vectors<Simd>(n_, [&](std::int64_t i, int lanes) {
            Column& column = columns_[i / Simd::kLanes];
            column.bias = load_as_float<Simd>(out.bias + column_ + i, lanes);
            if constexpr (Gemm::kQuantised) column.scale = Simd::load(scales + i);
            if constexpr (kHalves) {
                column.bias = column.bias * Simd::set(0.5f);
                column.scale = column.scale * Simd::set(0.5f);
            }
            if constexpr (shifts_rows<Gemm>) {  // as PanelScales has them
                column.initial_sum = Gemm::load_sum(scales + Gemm::kPanel + i);
            }
        });
    }
    PanelEpilogue(const PanelEpilogue&) = delete;
    PanelEpilogue& operator=(const PanelEpilogue&) = delete;

    bool is_whole() const { return n_ == Gemm::kPanel; }

    // The next row of whole vectors: c [Gemm::kPanel] as the product left it.
    [[gnu::always_inline]] void next_whole_row(const float* c, RowScale row_scale) {
        write_row(row_scale, [&](const auto& write) ALWAYS_INLINE {
            write(std::integral_constant<int, kVectors>{}, 0, Simd::kLanes, sums_from(c));
        });
    }

    // The next row.
    void next_row(const float* c, RowScale row_scale) {
        if (is_whole()) return next_whole_row(c, row_scale);
        write_row(row_scale, [&](const auto& write) ALWAYS_INLINE {
            for_vectors<Simd>(n_, [&](std::int64_t i, int lanes) {
                write(std::integral_constant<int, 1>{}, i, lanes, sums_from(c + i));
            });
        });
    }

  private:
    static auto sums_from(const float* c) {
        return [=](auto v) ALWAYS_INLINE { return Gemm::load_sum(c + v * Simd::kLanes); };
    }

    // Where a row of the next tile will be written: rows lie too far apart for the hardware prefetcher.
    static void prefetch(const char* row) {
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < Gemm::kPanel * kBytes; i += 64) __builtin_prefetch(row + i, 1);
    }

    // each_part(write) calls write(vectors, i, lanes, sum_of) for so many vectors from column i on; sum_of(v) is one
    // of them.
    template <class Each>
    [[gnu::always_inline]] void write_row(RowScale row_scale, const Each& each_part) {
        T* row = reinterpret_cast<T*>(cursor_.get()) + column_;
        prefetch(reinterpret_cast<const char*>(row) + Gemm::kRowTile * cursor_.stride());
        const float* position = nullptr;
        if constexpr (kKind == Epilogue::kPosition) position = out_.position + cursor_.index() * out_.n + column_;
        each_part([&](auto vectors, std::int64_t i, int lanes, const auto& sum_of) ALWAYS_INLINE {
            constexpr int kCount = decltype(vectors)::value;
            typename Simd::F y[kCount];
            unrolled<kCount>([&](auto v) ALWAYS_INLINE {
                const Column& column = columns_[i / Simd::kLanes + v];
                y[v] = sum_of(v);
                if constexpr (Gemm::kQuantised) {
                    if constexpr (shifts_rows<Gemm>) {
                        y[v] = Simd::fma(column.initial_sum, Simd::set(row_scale.shift), y[v]);
                    }
                    y[v] = Simd::fma(y[v], column.scale * Simd::set(row_scale.scale), column.bias);
                } else {
                    y[v] = y[v] + column.bias;
                }
            });
            if constexpr (kHalves) Gemm::Gelu::of(y);
            unrolled<kCount>([&](auto v) ALWAYS_INLINE {
                const std::int64_t at = i + v * Simd::kLanes;
                auto x = y[v];
                if constexpr (kKind == Epilogue::kGelu && !kHalves) x = gelu_of<Simd, sizeof(T) == 2>(x);
                if constexpr (kKind == Epilogue::kResidual) x = x + load_as_float<Simd>(row + at, lanes);
                if constexpr (kKind == Epilogue::kPosition) x = x + load_as_float<Simd>(position + at, lanes);
                store_from_float<Simd>(row + at, x, lanes);
            });
        });
        cursor_.next();
    }

    static constexpr int kVectors = Gemm::kPanel / Simd::kLanes;
    static constexpr bool kHalves = kKind == Epilogue::kGelu && has_gelu<Gemm>;
    static constexpr bool kActivation = kKind == Epilogue::kActivation || kKind == Epilogue::kGelu;
    using T = std::conditional_t<kActivation, typename Gemm::Activation, float>;
    static constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));

    const PanelOutput& out_;
    const std::int64_t column_;
    const int n_;
    RowCursor cursor_;
    struct Column {  // a vector of them
        typename Simd::F bias, scale, initial_sum;
    };
    Column columns_[kVectors];  // as many as n_ has vectors
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
    for (std::int64_t j = 0; j < Gemm::kPanel; j += Gemm::kColumnsTogether) {
        const auto row = [&](std::int64_t i) {
            return reinterpret_cast<const std::uint32_t*>(operands + (j + i) * stride);
        };
        transpose_to_panel<Packing>(row, std::clamp<std::int64_t>(columns - j, 0, Gemm::kColumnsTogether), units,
                                    Gemm::kColumnsTogether, Gemm::kColumnsTogether,
                                    reinterpret_cast<std::uint32_t*>(panel) + j * units);
    }
    if constexpr (Gemm::kQuantised) {
        std::fill(PanelScales::scales(end) + columns, PanelScales::scales(end) + Gemm::kPanel, 0.0f);
        std::int32_t* const initial_sums = PanelScales::initial_sums(end, Gemm::kPanel);
        std::fill_n(initial_sums, Gemm::kPanel, 0);
        Gemm::make_weights(panel, k, initial_sums);
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
