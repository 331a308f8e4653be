#include "schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

/// Half of them from the start and half from the end, each with one rounding, as PyTorch's linspace.
std::vector<float> even_timesteps(int64_t steps) {
    const double step = static_cast<double>(-1.0f / static_cast<float>(steps));
    std::vector<float> timesteps;
    for (int64_t i = 0; i <= steps; ++i) {
        const bool rising = i < (steps + 1) / 2;
        timesteps.push_back(static_cast<float>(rising ? 1 + step * static_cast<double>(i)
                                                      : 0 - step * static_cast<double>(steps - i)));
    }
    return timesteps;
}

/// Through fp64, so that the result is the correctly rounded one on every machine.
static float cosine(float angle) { return static_cast<float>(std::cos(static_cast<double>(angle))); }

/// The cosine schedule's share of signal at a timestep.
static float alpha_cumprod(float t, const Denoiser& denoiser, const ScheduleRules& rules) {
    const float offset = static_cast<float>(denoiser.s), scaler = static_cast<float>(denoiser.scaler);
    const float half_pi = std::numbers::pi_v<float> * 0.5f;
    if (denoiser.scaler > 1) t = 1.0f - std::pow(1.0f - t, scaler);
    if (denoiser.scaler < 1) t = std::pow(t, scaler);
    const float start = cosine(offset / (1.0f + offset) * half_pi);
    const float share = cosine((t + offset) / (1.0f + offset) * half_pi);
    return std::clamp((share * share) / (start * start), static_cast<float>(rules.alpha_clamp[0]),
                      static_cast<float>(rules.alpha_clamp[1]));
}

static Row step_between(float t, float next, const Denoiser& denoiser, const ScheduleRules& rules) {
    const float now = alpha_cumprod(t, denoiser, rules), then = alpha_cumprod(next, denoiser, rules);
    const float alpha = now / then;
    const float a = std::sqrt(1.0f / alpha);
    const float b = -a * (1.0f - alpha) / std::sqrt(1.0f - now);
    const float c = std::sqrt((1.0f - alpha) * (1.0f - then) / (1.0f - now));
    return {t, a, b, next == 0 ? 0.0f : c};
}

std::vector<Row> make_schedule(const std::vector<float>& timesteps, const Denoiser& denoiser,
                               const ScheduleRules& rules) {
    std::vector<Row> rows;
    for (size_t i = 0; i + 1 < timesteps.size(); ++i) {
        rows.push_back(step_between(timesteps[i], timesteps[i + 1], denoiser, rules));
    }
    return rows;
}

std::vector<float> timestep_embedding(float t, const Denoiser& denoiser, const ScheduleRules& rules) {
    std::vector<float> sines, cosines;
    for (float frequency : denoiser.timestep_frequencies) {
        const double angle = static_cast<double>(t * rules.timestep_scale * frequency);
        sines.push_back(static_cast<float>(std::sin(angle)));
        cosines.push_back(static_cast<float>(std::cos(angle)));
    }
    sines.insert(sines.end(), cosines.begin(), cosines.end());
    sines.resize(sines.size() + static_cast<size_t>(denoiser.timestep_padding));
    return sines;
}
