// Token merging (ops.py: merge_tokens): similar tokens found by a product in float32, merged in place.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops.h"
#include "parallel.h"

namespace astfast {
namespace {

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

// A multiple of a cache line.
std::size_t whole_lines(std::size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

// What a clip's tokens after the prefix are compared by: the direction of a key's mean over heads. Of `tokens` tokens,
// those at even places, the sources, may be merged into those at odd places, the targets.
struct Directions {
    std::vector<float> data;  // [clips, tokens, head_dim]
    std::int64_t tokens, head_dim;

    std::int64_t sources() const { return (tokens + 1) / 2; }
    std::int64_t targets() const { return tokens / 2; }
    const float* of(std::int64_t clip, std::int64_t token) const {
        return data.data() + (clip * tokens + token) * head_dim;
    }
};

// For each source of each clip, the most similar target and their cosine.
struct Matches {
    std::vector<float> cosine;         // [clips, sources]
    std::vector<std::int64_t> target;  // [clips, sources]
};

Directions directions(const ComputeContext& context, const Rows<const void>& keys, std::int64_t clips,
                      std::int64_t heads, std::int64_t head_dim, std::int64_t prefix) {
    const std::int64_t tokens = keys.per_clip - prefix;
    Directions result{std::vector<float>(static_cast<std::size_t>(clips * tokens * head_dim)), tokens, head_dim};
    constexpr std::int64_t kRows = 64;  // of a task
    const auto size = static_cast<std::int64_t>(context.kernels->activation_bytes);
    parallel_for(context.threads, divide_up(clips * tokens, kRows), [&](std::int64_t task, int) {
        for (std::int64_t row = task * kRows; row < std::min(clips * tokens, (task + 1) * kRows); ++row) {
            const std::int64_t clip = row / tokens, token = prefix + row % tokens;
            const auto* key =
                static_cast<const std::byte*>(keys.data) + (clip * keys.clip_stride + token * keys.row_stride) * size;
            float* const out = result.data.data() + row * head_dim;
            context.kernels->sum_heads(key, heads, head_dim, out);
            float squares = 0.0f;
            for (std::int64_t i = 0; i < head_dim; ++i) squares += out[i] * out[i];
            const float inverse = 1.0f / std::max(std::sqrt(squares), 1e-12f);
            for (std::int64_t i = 0; i < head_dim; ++i) out[i] *= inverse;
        }
    });
    return result;
}

Matches match(const ComputeContext& context, const Directions& x, std::int64_t clips) {
    const Kernels& kernels = *context.exact;
    constexpr std::int64_t kRows = 32;  // of a tile
    const std::int64_t sources = x.sources(), targets = x.targets(), stride = 2 * x.head_dim;
    const std::int64_t panels = divide_up(targets, kernels.panel);
    const std::size_t panel_bytes = kernels.panel_bytes(x.head_dim);
    const std::size_t packed_bytes = whole_lines(static_cast<std::size_t>(panels) * panel_bytes);
    const std::size_t row_bytes = whole_lines(kernels.row_bytes(x.head_dim) * kRows);
    const auto count = static_cast<std::size_t>(clips * sources);
    Matches result{std::vector<float>(count), std::vector<std::int64_t>(count)};
    const std::vector<float> no_bias(static_cast<std::size_t>(targets));
    parallel_blocks(
        context.threads, clips, divide_up(sources, kRows),
        packed_bytes + row_bytes + static_cast<std::size_t>(kRows * targets) * sizeof(float),
        [&](std::int64_t clip, int worker) {
            for (std::int64_t panel = 0; panel < panels; ++panel) {
                const std::int64_t first = panel * kernels.panel;
                kernels.pack_weight(x.of(clip, 2 * first + 1), stride, std::min(kernels.panel, targets - first),
                                    x.head_dim, scratch(worker) + static_cast<std::size_t>(panel) * panel_bytes);
            }
        },
        [&](std::int64_t clip, int owner, std::int64_t first_tile, std::int64_t end_tile, int worker) {
            std::byte* const a = scratch(worker) + packed_bytes;
            auto* const cosines = reinterpret_cast<float*>(a + row_bytes);
            for (std::int64_t tile = first_tile; tile < end_tile; ++tile) {
                const std::int64_t first = tile * kRows, rows = std::min(kRows, sources - first);
                kernels.copy_rows({x.of(clip, 2 * first), rows, 0, stride}, 0, rows, x.head_dim, nullptr, a);
                const PanelOutput out{
                    Epilogue::kFloat32, {cosines, rows, 0, targets}, no_bias.data(), nullptr, targets};
                kernels.gemm_panels(a, 0, rows, x.head_dim, scratch(owner), 0, panels, out);
                for (std::int64_t r = 0; r < rows; ++r) {
                    const float* const row = cosines + r * targets;
                    float best = -std::numeric_limits<float>::infinity();
                    std::int64_t target = 0;
                    for (std::int64_t i = 0; i < targets; ++i) {
                        if (row[i] > best) best = row[i], target = i;
                    }
                    const auto at = static_cast<std::size_t>(clip * sources + first + r);
                    result.cosine[at] = best;
                    result.target[at] = target;
                }
            }
        });
    return result;
}

// A token that is merged, and the one that it becomes part of: their places in the clip.
struct Merge {
    std::int64_t source, target;
};

// The `count` merges of a clip with the largest cosines, in ascending order of the source.
std::vector<Merge> merges_of(const Matches& matches, std::int64_t clip, std::int64_t sources, std::int64_t count,
                             std::int64_t prefix) {
    const float* const cosine = matches.cosine.data() + clip * sources;
    const std::int64_t* const target = matches.target.data() + clip * sources;
    std::vector<std::int64_t> order(static_cast<std::size_t>(sources));
    for (std::int64_t i = 0; i < sources; ++i) order[static_cast<std::size_t>(i)] = i;
    std::nth_element(order.begin(), order.begin() + count, order.end(), [&](std::int64_t a, std::int64_t b) {
        return cosine[a] > cosine[b] || (cosine[a] == cosine[b] && a < b);
    });
    std::sort(order.begin(), order.begin() + count);
    std::vector<Merge> merges;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t source = order[static_cast<std::size_t>(i)];
        merges.push_back({prefix + 2 * source, prefix + 1 + 2 * target[source]});
    }
    return merges;
}

// Columns [first, first + columns) of a clip's tokens [tokens, row_stride], in place.
void merge_columns(float* x, std::int64_t row_stride, std::int64_t tokens, std::int64_t columns, const float* sizes,
                   const std::vector<Merge>& merges) {
    std::vector<float> total(sizes, sizes + tokens);
    std::vector<bool> merged(static_cast<std::size_t>(tokens)), changed = merged;
    for (const auto [source, target] : merges) {
        const auto s = static_cast<std::size_t>(source), t = static_cast<std::size_t>(target);
        float* const sum = x + target * row_stride;
        const float* const added = x + source * row_stride;
        if (!changed[t]) {
            for (std::int64_t i = 0; i < columns; ++i) sum[i] *= sizes[target];
        }
        for (std::int64_t i = 0; i < columns; ++i) sum[i] += sizes[source] * added[i];
        total[t] += sizes[source];
        merged[s] = changed[t] = true;
    }
    float* place = x;
    for (std::int64_t token = 0; token < tokens; ++token) {
        const auto t = static_cast<std::size_t>(token);
        if (merged[t]) continue;
        float* const row = x + token * row_stride;
        if (changed[t]) {
            for (std::int64_t i = 0; i < columns; ++i) row[i] /= total[t];
        }
        if (place != row) std::memcpy(place, row, static_cast<std::size_t>(columns) * sizeof(float));
        place += row_stride;
    }
}

void merge_sizes(float* sizes, std::int64_t tokens, const std::vector<Merge>& merges) {
    for (const auto [source, target] : merges) {
        sizes[target] += sizes[source];
        sizes[source] = 0.0f;
    }
    std::remove(sizes, sizes + tokens, 0.0f);
}

}  // namespace

void merge_tokens(const ComputeContext& context, const Rows<float>& x, std::int64_t width, std::int64_t clips,
                  const Rows<const void>& keys, std::int64_t heads, float* sizes, std::int64_t sizes_stride,
                  std::int64_t count, std::int64_t prefix) {
    const std::int64_t tokens = x.per_clip;
    const Directions compared = directions(context, keys, clips, heads, width / heads, prefix);
    const Matches matches = match(context, compared, clips);
    std::vector<std::vector<Merge>> merges;
    for (std::int64_t clip = 0; clip < clips; ++clip) {
        merges.push_back(merges_of(matches, clip, compared.sources(), count, prefix));
    }
    constexpr std::int64_t kColumns = 128;  // of a task
    const std::int64_t blocks = divide_up(width, kColumns);
    parallel_for(context.threads, clips * blocks, [&](std::int64_t task, int) {
        const std::int64_t clip = task / blocks, column = task % blocks * kColumns;
        merge_columns(x.data + clip * x.clip_stride + column, x.row_stride, tokens, std::min(kColumns, width - column),
                      sizes + clip * sizes_stride, merges[static_cast<std::size_t>(clip)]);
    });
    for (std::int64_t clip = 0; clip < clips; ++clip) {
        merge_sizes(sizes + clip * sizes_stride, tokens, merges[static_cast<std::size_t>(clip)]);
    }
}

}  // namespace astfast
