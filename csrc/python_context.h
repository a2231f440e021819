// The ops as Python calls them. Included by bindings.cpp only.
#pragma once

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "ops.h"
#include "parallel.h"
#include "python_arguments.h"
#include "python_recording.h"
#include "python_weights.h"
#include "tiers.h"

namespace astfast {

constexpr std::int64_t kMaxHeadDim = 256;

inline Precision precision_named(const std::string& name) {
    if (name == "float32") return Precision::kFloat32;
    if (name == "bfloat16") return Precision::kBfloat16;
    if (name == "int8") return Precision::kInt8;
    refuse("precision", name + " is unknown");
}

// The ops of one model: arguments are checked, then the kernels run without the GIL, or are recorded to be run later.
class PyContext {
  public:
    PyContext(const std::string& tier, const std::string& precision, int threads) {
        if (threads < 1 || threads > kMaxThreads) refuse("threads", "is " + std::to_string(threads));
        start_threads(threads);
        const Precision model = precision_named(precision);
        const Kernels* kernels = kernels_for(tier, model);
        if (kernels == nullptr) refuse("tier", tier + " can't run on this machine");
        context_ = {kernels, model == Precision::kInt8 ? kernels_for(tier, Precision::kBfloat16) : kernels,
                    kernels_for(tier, Precision::kFloat32), threads};
    }

    std::string tier() const { return context_.kernels->tier; }

    // The same context, but that its ops are recorded.
    PyContext recorder(const std::shared_ptr<PyRecording>& recording) const {
        PyContext context = *this;
        context.recording_ = recording;
        return context;
    }

    PackedLinear pack(const py::array& weight, const py::array& bias, bool exact,
                      const std::optional<py::array>& factors) const {
        PackedLinear w = pack_for(exact ? *context_.exact : *context_.kernels, "weight", weight, bias);
        if (factors) w.factors = float_copy("factors", *factors, w.k);
        return w;
    }

    PackedLinear pack_convolution(const py::array& weight, const py::array& bias) const {
        return pack_for(kernels_of_convolution(weight.ndim() == 2 ? weight.shape(1) : 0), "weight", weight, bias);
    }

    PyEmbed pack_embedding(const py::array& kernel, const py::array& bias, const py::array& prefix,
                           const py::array& position, std::int64_t size, std::int64_t frequency_stride,
                           std::int64_t time_stride) const {
        PyEmbed embed(pack_for(*context_.unquantised, "kernel", kernel, bias), prefix, position, size, frequency_stride,
                      time_stride);
        embed.prefix = py::array(prefix.attr("copy")());  // callers may write to theirs
        embed.position = py::array(position.attr("copy")());
        return embed;
    }

    void embed(const py::array& spectrogram, const PyEmbed& w, const py::array& out) const {
        const Matrix x = matrix("spectrogram", spectrogram, sizeof(float), false);
        const Matrix y = matrix("out", out, sizeof(float), true);
        const PatchGrid grid = patch_grid(x.per_clip, x.columns, w.patch_size, w.frequency_stride, w.time_stride);
        if (grid.patches() == 0) {
            refuse("spectrogram", "has shape " + text(shape_of(spectrogram)) + ": too small for a patch");
        }
        const std::int64_t columns = (w.tokens - w.prefix_tokens) / grid.along_mel;  // positions along time
        if (w.prefix_tokens + columns * grid.along_mel != w.tokens || grid.along_time > columns) {
            refuse("spectrogram", "has shape " + text(shape_of(spectrogram)) + ", which makes " +
                                      std::to_string(w.prefix_tokens + grid.patches()) + " tokens, not " +
                                      std::to_string(w.tokens));
        }
        expect_shape("out", out, {x.clips, w.prefix_tokens + grid.patches(), w.projection.n});
        const Patches source{x.as<const float>(), grid.along_time,    grid.patches(),
                             w.patch_size,        w.frequency_stride, w.time_stride};
        perform(
            [context = context_, source, clips = x.clips, &w, columns, y] {
                patch_embed(context, source, clips, w.projection, w.prefix_data(), w.prefix_tokens, w.position_data(),
                            columns, y.as<float>());
            },
            spectrogram, w, out);
    }

    void norm_linear(const py::array& x, const PyNorm& norm, const PackedLinear& w, const py::array& out,
                     bool gelu) const {
        run_norm_linear(x, norm, w, gelu ? Epilogue::kGelu : Epilogue::kActivation, "out", out,
                        context_.kernels->activation_bytes);
    }

