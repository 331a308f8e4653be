// Timesteps, the linear sampling steps between them, and the timestep embedding: fp32, operation by operation,
// for a timestep that differs in its last bit moves the embedding's angles by 6e-4.
#pragma once

#include <vector>

#include "manifest.hpp"

/// `steps` even steps from 1 to 0: steps + 1 values.
std::vector<float> even_timesteps(int64_t steps);

/// The steps between consecutive timesteps.
std::vector<Row> make_schedule(const std::vector<float>& timesteps, const Denoiser& denoiser,
                               const ScheduleRules& rules);

/// The embedding of a timestep: sines, then cosines, then zeros.
std::vector<float> timestep_embedding(float t, const Denoiser& denoiser, const ScheduleRules& rules);
