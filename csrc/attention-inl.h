// Attention of one head: keys and values packed once, then a block of queries against all keys. The scores of a block
// stay in the core's own cache, so the softmax needs no rescaling: maximum, exponentials and sum over whole rows.
//
// For attention G also gives
//   width_for(n)                   columns of a panel of keys or values for n of them
//   pack_values(head, width, d, panel)   columns [d, d + width) of v -> one panel over all keys; not if it quantises
//   Values                         multiplies probabilities by values, in G's units and tiles
//   probability_steps(keys)        if it quantises: what a probability of one becomes
// Quantised, a query and a key have a scale each, and so has a column of v over all keys; the probabilities of a row
// are steps of its largest one, and their sum is that of the rounded ones.

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
    std::int64_t key_panel_bytes, value_panel_bytes;

    HeadLayout(std::int64_t keys, std::int64_t head_dim)
        : key_units(units_of<G>(head_dim)),
          value_units(units_of<G>(keys)),
          key_panels((keys + G::kPanel - 1) / G::kPanel),
          value_width(G::width_for(head_dim)),
          value_panels((head_dim + value_width - 1) / value_width),
          score_stride(((std::max(key_panels * G::kPanel, value_units * G::kUnit) + 15) / 16 | 1) * 16),
          query_stride(row_bytes<G>(head_dim)),
          key_panel_bytes(panel_bytes<G>(head_dim)),
          value_panel_bytes(value_units * value_width * 4) {}

    // Where the scales of the columns of v lie: behind all panels.
    std::int64_t value_scales() const { return key_panels * key_panel_bytes + value_panels * value_panel_bytes; }
    std::int64_t packed_bytes() const { return value_scales() + (G::kQuantised ? value_panels * value_width * 4 : 0); }
};

// fn(i, n, v[key][d + i .. d + i + n)) over the columns that a panel of values has.
template <class G, class Fn>
inline void for_value(const Head& head, std::int64_t key, std::int64_t width, std::int64_t d, const Fn& fn) {
    const auto* row = static_cast<const typename G::Activation*>(head.v) + key * head.kv_stride + d;
    for_elements<typename G::V>(row, std::min(width, head.head_dim - d), fn);
}

// Columns [d, d + width) of v -> one panel over all keys and a scale for each column.
template <class G>
inline void quantise_values(const Head& head, std::int64_t width, std::int64_t d, std::byte* panel, float* scales) {
    using V = typename G::V;
    using I = typename V::I;
    const float steps = G::Values::steps(head.keys);
    alignas(64) float inverse[G::kMaxWidth] = {};
    for (std::int64_t key = 0; key < head.keys; ++key) {
        for_value<G>(head, key, width, d, [&](std::int64_t i, int, typename V::F x) {
            V::store(inverse + i, V::max(V::load(inverse + i), V::max(x, -x)));
        });
    }
    for (std::int64_t i = 0; i < width; ++i) {
        scales[i] = inverse[i] / steps;
        inverse[i] = inverse[i] > 0.0f ? steps / inverse[i] : 0.0f;
    }
    constexpr int kBits = 32 / G::kUnit;
    constexpr std::int32_t kMask = static_cast<std::int32_t>((std::uint32_t{1} << kBits) - 1);
    for (std::int64_t unit = 0; unit * G::kUnit < head.keys; ++unit, panel += width * 4) {
        alignas(64) std::int32_t units[G::kMaxWidth] = {};
        for (int j = 0; j < G::kUnit && unit * G::kUnit + j < head.keys; ++j) {
            for_value<G>(head, unit * G::kUnit + j, width, d, [&](std::int64_t i, int, typename V::F x) {
                const I whole = __builtin_convertvector(V::nearest(x * V::load(inverse + i)), I);
                I lanes;
                std::memcpy(&lanes, units + i, sizeof lanes);
                lanes |= (whole & kMask) << (j * kBits);
                std::memcpy(units + i, &lanes, sizeof lanes);
            });
        }
        std::memcpy(panel, units, static_cast<std::size_t>(width) * 4);
    }
}

template <class G>
void pack_head_panels(const Head& head, std::byte* packed) {
    using B = typename G::Columns;
    const HeadLayout<G> layout(head.keys, head.head_dim);
    alignas(64) std::byte rows[G::kPanel * operand_bytes<B>(kMaxHeadDim)];
    auto* scales = reinterpret_cast<float*>(packed + layout.value_scales());
    const auto* keys = static_cast<const typename G::Activation*>(head.k);
    for (std::int64_t key = 0; key < head.keys; key += G::kPanel, packed += layout.key_panel_bytes) {
        pack_panel<G>(std::min<std::int64_t>(G::kPanel, head.keys - key), head.head_dim, rows, packed,
                      [&](std::int64_t j, const LinearRow<B>& row) {
                          return copy_row<B>(row, keys + (key + j) * head.kv_stride, head.head_dim);
                      });
    }
    for (std::int64_t d = 0; d < head.head_dim; d += layout.value_width, packed += layout.value_panel_bytes) {
        if constexpr (G::kQuantised) {
            quantise_values<G>(head, layout.value_width, d, packed, scales + d);
        } else {
            G::pack_values(head, layout.value_width, d, packed);
        }
    }
}

