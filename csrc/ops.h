// The ops of astfast/ops.py on the thread pool. Shapes as there; bindings.cpp checks the arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace astfast {

// y = x W^T + b with W [n, k] in the panels of one tier.
struct PackedLinear {
    const Kernels* kernels;
    std::int64_t n, k;
    SharedMemory panels;
    std::vector<float> bias;     // [n]
    std::vector<float> factors;  // [k], or none: what linear_residual multiplies columns of x by before quantising them
};

// Kernels and number of threads of one model.
struct ComputeContext {
    const Kernels* kernels;      // of the model's precision
    const Kernels* unquantised;  // the same, but bfloat16 where that is int8: for spectrograms and for many keys
    const Kernels* exact;        // float32, for the head
    int threads;
};

// Bytes of the panels of a weight [n, k].
std::size_t panels_bytes(const Kernels& kernels, std::int64_t n, std::int64_t k);

// weight [n, k], rows `row_stride` elements apart; bias [n]. The op computes with these kernels.
PackedLinear pack_linear(const ComputeContext& context, const Kernels& kernels, const float* weight,
                         std::int64_t row_stride, const float* bias, std::int64_t n, std::int64_t k);

// out = act(LN(x) W^T + b) over `rows` rows counted through all clips; any epilogue but kPosition.
void norm_linear(const ComputeContext& context, const Rows<const float>& x, std::int64_t rows, const Norm& norm,
                 const PackedLinear& w, Epilogue epilogue, const Rows<void>& out);

// out (+)= x W^T + b, x of the activation type of W's kernels; `epilogue` is kResidual or kFloat32.
void linear(const ComputeContext& context, const Rows<const void>& x, std::int64_t rows, const PackedLinear& w,
            Epilogue epilogue, const Rows<void>& out);

// Patches of a spectrogram [frames, mels] along each of its axes; none of either where it is smaller than a patch.
struct PatchGrid {
    std::int64_t along_mel, along_time;
    std::int64_t patches() const { return along_mel * along_time; }
};
PatchGrid patch_grid(std::int64_t frames, std::int64_t mels, std::int64_t size, std::int64_t frequency_stride,
                     std::int64_t time_stride);

// out[clip] = [prefix, patches W^T + b] + position, [P + patches, n] each; prefix [P, n], P >= 0. `position` has
// `columns` patches along time in each row of the grid, of which the first count.
void patch_embed(const ComputeContext& context, const Patches& patches, std::int64_t clips, const PackedLinear& w,
                 const float* prefix, std::int64_t prefix_tokens, const float* position, std::int64_t columns,
                 const Rows<float>& out);

// One head of one clip for each of `clips` x `heads`; `first` is the first, the others lie at the strides.
struct HeadStrides {
    std::int64_t q_clip, kv_clip, out_clip;  // elements; heads lie head_dim elements apart
};
// sizes [clips, keys], rows `sizes_stride` apart, or null: exponentials are multiplied by them.
void attention(const ComputeContext& context, const Head& first, const HeadStrides& strides, std::int64_t clips,
               std::int64_t heads, const float* sizes = nullptr, std::int64_t sizes_stride = 0);

// Merges `count` tokens of each clip of x [clips, per_clip, width] and of sizes [clips, per_clip] in place; keys
// [clips, per_clip, width] of the activation type.
void merge_tokens(const ComputeContext& context, const Rows<float>& x, std::int64_t width, std::int64_t clips,
                  const Rows<const void>& keys, std::int64_t heads, float* sizes, std::int64_t sizes_stride,
                  std::int64_t count, std::int64_t prefix);

// out = act(LN(conv W^T + b)), act the GELU or none; out [clips, positions of the halved grid, n].
void conv_norm(const ComputeContext& context, const Convolution& conv, std::int64_t clips, const PackedLinear& w,
               const Norm& norm, bool gelu, const Rows<float>& out);

// out = silu(depthwise convolution).
void depthwise_silu(const ComputeContext& context, const Depthwise& conv, std::int64_t clips);

// `first` is the scan of the first clip, the others lie at the strides.
struct ScanStrides {
    std::int64_t x_clip, projected_clip, out_clip;  // elements
};
void selective_scan(const ComputeContext& context, const Scan& first, const ScanStrides& strides, std::int64_t clips);

// out [clips, width] = mean of the LN of all rows of each clip: their sum in ascending order times 1 / rows; weighted
// by sizes [clips, rows], `sizes_stride` apart, unless null.
void pool(const ComputeContext& context, const Rows<const float>& x, std::int64_t clips, const Norm& norm, float* out,
          const float* sizes = nullptr, std::int64_t sizes_stride = 0);

}  // namespace astfast
