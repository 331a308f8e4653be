#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

constexpr double kInfinite = std::numeric_limits<double>::infinity();

static std::string short_number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    return text;
}

void Report::add(const std::string& what, const std::string& tensor, double error, double limit) {
    auto check = std::find_if(checks_.begin(), checks_.end(), [&](const Check& one) { return one.what == what; });
    if (check == checks_.end()) check = checks_.insert(check, {what, 0, limit});
    check->error = std::max(check->error, error);
    if (error <= limit || !failure_.empty()) return;
    failure_ = what + ": '" + tensor + "' is " + short_number(error) + " off the golden run, " + short_number(limit) +
               " is allowed";
}

/// The sums of squares of what two tensors differ by, and of the second.
struct Squares {
    double difference = 0, recorded = 0;
};

static Squares squares(const Tensor& values, const Tensor& recorded) {
    if (values.shape != recorded.shape || !values.is_float() || !recorded.is_float()) return {kInfinite, 1};
    Squares sums;
    for (size_t i = 0; i < values.floats().size(); ++i) {
        const double expected = recorded.floats()[i], off = values.floats()[i] - expected;
        sums.difference += off * off;
        sums.recorded += expected * expected;
    }
    return std::isfinite(sums.difference) ? sums : Squares{kInfinite, 1};
}

double largest_error(const Tensor& values, const Tensor& recorded) {
    if (values.shape != recorded.shape || values.is_float() != recorded.is_float()) return kInfinite;
    double largest = 0;
    std::visit(
        [&](const auto& numbers) {
            const auto& expected = std::get<std::decay_t<decltype(numbers)>>(recorded.values);
            for (size_t i = 0; i < numbers.size(); ++i) {
                const double off = std::abs(static_cast<double>(numbers[i]) - static_cast<double>(expected[i]));
                largest = std::max(largest, std::isfinite(off) ? off : kInfinite);
            }
        },
        values.values);
    return largest;
}

double relative_error(const Tensor& values, const Tensor& recorded) {
    const Squares sums = squares(values, recorded);
    if (sums.difference == 0) return 0;
    return sums.recorded == 0 ? kInfinite : std::sqrt(sums.difference / sums.recorded);
}

double rms_error(const Tensor& values, const Tensor& recorded) {
    const auto size = static_cast<double>(std::max<int64_t>(1, count(values.shape)));
    return std::sqrt(squares(values, recorded).difference / size);
}

double error_of(double decibels) { return std::pow(10.0, -decibels / 20); }
