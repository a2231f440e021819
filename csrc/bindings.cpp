// The only file that sees Python: checks shapes, dtypes and strides, since the kernels read raw pointers, and releases
// the GIL while they run. A wrong argument raises ValueError naming it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "exit_gate.h"
#include "log_mel.h"
#include "memory.h"
#include "ops.h"
#include "parallel.h"
#include "tiers.h"

namespace py = pybind11;

namespace astfast {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

using Shape = std::vector<std::int64_t>;
using WithoutGil = BeyondGate<py::gil_scoped_release>;

[[noreturn]] void refuse(const std::string& name, const std::string& problem) {
    throw py::value_error(name + " " + problem);
}

std::string text(const Shape& shape) {
    std::string s;
    for (const std::int64_t size : shape) s += (s.empty() ? "" : ", ") + std::to_string(size);
    return "[" + s + "]";
}

Shape shape_of(const py::array& array) {
    return {array.shape(), array.shape() + array.ndim()};
}

void expect_shape(const std::string& name, const py::array& array, const Shape& shape) {
    if (shape_of(array) != shape) refuse(name, "has shape " + text(shape_of(array)) + ", not " + text(shape));
}

// Address of an array of `bytes`-long elements of this kind ('f' or 'u') whose last dimension is contiguous.
void* checked_data(const std::string& name, const py::array& array, py::ssize_t ndim, char kind, std::size_t bytes,
                   bool written) {
    const auto size = static_cast<py::ssize_t>(bytes);
    if (array.ndim() != ndim)
        refuse(name, "has " + std::to_string(array.ndim()) + " dimensions, not " + std::to_string(ndim));
    if (array.dtype().kind() != kind || array.itemsize() != size || array.dtype().byteorder() == '>') {
        refuse(name, "is " + py::str(array.dtype()).cast<std::string>() + ", not " + (kind == 'u' ? "uint" : "float") +
                         std::to_string(8 * size));
    }
    if (written && !array.writeable()) refuse(name, "is read-only");
    for (py::ssize_t i = 0; i < ndim; ++i) {
        if (array.shape(i) < 1) refuse(name, "is empty: shape " + text(shape_of(array)));
        if (array.shape(i) > 1 && (array.strides(i) < 0 || array.strides(i) % size != 0)) {
            refuse(name, "has a stride of " + std::to_string(array.strides(i)) + " bytes");
        }
    }
    if (array.shape(ndim - 1) > 1 && array.strides(ndim - 1) != size)
        refuse(name, "is not contiguous in its last dimension");
    void* data = const_cast<void*>(array.data());
    if (reinterpret_cast<std::uintptr_t>(data) % bytes != 0) refuse(name, "is not aligned");
    return data;
}

const float* float_vector(const std::string& name, const py::array& array, std::int64_t size) {
    expect_shape(name, array, {size});
    return static_cast<const float*>(checked_data(name, array, 1, 'f', sizeof(float), false));
}

// [clips, per_clip, columns] as rows.
struct Matrix {
    Rows<void> rows;
    std::int64_t clips, per_clip, columns;

    std::int64_t count() const { return clips * per_clip; }
    template <class T>
    Rows<T> as() const {
        return {static_cast<T*>(rows.data), rows.per_clip, rows.clip_stride, rows.row_stride};
    }
};

Matrix matrix(const std::string& name, const py::array& array, std::size_t bytes, bool written) {
    void* data = checked_data(name, array, 3, bytes == 2 ? 'u' : 'f', bytes, written);
    const auto size = static_cast<std::int64_t>(bytes);
    return {{data, array.shape(1), array.strides(0) / size, array.strides(1) / size},
            array.shape(0),
            array.shape(1),
            array.shape(2)};
}

struct PyNorm {
    std::vector<float> weight, bias;
    float eps;

