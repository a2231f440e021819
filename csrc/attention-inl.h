// Attention of one head: keys and values packed once, then a block of queries against all keys. The scores of a block
// stay in the core's own cache, so the softmax needs no rescaling: maximum, exponentials and sum over whole rows.
//
// For attention G also gives
//   width_for(n)                   columns of a panel of keys or values for n of them
//   pack_values(head, width, d, panel)   columns [d, d + width) of v -> one panel over all keys

namespace astfast {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

template <class G>
struct HeadLayout {
    std::int64_t key_units;     // of head_dim
    std::int64_t value_units;   // of keys
    std::int64_t key_panels;    // of G::kPanel keys
    std::int64_t value_width;   // columns of a panel of values
    std::int64_t value_panels;  // of head_dim
    std::int64_t score_stride;  // floats from one row of scores to the next
    std::int64_t query_stride;  // bytes from one packed query to the next

    HeadLayout(std::int64_t keys, std::int64_t head_dim)
        : key_units(units_of<G>(head_dim)),
          value_units(units_of<G>(keys)),
          key_panels((keys + G::kPanel - 1) / G::kPanel),
          value_width(G::width_for(head_dim)),
          value_panels((head_dim + value_width - 1) / value_width),
          score_stride(((std::max(key_panels * G::kPanel, value_units * G::kUnit) + 15) / 16 | 1) * 16),
          query_stride(row_bytes<G>(head_dim)) {}