    void linear_residual(const py::array& x, const PackedLinear& w, const py::array& residual) const {
        run_linear(x, w, Epilogue::kResidual, "residual", residual);
    }

    void linear(const py::array& x, const PackedLinear& w, const py::array& out) const {
        run_linear(x, w, Epilogue::kFloat32, "out", out);
    }

    void norm_linear_residual(const py::array& x_array, const PyNorm& norm, const PackedLinear& w,
                              const py::array& residual_array) const {
        run_norm_linear(x_array, norm, w, Epilogue::kResidual, "residual", residual_array, sizeof(float));
    }

    void conv_norm(const py::array& x_array, const PackedLinear& w, const PyNorm& norm, const Sizes& grid_sizes,
                   const py::array& out_array, bool gelu) const {
        const Matrix x = matrix("x", x_array, sizeof(float), false),
                     out = matrix("out", out_array, sizeof(float), true);
        const Grid grid = checked_grid(grid_sizes, x.per_clip);
        expect_packed_here(w, kernels_of_convolution(9 * x.columns));
        if (w.k != 9 * x.columns) {
            refuse("x", "has " + std::to_string(x.columns) + " channels, not " + std::to_string(w.k / 9));
        }
        expect_width("norm", norm, w.n);
        expect_shape("out", out_array, {x.clips, grid.halved().positions(), w.n});
        perform(
            [context = context_, x, grid, &w, &norm, gelu, out] {
                astfast::conv_norm(context, {x.as<const float>(), grid, x.columns}, x.clips, w, norm.get(), gelu,
                                   out.as<float>());
            },
            x_array, w, norm, out_array);
    }

    void depthwise_silu(const py::array& x_array, const py::array& weight, const Sizes& grid_sizes,
                        const py::array& out_array) const {
        const Matrix x = matrix("x", x_array, context_.kernels->activation_bytes, false);
        const Matrix out = matrix("out", out_array, context_.kernels->activation_bytes, true);
        const Grid grid = checked_grid(grid_sizes, x.per_clip);
        expect_shape("weight", weight, {9, x.columns});
        expect_shape("out", out_array, shape_of(x_array));
        const Depthwise conv{x.as<const void>(), out.rows, grid, x.columns, contiguous_data("weight", weight, 2)};
        perform([context = context_, conv, clips = x.clips] { astfast::depthwise_silu(context, conv, clips); }, x_array,
                weight, out_array);
    }

    void selective_scan(const py::array& x_array, const py::array& projected_array, const PyScan& w,
                        const Sizes& grid_sizes, const py::array& out_array) const {
        const Matrix x = matrix("x", x_array, context_.kernels->activation_bytes, false);
        const Matrix projected = matrix("projected", projected_array, sizeof(float), false);
        const Matrix out = matrix("out", out_array, sizeof(float), true);
        const Grid grid = checked_grid(grid_sizes, x.per_clip);
        expect_shape("x", x_array, {x.clips, x.per_clip, w.channels});
        expect_shape("projected", projected_array, {x.clips, x.per_clip, 4 * (w.rank + 2)});
        expect_shape("out", out_array, shape_of(x_array));
        const Scan first{x.rows.data,
                         static_cast<const float*>(projected.rows.data),
                         static_cast<float*>(out.rows.data),
                         x.rows.row_stride,
                         projected.rows.row_stride,
                         out.rows.row_stride,
                         grid,
                         w.channels,
                         w.rank,
                         w.weight.data(),
                         w.bias.data(),
                         w.decay.data(),
                         w.skip.data()};
        const ScanStrides strides{x.rows.clip_stride, projected.rows.clip_stride, out.rows.clip_stride};
        perform([context = context_, first, strides,
                 clips = x.clips] { astfast::selective_scan(context, first, strides, clips); },
                x_array, projected_array, w, out_array);
    }