    PyNorm(const py::array& weight_array, const py::array& bias_array, float eps_value) : eps(eps_value) {
        const std::int64_t width = weight_array.size();
        const float* w = float_vector("weight", weight_array, width);
        const float* b = float_vector("bias", bias_array, width);
        weight.assign(w, w + width);
        bias.assign(b, b + width);
    }
    Norm get() const { return {weight.data(), bias.data(), eps, static_cast<std::int64_t>(weight.size())}; }
};

struct PyEmbed {
    PackedLinear projection;
    std::vector<float> prefix, position;  // [P, D], [T, D]
    std::int64_t prefix_tokens, tokens, patch_size, frequency_stride, time_stride;
};

Precision precision_named(const std::string& name) {
    if (name == "float32") return Precision::kFloat32;
    if (name == "bfloat16") return Precision::kBfloat16;
    if (name == "int8") return Precision::kInt8;
    refuse("precision", name + " is unknown");
}

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

    PackedLinear pack(const py::array& weight, const py::array& bias, bool exact) const {
        return pack_for(exact ? *context_.exact : *context_.kernels, "weight", weight, bias);
    }

    PyEmbed pack_embedding(const py::array& kernel, const py::array& bias, const py::array& prefix,
                           const py::array& position, std::int64_t size, std::int64_t frequency_stride,
                           std::int64_t time_stride) const {
        if (size < 1 || frequency_stride < 1 || time_stride < 1) refuse("patch size or stride", "is below 1");
        PyEmbed embed{pack_for(*context_.unquantised, "kernel", kernel, bias),
                      {},
                      {},
                      prefix.ndim() == 2 ? prefix.shape(0) : 0,
                      position.ndim() == 2 ? position.shape(0) : 0,
                      size,
                      frequency_stride,
                      time_stride};
        const std::int64_t n = embed.projection.n;
        if (embed.projection.k != size * size)
            refuse("kernel",
                   "has " + std::to_string(embed.projection.k) + " columns, not " + std::to_string(size * size));
        expect_shape("prefix", prefix, {embed.prefix_tokens, n});
        expect_shape("position", position, {embed.tokens, n});
        if (embed.tokens <= embed.prefix_tokens) {
            refuse("position", "has " + std::to_string(embed.tokens) + " rows, none for a patch after those of the " +
                                   std::to_string(embed.prefix_tokens) + " prefix tokens");
        }
        if (embed.prefix_tokens > 0) embed.prefix = contiguous_floats("prefix", prefix);
        embed.position = contiguous_floats("position", position);
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
        const WithoutGil release;
        patch_embed(context_, source, x.clips, w.projection, w.prefix.data(), w.prefix_tokens, w.position.data(),
                    columns, y.as<float>());
    }

    void norm_linear(const py::array& x_array, const PyNorm& norm, const PackedLinear& w, const py::array& out_array,
                     bool gelu) const {
        expect_packed_here(w, *context_.kernels);
        const Matrix x = matrix("x", x_array, sizeof(float), false);
        const Matrix out = matrix("out", out_array, context_.kernels->activation_bytes, true);
        expect_width("norm", norm, x.columns);
        expect_shape("x", x_array, {x.clips, x.per_clip, w.k});
        expect_shape("out", out_array, {x.clips, x.per_clip, w.n});
        const WithoutGil release;
        astfast::norm_linear(context_, x.as<const float>(), x.count(), norm.get(), w,
                             gelu ? Epilogue::kGelu : Epilogue::kActivation, out.rows);
    }

    void linear_residual(const py::array& x_array, const PackedLinear& w, const py::array& residual_array) const {
        expect_packed_here(w, *context_.kernels);
        const Matrix x = matrix("x", x_array, context_.kernels->activation_bytes, false);
        const Matrix residual = matrix("residual", residual_array, sizeof(float), true);
        expect_shape("x", x_array, {x.clips, x.per_clip, w.k});
        expect_shape("residual", residual_array, {x.clips, x.per_clip, w.n});
        const WithoutGil release;
        astfast::linear_residual(context_, x.as<const void>(), x.count(), w, residual.rows);
    }

