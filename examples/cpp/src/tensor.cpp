#include "tensor.hpp"

#include <algorithm>
#include <cmath>

int64_t count(const Shape& shape) {
    int64_t product = 1;
    for (int64_t size : shape) product *= size;
    return product;
}

std::string as_text(const Shape& shape) {
    std::string text;
    for (int64_t size : shape) {
        if (!text.empty()) text += 'x';
        text += std::to_string(size);
    }
    return text;
}

Tensor zeros(const Shape& shape) { return {shape, Floats(static_cast<size_t>(count(shape)))}; }

Tensor first_rows(const Tensor& tensor, int64_t rows) {
    if (tensor.shape.at(0) <= rows) return tensor;
    Tensor part{tensor.shape, {}};
    part.shape[0] = rows;
    std::visit(
        [&](const auto& values) {
            part.values = std::decay_t<decltype(values)>(values.begin(), values.begin() + count(part.shape));
        },
        tensor.values);
    return part;
}

Tensor joined(const Tensor& first, const Tensor& second) {
    Tensor both = first;
    both.shape.at(0) += second.shape.at(0);
    std::visit(
        [&](auto& values) {
            const auto& more = std::get<std::decay_t<decltype(values)>>(second.values);
            values.insert(values.end(), more.begin(), more.end());
        },
        both.values);
    return both;
}

int64_t not_finite(const Tensor& tensor) {
    if (!tensor.is_float()) return 0;
    const Floats& values = tensor.floats();
    return std::count_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
}
