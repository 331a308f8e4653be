// One denoising step, on numbers alone.
#pragma once

#include "plan.hpp"
#include "tensor.hpp"

/// x' = a*x + b*epsilon + c*noise, in fp32; of a guided epsilon (2B rows, conditional half first) the extrapolation.
Tensor denoised(const Stage& stage, const Row& row, const Tensor& latents, const Tensor& epsilon, const Tensor& noise);

/// The timestep embedding of a step, as one row.
Tensor embedding_row(const Stage& stage, size_t step);
