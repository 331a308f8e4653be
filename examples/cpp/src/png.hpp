// A picture as a PNG file.
#pragma once

#include <filesystem>

#include "manifest.hpp"
#include "tensor.hpp"

/// UsageError for a place where no PNG file can be written, before any work.
void check_output(const std::filesystem::path& path);

/// Writes the image f32 (1,3,H,W), clamped and rounded by the rules. All or nothing, or RunError.
void save_png(const Tensor& image, const PictureRules& rules, const std::filesystem::path& path);
