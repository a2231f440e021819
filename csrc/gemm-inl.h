// Products: a tile of C in registers, a panel of C with its epilogue. See pack-inl.h for what G gives; for products
// also
//   kPanel           columns of a panel of weights
//   kRowTile         rows of the largest tile
//   tile(...)        one tile of C = A B, below

namespace astfast {
namespace {

// C[rows, kVectors * kLanes] = A B for kRows rows, each element in one accumulator over all of K.
//
// G::broadcast(unit) and G::dot(acc, a, b) multiply one unit of a row of A by kLanes units of B.
template <class G, int kRows, int kVectors>
inline void dot_tile(const std::byte* a, std::int64_t a_stride, const std::byte* b, std::int64_t units, float* c) {
    using V = typename G::V;
    constexpr int kWidth = kVectors * V::kLanes;
    typename V::F acc[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[r][v] = V::zero();
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
        for (int v = 0; v < kVectors; ++v) V::store(c + r * kWidth + v * V::kLanes, acc[r][v]);
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

// Rows of C [rows, G::kPanel], columns [0, n) -> columns from `column` on of the output.
template <class G, Epilogue kKind>
inline void store_tile(const float* c, std::int64_t rows, std::int64_t column, std::int64_t n,
                       RowCursor<std::byte>& cursor, const PanelOutput& out) {
    using V = typename G::V;
    constexpr bool kActivation = kKind == Epilogue::kActivation || kKind == Epilogue::kGelu;
    using T = std::conditional_t<kActivation, typename G::Activation, float>;
    for (std::int64_t r = 0; r < rows; ++r, c += G::kPanel, cursor.next()) {
        T* row = reinterpret_cast<T*>(cursor.get()) + column;
        const float* position = nullptr;
        if constexpr (kKind == Epilogue::kPosition) position = out.position + cursor.index() * out.n + column;
        for_vectors<V>(n, [&](std::int64_t i, int lanes) {
            auto y = V::load(c + i) + load_as_float<V>(out.bias + column + i, lanes);
            if constexpr (kKind == Epilogue::kGelu) y = gelu_of<V, sizeof(T) == 2>(y);
            if constexpr (kKind == Epilogue::kResidual) y = y + load_as_float<V>(row + i, lanes);
            if constexpr (kKind == Epilogue::kPosition) y = y + load_as_float<V>(position + i, lanes);
            store_from_float<V>(row + i, y, lanes);
        });
    }
}

template <class G>
void gemm_panel(const std::byte* a, std::int64_t row, std::int64_t rows, std::int64_t k, const std::byte* b,
                std::int64_t panel_index, const PanelOutput& out) {
    const typename G::Session session;
    const std::int64_t units = units_of<G>(k), a_stride = row_bytes<G>(k);
    const std::int64_t column = panel_index * G::kPanel, n = std::min<std::int64_t>(G::kPanel, out.n - column);
    const bool activation = out.epilogue == Epilogue::kActivation || out.epilogue == Epilogue::kGelu;
    const std::int64_t bytes = activation ? sizeof(typename G::Activation) : sizeof(float);
    Rows<void> byte_rows{out.out.data, out.out.per_clip, out.out.clip_stride * bytes, out.out.row_stride * bytes};
    RowCursor<std::byte> cursor(byte_rows, row);
    alignas(64) float c[G::kRowTile * G::kPanel];
    for (std::int64_t r = 0; r < rows; r += G::kRowTile) {
        const std::int64_t count = std::min<std::int64_t>(G::kRowTile, rows - r);
        G::tile(a + r * a_stride, a_stride, count, b, units, G::kPanel, c);
        switch (out.epilogue) {
            case Epilogue::kActivation:
                store_tile<G, Epilogue::kActivation>(c, count, column, n, cursor, out);
                break;
            case Epilogue::kGelu:
                store_tile<G, Epilogue::kGelu>(c, count, column, n, cursor, out);
                break;
            case Epilogue::kResidual:
                store_tile<G, Epilogue::kResidual>(c, count, column, n, cursor, out);
                break;
            case Epilogue::kPosition:
                store_tile<G, Epilogue::kPosition>(c, count, column, n, cursor, out);
                break;
            case Epilogue::kFloat32:
                store_tile<G, Epilogue::kFloat32>(c, count, column, n, cursor, out);
                break;
        }
    }
}

template <class G>
void pack_weight(const float* weight, std::int64_t row_stride, std::int64_t columns, std::int64_t k, std::byte* panel) {
    using V = typename G::V;
    const std::int64_t stride = row_bytes<G>(k);
    const auto operands = std::make_unique<std::byte[]>(static_cast<std::size_t>(columns * stride));
    for (std::int64_t j = 0; j < columns; ++j) {
        auto* row = reinterpret_cast<typename G::Operand*>(operands.get() + j * stride);
        for_vectors<V>(k, [&](std::int64_t i, int n) {
            store_operand<G>(row + i, load_as_float<V>(weight + j * row_stride + i, n), n);
        });
        zero_tail<G>(row, k);
    }
    const auto row = [&](std::int64_t j) {
        return reinterpret_cast<const std::uint32_t*>(operands.get() + j * stride);
    };
    transpose_to_panel<G>(row, columns, units_of<G>(k), G::kPanel, G::kPanel, reinterpret_cast<std::uint32_t*>(panel));
}

}  // namespace
}  // namespace astfast
