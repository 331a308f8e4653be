// The noise of a seed: PyTorch's torch.randn on a CPU, draw after draw.
#pragma once

#include <cstdint>
#include <random>

#include "manifest.hpp"
#include "tensor.hpp"

class Noise {
  public:
    Noise(const NoiseRules& rules, uint64_t seed);

    /// Standard normal values; RunError for a draw below the rules' minimum.
    Tensor draw(const Shape& shape);

  private:
    double uniform();
    void block(float* values);

    const NoiseRules& rules_;
    std::mt19937 words_;
};
