// The golden run: tensors by name, and the prompt and options that made them.
#pragma once

#include <map>
#include <string>

#include "tensor.hpp"

struct Recording {
    Tensors tensors;
    std::map<std::string, std::string> metadata;

    /// A recorded tensor; RunError where there is none of this name.
    const Tensor& at(const std::string& name) const;

    /// What the run was made with; RunError where it does not say.
    const std::string& made_with(const std::string& key) const;
};

/// Reads a safetensors file (f32 and i64) from its bytes; RunError, naming `what`, where it is damaged.
Recording read_safetensors(const std::string& bytes, const std::string& what);
