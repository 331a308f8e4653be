#include "manifest.hpp"

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "error.hpp"

using nlohmann::json;

// The macro reads each field by its name, and throws where one is missing or of another type.
#define FIELDS NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE

static void from_json(const json& value, TensorSpec& spec) {
    value.at("name").get_to(spec.name);
    value.at("dtype").get_to(spec.dtype);
    for (const json& size : value.at("shape")) spec.shape.push_back(size.is_string() ? kOpen : size.get<int64_t>());
}

[[maybe_unused]] static void to_json(json&, const TensorSpec&) {}

static void from_json(const json& value, SessionRules& rules) {
    const json& pattern = value.at("memory_pattern");
    if (!pattern.is_null()) rules.memory_pattern = pattern.get<bool>();
    value.at("config").get_to(rules.config);
    value.at("config_f32").get_to(rules.config_f32);
}

[[maybe_unused]] static void to_json(json&, const SessionRules&) {}

FIELDS(Data, file, location)
FIELDS(Graph, file, precision, compute, inputs, outputs, data, activations, engines)
FIELDS(Normalization, kind, pattern, content)
FIELDS(AddedToken, content, id, single_word, lstrip, rstrip, normalized, special)
FIELDS(TokenizerRules, algorithm, words, end_of_word, unknown_id, normalization, added, frame, mask)
FIELDS(TokenizerSpec, folder, max_length, bos_id, eos_id, pad_id, rules)
FIELDS(Row, t, a, b, c)
FIELDS(Denoiser, channels, timestep_padding, s, scaler, guidance, timestep_frequencies, timesteps, schedule,
       embeddings)
FIELDS(Sampling, resolution_multiple, latent_dim_scale, latent_mean, latent_std, stage_b_multiple, stage_a_scale,
       height, width, stage_c, stage_b)
FIELDS(File, size, sha256)
FIELDS(Feed, input, source, output, unconditional)
FIELDS(Call, graph, stage, when, rows, feeds)
FIELDS(NoiseRules, algorithm, seed_bits, uniform_bits, block, minimum, draws, one_generator, in_last_step)
FIELDS(ScheduleRules, kind, alpha_clamp, timestep_scale)
FIELDS(GuidanceRules, off_at, halves, epsilon)
FIELDS(PictureRules, clamp, scale, rounding, channels)
FIELDS(Tolerance, compute, graph_error, latent_db, picture_db)
FIELDS(Host, run, tokens, noise, schedule, guidance, picture, tolerances, sessions)
FIELDS(Manifest, backend, precision, graphs, tokenizers, sampling, sizes, files, host)

using Words = std::vector<std::string>;

// Numbers beyond these make no model, and would overflow sums of bytes.
constexpr int64_t kLargest = 1 << 16;

/// RunError unless a rule is the one this host follows.
template <typename Value>
static void expect(const char* rule, const Value& value, const Value& known) {
    if (value != known) {
        throw RunError(std::string(rule) + " is " + json(value).dump() + ", this host knows " + json(known).dump());
    }
}

/// RunError unless a value lies in a range.
template <typename Value>
static void expect_within(const char* name, Value value, double least, double most) {
    const double number = static_cast<double>(value);
    if (!(number >= least && number <= most)) {
        throw RunError(std::string(name) + " is " + json(value).dump() + "; it must be " + json(least).dump() + " to " +
                       json(most).dump());
    }
}

static void expect_range(const char* name, const std::vector<double>& range) {
    expect<size_t>(name, range.size(), 2);
    expect_within(name, range[0], 0, 1);
    expect_within(name, range[1], range[0], 1);
}

/// Rules are data, but this host has code for one kind of each.
static void check_rules(const Host& host) {
    const NoiseRules& noise = host.noise;
    expect<std::string>("host.noise.algorithm", noise.algorithm, "torch_cpu_randn");
    expect("host.noise.seed_bits", noise.seed_bits, 32);
    expect("host.noise.draws", noise.draws, Words{"stage_c/start", "stage_c/steps", "stage_b/start", "stage_b/steps"});
    expect("host.noise.one_generator", noise.one_generator, true);
    expect("host.noise.in_last_step", noise.in_last_step, true);
    expect_within("host.noise.block", noise.block, 2, kLargest);
    expect<int64_t>("host.noise.block, modulo 2,", noise.block % 2, 0);
    expect_within("host.noise.uniform_bits", noise.uniform_bits, 1, 32);
    expect_within("host.noise.minimum", noise.minimum, static_cast<double>(noise.block), kLargest);
    expect<std::string>("host.schedule.kind", host.schedule.kind, "cosine");
    expect_range("host.schedule.alpha_clamp", host.schedule.alpha_clamp);
    expect("host.guidance.halves", host.guidance.halves, Words{"conditional", "unconditional"});
    expect<std::string>("host.guidance.epsilon", host.guidance.epsilon,
                        "unconditional + scale * (conditional - unconditional)");
    expect<std::string>("host.picture.rounding", host.picture.rounding, "nearest_even");
    expect_range("host.picture.clamp", host.picture.clamp);
    expect_within("host.picture.scale", host.picture.scale, 1, 255);
    expect("host.picture.channels", host.picture.channels, Words{"red", "green", "blue"});
}

static void check_tokenizer(const TokenizerSpec& spec) {
    expect<std::string>("rules.algorithm", spec.rules.algorithm, "byte_level_bpe");
    expect("rules.frame", spec.rules.frame, Words{"bos", "tokens", "eos"});
    expect("rules.mask", spec.rules.mask, Words{"bos", "tokens", "eos"});
    expect_within("max_length", spec.max_length, 2, kLargest);
}

