// Interface of a tier's kernels: single-threaded functions over a few rows or one panel of columns, and their layouts.
// The drivers (ops.cpp) split an op into calls of these and run them on the thread pool.
//
// Operands. A product C = A B reads A as rows of units of four bytes (1 float32, 2 bfloat16 or 4 int8 along K) and B as
// panels of `panel` columns, [units, panel] units each, so that one unit of a row of A multiplies a contiguous row of a
// panel. K is padded with zeros to whole units, N to whole panels. Every element of C is one sum over K in ascending
// order, whatever tile it falls into: a row's result depends on nothing but the row.
//
// int8: a column of B is the weight's row times 127 / its largest magnitude, rounded; a row of A likewise, when it is
// packed. On AVX2 a unit is two numbers of 16 bits, with more levels than 127. Products are summed exactly, in float32
// to its precision; the epilogue multiplies by both scales.
#pragma once

#include <cstddef>
#include <cstdint>

namespace astfast {

enum class Precision { kFloat32, kBfloat16, kInt8 };

// Rows of a [clips, per_clip, columns] array whose last dimension is contiguous, counted through: row r is row
// r % per_clip of clip r / per_clip. Strides are in elements.
template <class T>
struct Rows {
    T* data;
    std::int64_t per_clip;
    std::int64_t clip_stride;
    std::int64_t row_stride;

    // Always inlined: an out-of-line copy could be one that was compiled for a tier that this machine lacks.
    [[gnu::always_inline]] T* at(std::int64_t row) const {
        return data + row / per_clip * clip_stride + row % per_clip * row_stride;
    }
};

// LN(x) = (x - mean) / sqrt(var + eps) * weight + bias over [width].
struct Norm {
    const float* weight;
    const float* bias;
    float eps;
    std::int64_t width;
};

// Patches of a spectrogram [clips, frames, mels]: patch (f, t) is row f * time_patches + t of its clip.
struct Patches {
    Rows<const float> frames;
    std::int64_t time_patches;
    std::int64_t patches;  // of a clip
    std::int64_t size, frequency_stride, time_stride;
};

// An image whose positions are tokens, row by row.
struct Grid {
    std::int64_t rows, columns;
    [[gnu::always_inline]] std::int64_t positions() const { return rows * columns; }
    // After a convolution of 3 x 3, stride 2, padding 1.
    [[gnu::always_inline]] Grid halved() const { return {(rows + 1) / 2, (columns + 1) / 2}; }
};

// Input of a convolution of 3 x 3, stride 2, padding 1: position (i, j) of its output is row i * columns + j of a clip.
struct Convolution {
    Rows<const float> image;  // [clips, positions, channels]
    Grid grid;
    std::int64_t channels;
};

// A depthwise convolution of 3 x 3, stride 1, padding 1.
struct Depthwise {
    Rows<const void> x;  // [clips, positions, channels] of the activation type, as is the output
    Rows<void> out;
    Grid grid;
    std::int64_t channels;
    const float* weight;  // [9, channels]
};

// Selective scan of one clip. Strides are in elements.
struct Scan {
    const void* x;           // [positions, channels] of the activation type
    const float* projected;  // [positions, 4 (rank + 2)]: dt, b and c of each direction
    float* out;              // [positions, channels]
    std::int64_t x_stride, projected_stride, out_stride;
    Grid grid;
    std::int64_t channels, rank;
    const float *weight, *bias, *decay;  // [4, rank, channels], [4, channels], [4, channels]: A, below zero
    const float* skip;                   // [channels]: the sum of D over the directions
};
constexpr std::int64_t kScanChannels = 16;  // of a call: a cache line of the output

// Epilogue of a panel of C = A B: how it is written to the output.
enum class Epilogue {
    kActivation,  // out = C + bias, in the activation type
    kGelu,        // out = gelu(C + bias), in the activation type
    kResidual,    // out += C + bias, float32
    kPosition,    // out = C + bias + position[row of the clip], float32
    kFloat32,     // out = C + bias, float32
};

struct PanelOutput {
    Epilogue epilogue;
    Rows<void> out;  // of float or of the activation type; rows counted through
    const float* bias;
    const float* position;  // [rows of a clip, n], kPosition only
    std::int64_t n;         // columns
};

// One head of one clip. Strides are in elements of the activation type.
struct Head {
    const void *q, *k, *v;  // [queries, head_dim], [keys, head_dim], [keys, head_dim]
    void* out;              // [queries, head_dim]
    std::int64_t q_stride, kv_stride, out_stride;
    std::int64_t queries, keys, head_dim;
    // Binary logarithms of what a key's exponential is multiplied by, or null: [keys], and zeros up to a multiple of
    // kBiasPadding.
    const float* bias = nullptr;
};
constexpr std::int64_t kBiasPadding = 128;

struct Kernels {
    const char* tier;
    Precision precision;
    std::size_t activation_bytes;  // of an element of the activations: float32, or bfloat16 as its upper half
    std::int64_t panel;            // columns of a panel of B
    std::int64_t row_tile;         // rows that a row block should be a multiple of

