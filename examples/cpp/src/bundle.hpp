// A bundle folder: its manifest, and the files that the manifest vouches for.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.hpp"

class Bundle {
  public:
    /// Opens a folder (or the bundle.json in it). No path that the manifest names leads out of it, or RunError.
    /// `hashes`: whether the files of graphs are hashed before an engine reads them; all others always are.
    Bundle(const std::filesystem::path& folder, bool hashes);

    const std::filesystem::path& folder() const { return folder_; }
    const Manifest& manifest() const { return manifest_; }

    /// A file of the bundle; RunError where it is not, byte for byte, the one that the manifest names.
    std::filesystem::path verified(const std::string& name) const;

    /// The content of a verified file.
    std::string text(const std::string& name) const;

    /// The file of a graph, after a look at everything an engine will read of it.
    std::filesystem::path graph(const std::string& name) const;

    bool has(const std::string& name) const { return manifest_.files.contains(name); }

  private:
    void check_size(const std::string& name) const;

    std::filesystem::path folder_;
    Manifest manifest_;
    bool hashes_;
};
