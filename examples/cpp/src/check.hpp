// The checks of a golden run that need an engine.
#pragma once

#include "golden.hpp"
#include "sessions.hpp"

/// Each graph on its recorded inputs, against its recorded outputs.
void check_graphs(const Bundle& bundle, const Golden& golden, const Plan& plan, Sessions& sessions, Report& report);

/// A run of this program's own from the golden prompt and seed: latents after each step, and the picture. After
/// `check_graphs`, which finds out what each graph computes in.
void check_free_run(const Bundle& bundle, const Golden& golden, const Plan& plan, Sessions& sessions, Report& report);
