// Attention of one head: keys and values packed once, then a block of queries against all keys. The scores of a block
// stay in the core's own cache, so the softmax needs no rescaling: maximum, exponentials and sum over whole rows.
// gemm_policy-inl.h says what Gemm gives.
//
// Quantised, a query and a key have a scale each, and so has a column of v over all keys. Keys and values are taken
// about their mean over all keys: a softmax doesn't see what is added to all of its scores, and as its probabilities
// add up to one, the mean is added to what they weigh. The probabilities of a row are whole multiples of its largest
// one / probability_levels, their sum is the exact one: where a few keys take most of it, so that all others are
// rounded to zero, as in trained transformers, those still count as the mean.

namespace astfast {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

template <class Gemm>
struct HeadLayout {
    using Scores = typename ScoresOf<Gemm>::Type;
    using KeyGemm = typename Scores::KeyGemm;
    static constexpr auto kScoresPerLine = static_cast<std::int64_t>(64 / sizeof(typename Scores::Score));

    std::int64_t head_dim;
    std::int64_t key_units;     // of head_dim
    std::int64_t value_units;   // of keys
    std::int64_t key_panels;    // of KeyGemm::kPanel keys
    std::int64_t value_width;   // columns of a panel of values
    std::int64_t value_panels;  // of head_dim
    std::int64_t score_stride;  // scores from one row of them to the next
    std::int64_t query_stride;  // bytes from one packed query to the next
    std::int64_t key_panel_bytes, value_panel_bytes;

    HeadLayout(std::int64_t keys, std::int64_t dim)
        : head_dim(dim),
          key_units(units_of<Gemm>(head_dim)),
          value_units(units_of<Gemm>(keys)),
          key_panels((keys + KeyGemm::kPanel - 1) / KeyGemm::kPanel),
          value_width(Gemm::width_for(head_dim)),
          value_panels((head_dim + value_width - 1) / value_width),
          score_stride(odd_lines(std::max(key_panels * KeyGemm::kPanel, (keys + 63) / 64 * 64)) * kScoresPerLine),
          query_stride(row_bytes<Gemm>(head_dim)),
          key_panel_bytes(panel_bytes<KeyGemm>(head_dim)),
          value_panel_bytes(value_units * value_width * 4) {}

    // Where the scales of the columns of v lie, behind all panels, and their means.
    std::int64_t value_scales() const { return key_panels * key_panel_bytes + value_panels * value_panel_bytes; }
    std::int64_t value_means() const { return value_scales() + value_panels * value_width * 4; }
    // What Scores keeps.
    std::int64_t extra() const {
        return Gemm::kQuantised ? value_means() + value_panels * value_width * 4 : value_scales();
    }
    std::int64_t packed_bytes() const { return extra() + Scores::extra_bytes(*this); }

