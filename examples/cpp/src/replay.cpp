#include <nlohmann/json.hpp>

#include "error.hpp"
#include "golden.hpp"
#include "noise.hpp"
#include "numbers.hpp"
#include "sampler.hpp"
#include "schedule.hpp"
#include "tokenizer.hpp"
#include "wiring.hpp"

using nlohmann::json;

constexpr const char* kGolden = "golden/run.safetensors";

// Absolute limits. Whoever rounds as the recording machine did is 0 off, a wrong seed more than 100.
constexpr double kTable = 1e-4;    // schedules hold values up to 100; their last bits are another machine's cosine
constexpr double kNoise = 2e-6;    // a few units in the last place of values up to 5
constexpr double kLatents = 1e-3;  // the first step magnifies the noise's last bits up to 100 times
constexpr double kNothing = 0;

/// A number of the metadata, RunError where it is none.
template <typename Number>
static Number metadata(const Recording& recording, const std::string& key) {
    const auto value = number<Number>(recording.made_with(key));
    if (!value) throw RunError("the golden run's " + key + " is no number: " + recording.made_with(key));
    return *value;
}

static std::optional<int64_t> steps(const Recording& recording, const std::string& key) {
    if (recording.made_with(key) == "default") return std::nullopt;
    return metadata<int64_t>(recording, key);
}

Golden read_golden(const Bundle& bundle) {
    if (!bundle.has(kGolden)) {
        throw RunError(bundle.folder().string() + " has no golden run (" + kGolden + "): export without --no-golden");
    }
    Golden golden{read_safetensors(bundle.text(kGolden), kGolden), {}, {}, {}};
    const Recording& recording = golden.recording;
    golden.prompt = recording.made_with("prompt");
    golden.negative_prompt = recording.made_with("negative_prompt");
    golden.options = {metadata<int64_t>(recording, "seed"),     steps(recording, "steps"),
                      steps(recording, "decoder_steps"),        metadata<int64_t>(recording, "height"),
                      metadata<int64_t>(recording, "width"),    metadata<double>(recording, "guidance"),
                      metadata<double>(recording, "decoder_guidance")};
    return golden;
}

static std::string named(const std::string& stage, size_t step, const std::string& tensor) {
    return stage + "/" + std::to_string(step) + "." + tensor;
}

const Tensor& latents_before(const Golden& golden, const std::string& stage, size_t step) {
    return golden.recording.at(step == 0 ? stage + "/start.latents" : named(stage, step - 1, "latents"));
}

/// The tables of the manifest, computed again from its constants.
static void replay_tables(const Manifest& manifest, const std::string& stage, Report& report) {
    const Denoiser& denoiser = manifest.sampling.denoiser(stage);
    const std::vector<Row> rows = make_schedule(denoiser.timesteps, denoiser, manifest.host.schedule);
    for (size_t i = 0; i < rows.size(); ++i) {
        const Row &made = rows[i], &listed = denoiser.schedule[i];
        const auto named = [&](const char* table) { return "sampling." + stage + table + std::to_string(i); };
        report.add(stage + ": schedule", named(".schedule/"),
                   largest_error({{4}, Floats{made.t, made.a, made.b, made.c}},
                                 {{4}, Floats{listed.t, listed.a, listed.b, listed.c}}),
                   kTable);
        const Floats embedding = timestep_embedding(made.t, denoiser, manifest.host.schedule);
        const Shape shape{static_cast<int64_t>(embedding.size())};
        report.add(stage + ": timestep embeddings", named(".embeddings/"),
                   largest_error({shape, embedding}, {shape, denoiser.embeddings[i]}), kTable);
    }
}

/// A stage's noise, and its latents where the recorded epsilons stand in for its graph.
static void replay_stage(const Stage& stage, const Golden& golden, Noise& noise, Report& report) {
    const Recording& recorded = golden.recording;
    const auto compare = [&](const std::string& what, const std::string& name, const Tensor& values, double limit) {
        report.add(stage.name + ": " + what, name, largest_error(values, recorded.at(name)), limit);
    };
    Tensor latents = noise.draw(stage.latents);
    compare("noise", stage.name + "/start.latents", latents, kNoise);
    for (size_t i = 0; i < stage.rows.size(); ++i) {
        const Tensor drawn = noise.draw(stage.latents);
        compare("noise", named(stage.name, i, "noise"), drawn, kNoise);
        latents = denoised(stage, stage.rows[i], latents, recorded.at(named(stage.name, i, "epsilon")), drawn);
        compare("latents after every step", named(stage.name, i, "latents"), latents, kLatents);
    }
}