    void attention(const py::array& q_array, const py::array& kv_array, std::int64_t heads,
                   const py::array& out_array) const {
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
        const WithoutGil release;
        astfast::attention(context_, first, strides, q.clips, heads);
    }

    void pool(const py::array& x_array, const PyNorm& norm, const py::array& out_array) const {
        const Matrix x = matrix("x", x_array, sizeof(float), false);
        expect_width("norm", norm, x.columns);
        float* out = contiguous_output(out_array, {x.clips, x.columns});
        const WithoutGil release;
        astfast::pool(context_, x.as<const float>(), x.clips, norm.get(), out);
    }

    void head(const py::array& x_array, const PyNorm& norm, const PackedLinear& w, const py::array& out_array) const {
        expect_packed_here(w, *context_.exact);
        const auto* x = static_cast<const float*>(checked_data("x", x_array, 2, 'f', sizeof(float), false));
        const std::int64_t clips = x_array.shape(0);
        expect_shape("x", x_array, {clips, w.k});
        expect_width("norm", norm, w.k);
        float* out = contiguous_output(out_array, {clips, w.n});
        const auto stride = static_cast<std::int64_t>(x_array.strides(0) / static_cast<py::ssize_t>(sizeof(float)));
        const WithoutGil release;
        astfast::norm_linear(context_, {x, 1, stride, 0}, clips, norm.get(), w, Epilogue::kFloat32, {out, 1, w.n, 0});
    }

    template <auto function>
    py::array_t<float> elementwise(const py::array& x) const {
        const auto* data = static_cast<const float*>(checked_data("x", x, 1, 'f', sizeof(float), false));
        py::array_t<float> out(x.shape(0));
        (context_.kernels->*function)(data, x.shape(0), out.mutable_data());
        return out;
    }

  private:
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

    static std::vector<float> contiguous_floats(const std::string& name, const py::array& array) {
        const auto* data = static_cast<const float*>(checked_data(name, array, 2, 'f', sizeof(float), false));
        if ((array.flags() & py::array::c_style) == 0) refuse(name, "is not contiguous");
        return {data, data + array.size()};
    }

    static float* contiguous_output(const py::array& out, const Shape& shape) {
        expect_shape("out", out, shape);
        void* data = checked_data("out", out, static_cast<py::ssize_t>(shape.size()), 'f', sizeof(float), true);
        if ((out.flags() & py::array::c_style) == 0) refuse("out", "is not contiguous");
        return static_cast<float*>(data);
    }

    ComputeContext context_;
};

// The front end of one model on one tier.
class PyLogMel {
  public:
    PyLogMel(const std::string& tier, int frame_length, int frame_shift, int fft_length, int num_mel_bins,
             double pre_emphasis, double floor, double shift, double scale, const py::array& window,
             const py::array& filters, const std::string& edges, double signal_emphasis, double addend)
        : kernel_(kernel_of(tier)),
          log_mel_({frame_length, frame_shift, fft_length, num_mel_bins, pre_emphasis, floor, shift, scale,
                    edges_named(edges), signal_emphasis, addend},
                   table("window", window, {frame_length}),
                   table("filters", filters, {num_mel_bins, fft_length / 2 + 1})) {}

    void run(const std::vector<py::array>& waves, const py::array& out, int threads) const {
        const Matrix y = matrix("out", out, sizeof(float), true);
        expect_shape("out", out, {static_cast<std::int64_t>(waves.size()), y.per_clip, log_mel_.tables().num_mel_bins});
        if ((out.flags() & py::array::c_style) == 0) refuse("out", "is not contiguous");
        if (threads < 1 || threads > kMaxThreads) refuse("threads", "is " + std::to_string(threads));
        std::vector<const float*> data;
        std::vector<std::int64_t> lengths;
        for (std::size_t i = 0; i < waves.size(); ++i) {
            const std::string name = "waves[" + std::to_string(i) + "]";
            data.push_back(static_cast<const float*>(checked_data(name, waves[i], 1, 'f', sizeof(float), false)));
            lengths.push_back(waves[i].shape(0));
        }
        const WithoutGil release;
        log_mel_.run(kernel_, data.data(), lengths.data(), y.clips, y.per_clip, static_cast<float*>(y.rows.data),
                     threads);
    }

