// The command line.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine.hpp"
#include "plan.hpp"

struct Options {
    std::filesystem::path bundle, output = "out.png";
    std::optional<std::string> prompt;
    std::string negative_prompt;
    SamplingOptions sampling;
    Execution execution;
    bool low_memory = false, no_memory_check = false, no_verify = false;
    bool replay = false, check = false, json = false, quiet = false, help = false;
};

extern const char* const kHelp;

/// UsageError for anything that is not understood, and for what does not go together.
Options parse_options(const std::vector<std::string>& words);
