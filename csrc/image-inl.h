// Convolutions of images whose pixels are tokens, row by row, channels contiguous: what a 3 x 3 kernel of stride 2
// sees, as rows of A; and the depthwise 3 x 3 convolution with its SiLU.

namespace astfast {
namespace {

// Column (3 i + j) * channels + c of a row is channel c at row i, column j of the kernel, zero outside the image.
template <class Gemm>
void conv_rows(const Convolution& conv, std::int64_t row, std::int64_t rows, std::byte* a) {
    using Simd = typename Gemm::Simd;
    const Grid out = conv.grid.halved();
    const std::int64_t channels = conv.channels, width = 9 * channels;
    const bool whole = channels % Simd::kLanes == 0;  // else vectors go over the ends of pixels
    const auto patch = std::make_unique<float[]>(static_cast<std::size_t>(whole ? 1 : width));
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t clip = (row + r) / out.positions(), position = (row + r) % out.positions();
        const std::int64_t top = position / out.columns * 2 - 1, left = position % out.columns * 2 - 1;
        const float* image = conv.image.data + clip * conv.image.clip_stride;
        const auto each_pixel = [&](const auto& fn) {  // fn(its first column, address or null)
            for (std::int64_t tap = 0; tap < 9; ++tap) {
                const std::int64_t i = top + tap / 3, j = left + tap % 3;
                const bool inside = i >= 0 && i < conv.grid.rows && j >= 0 && j < conv.grid.columns;
                fn(tap * channels, inside ? image + (i * conv.grid.columns + j) * conv.image.row_stride : nullptr);
            }
        };
        if (whole) {
            write_row_of_a<Gemm>(a, r, width, [&](const auto& fn) {
                each_pixel([&](std::int64_t first, const float* pixel) {
                    for (std::int64_t c = 0; c < channels; c += Simd::kLanes) {
                        fn(first + c, Simd::kLanes, pixel == nullptr ? Simd::zero() : Simd::load(pixel + c));
                    }
                });
            });
        } else {
            each_pixel([&](std::int64_t first, const float* pixel) {
                for (std::int64_t c = 0; c < channels; ++c) {
                    patch[static_cast<std::size_t>(first + c)] = pixel == nullptr ? 0.0f : pixel[c];
                }
            });
            write_row_of_a<Gemm>(a, r, width, [&](const auto& fn) { for_elements<Simd>(patch.get(), width, fn); });
        }
    }
}

// x / (1 + e^-x), from the exponential of a number that is not positive.
template <class Simd, bool kFast>
inline typename Simd::F silu_of(typename Simd::F x) {
    const auto e = exp_of<Simd, kFast>(Simd::min(x, -x));
    return Simd::divide(x > Simd::zero() ? x : x * e, Simd::set(1.0f) + e);
}

// `rows` rows of images from `row` on, counted through all clips.
template <class Simd, class T>
void depthwise_silu(const Depthwise& conv, std::int64_t row, std::int64_t rows) {
    using F = typename Simd::F;
    constexpr bool kFast = sizeof(T) == 2;
    for (std::int64_t r = row; r < row + rows; ++r) {
        const std::int64_t clip = r / conv.grid.rows, i = r % conv.grid.rows, columns = conv.grid.columns;
        const T* x = static_cast<const T*>(conv.x.data) + clip * conv.x.clip_stride + i * columns * conv.x.row_stride;
        T* out = static_cast<T*>(conv.out.data) + clip * conv.out.clip_stride + i * columns * conv.out.row_stride;
        const std::int64_t above = i == 0 ? 0 : -1, below = i + 1 == conv.grid.rows ? 0 : 1;
        for_vectors<Simd>(conv.channels, [&](std::int64_t c, int n) {
            F weight[9];
            for (int tap = 0; tap < 9; ++tap) {
                weight[tap] = load_as_float<Simd>(conv.weight + tap * conv.channels + c, n);
            }
            for (std::int64_t j = 0; j < columns; ++j) {
                F sum = Simd::zero();
                const std::int64_t left = j == 0 ? 0 : -1, right = j + 1 == columns ? 0 : 1;
                for (std::int64_t di = above; di <= below; ++di) {
                    const T* pixel = x + (di * columns + j) * conv.x.row_stride + c;
                    for (std::int64_t dj = left; dj <= right; ++dj) {
                        const F value = load_as_float<Simd>(pixel + dj * conv.x.row_stride, n);
                        sum = Simd::fma(value, weight[3 * (di + 1) + dj + 1], sum);
                    }
                }
                store_from_float<Simd>(out + j * conv.out.row_stride + c, silu_of<Simd, kFast>(sum), n);
            }
        });
    }
}

}  // namespace
}  // namespace astfast
