// The graphs of a bundle while they run: opened when first needed, kept, or closed after use.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "bundle.hpp"
#include "engine.hpp"

/// Seconds that a graph took, and what it computed in.
struct Usage {
    double load_seconds = 0, run_seconds = 0;
    int64_t runs = 0;
    std::string precision;
};

class Sessions {
  public:
    Sessions(const Bundle& bundle, Engine& engine, const std::string& engine_name, bool one_at_a_time);

    /// Opens a graph and lets `use` run it with some inputs bound. RunErrors name the graph.
    void with(const std::string& graph, Tensors constants, const std::function<void()>& use);

    /// One run of the graph that is in use.
    Tensors run(const std::string& graph, const Tensors& feeds);

    const std::map<std::string, Usage>& usage() const { return usage_; }

  private:
    std::unique_ptr<Session> open(const std::string& graph);
    std::string too_old(const std::string& graph) const;

    const Bundle& bundle_;
    Engine& engine_;
    std::string engine_name_;
    const SessionRules& rules_;
    bool one_at_a_time_;
    std::map<std::string, std::unique_ptr<Session>> open_;
    std::map<std::string, Usage> usage_;
};
