// What was compared with the golden run, and the first tensor that is too far off it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor.hpp"

/// The worst error among tensors of one kind, and how large it may be.
struct Check {
    std::string what;
    double error, limit;
};

class Report {
  public:
    /// One tensor's error, in the line `what`.
    void add(const std::string& what, const std::string& tensor, double error, double limit);

    /// Something to be said that is no failure.
    void note(const std::string& text) { notes_.push_back(text); }

    const std::vector<Check>& checks() const { return checks_; }
    const std::vector<std::string>& notes() const { return notes_; }

    /// The first tensor that is too far off, and how far; "" where all are near enough.
    const std::string& failure() const { return failure_; }

  private:
    std::vector<Check> checks_;
    std::vector<std::string> notes_;
    std::string failure_;
};

/// The largest absolute difference; infinite for another shape or type, and for NaN.
double largest_error(const Tensor& values, const Tensor& recorded);

/// The L2 norm of the difference in that of the recorded values; infinite as above.
double relative_error(const Tensor& values, const Tensor& recorded);

/// The root of the mean squared difference, for pictures, whose peak is 1.
double rms_error(const Tensor& values, const Tensor& recorded);

/// What an SQNR or a PSNR in decibels is as an error.
double error_of(double decibels);
