// The errors a user sees: one line that says what, where and what to do next.
#pragma once

#include <stdexcept>
#include <string>

/// The request cannot be met as asked.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
    static constexpr int exit_code = 2;
};

/// The request was valid and something failed while it ran, or a check did.
struct RunError : std::runtime_error {
    using std::runtime_error::runtime_error;
    static constexpr int exit_code = 1;
};

/// What a library says of an error, which may be a page, on one line.
std::string one_line(const std::string& text);
