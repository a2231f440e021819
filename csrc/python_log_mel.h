// The log-mel front end as Python holds it. Included by bindings.cpp only.
#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "log_mel.h"
#include "parallel.h"
#include "python_arguments.h"
#include "tiers.h"

namespace astfast {

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

}  // namespace astfast
