// What feeds what, as host.run of the manifest says.
#pragma once

#include "manifest.hpp"
#include "tensor.hpp"

/// The rows of an input, from its source's values, for one picture; `guided`: whether the call's stage is.
Tensor fed_rows(const Call& call, const Feed& feed, const Tensor& source, bool guided);

/// Stage C's last latents as Stage B is conditioned on them.
Tensor image_embedding(const Tensor& latents, const Sampling& sampling);
