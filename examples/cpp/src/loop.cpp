#include "loop.hpp"

#include <cstdio>
#include <set>

#include "error.hpp"
#include "sampler.hpp"
#include "tokenizer.hpp"
#include "wiring.hpp"

constexpr float kExtremeGuidance = 100;  // pictures are made with scales up to 20 or so

Loop::Loop(const Bundle& bundle, Sessions& sessions, const Plan& plan, Listener listener)
    : bundle_(bundle),
      manifest_(bundle.manifest()),
      sessions_(sessions),
      plan_(plan),
      listener_(std::move(listener)),
      noise_(manifest_.host.noise, plan.seed) {}

Tensor Loop::operator()(const std::string& prompt, const std::string& negative_prompt) {
    prompts_ = {prompt, negative_prompt};
    const std::vector<Call>& run = manifest_.host.run;
    for (size_t i = 0; i < run.size(); ++i) {
        run[i].when == "step" ? run_steps(run[i]) : run_once(run[i]);
        forget(i);
    }
    const Call& last = run.back();
    if (last.when == "step") throw RunError("host.run ends without a picture");
    return made_.at(last.graph).at(manifest_.graphs.at(last.graph).outputs[0].name);
}

/// Frees what no later graph reads.
void Loop::forget(size_t done) {
    const std::vector<Call>& run = manifest_.host.run;
    std::set<std::string> needed{run.back().graph};
    for (size_t i = done + 1; i < run.size(); ++i) {
        for (const Feed& feed : run[i].feeds) needed.insert(feed.source);
    }
    std::erase_if(made_, [&](const auto& entry) { return !needed.contains(entry.first); });
}

/// Ids and masks (2,T): the prompt's row, then the negative prompt's.
void Loop::tokenize(const std::string& graph) {
    const Tokenizer tokenizer(bundle_, graph);
    Integers ids, mask;
    for (const std::string& prompt : prompts_) {
        const Encoding encoding = tokenizer(prompt);
        ids.insert(ids.end(), encoding.ids.begin(), encoding.ids.end());
        mask.insert(mask.end(), encoding.mask.begin(), encoding.mask.end());
        if (!encoding.truncated.empty()) listener_.on_truncated(prompt, encoding.truncated);
    }
    const Shape shape{2, static_cast<int64_t>(ids.size()) / 2};
    made_["tokenizer"] = {{"input_ids", {shape, ids}}, {"attention_mask", {shape, mask}}};
}

/// A stage's latents, which begin as noise when they are first asked for: the draws follow the stages.
Tensor& Loop::latents(const std::string& stage) {
    if (!latents_.contains(stage)) {
        latents_[stage] = noise_.draw(plan_.stage(stage).latents);
        listener_.on_latents(stage + "/start.latents", latents_[stage]);
    }
    return latents_[stage];
}

Tensor Loop::source(const Call& call, const Feed& feed, size_t step) {
    if (feed.source != "sampler") return made_.at(feed.source).at(feed.output);
    if (feed.output == "latents") return latents(call.stage);
    if (feed.output == "timestep_embedding") return embedding_row(plan_.stage(call.stage), step);
    return image_embedding(latents("stage_c"), manifest_.sampling);
}

/// The inputs that change from step to step, or those that do not.
Tensors Loop::feeds(const Call& call, size_t step, bool changing) {
    const bool guided = !call.stage.empty() && plan_.stage(call.stage).guided;
    Tensors fed;
    for (const Feed& feed : call.feeds) {
        if ((feed.source == "sampler") == changing) {
            fed[feed.input] = fed_rows(call, feed, source(call, feed, step), guided);
        }
    }
    return fed;
}

void Loop::run_once(const Call& call) {
    const std::string& graph = call.graph;
    if (manifest_.tokenizers.contains(graph)) tokenize(graph);
    Tensors changing = feeds(call, 0, true);
    sessions_.with(graph, feeds(call, 0, false), [&] { made_[graph] = sessions_.run(graph, changing); });
    for (const auto& [name, tensor] : made_[graph]) check_finite(tensor, graph + " (" + name + ")");
    listener_.on_step(graph, 1, 1);
}

void Loop::run_steps(const Call& call) {
    const Stage& stage = plan_.stage(call.stage);
    const std::string& output = manifest_.graphs.at(call.graph).outputs[0].name;
    sessions_.with(call.graph, feeds(call, 0, false), [&] {
        for (size_t i = 0; i < stage.rows.size(); ++i) {
            const Tensor epsilon = sessions_.run(call.graph, feeds(call, i, true)).at(output);
            Tensor& x = latents(call.stage);
            // Drawn in the last step, too, where it is multiplied by 0: the next stage draws on from here.
            x = denoised(stage, stage.rows[i], x, epsilon, noise_.draw(x.shape));
            char where[128];
            std::snprintf(where, sizeof where, "%s, step %zu of %zu (t = %.4f)", call.graph.c_str(), i + 1,
                          stage.rows.size(), static_cast<double>(stage.rows[i].t));
            check_finite(epsilon, where);
            check_finite(x, where);
            listener_.on_latents(call.stage + "/" + std::to_string(i) + ".latents", x);
            listener_.on_step(call.graph, i + 1, stage.rows.size());
        }
    });
}

void Loop::check_finite(const Tensor& tensor, const std::string& where) const {
    const int64_t bad = not_finite(tensor);
    if (bad == 0) return;
    std::string advice = "a file may be damaged, or the bundle's precision too low";
    if (plan_.stage_c.guidance > kExtremeGuidance) advice = "lower --guidance";
    if (plan_.stage_b.guidance > kExtremeGuidance) advice = "lower --decoder-guidance";
    throw RunError(where + " gave " + std::to_string(bad) + " of " + std::to_string(count(tensor.shape)) +
                   " values that are NaN or infinite; " + advice);
}
