#include "ops.h"

#include <algorithm>
#include <cmath>

#include "cpu_features.h"
#include "parallel.h"

namespace astfast {
namespace {

constexpr std::int64_t kMaxRows = std::int64_t{64} << 20;  // bytes of A that a worker packs at a time

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

std::int64_t half_of_cache() {
    static const auto bytes = static_cast<std::int64_t>(l2_cache_bytes() / 2);
    return bytes;
}

// Rows of A that a worker packs at a time: as many as have their chunks fit half of its second-level cache, in equal
// shares, each a multiple of the tile. Rows of absurd length are few.
std::int64_t rows_of_block(const ComputeContext& context, const Kernels& kernels, std::int64_t rows, std::int64_t k) {
    const std::int64_t cache = half_of_cache();
    const std::int64_t tiles = divide_up(rows, kernels.row_tile);
    const auto tiles_in = [&](std::int64_t bytes, std::size_t of_row) {
        return std::max<std::int64_t>(1, bytes / (static_cast<std::int64_t>(of_row) * kernels.row_tile));
    };
    const std::int64_t most =
        std::min(tiles_in(cache, kernels.chunk_bytes(k)), tiles_in(kMaxRows, kernels.row_bytes(k)));
    std::int64_t blocks = divide_up(tiles, most);
    if (tiles >= context.threads) blocks = divide_up(blocks, context.threads) * context.threads;
    return divide_up(tiles, blocks) * kernels.row_tile;
}

// A few rows are packed by all threads for all: a panel of W then comes into one core's cache, not into every core's,
// which is most of what so few rows have to wait for. Not where the rows that other cores packed are half as much.
bool shares_rows(const ComputeContext& context, const Kernels& kernels, std::int64_t rows, const PackedLinear& w) {
    const std::int64_t of_rows = static_cast<std::int64_t>(kernels.row_bytes(w.k)) * rows;
    const auto of_weight = static_cast<std::int64_t>(panels_bytes(kernels, w.n, w.k));
    return context.threads > 1 && of_rows <= std::min(half_of_cache(), of_weight / 2);
}

// out = A W^T with its epilogue; pack(row, rows, a) makes rows of A.
template <class Pack>
void multiply(const ComputeContext& context, std::int64_t rows, const PackedLinear& w, const PanelOutput& out,
              const Pack& pack) {
    const Kernels& kernels = *w.kernels;
    const std::size_t row_bytes = kernels.row_bytes(w.k), panel_bytes = kernels.panel_bytes(w.k);
    const std::int64_t panels = divide_up(w.n, kernels.panel);
    // Panels [first, end) of `count` rows from `row` on, packed at `a`.
    const auto multiply_panels = [&](const std::byte* a, std::int64_t row, std::int64_t count, std::int64_t first,
                                     std::int64_t end) {
        const std::byte* b = w.panels.get() + static_cast<std::size_t>(first) * panel_bytes;
        kernels.gemm_panels(a, row, count, w.k, b, first, end - first, out);
    };
    if (shares_rows(context, kernels, rows, w)) {
        const PoolLock lock(context.threads);
        const std::int64_t tiles = divide_up(rows, kernels.row_tile);
        reserve_scratch(1, row_bytes * static_cast<std::size_t>(tiles * kernels.row_tile));
        std::byte* const a = scratch(0);
        parallel_shares(
            context.threads, tiles, panels,
            [&](std::int64_t tile) {
                const std::int64_t row = tile * kernels.row_tile;
                pack(row, std::min(kernels.row_tile, rows - row), a + static_cast<std::size_t>(row) * row_bytes);
            },
            [&](std::int64_t first, std::int64_t end) { multiply_panels(a, 0, rows, first, end); });
        return;
    }
    const std::int64_t block_rows = rows_of_block(context, kernels, rows, w.k);
    const std::int64_t together = context.threads > 1 ? kernels.panels_together(w.k) : panels;
    parallel_blocks(
        context.threads, divide_up(rows, block_rows), divide_up(panels, together),
        row_bytes * static_cast<std::size_t>(block_rows),
        [&](std::int64_t block, int worker) {
            const std::int64_t row = block * block_rows;
            pack(row, std::min(block_rows, rows - row), scratch(worker));
        },
        [&](std::int64_t block, int owner, std::int64_t first, std::int64_t end, int) {
            const std::int64_t row = block * block_rows;
            multiply_panels(scratch(owner), row, std::min(block_rows, rows - row), first * together,
                            std::min(panels, end * together));
        });
}

}  // namespace

std::size_t panels_bytes(const Kernels& kernels, std::int64_t n, std::int64_t k) {
    return static_cast<std::size_t>(divide_up(n, kernels.panel)) * kernels.panel_bytes(k);
}

PackedLinear pack_linear(const ComputeContext& context, const Kernels& kernels, const float* weight,
                         std::int64_t row_stride, const float* bias, std::int64_t n, std::int64_t k) {
    const std::int64_t panels = divide_up(n, kernels.panel);
    const std::size_t panel_bytes = kernels.panel_bytes(k);
    Memory memory = allocate(panels_bytes(kernels, n, k));
    parallel_for(context.threads, panels, [&](std::int64_t panel, int) {
        const std::int64_t column = panel * kernels.panel;
        kernels.pack_weight(weight + column * row_stride, row_stride, std::min(kernels.panel, n - column), k,
                            memory.get() + static_cast<std::size_t>(panel) * panel_bytes);
    });
    const FreeMemory free = memory.get_deleter();
    return {&kernels, n, k, SharedMemory(memory.release(), free), std::vector<float>(bias, bias + n), {}};
}

void norm_linear(const ComputeContext& context, const Rows<const float>& x, std::int64_t rows, const Norm& norm,
                 const PackedLinear& w, Epilogue epilogue, const Rows<void>& out) {
    const PanelOutput output{epilogue, out, w.bias.data(), nullptr, w.n};
    multiply(context, rows, w, output,
             [&](std::int64_t row, std::int64_t count, std::byte* a) { w.kernels->norm_rows(x, row, count, norm, a); });
}

void linear(const ComputeContext& context, const Rows<const void>& x, std::int64_t rows, const PackedLinear& w,
            Epilogue epilogue, const Rows<void>& out) {
    const PanelOutput output{epilogue, out, w.bias.data(), nullptr, w.n};
    const float* factors = w.factors.empty() ? nullptr : w.factors.data();
    multiply(context, rows, w, output, [&](std::int64_t row, std::int64_t count, std::byte* a) {
        w.kernels->copy_rows(x, row, count, w.k, factors, a);
    });
}

PatchGrid patch_grid(std::int64_t frames, std::int64_t mels, std::int64_t size, std::int64_t frequency_stride,
                     std::int64_t time_stride) {
    if (frames < size || mels < size) return {0, 0};
    return {(mels - size) / frequency_stride + 1, (frames - size) / time_stride + 1};
}

void patch_embed(const ComputeContext& context, const Patches& patches, std::int64_t clips, const PackedLinear& w,
                 const float* prefix, std::int64_t prefix_tokens, const float* position, std::int64_t columns,
                 const Rows<float>& out) {
    for (std::int64_t clip = 0; clip < clips; ++clip) {
        for (std::int64_t row = 0; row < prefix_tokens; ++row) {
            float* token = out.data + clip * out.clip_stride + row * out.row_stride;
            for (std::int64_t i = 0; i < w.n; ++i) token[i] = prefix[row * w.n + i] + position[row * w.n + i];
        }
    }
    const Rows<void> rest{out.data + prefix_tokens * out.row_stride, patches.patches, out.clip_stride, out.row_stride};
    const float* of_patches = position + prefix_tokens * w.n;
    std::vector<float> first_columns;
    if (patches.time_patches < columns) {
        const std::int64_t row = patches.time_patches * w.n;
        for (std::int64_t f = 0; f < patches.patches / patches.time_patches; ++f) {
            const float* const start = of_patches + f * columns * w.n;
            first_columns.insert(first_columns.end(), start, start + row);
        }
        of_patches = first_columns.data();
    }
    const PanelOutput output{Epilogue::kPosition, rest, w.bias.data(), of_patches, w.n};
    multiply(context, clips * patches.patches, w, output, [&](std::int64_t row, std::int64_t count, std::byte* a) {
        w.kernels->patch_rows(patches, row, count, a);
    });
}

void attention(const ComputeContext& context, const Head& first, const HeadStrides& strides, std::int64_t clips,
               std::int64_t heads, const float* sizes, std::int64_t sizes_stride) {
    const std::int64_t padded_keys = divide_up(first.keys, kBiasPadding) * kBiasPadding;
    std::vector<float> bias(sizes == nullptr ? 0 : static_cast<std::size_t>(clips * padded_keys));
    for (std::int64_t clip = 0; sizes != nullptr && clip < clips; ++clip) {
        for (std::int64_t key = 0; key < first.keys; ++key) {
            bias[static_cast<std::size_t>(clip * padded_keys + key)] = std::log2(sizes[clip * sizes_stride + key]);
        }
    }
    const Kernels& kernels = first.keys > context.kernels->max_keys ? *context.unquantised : *context.kernels;
    const auto size = static_cast<std::int64_t>(kernels.activation_bytes);
    const auto head_of = [&](std::int64_t block) {
        const std::int64_t clip = block / heads, column = block % heads * first.head_dim;
        Head head = first;
        head.q = static_cast<const std::byte*>(first.q) + (clip * strides.q_clip + column) * size;
        head.k = static_cast<const std::byte*>(first.k) + (clip * strides.kv_clip + column) * size;
        head.v = static_cast<const std::byte*>(first.v) + (clip * strides.kv_clip + column) * size;
        head.out = static_cast<std::byte*>(first.out) + (clip * strides.out_clip + column) * size;
        if (sizes != nullptr) head.bias = bias.data() + clip * padded_keys;
        return head;
    };
    const std::size_t packed_bytes = (kernels.packed_head_bytes(first.keys, first.head_dim) + 63) / 64 * 64;
    const std::size_t scratch_bytes = packed_bytes + kernels.attend_bytes(first.keys, first.head_dim);
    parallel_blocks(
        context.threads, clips * heads, divide_up(first.queries, kernels.query_tile), scratch_bytes,
        [&](std::int64_t block, int worker) { kernels.pack_head(head_of(block), scratch(worker)); },
        [&](std::int64_t block, int owner, std::int64_t first_tile, std::int64_t end, int worker) {
            const std::int64_t query = first_tile * kernels.query_tile;
            const std::int64_t queries = std::min(end * kernels.query_tile, first.queries) - query;
            kernels.attend(head_of(block), scratch(owner), query, queries, scratch(worker) + packed_bytes);
        });
}

void conv_norm(const ComputeContext& context, const Convolution& conv, std::int64_t clips, const PackedLinear& w,
               const Norm& norm, bool gelu, const Rows<float>& out) {
    const Rows<void> rows_of_out{out.data, out.per_clip, out.clip_stride, out.row_stride};
    const PanelOutput output{Epilogue::kFloat32, rows_of_out, w.bias.data(), nullptr, w.n};
    const std::int64_t rows = clips * conv.grid.halved().positions();
    multiply(context, rows, w, output,
             [&](std::int64_t row, std::int64_t count, std::byte* a) { w.kernels->conv_rows(conv, row, count, a); });
    constexpr std::int64_t kRows = 32;  // of a task
    parallel_for(context.threads, divide_up(rows, kRows), [&](std::int64_t task, int) {
        for (std::int64_t row = task * kRows; row < std::min(rows, (task + 1) * kRows); ++row) {
            float* const y = out.at(row);
            context.exact->norm_row(y, norm, y);
            if (gelu) w.kernels->gelu(y, w.n, y);
        }
    });
}

void depthwise_silu(const ComputeContext& context, const Depthwise& conv, std::int64_t clips) {
    constexpr std::int64_t kRows = 4;  // of a task
    const std::int64_t rows = clips * conv.grid.rows;
    parallel_for(context.threads, divide_up(rows, kRows), [&](std::int64_t task, int) {
        const std::int64_t row = task * kRows;
        context.kernels->depthwise_silu(conv, row, std::min(kRows, rows - row));
    });
}

void selective_scan(const ComputeContext& context, const Scan& first, const ScanStrides& strides, std::int64_t clips) {
    const std::int64_t blocks = divide_up(first.channels, kScanChannels);
    const auto size = static_cast<std::int64_t>(context.kernels->activation_bytes);
    parallel_for(context.threads, clips * blocks, [&](std::int64_t task, int) {
        const std::int64_t clip = task / blocks, channel = task % blocks * kScanChannels;
        Scan scan = first;
        scan.x = static_cast<const std::byte*>(first.x) + clip * strides.x_clip * size;
        scan.projected += clip * strides.projected_clip;
        scan.out += clip * strides.out_clip;
        context.kernels->selective_scan(scan, channel, std::min(kScanChannels, first.channels - channel));
    });
}

void pool(const ComputeContext& context, const Rows<const float>& x, std::int64_t clips, const Norm& norm, float* out,
          const float* sizes, std::int64_t sizes_stride) {
    std::vector<float> normalised(static_cast<std::size_t>(norm.width));
    for (std::int64_t clip = 0; clip < clips; ++clip, out += norm.width) {
        const float* const first = x.data + clip * x.clip_stride;
        float total = 0.0f;
        std::fill(out, out + norm.width, 0.0f);
        for (std::int64_t row = 0; row < x.per_clip; ++row) {
            const float size = sizes == nullptr ? 1.0f : sizes[clip * sizes_stride + row];
            context.exact->norm_row(first + row * x.row_stride, norm, normalised.data());
            for (std::int64_t i = 0; i < norm.width; ++i) out[i] += size * normalised[static_cast<std::size_t>(i)];
            total += size;
        }
        for (std::int64_t i = 0; i < norm.width; ++i) out[i] *= 1.0f / total;
    }
}

}  // namespace astfast
