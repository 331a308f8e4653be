// The golden run of a bundle, and the checks of it that need no engine.
#pragma once

#include "bundle.hpp"
#include "plan.hpp"
#include "report.hpp"
#include "safetensors.hpp"

struct Golden {
    Recording recording;
    std::string prompt, negative_prompt;
    SamplingOptions options;
};

/// RunError where the bundle has no golden run, or it is damaged.
Golden read_golden(const Bundle& bundle);

/// The run again with the recorded epsilons in place of graphs: schedules, noise, guidance, wiring.
void replay(const Bundle& bundle, const Golden& golden, const Plan& plan, Report& report);

/// The ids of the recorded prompts and of golden/tokens.json.
void check_tokens(const Bundle& bundle, const Golden& golden, Report& report);

/// What an engine's denoiser reads at a step: the latents after the one before.
const Tensor& latents_before(const Golden& golden, const std::string& stage, size_t step);
