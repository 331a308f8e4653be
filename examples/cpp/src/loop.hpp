// A prompt to a picture: the graphs in the order of host.run, the sampler between them.
#pragma once

#include <functional>
#include <map>

#include "bundle.hpp"
#include "noise.hpp"
#include "plan.hpp"
#include "sessions.hpp"

/// Who is told of a run while it goes on.
struct Listener {
    std::function<void(const std::string& graph, size_t done, size_t total)> on_step;
    std::function<void(const std::string& name, const Tensor& tensor)> on_latents;  // 'stage_c/3.latents'
    std::function<void(const std::string& prompt, const std::string& lost)> on_truncated;
};

class Loop {
  public:
    Loop(const Bundle& bundle, Sessions& sessions, const Plan& plan, Listener listener);

    /// The image f32 (1,3,H,W) in 0..1. RunError naming graph and step for values that are not finite.
    Tensor operator()(const std::string& prompt, const std::string& negative_prompt);

  private:
    void tokenize(const std::string& graph);
    void run_once(const Call& call);
    void run_steps(const Call& call);
    Tensor source(const Call& call, const Feed& feed, size_t step);
    Tensors feeds(const Call& call, size_t step, bool changing);
    Tensor& latents(const std::string& stage);
    void forget(size_t done);
    void check_finite(const Tensor& tensor, const std::string& where) const;

    const Bundle& bundle_;
    const Manifest& manifest_;
    Sessions& sessions_;
    const Plan& plan_;
    Listener listener_;
    Noise noise_;
    std::vector<std::string> prompts_;
    std::map<std::string, Tensors> made_;  // by source
    std::map<std::string, Tensor> latents_;  // by stage
};
