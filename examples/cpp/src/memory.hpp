// Memory: what is free, what a run takes at the least, and what it took.
#pragma once

#include <cstdint>

#include "plan.hpp"

/// UsageError where a run's weights and activations alone are more than the memory that is free. A lower bound:
/// engines take more, by how much depends on the engine.
void check_memory(const Manifest& manifest, const Plan& plan, bool low_memory);

/// The most bytes of memory that this process had at once.
int64_t peak_memory();
