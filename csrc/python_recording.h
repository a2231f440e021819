// Ops of a context that are run by one call, as a CUDA graph is: where each op is a call of its own, its thread has to
// get the GIL back after each of them. Included by bindings.cpp only.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <vector>

#include "python_arguments.h"

namespace astfast {

constexpr auto kDeafTime = std::chrono::milliseconds(100);  // that a signal may have to wait, and the step under way

class PyRecording {
  public:
    // `step` reads and writes the memory of `arguments`: arrays, packed weights, or none.
    template <class Step, class... Arguments>
    void add(const Step& step, const Arguments&... arguments) {
        (keep(arguments), ...);
        steps_.emplace_back(step);
    }

    // input = x, of its shape, if it is not that array itself; then all steps, with a look at signals (such as Ctrl-C)
    // every now and then.
    void replay(const py::array& x, const py::array& input) const {
        expect_shape("x", x, shape_of(input));
        const float* from = contiguous_data("x", x, x.ndim());
        float* to = contiguous_output("input", input, shape_of(input));
        if (from != to) std::copy_n(from, x.size(), to);
        for (auto step = steps_.begin(); step != steps_.end();) {
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();
            const WithoutGil release;
            const auto end = std::chrono::steady_clock::now() + kDeafTime;
            do {
                (*step)();
            } while (++step != steps_.end() && std::chrono::steady_clock::now() < end);
        }
    }

  private:
    void keep(const py::array& array) { kept_.push_back(array); }
    void keep(const std::optional<py::array>& array) {
        if (array) keep(*array);
    }
    template <class Packed>
    void keep(const Packed* weights) {
        if (weights != nullptr) keep(*weights);
    }
    template <class Packed>
    void keep(const Packed& weights) {
        kept_.push_back(py::cast(&weights, py::return_value_policy::reference));  // the object that holds them
    }

    std::vector<std::function<void()>> steps_;
    std::vector<py::object> kept_;
};

}  // namespace astfast
