#include "wiring.hpp"

Tensor fed_rows(const Call& call, const Feed& feed, const Tensor& source, bool guided) {
    if (call.rows != "guided") return source;
    if (!guided) return first_rows(source, 1);
    if (feed.unconditional == "repeat") return joined(source, source);
    if (feed.unconditional == "zeros") return joined(source, zeros(source.shape));
    return source;  // it has both halves already
}

Tensor image_embedding(const Tensor& latents, const Sampling& sampling) {
    Tensor embedding = latents;
    for (float& value : embedding.floats()) value = value * sampling.latent_mean - sampling.latent_std;
    return embedding;
}