    // Bytes of a row of A, and of a panel of B, for a product over k.
    std::size_t (*row_bytes)(std::int64_t k);
    std::size_t (*panel_bytes)(std::int64_t k);

    // Rows [n0, n0 + columns) of a weight [N, k] with this row stride -> one panel.
    void (*pack_weight)(const float* weight, std::int64_t row_stride, std::int64_t columns, std::int64_t k,
                        std::byte* panel);

    // `rows` rows from `row` on -> A: normalised, converted from the activation type, or read as patches of a
    // spectrogram or of an image. factors [k], or null: by which columns that are to be quantised are multiplied.
    void (*norm_rows)(const Rows<const float>& x, std::int64_t row, std::int64_t rows, const Norm& norm, std::byte* a);
    void (*copy_rows)(const Rows<const void>& x, std::int64_t row, std::int64_t rows, std::int64_t k,
                      const float* factors, std::byte* a);
    void (*patch_rows)(const Patches& patches, std::int64_t row, std::int64_t rows, std::byte* a);
    void (*conv_rows)(const Convolution& conv, std::int64_t row, std::int64_t rows, std::byte* a);

    // `rows` rows of A times `panels` panels of B -> columns [panel_index * panel, ...) of out, whose first row is
    // `row`. Fast with a multiple of panels_together(k) panels; chunk_bytes(k) of a row are read at a time.
    std::int64_t (*panels_together)(std::int64_t k);
    std::size_t (*chunk_bytes)(std::int64_t k);
    void (*gemm_panels)(const std::byte* a, std::int64_t row, std::int64_t rows, std::int64_t k, const std::byte* b,
                        std::int64_t panel_index, std::int64_t panels, const PanelOutput& out);

    // softmax(q k^T / sqrt(head_dim)) v for some queries, best in whole tiles of query_tile; keys and values packed
    // once a head. Meant for max_keys keys at most: of more, steps of a quantised probability lose too many of the
    // small ones.
    std::int64_t query_tile, max_keys;
    std::size_t (*packed_head_bytes)(std::int64_t keys, std::int64_t head_dim);
    std::size_t (*attend_bytes)(std::int64_t keys, std::int64_t head_dim);  // of scratch
    void (*pack_head)(const Head& head, std::byte* packed);
    void (*attend)(const Head& head, const std::byte* packed, std::int64_t query, std::int64_t queries,
                   std::byte* scratch);

    // The sum over heads [head_dim] of a row [heads, head_dim] of the activation type.
    void (*sum_heads)(const void* row, std::int64_t heads, std::int64_t head_dim, float* out);

    // silu(depthwise convolution) of `rows` rows of images, counted through all clips.
    void (*depthwise_silu)(const Depthwise& conv, std::int64_t row, std::int64_t rows);

    // Channels [first, first + channels), kScanChannels at most, of a clip's scan in all directions.
    void (*selective_scan)(const Scan& scan, std::int64_t first, std::int64_t channels);

    // LN of one row in float32; `out` may be `x`.
    void (*norm_row)(const float* x, const Norm& norm, float* out);

    // Elementwise, for tests: exp(x) for x <= 0 and gelu(x), as scans and the epilogue compute them.
    void (*exp)(const float* x, std::int64_t n, float* out);
    void (*gelu)(const float* x, std::int64_t n, float* out);
};

}  // namespace astfast