  private:
    static std::int64_t odd_lines(std::int64_t scores) { return (scores + kScoresPerLine - 1) / kScoresPerLine | 1; }
};

template <class Simd, class Activation>
void sum_heads(const void* row, std::int64_t heads, std::int64_t head_dim, float* out) {
    const auto* x = static_cast<const Activation*>(row);
    std::fill(out, out + head_dim, 0.0f);
    for (std::int64_t head = 0; head < heads; ++head, x += head_dim) {
        for_elements<Simd>(x, head_dim, [&](std::int64_t i, int n, typename Simd::F y) {
            store_from_float<Simd>(out + i, load_as_float<Simd>(out + i, n) + y, n);
        });
    }
}

// fn(i, n, x[i .. i + n) - mean) over `width` columns of one row of k or v; lanes from n on are undefined.
template <class Gemm, class Fn>
inline void for_centred(const typename Gemm::Activation* x, std::int64_t width, const float* mean, const Fn& fn) {
    using Simd = typename Gemm::Simd;
    for_elements<Simd>(x, width,
                       [&](std::int64_t i, int n, typename Simd::F y) { fn(i, n, y - Simd::load(mean + i)); });
}

// Of two vectors each, the even elements before the odd ones, in place.
template <class Simd>
inline void separate_pairs(float* x, std::int64_t size) {
    constexpr int kPairs = Simd::kLanes;
    for (std::int64_t i = 0; i < size; i += 2 * kPairs) {
        float odd[kPairs];
        for (int j = 0; j < kPairs; ++j) {
            x[i + j] = x[i + 2 * j];
            odd[j] = x[i + 2 * j + 1];
        }
        std::copy(odd, odd + kPairs, x + i + kPairs);
    }
}

// Zeros as a row of operands, as write_row has them.
template <class Gemm, class Row>
inline float write_zeros(const Row& row, std::int64_t k) {
    using Simd = typename Gemm::Simd;
    return write_row<Gemm>(
        row, k, [&](const auto& fn) { for_vectors<Simd>(k, [&](std::int64_t i, int n) { fn(i, n, Simd::zero()); }); });
}

// Columns [d, d + width) of v -> one panel over all keys, and a scale and a mean for each column.
template <class Gemm>
inline void quantise_values(const Head& head, std::int64_t width, std::int64_t d, std::byte* panel, float* scales,
                            float* means) {
    using Simd = typename Gemm::Simd;
    using I = typename Simd::I;
    const auto* values = static_cast<const typename Gemm::Activation*>(head.v) + d;
    const std::int64_t columns = std::min(width, head.head_dim - d);
    std::fill(means, means + width, 0.0f);
    alignas(64) std::int32_t largest[Gemm::kMaxWidth] = {};  // bits of magnitudes
    using Range = RangeOfKeys<Simd>;
    fold_keys<Gemm>(head, values, columns, Range::of(head.keys), [&](std::int64_t i, const Range& range) {
        Simd::store(means + i, range.mean.mean);
        const I bits = range.magnitude();
        std::memcpy(largest + i, &bits, sizeof bits);
    });
    alignas(64) float inverse[Gemm::kMaxWidth];
    for (std::int64_t i = 0; i < width; ++i) {
        const Levels levels(largest[i], Gemm::ValueGemm::quant_levels(head.keys));
        inverse[i] = levels.inverse;
        scales[i] = levels.scale;
    }
    constexpr int kBits = 32 / Gemm::kElementsPerUnit;
    constexpr std::int32_t kMask = static_cast<std::int32_t>((std::uint32_t{1} << kBits) - 1);
    for (std::int64_t key = 0; key < head.keys; key += Gemm::kElementsPerUnit, panel += width * 4) {
        const auto* rows = values + key * head.kv_stride;
        const auto count = static_cast<int>(std::min<std::int64_t>(Gemm::kElementsPerUnit, head.keys - key));
        for (std::int64_t i = 0; i < width; i += Simd::kLanes) {
            const auto n = static_cast<int>(std::clamp<std::int64_t>(columns - i, 0, Simd::kLanes));
            const auto mean = Simd::load(means + i), factor = Simd::load(inverse + i);
            I unit{};
            for (int j = 0; j < count; ++j) {
                const auto x = load_as_float<Simd>(rows + j * head.kv_stride + i, n) - mean;
                unit |= (__builtin_convertvector(Simd::nearest(x * factor), I) & kMask) << (j * kBits);
            }
            std::memcpy(panel + i * 4, &unit, sizeof unit);
        }
    }
}

template <class Gemm>
void pack_head_panels(const Head& head, std::byte* packed) {
    using Scores = typename ScoresOf<Gemm>::Type;
    using KeyGemm = typename Scores::KeyGemm;
    using Packing = typename KeyGemm::WeightPacking;
    const HeadLayout<Gemm> layout(head.keys, head.head_dim);
    std::byte* const start = packed;
    alignas(64) std::byte rows[KeyGemm::kPanel * operand_bytes<Packing>(kMaxHeadDim)];
    auto* scales = reinterpret_cast<float*>(packed + layout.value_scales());
    auto* means = reinterpret_cast<float*>(packed + layout.value_means());
    const auto* keys = static_cast<const typename Gemm::Activation*>(head.k);
    const auto* values = static_cast<const typename Gemm::Activation*>(head.v);
    alignas(64) float mean[kMaxHeadDim] = {};
    if constexpr (Gemm::kQuantised) mean_over_keys<Gemm>(head, keys, head.head_dim, mean);
    if constexpr (shifts_rows<Gemm>) separate_pairs<typename Gemm::Simd>(mean, kMaxHeadDim);
    const auto mean_of_pairs = [&](std::int64_t i) ALWAYS_INLINE {
        using Simd = typename Gemm::Simd;
        return Floats<Simd>{Simd::load(mean + i), Simd::load(mean + i + Simd::kLanes)};
    };
    for (std::int64_t first = 0; first < head.keys; first += KeyGemm::kPanel, packed += layout.key_panel_bytes) {
        pack_panel<KeyGemm>(Scores::columns(head.keys - first), head.head_dim, rows, packed,
                            [&](std::int64_t j, const LinearRow<Packing>& row) {
                                const std::int64_t key = first + Scores::key_of(j);
                                if (key >= head.keys) return write_zeros<Packing>(row, head.head_dim);
                                const auto* x = keys + key * head.kv_stride;
                                fetch(values + key * head.kv_stride, head.head_dim);
                                if constexpr (shifts_rows<Gemm>) {
                                    return write_centred_bf16_row<Packing>(row, head.head_dim, x, mean_of_pairs);
                                } else if constexpr (Gemm::kQuantised) {
                                    return write_row<Packing>(row, head.head_dim, [&](const auto& fn) {
                                        for_centred<Gemm>(x, head.head_dim, mean, fn);
                                    });
                                } else {
                                    fetch(x + KeyGemm::kPanel * head.kv_stride, head.head_dim);
                                    return copy_row<Packing>(row, x, head.head_dim);
                                }
                            });
    }
    for (std::int64_t d = 0; d < head.head_dim; d += layout.value_width, packed += layout.value_panel_bytes) {
        if constexpr (Gemm::kQuantised) {
            quantise_values<Gemm>(head, layout.value_width, d, packed, scales + d, means + d);
        } else {
            Gemm::pack_values(head, layout.value_width, d, packed);
        }
    }
    Scores::finish_keys(head, layout, start, start + layout.extra());
}

// The largest of n scores.
template <class Simd>
inline float largest_score(const float* scores, std::int64_t n) {
    if (n < Simd::kLanes) return *std::max_element(scores, scores + n);
    typename Simd::F largest[4];
    unrolled<4>([&](auto j) ALWAYS_INLINE { largest[j] = Simd::load(scores); });
    std::int64_t i = 0;
    for (; i + 4 * Simd::kLanes <= n; i += 4 * Simd::kLanes) {
        unrolled<4>([&](auto j) ALWAYS_INLINE {
            largest[j] = Simd::max(largest[j], Simd::load(scores + i + j * Simd::kLanes));
        });
    }
    for (; i + Simd::kLanes <= n; i += Simd::kLanes) largest[0] = Simd::max(largest[0], Simd::load(scores + i));
    largest[1] = Simd::max(largest[1], Simd::load(scores + n - Simd::kLanes));
    return Simd::largest(Simd::max(Simd::max(largest[0], largest[1]), Simd::max(largest[2], largest[3])));
}

// Lanes of x below n, the others zero.
template <class Simd>
inline typename Simd::F first_lanes(typename Simd::F x, std::int64_t n) {
    static constexpr std::int32_t kLanes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    typename Simd::I lane;
    std::memcpy(&lane, kLanes, sizeof lane);
    return lane < static_cast<std::int32_t>(n) ? x : Simd::zero();
}

// Scores [keys] of one query -> exp(scale (score - maximum)) as operands, in place, zero up to a multiple of two
// vectors; returns their sum before they are rounded.
template <class Gemm>
inline float softmax_row(float* scores, std::int64_t keys, float maximum, float scale) {
    using Simd = typename Gemm::Simd;
    using F = typename Simd::F;
    using ValueGemm = typename Gemm::ValueGemm;
    constexpr bool kFast = sizeof(typename Gemm::Activation) == 2;
    constexpr int kTogether = 2, kWidth = kTogether * Simd::kLanes;
    auto* p = reinterpret_cast<typename ValueGemm::Operand*>(scores);
    const F factor = Simd::set(scale * 0x1.715476p+0f), top = Simd::set(maximum);
    F levels = Simd::zero(), sums[kTogether] = {};
    if constexpr (Gemm::kQuantised) levels = Simd::set(Gemm::probability_levels(keys));
    const auto exponentials = [&](std::int64_t i, const auto& kept) ALWAYS_INLINE {
        F e[kTogether];
        unrolled<kTogether>([&](auto j) ALWAYS_INLINE {
            const F t = (Simd::load(scores + i + j * Simd::kLanes) - top) * factor;
            e[j] = kept(i + j * Simd::kLanes, kFast ? fast_exp2<Simd>(t) : exact_exp2<Simd>(t));
        });
        unrolled<kTogether>([&](auto j) ALWAYS_INLINE {
            if constexpr (Gemm::kQuantised) e[j] = e[j] * levels;
            sums[j] = sums[j] + e[j];
            store_operand<ValueGemm>(p + i + j * Simd::kLanes, Gemm::kQuantised ? Simd::nearest(e[j]) : e[j]);
        });
    };
    std::int64_t i = 0;
    for (; i + kWidth <= keys; i += kWidth) exponentials(i, [&](std::int64_t, F e) ALWAYS_INLINE { return e; });
    if (i < keys) {
        exponentials(i, [&](std::int64_t key, F e) ALWAYS_INLINE { return first_lanes<Simd>(e, keys - key); });
    }
    return Simd::sum(sums[0] + sums[1]);
}

template <class Gemm>
void attend_block(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                  std::byte* scratch) {
    using Simd = typename Gemm::Simd;
    using Activation = typename Gemm::Activation;
    using Scores = typename ScoresOf<Gemm>::Type;
    using KeyGemm = typename Scores::KeyGemm;
    // The softmax of queries beside the products of others by values.
    constexpr bool kBeside = has_softmax<Gemm>;
    const HeadLayout<Gemm> layout(head.keys, head.head_dim);
    std::byte* const q = scratch;
    float query_scale[Scores::kQueries];
    auto* const scores = reinterpret_cast<typename Scores::Score*>(scratch + Scores::kQueries * layout.query_stride);
    for (std::int64_t r = 0; r < queries; ++r) {
        const auto* x = static_cast<const Activation*>(head.q) + (query + r) * head.q_stride;
        query_scale[r] = copy_row<Gemm>(row_of<Gemm>(q, r, head.head_dim), x, head.head_dim);
    }
    for (std::int64_t panel = 0; panel < layout.key_panels; ++panel) {
        const std::byte* b = packed + panel * layout.key_panel_bytes;
        const std::byte* end = b + layout.key_units * KeyGemm::kPanel * 4;
        KeyGemm::template tile<KeyGemm::kPanel / Simd::kLanes>(
            q, layout.query_stride, queries, b, layout.key_units, end,
            Scores::stored(scores + panel * KeyGemm::kPanel, layout, end));
    }

    float factors[Scores::kQueries], inverse_sum[Scores::kQueries];
    for (std::int64_t r = 0; r < queries; ++r) {
        auto* const row = scores + r * layout.score_stride;  // of quantised keys, but for the scale of the query
        factors[r] = Scores::factor(query_scale[r], layout, packed + layout.extra(), head, row);
        if constexpr (!kBeside) {
            inverse_sum[r] = 1.0f / softmax_row<Gemm>(row, head.keys, largest_score<Simd>(row, head.keys), factors[r]);
        }
    }

    const auto* scales = reinterpret_cast<const float*>(packed + layout.value_scales());
    const auto* means = reinterpret_cast<const float*>(packed + layout.value_means());
    alignas(64) float c[Scores::kQueries * Gemm::kMaxWidth];
    packed += layout.key_panels * layout.key_panel_bytes;
    for (std::int64_t d = 0; d < head.head_dim; d += layout.value_width, packed += layout.value_panel_bytes) {
        const std::int64_t width = std::min(layout.value_width, head.head_dim - d);
        const auto multiply = [&](std::int64_t r, std::int64_t rows, const auto& beside) {
            const auto* next = static_cast<const Activation*>(head.q) + (query + queries + r) * head.q_stride;
            for (std::int64_t i = 0; i < rows; ++i) fetch(next + i * head.q_stride, head.head_dim);
            using ValueGemm = typename Gemm::ValueGemm;
            const StoredRows<ValueGemm, false> stored{c + r * layout.value_width, layout.value_width, nullptr};
            ValueGemm::tile_of_width(layout.value_width,
                                     reinterpret_cast<const std::byte*>(scores + r * layout.score_stride),
                                     layout.score_stride * static_cast<std::int64_t>(sizeof *scores), rows, packed,
                                     layout.value_units, packed, stored, beside);
        };
        if constexpr (kBeside) {
            // Beside the first panel only: the next ones find probabilities.
            typename Gemm::Softmax softmax(scores, layout.score_stride, head.keys, d == 0 ? queries : 0, factors,
                                           inverse_sum);
            softmax([] {});
            for (std::int64_t r = 0; r < queries; r += softmax.kMaxRows) {
                multiply(r, std::min<std::int64_t>(softmax.kMaxRows, queries - r), softmax);
            }
        } else {
            multiply(0, queries, Alone{});
        }
        for (std::int64_t r = 0; r < queries; ++r) {
            auto* out = static_cast<Activation*>(head.out) + (query + r) * head.out_stride + d;
            for_vectors<Simd>(width, [&](std::int64_t i, int n) {
                const auto factor = Simd::set(inverse_sum[r]), sum = Gemm::load_sum(c + r * layout.value_width + i);
                if constexpr (Gemm::kQuantised) {
                    const auto scale = factor * Simd::load(scales + d + i);
                    store_from_float<Simd>(out + i, Simd::fma(sum, scale, Simd::load(means + d + i)), n);
                } else {
                    store_from_float<Simd>(out + i, sum * factor, n);
                }
            });
        }
    }
}

template <class Gemm>
struct DotAttention {
    static_assert(attends<Gemm>());
    static_assert(!Gemm::kQuantised || units_of<Gemm>(kMaxHeadDim) <= Gemm::kBlockUnits, "scores are scaled after one");
    static constexpr std::int64_t kQueryTile = ScoresOf<Gemm>::Type::kQueries;
    // Quantised, rows of 2,048 scores with a standard deviation of 3 are off by 5%, of 70,000 by 23% (255 levels).
    static constexpr std::int64_t kMaxKeys = Gemm::kQuantised ? 2048 : std::numeric_limits<std::int64_t>::max();

    static std::size_t packed_bytes(std::int64_t keys, std::int64_t head_dim) {
        return static_cast<std::size_t>(HeadLayout<Gemm>(keys, head_dim).packed_bytes());
    }
    static std::size_t scratch_bytes(std::int64_t keys, std::int64_t head_dim) {
        const HeadLayout<Gemm> layout(keys, head_dim);
        const std::int64_t lines = layout.score_stride / HeadLayout<Gemm>::kScoresPerLine;
        return static_cast<std::size_t>(kQueryTile * (layout.query_stride + lines * 64));
    }
    static void pack(const Head& head, std::byte* packed) { pack_head_panels<Gemm>(head, packed); }
    static void attend(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                       std::byte* scratch) {
        for (std::int64_t first = 0; first < queries; first += kQueryTile) {
            attend_block<Gemm>(head, packed, query + first, std::min(kQueryTile, queries - first), scratch);
        }
    }
};

}  // namespace
}  // namespace astfast