    // `sizes` of this and of pool may be none.
    void attention(const py::array& q_array, const py::array& kv_array, std::int64_t heads, const py::array& out_array,
                   const std::optional<py::array>& sizes_array) const {
        const std::size_t bytes = context_.kernels->activation_bytes;
        const Matrix q = matrix("q", q_array, bytes, false), kv = matrix("kv", kv_array, bytes, false);
        const Matrix out = matrix("out", out_array, bytes, true);
        if (heads < 1 || q.columns % heads != 0) {
            refuse("q",
                   "has " + std::to_string(q.columns) + " columns, no multiple of " + std::to_string(heads) + " heads");
        }
        const std::int64_t head_dim = q.columns / heads;
        if (head_dim > kMaxHeadDim) refuse("q", "has heads of " + std::to_string(head_dim) + ", more than 256");
        expect_shape("kv", kv_array, {q.clips, kv.per_clip, 2 * q.columns});
        expect_shape("out", out_array, shape_of(q_array));
        const TokenSizes sizes = token_sizes(sizes_array, q.clips, kv.per_clip, false);
        const Head first{q.rows.data,
                         kv.rows.data,
                         static_cast<std::byte*>(kv.rows.data) + static_cast<std::size_t>(q.columns) * bytes,
                         out.rows.data,
                         q.rows.row_stride,
                         kv.rows.row_stride,
                         out.rows.row_stride,
                         q.per_clip,
                         kv.per_clip,
                         head_dim};
        const HeadStrides strides{q.rows.clip_stride, kv.rows.clip_stride, out.rows.clip_stride};
        perform([context = context_, first, strides, clips = q.clips, heads,
                 sizes] { astfast::attention(context, first, strides, clips, heads, sizes.data, sizes.stride); },
                q_array, kv_array, out_array, sizes_array);
    }

    // `unmerged`: all sizes are 1, which is written to them first.
    void merge_tokens(const py::array& x_array, const py::array& keys_array, const py::array& sizes_array,
                      std::int64_t heads, std::int64_t count, std::int64_t prefix, bool unmerged) const {
        const Matrix x = matrix("x", x_array, sizeof(float), true);
        const Matrix keys = matrix("keys", keys_array, context_.kernels->activation_bytes, false);
        expect_shape("keys", keys_array, shape_of(x_array));
        const TokenSizes sizes = token_sizes(sizes_array, x.clips, x.per_clip, true);
        if (heads < 1 || x.columns % heads != 0) {
            refuse("x",
                   "has " + std::to_string(x.columns) + " columns, no multiple of " + std::to_string(heads) + " heads");
        }
        if (prefix < 0 || prefix > x.per_clip) refuse("prefix", "is " + std::to_string(prefix));
        if (count < 1 || count > (x.per_clip - prefix) / 2) refuse("count", "is " + std::to_string(count));
        perform(
            [context = context_, x, keys, sizes, heads, count, prefix, unmerged] {
                for (std::int64_t clip = 0; unmerged && clip < x.clips; ++clip) {
                    std::fill_n(sizes.data + clip * sizes.stride, x.per_clip, 1.0f);
                }
                astfast::merge_tokens(context, x.as<float>(), x.columns, x.clips, keys.as<const void>(), heads,
                                      sizes.data, sizes.stride, count, prefix);
            },
            x_array, keys_array, sizes_array);
    }

    void pool(const py::array& x_array, const PyNorm& norm, const py::array& out_array,
              const std::optional<py::array>& sizes_array) const {
        const Matrix x = matrix("x", x_array, sizeof(float), false);
        expect_width("norm", norm, x.columns);
        float* out = contiguous_output("out", out_array, {x.clips, x.columns});
        const TokenSizes sizes = token_sizes(sizes_array, x.clips, x.per_clip, false);
        perform(
            [context = context_, x, &norm, out, sizes] {
                astfast::pool(context, x.as<const float>(), x.clips, norm.get(), out, sizes.data, sizes.stride);
            },
            x_array, norm, out_array, sizes_array);
    }

    // `norm` may be null.
    void head(const py::array& x_array, const PyNorm* norm, const PackedLinear& w, const py::array& out_array) const {
        expect_packed_here(w, *context_.exact);
        const auto* x = static_cast<const float*>(checked_data("x", x_array, 2, 'f', sizeof(float), false));
        const std::int64_t clips = x_array.shape(0);
        expect_shape("x", x_array, {clips, w.k});
        if (norm != nullptr) expect_width("norm", *norm, w.k);
        float* out = contiguous_output("out", out_array, {clips, w.n});
        const auto stride = static_cast<std::int64_t>(x_array.strides(0) / static_cast<py::ssize_t>(sizeof(float)));
        const Rows<void> y{out, 1, w.n, 0};
        perform(
            [context = context_, x, stride, clips, norm, &w, y] {
                if (norm == nullptr) {
                    return astfast::linear(context, {x, 1, stride, 0}, clips, w, Epilogue::kFloat32, y);
                }
                astfast::norm_linear(context, {x, 1, stride, 0}, clips, norm->get(), w, Epilogue::kFloat32, y);
            },
            x_array, norm, w, out_array);
    }