// The largest of n scores.
template <class V>
inline float largest_score(const float* scores, std::int64_t n) {
    typename V::F largest[2] = {V::set(scores[0]), V::set(scores[0])};
    std::int64_t i = 0;
    for (; i + 2 * V::kLanes <= n; i += 2 * V::kLanes) {
        largest[0] = V::max(largest[0], V::load(scores + i));
        largest[1] = V::max(largest[1], V::load(scores + i + V::kLanes));
    }
    float maximum = V::largest(V::max(largest[0], largest[1]));
    for (; i < n; ++i) maximum = std::max(maximum, scores[i]);
    return maximum;
}

// Sums over quantised keys -> scores, but for the scale of the query, in place. Returns the largest.
template <class G>
inline float scale_scores(float* scores, const HeadLayout<G>& layout, std::int64_t keys, const std::byte* packed) {
    using V = typename G::V;
    auto largest = V::set(-std::numeric_limits<float>::infinity());
    const std::int64_t whole = keys / G::kPanel * G::kPanel;
    for (std::int64_t key = 0; key < keys; key += G::kPanel, packed += layout.key_panel_bytes) {
        const auto* scales = reinterpret_cast<const float*>(packed + layout.key_units * G::kPanel * 4);
#pragma GCC unroll 4
        for (int i = 0; i < G::kPanel; i += V::kLanes) {
            const auto score = G::load_sum(scores + key + i) * V::load(scales + i);
            V::store(scores + key + i, score);
            if (key < whole) largest = V::max(largest, score);
        }
    }
    float maximum = V::largest(largest);
    for (std::int64_t i = whole; i < keys; ++i) maximum = std::max(maximum, scores[i]);
    return maximum;
}

// Scores [keys] of one query -> exp(scale (score - maximum)) as operands, in place, zero up to `padded`; returns their
// sum.
template <class G>
inline float softmax_row(float* scores, std::int64_t keys, std::int64_t padded, float maximum, float scale) {
    using V = typename G::V;
    using F = typename V::F;
    constexpr bool kFast = sizeof(typename G::Activation) == 2;
    using P = typename G::Values;
    auto* p = reinterpret_cast<typename P::Operand*>(scores);
    const F factor = V::set(kFast ? scale * 0x1.715476p+0f : scale), top = V::set(maximum);
    F steps = V::zero();
    if constexpr (G::kQuantised) steps = V::set(G::probability_steps(keys));
    const auto exponential = [&](F score) {
        const F x = (score - top) * factor;
        if constexpr (G::kQuantised) return V::nearest(fast_exp2<V>(x) * steps);
        if constexpr (kFast) return fast_exp2<V>(x);
        return exact_exp<V>(x);
    };
    F sums[2] = {V::zero(), V::zero()};
    std::int64_t i = 0;
    for (; i + 2 * V::kLanes <= keys; i += 2 * V::kLanes) {
        const F e0 = exponential(V::load(scores + i)), e1 = exponential(V::load(scores + i + V::kLanes));
        sums[0] = sums[0] + e0;
        sums[1] = sums[1] + e1;
        store_operand<P>(p + i, e0);
        store_operand<P>(p + i + V::kLanes, e1);
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
        store_operand<P>(p + i + j, j < 2 * V::kLanes ? V::load(tail + j) : V::zero(), n);
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
    for (std::int64_t r = 0; r < queries; ++r) {
        copy_row_of_a<G>(q, r, static_cast<const Activation*>(head.q) + (query + r) * head.q_stride, head.head_dim);
    }
    for (std::int64_t panel = 0; panel < layout.key_panels; ++panel) {
        const std::byte* b = packed + panel * layout.key_panel_bytes;
        G::tile(q, layout.query_stride, queries, b, layout.key_units, G::kPanel, b + layout.key_units * G::kPanel * 4,
                scores + panel * G::kPanel, layout.score_stride);
    }

    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head.head_dim));
    float inverse_sum[G::kQueryTile];
    for (std::int64_t r = 0; r < queries; ++r) {
        float* const row = scores + r * layout.score_stride;
        float maximum;
        if constexpr (G::kQuantised) {
            maximum = scale_scores<G>(row, layout, head.keys, packed);
        } else {
            maximum = largest_score<V>(row, head.keys);
        }
        inverse_sum[r] = 1.0f / softmax_row<G>(row, head.keys, layout.value_units * G::kUnit, maximum,
                                               scale * row_scale<G>(q, r, head.head_dim));
    }

    const auto* scales = reinterpret_cast<const float*>(packed + layout.value_scales());
    alignas(64) float c[G::kQueryTile * G::kMaxWidth];
    packed += layout.key_panels * layout.key_panel_bytes;
    for (std::int64_t d = 0; d < head.head_dim; d += layout.value_width, packed += layout.value_panel_bytes) {
        const std::int64_t width = std::min(layout.value_width, head.head_dim - d);
        G::Values::tile(reinterpret_cast<const std::byte*>(scores), layout.score_stride * 4, queries, packed,
                        layout.value_units, layout.value_width, packed, c, layout.value_width);
        for (std::int64_t r = 0; r < queries; ++r) {
            auto* out = static_cast<Activation*>(head.out) + (query + r) * head.out_stride + d;
            for_vectors<V>(width, [&](std::int64_t i, int n) {
                auto factor = V::set(inverse_sum[r]);
                if constexpr (G::kQuantised) factor = factor * V::load(scales + d + i);
                store_from_float<V>(out + i, G::load_sum(c + r * layout.value_width + i) * factor, n);
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
