#include "noise.hpp"

#include <cmath>
#include <numbers>

#include "error.hpp"

Noise::Noise(const NoiseRules& rules, uint64_t seed) : rules_(rules), words_(static_cast<uint32_t>(seed)) {}

double Noise::uniform() {
    const uint64_t mask = (uint64_t{1} << rules_.uniform_bits) - 1;
    return std::ldexp(static_cast<double>(words_() & mask), -rules_.uniform_bits);
}

/// Box-Muller over one block: its first half are radii, its second half angles.
void Noise::block(float* values) {
    const int64_t half = rules_.block / 2;
    std::vector<double> uniforms(static_cast<size_t>(rules_.block));
    for (double& u : uniforms) u = uniform();
    for (int64_t i = 0; i < half; ++i) {
        const double radius = std::sqrt(-2 * std::log(1 - uniforms[i]));  // u may be 0, whose logarithm is not
        const double angle = 2 * std::numbers::pi * uniforms[half + i];
        values[i] = static_cast<float>(radius * std::cos(angle));
        values[half + i] = static_cast<float>(radius * std::sin(angle));
    }
}

Tensor Noise::draw(const Shape& shape) {
    Tensor noise = zeros(shape);
    const int64_t size = count(shape), whole = size - size % rules_.block;
    if (size < rules_.minimum) {
        throw RunError("a draw of " + std::to_string(size) + " values is below host.noise.minimum, " +
                       std::to_string(rules_.minimum) + ": this host makes larger ones only");
    }
    float* values = noise.floats().data();
    for (int64_t i = 0; i < whole; i += rules_.block) block(values + i);
    if (whole == size) return noise;
    words_.discard(static_cast<unsigned long long>(size - whole));  // those of the values beyond whole blocks
    block(values + size - rules_.block);  // over the end of the last whole one
    return noise;
}
