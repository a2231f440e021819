// Packed weights as Python holds them, and their parts: numbers and arrays from which they are made again without
// packing, such as arrays over a file that several processes map. Included by bindings.cpp only.
#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ops.h"
#include "python_arguments.h"

namespace astfast {

struct PyNorm {
    std::vector<float> weight, bias;
    float eps;

    PyNorm(const py::array& weight_array, const py::array& bias_array, float eps_value) : eps(eps_value) {
        const std::int64_t width = weight_array.size();
        weight = float_copy("weight", weight_array, width);
        bias = float_copy("bias", bias_array, width);
    }
    Norm get() const { return {weight.data(), bias.data(), eps, static_cast<std::int64_t>(weight.size())}; }
    py::tuple parts() const { return py::make_tuple(array_of(weight), array_of(bias), eps); }
};

// Weights of a selective scan, as kernels.h has them.
struct PyScan {
    std::int64_t channels, rank;
    std::vector<float> weight, bias, decay, skip;

    PyScan(const py::array& weight_array, const py::array& bias_array, const py::array& decay_array,
           const py::array& skip_array)
        : channels(skip_array.size()), rank(weight_array.ndim() == 3 ? weight_array.shape(1) : 0) {
        expect_shape("skip", skip_array, {channels});
        expect_shape("weight", weight_array, {4, rank, channels});
        expect_shape("bias", bias_array, {4, channels});
        expect_shape("decay", decay_array, {4, channels});
        weight = contiguous_floats("weight", weight_array);
        bias = contiguous_floats("bias", bias_array);
        decay = contiguous_floats("decay", decay_array);
        skip = contiguous_floats("skip", skip_array);
    }
    py::tuple parts() const {
        return py::make_tuple(array_of(weight).reshape({std::int64_t{4}, rank, channels}),
                              array_of(bias).reshape({std::int64_t{4}, channels}),
                              array_of(decay).reshape({std::int64_t{4}, channels}), array_of(skip));
    }
};

// Kernels that a layer was packed for, by its part in the context of a model.
inline const Kernels* kernels_of_use(const ComputeContext& context, const std::string& use) {
    if (use == "model") return context.kernels;
    if (use == "unquantised") return context.unquantised;
    if (use == "exact") return context.exact;
    refuse("use", use + " is unknown");
}

inline std::string use_of(const ComputeContext& context, const PackedLinear& w) {
    for (const char* use : {"model", "unquantised", "exact"}) {
        if (w.kernels == kernels_of_use(context, use)) return use;
    }
    refuse("w", std::string("was packed for ") + w.kernels->tier + " or another precision");
}

// The parts: use, n, k, panels as bytes, bias, factors or None. The array of bytes keeps the memory alive.
inline py::tuple parts_of(const ComputeContext& context, const PackedLinear& w) {
    const py::capsule owner(new SharedMemory(w.panels), [](void* p) { delete static_cast<SharedMemory*>(p); });
    const auto bytes = static_cast<py::ssize_t>(panels_bytes(*w.kernels, w.n, w.k));
    const py::array_t<std::uint8_t> panels(bytes, reinterpret_cast<const std::uint8_t*>(w.panels.get()), owner);
    const py::object factors = w.factors.empty() ? py::none() : py::object(array_of(w.factors));
    return py::make_tuple(use_of(context, w), w.n, w.k, panels, array_of(w.bias), factors);
}

// The layer of these parts. The panels are read where they are: the layer keeps their array.
inline PackedLinear linear_of(const ComputeContext& context, const std::string& use, std::int64_t n, std::int64_t k,
                              const py::array& panels, const py::array& bias, const std::optional<py::array>& factors) {
    const Kernels& kernels = *kernels_of_use(context, use);
    constexpr std::int64_t kMost = std::int64_t{1} << 24;
    if (n < 1 || k < 1 || n > kMost || k > kMost) refuse("n or k", "is " + text({n, k}));
    expect_shape("panels", panels, {static_cast<std::int64_t>(panels_bytes(kernels, n, k))});
    const auto* data = static_cast<const std::byte*>(checked_data("panels", panels, 1, 'u', 1, false));
    if (reinterpret_cast<std::uintptr_t>(data) % 64 != 0) refuse("panels", "does not start at a cache line");
    PackedLinear w{&kernels, n, k, SharedMemory(data, [panels](const std::byte*) {}), float_copy("bias", bias, n), {}};
    if (factors) w.factors = float_copy("factors", *factors, k);
    return w;
}

struct PyEmbed {
    PackedLinear projection;
    py::array prefix, position;  // [P, D], [T, D] float32
    std::int64_t prefix_tokens, tokens, patch_size, frequency_stride, time_stride;

    // Keeps both arrays, which nobody may write to.
    PyEmbed(PackedLinear projection_, const py::array& prefix_, const py::array& position_, std::int64_t size,
            std::int64_t frequency_stride_, std::int64_t time_stride_)
        : projection(std::move(projection_)),
          prefix(prefix_),
          position(position_),
          prefix_tokens(prefix.ndim() == 2 ? prefix.shape(0) : 0),
          tokens(position.ndim() == 2 ? position.shape(0) : 0),
          patch_size(size),
          frequency_stride(frequency_stride_),
          time_stride(time_stride_) {
        if (size < 1 || frequency_stride < 1 || time_stride < 1) refuse("patch size or stride", "is below 1");
        const std::int64_t n = projection.n;
        if (projection.k != size * size)
            refuse("kernel", "has " + std::to_string(projection.k) + " columns, not " + std::to_string(size * size));
        expect_shape("prefix", prefix, {prefix_tokens, n});
        expect_shape("position", position, {tokens, n});
        if (tokens <= prefix_tokens) {
            refuse("position", "has " + std::to_string(tokens) + " rows, none for a patch after those of the " +
                                   std::to_string(prefix_tokens) + " prefix tokens");
        }
        if (prefix_tokens > 0) contiguous_data("prefix", prefix, 2);
        contiguous_data("position", position, 2);
    }

    const float* prefix_data() const { return static_cast<const float*>(prefix.data()); }
    const float* position_data() const { return static_cast<const float*>(position.data()); }

    py::tuple parts(const ComputeContext& context) const {
        return py::make_tuple(parts_of(context, projection), prefix, position, patch_size, frequency_stride,
                              time_stride);
    }
};

}  // namespace astfast
