// The Python module: arguments are checked by python_arguments.h, the GIL is released while kernels run.
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "checksum.h"
#include "exit_gate.h"
#include "memory.h"
#include "ops.h"
#include "parallel.h"
#include "python_arguments.h"
#include "python_context.h"
#include "python_log_mel.h"
#include "python_recording.h"
#include "python_weights.h"
#include "tiers.h"

namespace astfast {

PYBIND11_MODULE(_native, m) {
    m.attr("stub_crc32") = ASTFAST_STUB_CRC32;
    m.doc() = "Kernels and thread pool of the CPU backend. astfast.backends.cpu is the only user.";
    const py::cpp_function at_exit(&shut_exit_gate, py::call_guard<py::gil_scoped_release>());
    py::module_::import("atexit").attr("register")(at_exit);
    m.def("available_threads", &available_threads);
    m.def("own_pool", [](const std::vector<int>& cpus) {
        const auto in_range = [](int cpu) { return cpu >= 0 && cpu <= kMaxThreads; };
        if (cpus.empty() || !std::all_of(cpus.begin(), cpus.end(), in_range)) refuse("cpus", "are no CPUs");
        own_pool(cpus);
    });
    m.def("empty", [](std::size_t bytes) {
        auto memory = std::make_unique<Memory>(allocate(bytes));
        auto* const start = reinterpret_cast<std::uint8_t*>(memory->get());
        const py::capsule owner(memory.release(), [](void* p) { delete static_cast<Memory*>(p); });
        return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(bytes), start, owner);
    });
    m.def("release_freed_memory", &release_freed_memory, py::call_guard<py::gil_scoped_release>());
    m.def("checksum", [](const py::buffer& bytes, int threads) {
        const py::buffer_info info = bytes.request();
        if (info.ndim != 1 || info.itemsize != 1 || info.strides[0] != 1) refuse("bytes", "is no row of bytes");
        if (threads < 1 || threads > kMaxThreads) refuse("threads", "is " + std::to_string(threads));
        const WithoutGil release;
        return checksum(static_cast<const std::byte*>(info.ptr), static_cast<std::size_t>(info.size), threads);
    });
    m.def("tiers", [] {
        std::vector<std::pair<std::string, std::string>> names;
        for (const Tier& tier : tiers()) names.emplace_back(tier.name, tier.missing);
        return names;
    });
    py::class_<PackedLinear>(m, "PackedLinear");
    py::class_<PyEmbed>(m, "PackedEmbed");
    py::class_<PyNorm>(m, "PackedNorm")
        .def(py::init<const py::array&, const py::array&, float>(), py::arg("weight"), py::arg("bias"), py::arg("eps"))
        .def("parts", &PyNorm::parts);
    py::class_<PyScan>(m, "PackedScan")
        .def(py::init<const py::array&, const py::array&, const py::array&, const py::array&>(), py::arg("weight"),
             py::arg("bias"), py::arg("decay"), py::arg("skip"))
        .def("parts", &PyScan::parts);
    py::class_<PyRecording, std::shared_ptr<PyRecording>>(m, "Recording")
        .def(py::init<>())
        .def("replay", &PyRecording::replay);
    py::class_<PyContext>(m, "ComputeContext")
        .def(py::init<const std::string&, const std::string&, int>(), py::arg("tier"), py::arg("precision"),
             py::arg("threads"))
        .def_property_readonly("tier", &PyContext::tier)
        .def("recorder", &PyContext::recorder)
        .def("pack_linear", &PyContext::pack, py::arg("weight"), py::arg("bias"), py::arg("exact") = false,
             py::arg("factors") = py::none())
        .def("pack_embed", &PyContext::pack_embedding, py::arg("kernel"), py::arg("bias"), py::arg("prefix"),
             py::arg("position"), py::arg("patch_size"), py::arg("frequency_stride"), py::arg("time_stride"))
        .def("linear_parts", &PyContext::linear_parts)
        .def("linear_of_parts", &PyContext::linear_of_parts)
        .def("embed_parts", &PyContext::embed_parts)
        .def("embed_of_parts", &PyContext::embed_of_parts)
        .def("patch_embed", &PyContext::embed)
        .def("norm_linear", &PyContext::norm_linear)
        .def("pack_convolution", &PyContext::pack_convolution, py::arg("weight"), py::arg("bias"))
        .def("linear_residual", &PyContext::linear_residual)
        .def("linear", &PyContext::linear)
        .def("norm_linear_residual", &PyContext::norm_linear_residual)
        .def("conv_norm", &PyContext::conv_norm)
        .def("depthwise_silu", &PyContext::depthwise_silu)
        .def("selective_scan", &PyContext::selective_scan)
        .def("attention", &PyContext::attention, py::arg("q"), py::arg("kv"), py::arg("heads"), py::arg("out"),
             py::arg("sizes") = py::none())
        .def("merge_tokens", &PyContext::merge_tokens, py::arg("x"), py::arg("keys"), py::arg("sizes"),
             py::arg("heads"), py::arg("count"), py::arg("prefix"), py::arg("unmerged") = false)
        .def("pool", &PyContext::pool, py::arg("x"), py::arg("norm"), py::arg("out"), py::arg("sizes") = py::none())
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
