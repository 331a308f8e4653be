#include "bundle.hpp"

#include <openssl/evp.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <system_error>

#include "error.hpp"

namespace fs = std::filesystem;

/// Whether `target` is a blob of the hub cache whose snapshot holds `folder`: there, files are links.
static bool in_own_blobs(const fs::path& folder, const fs::path& target) {
    for (fs::path parent = folder; parent.has_relative_path(); parent = parent.parent_path()) {
        const fs::path above = parent.parent_path();
        if (above.filename() == "snapshots" && above.parent_path().filename().string().starts_with("models--")) {
            return target.parent_path() == above.parent_path() / "blobs";
        }
    }
    return false;
}

static bool is_below(const fs::path& folder, const fs::path& target) {
    const auto [end, unused] = std::mismatch(folder.begin(), folder.end(), target.begin(), target.end());
    return end == folder.end();
}

/// RunError where a name of the manifest leads out of the folder, by itself or by a link.
static void check_inside(const fs::path& folder, const std::string& name) {
    const fs::path relative(name);
    bool climbs = name.empty() || relative.is_absolute();
    climbs = climbs || name.find('\\') != name.npos || name.find('\0') != name.npos;
    for (const fs::path& part : relative) climbs = climbs || part == "..";
    if (climbs) throw RunError(folder.string() + ": the manifest names '" + name + "', a path outside the bundle");
    std::error_code error;
    const fs::path target = fs::weakly_canonical(folder / name, error);
    if (error || !(is_below(folder, target) || in_own_blobs(folder, target))) {
        throw RunError(folder.string() + ": " + name + " links to a place outside the bundle; copy it with its "
                       "files (cp -rL)");
    }
}

static std::string sha256(const fs::path& path) {
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    std::ifstream file(path, std::ios::binary);
    bool good = file && context && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
    std::string buffer(1 << 20, '\0');
    while (good && (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), file.gcount() > 0)) {
        good = EVP_DigestUpdate(context.get(), buffer.data(), static_cast<size_t>(file.gcount())) == 1;
    }
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    if (!good || file.bad() || EVP_DigestFinal_ex(context.get(), digest, &length) != 1) {
        throw RunError(path.string() + " cannot be read");
    }
    std::string hex;
    for (unsigned int i = 0; i < length; ++i) {
        for (int half : {digest[i] >> 4, digest[i] & 15}) hex += "0123456789abcdef"[half];
    }
    return hex;
}

static fs::path resolved(const fs::path& folder) {
    std::error_code error;
    const fs::path path = fs::weakly_canonical(folder, error);
    if (error) throw RunError(folder.string() + " is no bundle: " + error.message());
    return path.filename() == kManifest ? path.parent_path() : path;
}

Bundle::Bundle(const fs::path& folder, bool hashes)
    : folder_(resolved(folder)), manifest_(read_manifest(folder_)), hashes_(hashes) {
    for (const auto& [name, file] : manifest_.files) check_inside(folder_, name);
}

void Bundle::check_size(const std::string& name) const {
    if (!has(name)) throw RunError(folder_.string() + ": the manifest names no " + name);
    const fs::path path = folder_ / name;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) throw RunError(path.string() + " is missing; export the bundle again");
    const auto size = static_cast<int64_t>(fs::file_size(path, error));
    const int64_t expected = manifest_.files.at(name).size;
    if (error || size != expected) {
        throw RunError(path.string() + " has " + std::to_string(size) + " bytes, the manifest says " +
                       std::to_string(expected) + "; export the bundle again");
    }
}

fs::path Bundle::verified(const std::string& name) const {
    check_size(name);
    if (sha256(folder_ / name) != manifest_.files.at(name).sha256) {
        throw RunError((folder_ / name).string() +
                       " is not the file the manifest names (SHA-256 differs); export the bundle again");
    }
    return folder_ / name;
}

std::string Bundle::text(const std::string& name) const {
    std::ifstream file(verified(name), std::ios::binary);
    std::string content{std::istreambuf_iterator<char>(file), {}};
    if (!file) throw RunError((folder_ / name).string() + " cannot be read");
    return content;
}

fs::path Bundle::graph(const std::string& name) const {
    const Graph& graph = manifest_.graphs.at(name);
    std::vector<std::string> files{graph.file};
    for (const Data& data : graph.data) {
        files.push_back(data.file);
        check_inside(folder_ / fs::path(graph.file).parent_path(), data.location);
    }
    for (const std::string& file : files) hashes_ ? static_cast<void>(verified(file)) : check_size(file);
    return folder_ / graph.file;
}
