#include "plan.hpp"

#include <cmath>
#include <cstdio>

#include "error.hpp"
#include "schedule.hpp"

constexpr int64_t kMostPixels = 1 << 20;  // a side, also of latents; beyond it counts of bytes would overflow
constexpr int64_t kMostSteps = 1'000'000;

int64_t Plan::rows(const Call& call) const {
    if (call.rows == "prompts_and_negatives") return 2;
    return call.rows == "guided" && stage(call.stage).guided ? 2 : 1;
}

static int64_t latent_side(int64_t cells, const Sampling& sampling) {
    return static_cast<int64_t>(static_cast<double>(cells) * sampling.latent_dim_scale);
}

static bool closes(int64_t cells, const Sampling& sampling) {
    const int64_t side = latent_side(cells, sampling);
    return side > 0 && side % sampling.stage_b_multiple == 0;
}

/// The closest valid sides in pixels, below and above.
static std::string nearest(int64_t cells, const Sampling& sampling) {
    const int64_t reach = 64 * sampling.stage_b_multiple;
    std::string text;
    const auto add = [&](int64_t found) {
        const auto pixels = static_cast<int64_t>(static_cast<double>(found) * sampling.resolution_multiple);
        text += (text.empty() ? "" : " and ") + std::to_string(pixels);
    };
    int64_t below = cells - 1, above = cells + 1;
    while (below > 0 && !closes(below, sampling)) --below;
    while (above < cells + reach && !closes(above, sampling)) ++above;
    if (below > 0) add(below);
    if (above < cells + reach) add(above);
    return text.empty() ? "no size is valid" : "the nearest valid are " + text;
}

/// One side of everything, in the order of `Sizes`.
static void fill_side(Sizes& sizes, int side, int64_t pixels, const Sampling& sampling) {
    const std::string option = side == 0 ? "--height " : "--width ";
    if (pixels < 1 || pixels > kMostPixels) {
        throw UsageError(option + "is " + std::to_string(pixels) + "; it must be 1 to " + std::to_string(kMostPixels));
    }
    const auto cells = static_cast<int64_t>(std::ceil(static_cast<double>(pixels) / sampling.resolution_multiple));
    const int64_t latent = latent_side(cells, sampling);
    if (!closes(cells, sampling)) {
        throw UsageError(option + std::to_string(pixels) + " gives Stage B a latent side of " + std::to_string(latent) +
                         ", no multiple of " + std::to_string(sampling.stage_b_multiple) + "; " +
                         nearest(cells, sampling));
    }
    if (latent > kMostPixels) throw UsageError(option + std::to_string(pixels) + " is too large for this checkpoint");
    sizes.stage_c[side] = cells;
    sizes.stage_b[side] = latent;
    sizes.picture[side] = latent * sampling.stage_a_scale;
}

static double checked_guidance(double value, const std::string& option) {
    if (value >= 0 && std::isfinite(value)) return value;
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    throw UsageError(option + " is " + text + "; it must be 0 or more (up to 1 is off)");
}

/// A stage with the manifest's schedule, or one of so many even steps.
static Stage make_stage(const std::string& name, const Manifest& manifest, std::optional<int64_t> steps,
                        double guidance, const int64_t (&size)[2]) {
    const Denoiser& denoiser = manifest.sampling.denoiser(name);
    const Host& host = manifest.host;
    Stage stage{name,
                denoiser.schedule,
                denoiser.embeddings,
                static_cast<float>(guidance),
                guidance > host.guidance.off_at,
                {1, denoiser.channels, size[0], size[1]}};
    if (!steps) return stage;
    stage.rows = make_schedule(even_timesteps(*steps), denoiser, host.schedule);
    stage.embeddings.clear();
    for (const Row& row : stage.rows) stage.embeddings.push_back(timestep_embedding(row.t, denoiser, host.schedule));
    return stage;
}

static void check_steps(std::optional<int64_t> steps, const std::string& option) {
    if (steps && (*steps < 1 || *steps > kMostSteps)) {
        throw UsageError(option + " is " + std::to_string(*steps) + "; it must be 1 to " + std::to_string(kMostSteps));
    }
}

Plan make_plan(const Manifest& manifest, const SamplingOptions& options) {
    const Sampling& sampling = manifest.sampling;
    check_steps(options.steps, "--steps");
    check_steps(options.decoder_steps, "--decoder-steps");
    Sizes sizes{};
    fill_side(sizes, 0, options.height.value_or(sampling.height), sampling);
    fill_side(sizes, 1, options.width.value_or(sampling.width), sampling);
    const double guidance = checked_guidance(options.guidance.value_or(sampling.stage_c.guidance), "--guidance");
    const double decoder_guidance =
        checked_guidance(options.decoder_guidance.value_or(sampling.stage_b.guidance), "--decoder-guidance");
    return {make_stage("stage_c", manifest, options.steps, guidance, sizes.stage_c),
            make_stage("stage_b", manifest, options.decoder_steps, decoder_guidance, sizes.stage_b), sizes,
            static_cast<uint64_t>(options.seed)};
}

void check_fixed_shapes(const Manifest& manifest, const Plan& plan) {
    const auto& [height, width] = plan.sizes.picture;
    std::string possible;
    bool fits = manifest.sizes.empty();
    for (const auto& size : manifest.sizes) {
        fits = fits || size == std::vector<int64_t>{height, width};
        possible += (possible.empty() ? "" : ", ") + as_text(size);
    }
    if (!fits) {
        throw UsageError("this bundle makes pictures of " + possible +
                         " pixels (height x width) only, this run asks for " + as_text({height, width}) +
                         "; export it for that size");
    }
    for (const Call& call : manifest.host.run) {
        const Shape& shape = manifest.graphs.at(call.graph).inputs[0].shape;
        const int64_t wanted = plan.rows(call);
        if (shape.empty() || shape[0] == kOpen || shape[0] == wanted) continue;
        throw UsageError(call.graph + " was exported for a batch of " + std::to_string(shape[0]) + ", this run needs " +
                         std::to_string(wanted) + "; change the guidance, or export without --static");
    }
}