    std::int64_t key_panel_bytes() const { return key_units * G::kPanel * 4; }
    std::int64_t value_panel_bytes() const { return value_units * value_width * 4; }
    std::int64_t packed_bytes() const { return key_panels * key_panel_bytes() + value_panels * value_panel_bytes(); }
};

template <class G>
void pack_head_panels(const Head& head, std::byte* packed) {
    using V = typename G::V;
    using Activation = typename G::Activation;
    const HeadLayout<G> layout(head.keys, head.head_dim);
    alignas(64) std::byte rows[V::kLanes * row_bytes<G>(kMaxHeadDim)];
    for (std::int64_t key = 0; key < layout.key_panels * G::kPanel; key += V::kLanes) {
        const std::int64_t count = std::clamp<std::int64_t>(head.keys - key, 0, V::kLanes);
        const auto row = [&](std::int64_t j) {
            return reinterpret_cast<std::uint32_t*>(rows + j * layout.query_stride);
        };
        for (std::int64_t j = 0; j < count; ++j) {
            copy_row<G>(LinearRow<G>(rows + j * layout.query_stride),
                        static_cast<const Activation*>(head.k) + (key + j) * head.kv_stride, head.head_dim);
        }
        std::byte* panel = packed + key / G::kPanel * layout.key_panel_bytes();
        transpose_to_panel<G>(row, count, layout.key_units, V::kLanes, G::kPanel,
                              reinterpret_cast<std::uint32_t*>(panel) + key % G::kPanel);
    }
    packed += layout.key_panels * layout.key_panel_bytes();
    for (std::int64_t d = 0; d < head.head_dim; d += layout.value_width, packed += layout.value_panel_bytes()) {
        G::pack_values(head, layout.value_width, d, packed);
    }
}

// Scores [keys] of one query -> exp(scale (score - max)) as operands, in place, zero up to `padded`; returns their sum.
template <class G>
inline float softmax_row(float* scores, std::int64_t keys, std::int64_t padded, float scale) {
    using V = typename G::V;
    using F = typename V::F;
    constexpr bool kFast = sizeof(typename G::Activation) == 2;
    std::int64_t i = 0;
    F largest[2] = {V::set(scores[0]), V::set(scores[0])};
    for (; i + 2 * V::kLanes <= keys; i += 2 * V::kLanes) {
        largest[0] = V::max(largest[0], V::load(scores + i));
        largest[1] = V::max(largest[1], V::load(scores + i + V::kLanes));
    }
    float maximum = V::largest(V::max(largest[0], largest[1]));
    for (; i < keys; ++i) maximum = std::max(maximum, scores[i]);

    auto* p = reinterpret_cast<typename G::Operand*>(scores);
    const F factor = V::set(kFast ? scale * 0x1.715476p+0f : scale), top = V::set(maximum);
    const auto exponential = [&](F score) {
        const F x = (score - top) * factor;
        if constexpr (kFast) return fast_exp2<V>(x);
        return exact_exp<V>(x);
    };
    F sums[2] = {V::zero(), V::zero()};
    for (i = 0; i + 2 * V::kLanes <= keys; i += 2 * V::kLanes) {
        const F e0 = exponential(V::load(scores + i)), e1 = exponential(V::load(scores + i + V::kLanes));
        sums[0] = sums[0] + e0;
        sums[1] = sums[1] + e1;
        store_operand<G>(p + i, e0);
        store_operand<G>(p + i + V::kLanes, e1);
    }
    alignas(64) float tail[2 * V::kLanes] = {};
    const auto rest = static_cast<int>(keys - i);  // fewer than two vectors
    for (int j = 0; j < rest; ++j) tail[j] = scores[i + j];
    for (int j = 0; j < rest; j += V::kLanes) {
        V::store(tail + j, exponential(V::load(tail + j)));
    }
    for (int j = rest; j < 2 * V::kLanes; ++j) tail[j] = 0.0f;
    sums[0] = sums[0] + V::load(tail);
    sums[1] = sums[1] + V::load(tail + V::kLanes);
    for (int j = 0; i + j < padded; j += V::kLanes) {
        const int n = static_cast<int>(std::min<std::int64_t>(V::kLanes, padded - i - j));
        store_operand<G>(p + i + j, j < 2 * V::kLanes ? V::load(tail + j) : V::zero(), n);
    }
    return V::sum(sums[0] + sums[1]);
}

template <class G>
void attend_block(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                  std::byte* scratch) {
    using V = typename G::V;
    using Activation = typename G::Activation;
    const HeadLayout<G> layout(head.keys, head.head_dim);
    std::byte* const q = scratch;
    auto* const scores = reinterpret_cast<float*>(scratch + G::kQueryTile * layout.query_stride);
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head.head_dim));
    for (std::int64_t r = 0; r < queries; ++r) {
        copy_row<G>(LinearRow<G>(q + r * layout.query_stride),
                    static_cast<const Activation*>(head.q) + (query + r) * head.q_stride, head.head_dim);
    }

    for (std::int64_t panel = 0; panel < layout.key_panels; ++panel, packed += layout.key_panel_bytes()) {
        G::tile(q, layout.query_stride, queries, packed, layout.key_units, G::kPanel, scores + panel * G::kPanel,
                layout.score_stride);
    }

    float inverse_sum[G::kQueryTile];
    for (std::int64_t r = 0; r < queries; ++r) {
        inverse_sum[r] =
            1.0f / softmax_row<G>(scores + r * layout.score_stride, head.keys, layout.value_units * G::kUnit, scale);
    }

    alignas(64) float c[G::kQueryTile * G::kMaxWidth];
    for (std::int64_t d = 0; d < head.head_dim; d += layout.value_width, packed += layout.value_panel_bytes()) {
        const std::int64_t width = std::min(layout.value_width, head.head_dim - d);
        G::tile(reinterpret_cast<const std::byte*>(scores), layout.score_stride * 4, queries, packed,
                layout.value_units, layout.value_width, c, layout.value_width);
        for (std::int64_t r = 0; r < queries; ++r) {
            auto* out = static_cast<Activation*>(head.out) + (query + r) * head.out_stride + d;
            const auto factor = V::set(inverse_sum[r]);
            for_vectors<V>(width, [&](std::int64_t i, int n) {
                store_from_float<V>(out + i, V::load(c + r * layout.value_width + i) * factor, n);
            });
        }
    }
}

template <class G>
struct DotAttention {
    static constexpr std::int64_t kQueryTile = G::kQueryTile;

    static std::size_t packed_bytes(std::int64_t keys, std::int64_t head_dim) {
        return static_cast<std::size_t>(HeadLayout<G>(keys, head_dim).packed_bytes());
    }
    static std::size_t scratch_bytes(std::int64_t keys, std::int64_t head_dim) {
        const HeadLayout<G> layout(keys, head_dim);
        return static_cast<std::size_t>(kQueryTile * (layout.query_stride + layout.score_stride * 4));
    }
    static void pack(const Head& head, std::byte* packed) { pack_head_panels<G>(head, packed); }
    static void attend(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                       std::byte* scratch) {
        attend_block<G>(head, packed, query, queries, scratch);
    }
};

}  // namespace
}  // namespace astfast