  private:
    static const LogMelKernel& kernel_of(const std::string& tier) {
        const LogMelKernel* kernel = log_mel_kernel_for(tier);
        if (kernel == nullptr) refuse("tier", tier + " can't run on this machine");
        return *kernel;
    }

    static const double* table(const std::string& name, const py::array& array, const Shape& shape) {
        expect_shape(name, array, shape);
        if ((array.flags() & py::array::c_style) == 0) refuse(name, "is not contiguous");
        return static_cast<const double*>(
            checked_data(name, array, static_cast<py::ssize_t>(shape.size()), 'f', sizeof(double), false));
    }

    const LogMelKernel& kernel_;
    LogMel log_mel_;
};

}  // namespace

PYBIND11_MODULE(_native, m) {
    m.doc() = "Kernels and thread pool of the CPU backend. astfast.backends.cpu is the only user.";
    const py::cpp_function at_exit(&shut_exit_gate, py::call_guard<py::gil_scoped_release>());
    py::module_::import("atexit").attr("register")(at_exit);
    m.def("available_threads", &available_threads);
    m.def("empty", [](std::size_t bytes) {
        auto memory = std::make_unique<Memory>(allocate(bytes));
        auto* const start = reinterpret_cast<std::uint8_t*>(memory->get());
        const py::capsule owner(memory.release(), [](void* p) { delete static_cast<Memory*>(p); });
        return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(bytes), start, owner);
    });
    m.def("tiers", [] {
        std::vector<std::pair<std::string, std::string>> names;
        for (const Tier& tier : tiers()) names.emplace_back(tier.name, tier.missing);
        return names;
    });
    py::class_<PackedLinear>(m, "PackedLinear");
    py::class_<PyEmbed>(m, "PackedEmbed");
    py::class_<PyNorm>(m, "PackedNorm")
        .def(py::init<const py::array&, const py::array&, float>(), py::arg("weight"), py::arg("bias"), py::arg("eps"));
    py::class_<PyContext>(m, "ComputeContext")
        .def(py::init<const std::string&, const std::string&, int>(), py::arg("tier"), py::arg("precision"),
             py::arg("threads"))
        .def_property_readonly("tier", &PyContext::tier)
        .def("pack_linear", &PyContext::pack, py::arg("weight"), py::arg("bias"), py::arg("exact") = false)
        .def("pack_embed", &PyContext::pack_embedding, py::arg("kernel"), py::arg("bias"), py::arg("prefix"),
             py::arg("position"), py::arg("patch_size"), py::arg("frequency_stride"), py::arg("time_stride"))
        .def("patch_embed", &PyContext::embed)
        .def("norm_linear", &PyContext::norm_linear)
        .def("linear_residual", &PyContext::linear_residual)
        .def("attention", &PyContext::attention)
        .def("pool", &PyContext::pool)
        .def("head", &PyContext::head)
        .def("exp", &PyContext::elementwise<&Kernels::exp>)
        .def("gelu", &PyContext::elementwise<&Kernels::gelu>);
    py::class_<PyLogMel>(m, "LogMel")
        .def(py::init<const std::string&, int, int, int, int, double, double, double, double, const py::array&,
                      const py::array&, const std::string&, double, double>(),
             py::arg("tier"), py::arg("frame_length"), py::arg("frame_shift"), py::arg("fft_length"),
             py::arg("num_mel_bins"), py::arg("pre_emphasis"), py::arg("floor"), py::arg("shift"), py::arg("scale"),
             py::arg("window"), py::arg("filters"), py::arg("edges") = "whole_frames", py::arg("signal_emphasis") = 0.0,
             py::arg("addend") = 0.0)
        .def("run", &PyLogMel::run, py::arg("waves"), py::arg("out"), py::arg("threads"));
}

}  // namespace astfast
