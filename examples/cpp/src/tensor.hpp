// Tensors in memory: all that graphs take and give, rows first.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

using Shape = std::vector<int64_t>;
using Floats = std::vector<float>;
using Integers = std::vector<int64_t>;

/// How many values a shape has.
int64_t count(const Shape& shape);

/// A shape as '2x16x6x6'.
std::string as_text(const Shape& shape);

/// Values of a shape, row by row: f32, or i64 for token ids and masks.
struct Tensor {
    Shape shape;
    std::variant<Floats, Integers> values;

    Floats& floats() { return std::get<Floats>(values); }
    const Floats& floats() const { return std::get<Floats>(values); }
    bool is_float() const { return std::holds_alternative<Floats>(values); }
};

using Tensors = std::map<std::string, Tensor>;

Tensor zeros(const Shape& shape);

/// The first `rows` rows, or all where there are no more.
Tensor first_rows(const Tensor& tensor, int64_t rows);

/// The rows of `first`, then those of `second`.
Tensor joined(const Tensor& first, const Tensor& second);

/// How many values are NaN or infinite.
int64_t not_finite(const Tensor& tensor);
