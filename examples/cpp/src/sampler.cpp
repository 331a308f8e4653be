#include "sampler.hpp"

#include "error.hpp"

Tensor denoised(const Stage& stage, const Row& row, const Tensor& latents, const Tensor& epsilon, const Tensor& noise) {
    Tensor next = latents;
    const Floats &e = epsilon.floats(), &n = noise.floats();
    Floats& x = next.floats();
    const size_t size = x.size();
    if (e.size() != size * (stage.guided ? 2 : 1) || n.size() != size) {
        throw RunError(stage.name + ": epsilon is " + as_text(epsilon.shape) + " for latents of " +
                       as_text(latents.shape));
    }
    for (size_t i = 0; i < size; ++i) {
        const float guided = stage.guided ? e[size + i] + stage.guidance * (e[i] - e[size + i]) : e[i];
        x[i] = row.a * x[i] + row.b * guided + row.c * n[i];
    }
    return next;
}

Tensor embedding_row(const Stage& stage, size_t step) {
    const std::vector<float>& values = stage.embeddings.at(step);
    return {{1, static_cast<int64_t>(values.size())}, values};
}
