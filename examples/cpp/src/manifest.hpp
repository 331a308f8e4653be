// bundle.json, format version 2: what a host needs to know. The names are the file's own; what they mean is in
// the JSON Schema of the manifest and in docs/hosting.md.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

constexpr int kFormatVersion = 2;
constexpr const char* kManifest = "bundle.json";
constexpr int64_t kOpen = -1;  // a dimension that takes any size

struct TensorSpec {
    std::string name, dtype;
    std::vector<int64_t> shape;  // kOpen where it has a name in place of a number
};

struct Data {
    std::string file, location;
};

struct Graph {
    std::string file, precision, compute;
    std::vector<TensorSpec> inputs, outputs;
    std::vector<Data> data;
    std::vector<double> activations;
    std::map<std::string, std::string> engines;  // the oldest version of each that such graphs were run on
};

struct Normalization {
    std::string kind, pattern, content;
};

struct AddedToken {
    std::string content;
    int64_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};

struct TokenizerRules {
    std::string algorithm, words, end_of_word;
    int64_t unknown_id;
    std::vector<Normalization> normalization;
    std::vector<AddedToken> added;
    std::vector<std::string> frame, mask;
};

struct TokenizerSpec {
    std::string folder;
    int64_t max_length, bos_id, eos_id, pad_id;
    TokenizerRules rules;
};

/// One sampling step, x' = a*x + b*epsilon + c*noise, at timestep t.
struct Row {
    float t, a, b, c;
};

struct Denoiser {
    int64_t channels, timestep_padding;
    double s, scaler, guidance;
    std::vector<float> timestep_frequencies, timesteps;
    std::vector<Row> schedule;
    std::vector<std::vector<float>> embeddings;
};

struct Sampling {
    double resolution_multiple, latent_dim_scale;
    float latent_mean, latent_std;
    int64_t stage_b_multiple, stage_a_scale, height, width;
    Denoiser stage_c, stage_b;

    const Denoiser& denoiser(const std::string& stage) const { return stage == "stage_c" ? stage_c : stage_b; }
};

struct File {
    int64_t size;
    std::string sha256;
};

struct Feed {
    std::string input, source, output, unconditional;
};

struct Call {
    std::string graph, stage, when, rows;
    std::vector<Feed> feeds;
};

struct NoiseRules {
    std::string algorithm;
    int seed_bits, uniform_bits;
    int64_t block, minimum;
    std::vector<std::string> draws;
    bool one_generator, in_last_step;
};

struct ScheduleRules {
    std::string kind;
    std::vector<double> alpha_clamp;
    float timestep_scale;
};

struct GuidanceRules {
    double off_at;
    std::vector<std::string> halves;
    std::string epsilon;
};

struct PictureRules {
    std::vector<double> clamp;
    float scale;
    std::string rounding;
    std::vector<std::string> channels;
};

struct Tolerance {
    std::string compute;
    double graph_error, latent_db, picture_db;
};

struct SessionRules {
    std::optional<bool> memory_pattern;
    std::map<std::string, std::string> config, config_f32;
};

struct Host {
    std::vector<Call> run;
    std::string tokens;
    NoiseRules noise;
    ScheduleRules schedule;
    GuidanceRules guidance;
    PictureRules picture;
    std::map<std::string, std::vector<Tolerance>> tolerances;
    std::map<std::string, SessionRules> sessions;
};

struct Manifest {
    std::string backend, precision;
    std::map<std::string, Graph> graphs;
    std::map<std::string, TokenizerSpec> tokenizers;
    Sampling sampling;
    std::vector<std::vector<int64_t>> sizes;  // the only pictures (height, width), none where any size goes
    std::map<std::string, File> files;
    Host host;
};

/// The manifest of a bundle folder. RunError for a file that is missing or damaged, and for a version or rules
/// that this host does not know.
Manifest read_manifest(const std::filesystem::path& folder);
