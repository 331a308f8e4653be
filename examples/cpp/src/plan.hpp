// Sampling options, and the plan they make once every default is filled in and checked.
#pragma once

#include <optional>
#include <string>

#include "manifest.hpp"
#include "tensor.hpp"

/// How to sample; what is not set is the bundle's default.
struct SamplingOptions {
    int64_t seed = 0;
    std::optional<int64_t> steps, decoder_steps, height, width;
    std::optional<double> guidance, decoder_guidance;
};

/// Heights and widths: latents in cells, the picture in pixels.
struct Sizes {
    int64_t stage_c[2], stage_b[2], picture[2];
};

/// How one denoiser is sampled.
struct Stage {
    std::string name;
    std::vector<Row> rows;
    std::vector<std::vector<float>> embeddings;  // one a row
    float guidance;
    bool guided;
    Shape latents;  // of one picture
};

struct Plan {
    Stage stage_c, stage_b;
    Sizes sizes;
    uint64_t seed;

    const Stage& stage(const std::string& name) const { return name == "stage_c" ? stage_c : stage_b; }
    /// Rows of a graph's batch, for one picture.
    int64_t rows(const Call& call) const;
};

/// What the options mean; UsageError names the one that is wrong.
Plan make_plan(const Manifest& manifest, const SamplingOptions& options);

/// UsageError where graphs of fixed shape cannot serve this size or guidance.
void check_fixed_shapes(const Manifest& manifest, const Plan& plan);
