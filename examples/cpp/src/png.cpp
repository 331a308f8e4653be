#include "png.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "error.hpp"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

namespace fs = std::filesystem;

void check_output(const fs::path& path) {
    const std::string where = "--output " + path.string() + ": ";
    std::string suffix = path.extension().string();
    for (char& letter : suffix) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    if (suffix != ".png") throw UsageError(where + "pictures are PNG files, end the name in .png");
    std::error_code error;
    const fs::path folder = fs::absolute(path, error).parent_path();
    if (!fs::is_directory(folder, error)) throw UsageError(where + "the folder " + folder.string() + " does not exist");
    if (fs::is_directory(path, error)) throw UsageError(where + "it is a folder; give another file name");
    if (access(folder.c_str(), W_OK) != 0) throw UsageError(where + "the folder cannot be written to");
}

/// (1,3,H,W) to rows of red, green, blue.
static std::string bytes_of(const Tensor& image, const PictureRules& rules) {
    const Floats& values = image.floats();
    const size_t pixels = values.size() / 3;
    std::string bytes(values.size(), '\0');
    for (size_t i = 0; i < values.size(); ++i) {
        const float value = std::clamp(values[i % 3 * pixels + i / 3], static_cast<float>(rules.clamp[0]),
                                       static_cast<float>(rules.clamp[1]));
        bytes[i] = static_cast<char>(static_cast<unsigned char>(std::nearbyint(value * rules.scale)));
    }
    return bytes;
}

static void append(void* file, void* data, int size) {
    static_cast<std::string*>(file)->append(static_cast<const char*>(data), static_cast<size_t>(size));
}

void save_png(const Tensor& image, const PictureRules& rules, const fs::path& path) {
    if (image.shape.size() != 4 || image.shape[0] != 1 || image.shape[1] != 3) {
        throw RunError("the last graph made " + as_text(image.shape) + ", which is no picture");
    }
    const int height = static_cast<int>(image.shape[2]), width = static_cast<int>(image.shape[3]);
    const std::string pixels = bytes_of(image, rules);
    std::string png;
    if (stbi_write_png_to_func(append, &png, width, height, 3, pixels.data(), 3 * width) == 0) throw std::bad_alloc();
    // Beside its place and then renamed: an older picture stays where this one cannot be written.
    const fs::path part = path.string() + ".part";
    std::ofstream file(part, std::ios::binary);
    file << png;
    file.close();
    std::error_code error;
    if (file) fs::rename(part, path, error);
    if (!file || error) {
        const std::string reason = error ? error.message() : "the disk may be full";
        fs::remove(part, error);
        throw RunError("cannot write " + path.string() + ": " + reason);
    }
}
