#include "check.hpp"

#include "error.hpp"
#include "loop.hpp"
#include "sampler.hpp"
#include "wiring.hpp"

static const Tolerance& tolerance(const Manifest& manifest, const std::string& graph, const Sessions& sessions) {
    const std::string& precision = sessions.usage().at(graph).precision;
    const auto found = manifest.host.tolerances.find(graph);
    if (found != manifest.host.tolerances.end()) {
        for (const Tolerance& one : found->second) {
            if (one.compute == precision) return one;
        }
    }
    throw RunError("host.tolerances has nothing for " + graph + " in " + precision);
}

/// A tensor's name, and how far off it is: collected while a graph runs, judged once it is known in what it computes.
using Errors = std::vector<std::pair<std::string, double>>;

static Errors once(const Call& call, const Manifest& manifest, const Golden& golden, Sessions& sessions) {
    const Graph& graph = manifest.graphs.at(call.graph);
    Tensors inputs;
    for (const TensorSpec& input : graph.inputs) {
        inputs[input.name] = golden.recording.at(call.graph + "." + input.name);
    }
    Errors errors;
    sessions.with(call.graph, {}, [&] {
        const Tensors outputs = sessions.run(call.graph, inputs);
        for (const TensorSpec& output : graph.outputs) {
            const std::string name = call.graph + "." + output.name;
            errors.emplace_back(name, relative_error(outputs.at(output.name), golden.recording.at(name)));
        }
    });
    return errors;
}

/// A denoiser at every step by itself: the recorded latents in, the recorded epsilon expected.
static Errors each_step(const Call& call, const Manifest& manifest, const Golden& golden, const Plan& plan,
                        Sessions& sessions) {
    const Stage& stage = plan.stage(call.stage);
    const std::string& output = manifest.graphs.at(call.graph).outputs[0].name;
    Tensors conditions;
    for (const Feed& feed : call.feeds) {
        if (feed.source == "sampler") continue;
        const Tensor& source = golden.recording.at(feed.source + "." + feed.output);
        conditions[feed.input] = fed_rows(call, feed, source, stage.guided);
    }
    Errors errors;
    sessions.with(call.graph, std::move(conditions), [&] {
        for (size_t i = 0; i < stage.rows.size(); ++i) {
            Tensors inputs;
            for (const Feed& feed : call.feeds) {
                if (feed.source != "sampler") continue;
                const bool embedding = feed.output == "timestep_embedding";
                const Tensor source = embedding ? embedding_row(stage, i) : latents_before(golden, stage.name, i);
                inputs[feed.input] = fed_rows(call, feed, source, stage.guided);
            }
            const std::string name = stage.name + "/" + std::to_string(i) + ".epsilon";
            const Tensor epsilon = sessions.run(call.graph, inputs).at(output);
            errors.emplace_back(name, relative_error(epsilon, golden.recording.at(name)));
        }
    });
    return errors;
}

void check_graphs(const Bundle& bundle, const Golden& golden, const Plan& plan, Sessions& sessions, Report& report) {
    const Manifest& manifest = bundle.manifest();
    for (const Call& call : manifest.host.run) {
        const Errors errors = call.when == "step" ? each_step(call, manifest, golden, plan, sessions)
                                                  : once(call, manifest, golden, sessions);
        const Tolerance& allowed = tolerance(manifest, call.graph, sessions);
        const std::string what = call.graph + " on recorded inputs, in " + allowed.compute;
        for (const auto& [name, error] : errors) report.add(what, name, error, allowed.graph_error);
    }
}

void check_free_run(const Bundle& bundle, const Golden& golden, const Plan& plan, Sessions& sessions, Report& report) {
    const Manifest& manifest = bundle.manifest();
    double latent_limit = 0, picture_limit = 0;  // the loosest of all graphs
    for (const Call& call : manifest.host.run) {
        const Tolerance& one = tolerance(manifest, call.graph, sessions);
        latent_limit = std::max(latent_limit, error_of(one.latent_db));
        picture_limit = std::max(picture_limit, error_of(one.picture_db));
    }
    Listener listener{[](auto&&...) {},
                      [&](const std::string& name, const Tensor& latents) {
                          report.add("free run: latents", name, relative_error(latents, golden.recording.at(name)),
                                     latent_limit);
                      },
                      [](auto&&...) {}};
    Loop loop(bundle, sessions, plan, listener);
    const Tensor image = loop(golden.prompt, golden.negative_prompt);
    const Call& last = manifest.host.run.back();
    const std::string name = last.graph + "." + manifest.graphs.at(last.graph).outputs[0].name;
    report.add("free run: picture", name, rms_error(image, golden.recording.at(name)), picture_limit);
}