    py::tuple linear_parts(const PackedLinear& w) const { return parts_of(context_, w); }

    PackedLinear linear_of_parts(const std::string& use, std::int64_t n, std::int64_t k, const py::array& panels,
                                 const py::array& bias, const std::optional<py::array>& factors) const {
        return linear_of(context_, use, n, k, panels, bias, factors);
    }

    py::tuple embed_parts(const PyEmbed& w) const { return w.parts(context_); }

    PyEmbed embed_of_parts(const PackedLinear& projection, const py::array& prefix, const py::array& position,
                           std::int64_t size, std::int64_t frequency_stride, std::int64_t time_stride) const {
        return {projection, prefix, position, size, frequency_stride, time_stride};
    }

    template <auto function>
    py::array_t<float> elementwise(const py::array& x) const {
        const auto* data = static_cast<const float*>(checked_data("x", x, 1, 'f', sizeof(float), false));
        py::array_t<float> out(x.shape(0));
        (context_.kernels->*function)(data, x.shape(0), out.mutable_data());
        return out;
    }

  private:
    // Runs an op, or records it; `arguments` as PyRecording::add has them.
    template <class Op, class... Arguments>
    void perform(const Op& op, const Arguments&... arguments) const {
        if (recording_ != nullptr) return recording_->add(op, arguments...);
        const WithoutGil release;
        op();
    }

    void run_norm_linear(const py::array& x_array, const PyNorm& norm, const PackedLinear& w, Epilogue epilogue,
                         const std::string& name, const py::array& out_array, std::size_t bytes) const {
        expect_packed_here(w, *context_.kernels);
        const Matrix x = matrix("x", x_array, sizeof(float), false), out = matrix(name, out_array, bytes, true);
        expect_width("norm", norm, x.columns);
        expect_shape("x", x_array, {x.clips, x.per_clip, w.k});
        expect_shape(name, out_array, {x.clips, x.per_clip, w.n});
        perform(
            [context = context_, x, &norm, &w, epilogue, out] {
                astfast::norm_linear(context, x.as<const float>(), x.count(), norm.get(), w, epilogue, out.rows);
            },
            x_array, norm, w, out_array);
    }

    void run_linear(const py::array& x_array, const PackedLinear& w, Epilogue epilogue, const std::string& name,
                    const py::array& out_array) const {
        expect_packed_here(w, *context_.kernels);
        const Matrix x = matrix("x", x_array, context_.kernels->activation_bytes, false);
        const Matrix out = matrix(name, out_array, sizeof(float), true);
        expect_shape("x", x_array, {x.clips, x.per_clip, w.k});
        expect_shape(name, out_array, {x.clips, x.per_clip, w.n});
        perform([context = context_, x, &w, epilogue,
                 out] { astfast::linear(context, x.as<const void>(), x.count(), w, epilogue, out.rows); },
                x_array, w, out_array);
    }

    // A spectrogram, an image of one channel, is not quantised.
    const Kernels& kernels_of_convolution(std::int64_t k) const {
        return k == 9 ? *context_.unquantised : *context_.kernels;
    }

    PackedLinear pack_for(const Kernels& kernels, const std::string& name, const py::array& weight,
                          const py::array& bias) const {
        const auto* w = static_cast<const float*>(checked_data(name, weight, 2, 'f', sizeof(float), false));
        const float* b = float_vector("bias", bias, weight.shape(0));
        const std::int64_t n = weight.shape(0), k = weight.shape(1);
        const auto stride = static_cast<std::int64_t>(weight.strides(0) / static_cast<py::ssize_t>(sizeof(float)));
        const WithoutGil release;
        return pack_linear(context_, kernels, w, stride, b, n, k);
    }

    static void expect_width(const std::string& name, const PyNorm& norm, std::int64_t width) {
        const auto size = static_cast<std::int64_t>(norm.weight.size());
        if (size != width) refuse(name, "is over " + std::to_string(size) + " columns, not " + std::to_string(width));
    }

    static void expect_packed_here(const PackedLinear& w, const Kernels& kernels) {
        if (w.kernels != &kernels)
            refuse("w", std::string("was packed for ") + w.kernels->tier + " or another precision");
    }

    ComputeContext context_;
    std::shared_ptr<PyRecording> recording_;  // of the ops; null where they run
};

}  // namespace astfast