/// What host.run says that an input is made of.
static Tensor recorded_source(const Call& call, const Feed& feed, const Manifest& manifest, const Plan& plan,
                              const Golden& golden) {
    const auto last = [&](const Stage& stage) { return latents_before(golden, stage.name, stage.rows.size()); };
    if (feed.source == "tokenizer") return golden.recording.at(call.graph + "." + feed.output);
    if (feed.source != "sampler") return golden.recording.at(feed.source + "." + feed.output);
    if (feed.output == "image_embedding") return image_embedding(last(plan.stage_c), manifest.sampling);
    // Before a stage's steps its latents are the start, after them the last ones.
    for (const Call& step : manifest.host.run) {
        if (&step == &call) break;
        if (step.when == "step" && step.stage == call.stage) return last(plan.stage(call.stage));
    }
    return golden.recording.at(call.stage + "/start.latents");
}

/// Every recorded input of a graph against what host.run says it is.
static void replay_wiring(const Manifest& manifest, const Plan& plan, const Golden& golden, Report& report) {
    for (const Call& call : manifest.host.run) {
        const bool guided = !call.stage.empty() && plan.stage(call.stage).guided;
        for (const Feed& feed : call.feeds) {
            const std::string name = call.graph + "." + feed.input;
            if (!golden.recording.tensors.contains(name)) continue;
            const Tensor rows = fed_rows(call, feed, recorded_source(call, feed, manifest, plan, golden), guided);
            report.add("wiring", name, largest_error(rows, golden.recording.at(name)), kNothing);
        }
    }
}

void replay(const Bundle& bundle, const Golden& golden, const Plan& plan, Report& report) {
    const Manifest& manifest = bundle.manifest();
    Noise noise(manifest.host.noise, plan.seed);
    for (const Stage* stage : {&plan.stage_c, &plan.stage_b}) replay_tables(manifest, stage->name, report);
    for (const Stage* stage : {&plan.stage_c, &plan.stage_b}) replay_stage(*stage, golden, noise, report);
    replay_wiring(manifest, plan, golden, report);
}

/// A prompt's ids or mask against recorded ones. A difference is no failure, and true is returned, where the prompt
/// has characters that this program's tables of Unicode do not know.
static bool compare_ids(const std::string& name, const std::string& prompt, const Integers& ids,
                        const Integers& expected, Report& report) {
    const Shape shape{static_cast<int64_t>(ids.size())}, other{static_cast<int64_t>(expected.size())};
    const double error = largest_error({shape, ids}, {other, expected});
    bool unknown = false;
    for (char32_t character : decoded(prompt)) unknown = unknown || is_unassigned(character);
    if (error > 0 && unknown) return true;
    report.add("tokens", name, error, kNothing);
    return false;
}

/// One prompt of golden/tokens.json with every tokenizer; whether it has to be left out.
static bool check_prompt(const json& entry, size_t index, const std::map<std::string, Tokenizer>& tokenizers,
                         Report& report) {
    const auto prompt = entry.at("prompt").get<std::string>();
    bool left_out = false;
    for (const auto& [graph, ids] : entry.at("input_ids").items()) {
        const Encoding encoding = tokenizers.at(graph)(prompt);
        const std::string name = "golden/tokens.json[" + std::to_string(index) + "] " + graph;
        left_out |= compare_ids(name, prompt, encoding.ids, ids.get<Integers>(), report);
        Integers mask(encoding.mask.size(), 0);
        std::fill_n(mask.begin(), std::min(mask.size(), entry.at("length").at(graph).get<size_t>()), 1);
        left_out |= compare_ids(name + " mask", prompt, encoding.mask, mask, report);
    }
    return left_out;
}

static void check_listed(const Bundle& bundle, const std::map<std::string, Tokenizer>& tokenizers, Report& report) {
    const std::string& file = bundle.manifest().host.tokens;
    if (file.empty()) return;
    size_t left_out = 0, index = 0;
    try {
        const json prompts = json::parse(bundle.text(file));
        for (const json& entry : prompts) left_out += check_prompt(entry, index++, tokenizers, report);
    } catch (const json::exception& error) {
        throw RunError(file + " is damaged: " + one_line(error.what()));
    } catch (const std::out_of_range&) {
        throw RunError(file + " is damaged: it names a graph that has no tokenizer");
    }
    if (left_out > 0) {
        report.note(std::to_string(left_out) + " of " + std::to_string(index) +
                    " prompts of golden/tokens.json are left out: they have characters that Unicode " +
                    unicode_version() + " does not know");
    }
}

void check_tokens(const Bundle& bundle, const Golden& golden, Report& report) {
    std::map<std::string, Tokenizer> tokenizers;
    for (const auto& [graph, spec] : bundle.manifest().tokenizers) {
        const Tokenizer& tokenizer = tokenizers.try_emplace(graph, bundle, graph).first->second;
        const std::string name = graph + ".input_ids";
        if (!golden.recording.tensors.contains(name)) continue;
        Tensor ids{{2, spec.max_length}, Integers{}};
        for (const std::string& prompt : {golden.prompt, golden.negative_prompt}) {
            const Encoding encoding = tokenizer(prompt);
            Integers& all = std::get<Integers>(ids.values);
            all.insert(all.end(), encoding.ids.begin(), encoding.ids.end());
        }
        report.add("tokens", name, largest_error(ids, golden.recording.at(name)), kNothing);
    }
    check_listed(bundle, tokenizers, report);
}
