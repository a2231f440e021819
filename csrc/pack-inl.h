// Packing of operands: rows of A and panels of B, in the layout that kernels.h describes. gemm_policy-inl.h says what
// Gemm gives.

namespace astfast {
namespace {

template <class Gemm, class Each>
inline void write_row_of_a(std::byte* a, std::int64_t r, std::int64_t k, const Each& each) {
    const auto row = row_of<Gemm>(a, r, k);
    if constexpr (shifts_rows<Gemm>) {
        *scale_of<Gemm>(a, r, k) = write_shifted_row<Gemm>(row, k, each);
    } else {
        const float scale = write_row<Gemm>(row, k, each);
        if constexpr (Gemm::kQuantised) *scale_of<Gemm>(a, r, k) = {scale, 0.0f};
    }
}

// A row into the cache, ahead of time.
template <class T>
inline void fetch(const T* row, std::int64_t size) {
    constexpr auto kLine = static_cast<std::int64_t>(64 / sizeof(T));
    for (std::int64_t i = 0; i < size; i += kLine) __builtin_prefetch(row + i);
}

// fn(i, n, x[i .. i + n)) over [0, k).
template <class Simd, class T, class Fn>
inline void for_elements(const T* x, std::int64_t k, const Fn& fn) {
    for_vectors<Simd>(k, [&](std::int64_t i, int n) { fn(i, n, load_as_float<Simd>(x + i, n)); });
}

// One row of activations as operands, and its padding. Returns the scale of a quantised row.
template <class Gemm, class Row>
inline float copy_row(const Row& row, const typename Gemm::Activation* x, std::int64_t k) {
    using Operand = typename Gemm::Operand;
    if constexpr (std::is_same_v<typename Gemm::Activation, Operand>) {
        constexpr auto kLine = static_cast<std::int64_t>(64 / sizeof(Operand));
        std::int64_t i = 0;
        for (; i + kLine <= k; i += kLine) std::memcpy(row.at(i), x + i, 64);
        if (i < k) std::memcpy(row.at(i), x + i, static_cast<std::size_t>(k - i) * sizeof(Operand));
        zero_tail<Gemm>(row, k);
        return 1.0f;
    }
    if constexpr (sizeof(Operand) == 1) return write_bf16_row<Gemm>(row, k, x);
    return write_row<Gemm>(row, k, [&](const auto& fn) { for_elements<typename Gemm::Simd>(x, k, fn); });
}

template <class Gemm>
inline void copy_row_of_a(std::byte* a, std::int64_t r, const typename Gemm::Activation* x, std::int64_t k,
                          const float* factors) {
    using Simd = typename Gemm::Simd;
    if constexpr (!Gemm::kQuantised) {
        copy_row<Gemm>(row_of<Gemm>(a, r, k), x, k);
        return;
    }
    if (factors == nullptr) {
        if constexpr (shifts_rows<Gemm>) {
            *scale_of<Gemm>(a, r, k) = write_shifted_bf16_row<Gemm>(row_of<Gemm>(a, r, k), k, x);
        } else {
            *scale_of<Gemm>(a, r, k) = {copy_row<Gemm>(row_of<Gemm>(a, r, k), x, k), 0.0f};
        }
        return;
    }
    write_row_of_a<Gemm>(a, r, k, [&](const auto& fn) {
        for_elements<Simd>(x, k, [&](std::int64_t i, int n, typename Simd::F y) {
            fn(i, n, y * load_as_float<Simd>(factors + i, n));
        });
    });
}

template <class Gemm>
void copy_rows(const Rows<const void>& x, std::int64_t row, std::int64_t rows, std::int64_t k, const float* factors,
               std::byte* a) {
    using Activation = typename Gemm::Activation;
    const Rows<const Activation> typed{static_cast<const Activation*>(x.data), x.per_clip, x.clip_stride, x.row_stride};
    for (std::int64_t r = 0; r < rows; ++r) copy_row_of_a<Gemm>(a, r, typed.at(row + r), k, factors);
}

// Column j * size + i of a patch's row is frame j, mel bin i of the patch: mel bins are contiguous in the spectrogram.
template <class Gemm>
void patch_rows(const Patches& p, std::int64_t row, std::int64_t rows, std::byte* a) {
    using Simd = typename Gemm::Simd;
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t clip = (row + r) / p.patches, patch = (row + r) % p.patches;
        const std::int64_t f = patch / p.time_patches, t = patch % p.time_patches;
        const float* corner = p.frames.data + clip * p.frames.clip_stride + t * p.time_stride * p.frames.row_stride +
                              f * p.frequency_stride;
        write_row_of_a<Gemm>(a, r, p.size * p.size, [&](const auto& fn) {
            if (p.size % Simd::kLanes == 0) {
                for (std::int64_t j = 0; j < p.size; ++j) {
                    for_elements<Simd>(corner + j * p.frames.row_stride, p.size,
                                       [&](std::int64_t i, int n, auto y) { fn(j * p.size + i, n, y); });
                }
                return;
            }
            for_vectors<Simd>(p.size * p.size, [&](std::int64_t i, int n) {  // vectors go over the ends of frames
                float elements[Simd::kLanes] = {};
                for (int l = 0; l < n; ++l) {
                    elements[l] = corner[(i + l) / p.size * p.frames.row_stride + (i + l) % p.size];
                }
                fn(i, n, Simd::load(elements));
            });
        });
    }
}

// `columns` rows of operands, each padded to whole units -> columns [0, width) of a panel [units, stride]; those from
// `columns` on are zero. row(j) is the address of column j.
template <class Gemm, class Row>
inline void transpose_to_panel(const Row& row, std::int64_t columns, std::int64_t units, std::int64_t width,
                               std::int64_t stride, std::uint32_t* panel) {
    using Simd = typename Gemm::Simd;
    alignas(64) static constexpr std::uint32_t kZeros[16] = {};
    for (std::int64_t j = 0; j < width; j += Simd::kLanes) {
        for (std::int64_t u = 0; u < units; u += Simd::kLanes) {
            const std::uint32_t* sources[Simd::kLanes];
            for (int i = 0; i < Simd::kLanes; ++i) sources[i] = j + i < columns ? row(j + i) + u : kZeros;
            const int n = static_cast<int>(std::min<std::int64_t>(Simd::kLanes, units - u));
            Simd::transpose(sources, panel + u * stride + j, stride, n);
        }
    }
}

}  // namespace
}  // namespace astfast
