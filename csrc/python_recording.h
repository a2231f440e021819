// Ops of a context that are run by one call, as a CUDA graph is: where each op is a call of its own, its thread has to
// get the GIL back after each of them. Included by bindings.cpp only.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "python_arguments.h"

namespace astfast {

class PyRecording {
  public:
    // `step` reads and writes the memory of `arguments`: arrays, packed weights, or none.
    template <class Step, class... Arguments>
    void add(const Step& step, const Arguments&... arguments) {
        (keep(arguments), ...);
        steps_.emplace_back(step);
    }

    // input = x, of its shape, if it is not that array itself; then all steps.
    void replay(const py::array& x, const py::array& input) const {
        expect_shape("x", x, shape_of(input));
        const float* from = contiguous_data("x", x, x.ndim());
        float* to = contiguous_output("input", input, shape_of(input));
        const auto size = x.size();
        const WithoutGil release;
        if (from != to) std::copy_n(from, size, to);
        for (const auto& step : steps_) step();
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
