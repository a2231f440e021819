// Checks of the arrays that Python passes: shapes, dtypes and strides, since the kernels read raw pointers. A wrong
// argument raises ValueError naming it. Included by bindings.cpp only.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exit_gate.h"
#include "kernels.h"

namespace py = pybind11;

namespace astfast {

using WithoutGil = BeyondGate<py::gil_scoped_release>;
using Shape = std::vector<std::int64_t>;

[[noreturn]] inline void refuse(const std::string& name, const std::string& problem) {
    throw py::value_error(name + " " + problem);
}

inline std::string text(const Shape& shape) {
    std::string s;
    for (const std::int64_t size : shape) s += (s.empty() ? "" : ", ") + std::to_string(size);
    return "[" + s + "]";
}

inline Shape shape_of(const py::array& array) {
    return {array.shape(), array.shape() + array.ndim()};
}

inline void expect_shape(const std::string& name, const py::array& array, const Shape& shape) {
    if (shape_of(array) != shape) refuse(name, "has shape " + text(shape_of(array)) + ", not " + text(shape));
}

// Address of an array of `bytes`-long elements of this kind ('f' or 'u') whose last dimension is contiguous.
inline void* checked_data(const std::string& name, const py::array& array, py::ssize_t ndim, char kind,
                          std::size_t bytes, bool written) {
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

inline const float* float_vector(const std::string& name, const py::array& array, std::int64_t size) {
    expect_shape(name, array, {size});
    return static_cast<const float*>(checked_data(name, array, 1, 'f', sizeof(float), false));
}

inline std::vector<float> float_copy(const std::string& name, const py::array& array, std::int64_t size) {
    const float* data = float_vector(name, array, size);
    return {data, data + size};
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

inline Matrix matrix(const std::string& name, const py::array& array, std::size_t bytes, bool written) {
    void* data = checked_data(name, array, 3, bytes == 2 ? 'u' : 'f', bytes, written);
    const auto size = static_cast<std::int64_t>(bytes);
    return {{data, array.shape(1), array.strides(0) / size, array.strides(1) / size},
            array.shape(0),
            array.shape(1),
            array.shape(2)};
}

// Sizes of merged tokens [clips, tokens], rows `stride` elements apart; null where there are none.
struct TokenSizes {
    float* data;
    std::int64_t stride;
};

inline TokenSizes token_sizes(const std::optional<py::array>& array, std::int64_t clips, std::int64_t tokens,
                              bool written) {
    if (!array) return {nullptr, 0};
    expect_shape("sizes", *array, {clips, tokens});
    auto* const data = static_cast<float*>(checked_data("sizes", *array, 2, 'f', sizeof(float), written));
    return {data, static_cast<std::int64_t>(array->strides(0) / static_cast<py::ssize_t>(sizeof(float)))};
}

inline py::array_t<float> array_of(const std::vector<float>& values) {
    return py::array_t<float>(static_cast<py::ssize_t>(values.size()), values.data());
}

inline const float* contiguous_data(const std::string& name, const py::array& array, py::ssize_t ndim) {
    const void* data = checked_data(name, array, ndim, 'f', sizeof(float), false);
    if ((array.flags() & py::array::c_style) == 0) refuse(name, "is not contiguous");
    return static_cast<const float*>(data);
}

inline std::vector<float> contiguous_floats(const std::string& name, const py::array& array) {
    const float* data = contiguous_data(name, array, array.ndim());
    return {data, data + array.size()};
}

using Sizes = std::pair<std::int64_t, std::int64_t>;  // rows, columns

inline Grid checked_grid(const Sizes& sizes, std::int64_t tokens) {
    const Grid grid{sizes.first, sizes.second};
    if (grid.rows < 1 || grid.columns < 1 || grid.rows > tokens || grid.positions() != tokens) {
        refuse("grid", "is " + text({grid.rows, grid.columns}) + " for " + std::to_string(tokens) + " tokens");
    }
    return grid;
}

inline float* contiguous_output(const std::string& name, const py::array& out, const Shape& shape) {
    expect_shape(name, out, shape);
    void* data = checked_data(name, out, static_cast<py::ssize_t>(shape.size()), 'f', sizeof(float), true);
    if ((out.flags() & py::array::c_style) == 0) refuse(name, "is not contiguous");
    return static_cast<float*>(data);
}

}  // namespace astfast
