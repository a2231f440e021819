// Products: a tile of C in registers, a panel of C with its epilogue. See pack-inl.h for what G gives; for products
// also
//   kPanel             columns of a panel of weights
//   kRowTile           rows of the largest tile
//   panel_product(...) rows of A times a panel: DotTiles, below, for tiers that dot vectors; AmxTiles for the other

namespace astfast {
namespace {

// C[rows, kVectors * kLanes] = A B for kRows rows, each element in one accumulator over all of K.
//
// G::broadcast(unit) and G::dot(acc, a, b) multiply one unit of a row of A by kLanes units of B; G::first(end of the
// panel, vector) is what a sum starts from.
template <class G, int kRows, int kVectors>
inline void dot_tile(const std::byte* a, std::int64_t a_stride, const std::byte* b, std::int64_t units, float* c) {
    using V = typename G::V;
    constexpr int kWidth = kVectors * V::kLanes;
    typename G::Sum acc[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[r][v] = G::first(b + units * kWidth * 4, v);
    }
    for (std::int64_t u = 0; u < units; ++u, a += 4, b += kWidth * 4) {
        typename G::Vector bs[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            __builtin_prefetch(b + kWidth * 4 * 8 + v * V::kLanes * 4);  // panels lie in the second-level cache
            bs[v] = G::load(b + v * V::kLanes * 4);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            const typename G::Vector as = G::broadcast(a + r * a_stride);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) acc[r][v] = G::dot(acc[r][v], as, bs[v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) V::store(c + r * kWidth + v * V::kLanes, G::as_float(acc[r][v]));
    }
}

// Up to kRows rows in tiles of kRows, then of 4, 2 and 1.
template <class G, int kRows, int kVectors>
inline void dot_rows(const std::byte* a, std::int64_t a_stride, std::int64_t rows, const std::byte* b,
                     std::int64_t units, float* c) {
    constexpr int kWidth = kVectors * G::V::kLanes;
    const auto advance = [&](int done) {
        a += done * a_stride;
        c += done * kWidth;
        rows -= done;
    };
    for (; rows >= kRows; advance(kRows)) dot_tile<G, kRows, kVectors>(a, a_stride, b, units, c);
    for (; rows >= 4; advance(4)) dot_tile<G, 4, kVectors>(a, a_stride, b, units, c);
    for (; rows >= 2; advance(2)) dot_tile<G, 2, kVectors>(a, a_stride, b, units, c);
    for (; rows >= 1; advance(1)) dot_tile<G, 1, kVectors>(a, a_stride, b, units, c);
}

// The multipliers of tiers that dot vectors: kMaxVectors * kLanes columns at most, and as many accumulators as fit.
template <class Tier>
struct DotTiles {
    // Rows of a tile that many vectors wide.
    static constexpr int rows_of(int vectors) {
        return vectors == 1 ? Tier::kAccumulators / 2 : Tier::kAccumulators / vectors;
    }

    // A panel's width for a matrix of n columns: the widest that wastes no vector.
    static std::int64_t width_for(std::int64_t n) {
        const std::int64_t vectors = (n + Tier::V::kLanes - 1) / Tier::V::kLanes;
        for (int width = Tier::kMaxVectors; width > 1; --width) {
            if (vectors % width == 0) return width * Tier::V::kLanes;
        }
        return vectors == 1 ? Tier::V::kLanes : 2 * Tier::V::kLanes;
    }

    static void tile(const std::byte* a, std::int64_t a_stride, std::int64_t rows, const std::byte* b,
                     std::int64_t units, std::int64_t width, float* c) {
        switch (width / Tier::V::kLanes) {
            case 1:
                return dot_rows<Tier, rows_of(1), 1>(a, a_stride, rows, b, units, c);
            case 2:
                return dot_rows<Tier, rows_of(2), 2>(a, a_stride, rows, b, units, c);
            case 3:
                if constexpr (Tier::kMaxVectors >= 3)
                    return dot_rows<Tier, rows_of(3), 3>(a, a_stride, rows, b, units, c);
                break;
            case 4:
                if constexpr (Tier::kMaxVectors >= 4)
                    return dot_rows<Tier, rows_of(4), 4>(a, a_stride, rows, b, units, c);
                break;
        }
        __builtin_unreachable();
    }

    template <class Epilogue>
    static void panel_product(const std::byte* a, std::int64_t rows, std::int64_t k, const std::byte* b,
                              Epilogue& epilogue) {
        const std::int64_t units = units_of<Tier>(k), stride = row_bytes<Tier>(k);
        alignas(64) float c[Tier::kRowTile * Tier::kPanel];
        for (std::int64_t r = 0; r < rows; r += Tier::kRowTile) {
            const std::int64_t count = std::min<std::int64_t>(Tier::kRowTile, rows - r);
            tile(a + r * stride, stride, count, b, units, Tier::kPanel, c);
            for (std::int64_t i = 0; i < count; ++i) {
                epilogue.next_row(c + i * Tier::kPanel, row_scale<Tier>(a, r + i, k));
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

// What follows the units of a panel of quantised weights.
struct PanelScales {
    static constexpr std::int64_t bytes(std::int64_t panel) { return panel * 8; }

    static float* scales(std::byte* end) { return reinterpret_cast<float*>(end); }  // [panel], by column
    static std::int32_t* first(std::byte* end, std::int64_t panel) {                // [panel], what sums start from
        return reinterpret_cast<std::int32_t*>(end + panel * 4);
    }
};

template <class G>
constexpr std::int64_t panel_bytes(std::int64_t k) {
    return units_of<G>(k) * G::kPanel * 4 + (G::kQuantised ? PanelScales::bytes(G::kPanel) : 0);
}

// What a panel's epilogue needs to know; one kind of epilogue each.
template <class G, Epilogue kKind>
class PanelEpilogue {
  public:
    PanelEpilogue(const PanelOutput& out, std::int64_t row, std::int64_t panel_index, const std::byte* panel_end)
        : out_(out),
          column_(panel_index * G::kPanel),
          n_(static_cast<int>(std::min<std::int64_t>(G::kPanel, out.n - column_))),
          scales_(reinterpret_cast<const float*>(panel_end)),
          rows_{out.out.data, out.out.per_clip, out.out.clip_stride * kBytes, out.out.row_stride * kBytes},
          cursor_(rows_, row) {}
    PanelEpilogue(const PanelEpilogue&) = delete;
    PanelEpilogue& operator=(const PanelEpilogue&) = delete;

    // The next row: c [G::kPanel] as the product left it, row_scale of a quantised row of A.
    [[gnu::always_inline]] void next_row(const float* c, float row_scale) {
        using V = typename G::V;
        T* row = reinterpret_cast<T*>(cursor_.get()) + column_;
        prefetch(reinterpret_cast<const char*>(row) + G::kRowTile * rows_.row_stride);
        const float* position = nullptr;
        if constexpr (kKind == Epilogue::kPosition) position = out_.position + cursor_.index() * out_.n + column_;
        const auto column = [&](std::int64_t i, int lanes) {
            auto y = G::load_sum(c + i);
            const auto bias = load_as_float<V>(out_.bias + column_ + i, lanes);
            if constexpr (G::kQuantised) {
                y = V::fma(y, V::load(scales_ + i) * V::set(row_scale), bias);
            } else {
                y = y + bias;
            }
            if constexpr (kKind == Epilogue::kGelu) y = gelu_of<V, sizeof(T) == 2>(y);
            if constexpr (kKind == Epilogue::kResidual) y = y + load_as_float<V>(row + i, lanes);
            if constexpr (kKind == Epilogue::kPosition) y = y + load_as_float<V>(position + i, lanes);
            store_from_float<V>(row + i, y, lanes);
        };
        if (n_ == G::kPanel) {
#pragma GCC unroll 8
            for (int i = 0; i < G::kPanel; i += V::kLanes) column(i, V::kLanes);
        } else {
            for_vectors<V>(n_, column);
        }
        cursor_.next();
    }

  private:
    // Where a row of the next tile will be written: rows lie too far apart for the processor to see what comes next.
    static void prefetch(const char* row) {
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < G::kPanel * kBytes; i += 64) __builtin_prefetch(row + i, 1);
    }

    static constexpr bool kActivation = kKind == Epilogue::kActivation || kKind == Epilogue::kGelu;
    using T = std::conditional_t<kActivation, typename G::Activation, float>;
    static constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));

    const PanelOutput& out_;
    const std::int64_t column_;
    const int n_;
    const float* const scales_;
    const Rows<void> rows_;  // strides in bytes
    RowCursor<std::byte> cursor_;
};

template <class G>
void gemm_panel(const std::byte* a, std::int64_t row, std::int64_t rows, std::int64_t k, const std::byte* b,
                std::int64_t panel_index, const PanelOutput& out) {
    const auto run = [&](auto kind) {
        PanelEpilogue<G, decltype(kind)::value> epilogue(out, row, panel_index, b + units_of<G>(k) * G::kPanel * 4);
        G::panel_product(a, rows, k, b, epilogue);
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

template <class G>
void pack_weight(const float* weight, std::int64_t row_stride, std::int64_t columns, std::int64_t k, std::byte* panel) {
    using V = typename G::V;
    const std::int64_t stride = operand_bytes<G>(k), units = units_of<G>(k);
    const auto operands = std::make_unique<std::byte[]>(static_cast<std::size_t>(columns * stride));
    std::byte* const end = panel + units * G::kPanel * 4;
    for (std::int64_t j = 0; j < columns; ++j) {
        const LinearRow<G> row(operands.get() + j * stride);
        const float* source = weight + j * row_stride;
        const float scale = write_row<G>(row, k, [&](const auto& fn) { for_elements<V>(source, k, fn); });
        if constexpr (G::kQuantised) {
            PanelScales::scales(end)[j] = scale;
            PanelScales::first(end, G::kPanel)[j] = G::make_weights(row, k);
        }
    }
    if constexpr (G::kQuantised) {
        std::fill(PanelScales::scales(end) + columns, PanelScales::scales(end) + G::kPanel, 0.0f);
        std::fill(PanelScales::first(end, G::kPanel) + columns, PanelScales::first(end, G::kPanel) + G::kPanel, 0);
    }
    for (std::int64_t j = 0; j < G::kPanel; j += G::kColumnsTogether) {
        const auto row = [&](std::int64_t i) {
            return reinterpret_cast<const std::uint32_t*>(operands.get() + (j + i) * stride);
        };
        transpose_to_panel<G>(row, std::clamp<std::int64_t>(columns - j, 0, G::kColumnsTogether), units,
                              G::kColumnsTogether, G::kColumnsTogether,
                              reinterpret_cast<std::uint32_t*>(panel) + j * units);
    }
}

}  // namespace
}  // namespace astfast