static void check_denoiser(const Denoiser& denoiser) {
    expect_within("channels", denoiser.channels, 1, kLargest);
    expect_within("timestep_padding", denoiser.timestep_padding, 0, kLargest);
    expect_within("the number of steps", denoiser.schedule.size(), 1, kLargest);
    expect("the number of timestep embeddings", denoiser.embeddings.size(), denoiser.schedule.size());
    expect("the number of timesteps", denoiser.timesteps.size(), denoiser.schedule.size() + 1);
    const size_t width = 2 * denoiser.timestep_frequencies.size() + static_cast<size_t>(denoiser.timestep_padding);
    for (const auto& embedding : denoiser.embeddings) expect("the width of an embedding", embedding.size(), width);
}

static void check_sampling(const Sampling& sampling) {
    expect_within("resolution_multiple", sampling.resolution_multiple, 1, kLargest);
    expect_within("latent_dim_scale", sampling.latent_dim_scale, 0, kLargest);
    expect_within("stage_b_multiple", sampling.stage_b_multiple, 1, kLargest);
    expect_within("stage_a_scale", sampling.stage_a_scale, 1, kLargest);
    check_denoiser(sampling.stage_c);
    check_denoiser(sampling.stage_b);
}

using Names = std::set<std::string>;

static void expect_one_of(const std::string& where, const std::string& value, const Names& known) {
    if (!known.contains(value)) throw RunError(where + ": this host does not know '" + value + "'");
}

static void check_call(const Manifest& manifest, const Call& call, const std::string& where) {
    expect_one_of(where + ".stage", call.stage, {"", "stage_c", "stage_b"});
    expect_one_of(where + ".when", call.when, {"prompt", "step", "picture"});
    expect_one_of(where + ".rows", call.rows, {"prompts_and_negatives", "guided", "pictures"});
    if (!manifest.graphs.contains(call.graph)) throw RunError(where + ": it is not among the graphs");
    const Graph& graph = manifest.graphs.at(call.graph);
    if (graph.inputs.empty() || graph.outputs.empty()) throw RunError(where + ": it has no input or no output");
    const bool of_stage = call.when == "step" || call.rows == "guided";
    if (of_stage && call.stage.empty()) throw RunError(where + ": it belongs to no stage");
}

/// `known`: what there is to be fed, by source.
static void check_feed(const Manifest& manifest, const Call& call, const Feed& feed,
                       std::map<std::string, Names>& known, const std::string& where) {
    expect_one_of(where + ".unconditional", feed.unconditional,
                  {"negative_prompts", "repeat", "zeros", "included", "none"});
    if (!known[feed.source].contains(feed.output)) {
        throw RunError(where + ": nothing before it makes " + feed.source + "." + feed.output);
    }
    if (feed.source == "tokenizer" && !manifest.tokenizers.contains(call.graph)) {
        throw RunError(where + ": it has no tokenizer");
    }
    if (feed.source == "sampler" && call.stage.empty()) throw RunError(where + ": it reads latents of no stage");
    if (feed.output == "timestep_embedding" && call.when != "step") throw RunError(where + ": it is in no step");
}

/// A graph is fed by graphs that ran before it, and by the host's own tokenizer and sampler.
static void check_run(const Manifest& manifest) {
    std::map<std::string, Names> known{{"tokenizer", {"input_ids", "attention_mask"}},
                                       {"sampler", {"latents", "timestep_embedding", "image_embedding"}}};
    if (manifest.host.run.empty()) throw RunError("host.run has no graph");
    for (const Call& call : manifest.host.run) {
        const std::string where = "host.run, graph '" + call.graph + "'";
        check_call(manifest, call, where);
        for (const Feed& feed : call.feeds) check_feed(manifest, call, feed, known, where);
        if (call.when == "step") continue;  // its output goes into latents
        for (const TensorSpec& output : manifest.graphs.at(call.graph).outputs) known[call.graph].insert(output.name);
    }
}

static json parsed(const std::filesystem::path& folder) {
    const std::filesystem::path path = folder / kManifest;
    std::ifstream file(path, std::ios::binary);
    if (!file) throw RunError(folder.string() + " is no bundle: it has no " + kManifest);
    const json value = json::parse(file);
    if (!value.is_object() || value.value("format", "") != "wuerstchen-bundle") {
        throw RunError(path.string() + " is not a wuerstchen-bundle manifest");
    }
    const json version = value.value("format_version", json());
    if (version != kFormatVersion) {
        throw RunError(path.string() + " has format version " + version.dump() + ", this program reads " +
                       std::to_string(kFormatVersion) + "; export the bundle again with a matching version");
    }
    return value;
}

Manifest read_manifest(const std::filesystem::path& folder) {
    const std::string where = (folder / kManifest).string() + ": ";
    Manifest manifest;
    try {
        manifest = parsed(folder).get<Manifest>();
    } catch (const json::exception& error) {
        throw RunError(where + one_line(error.what()) + "; export the bundle again");
    }
    try {
        check_rules(manifest.host);
        for (const auto& [name, spec] : manifest.tokenizers) check_tokenizer(spec);
        check_sampling(manifest.sampling);
        check_run(manifest);
    } catch (const RunError& error) {
        throw RunError(where + error.what());
    }
    return manifest;
}
