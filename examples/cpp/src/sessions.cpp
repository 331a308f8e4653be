#include "sessions.hpp"

#include <malloc.h>

#include <chrono>
#include <sstream>

#include "error.hpp"
#include "numbers.hpp"

using Clock = std::chrono::steady_clock;

static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

Sessions::Sessions(const Bundle& bundle, Engine& engine, const std::string& engine_name, bool one_at_a_time)
    : bundle_(bundle),
      engine_(engine),
      engine_name_(engine_name),
      rules_(bundle.manifest().host.sessions.at(engine_name)),
      one_at_a_time_(one_at_a_time) {}

std::unique_ptr<Session> Sessions::open(const std::string& graph) {
    const Graph& spec = bundle_.manifest().graphs.at(graph);
    return engine_.open({graph, bundle_.graph(graph), spec, rules_, spec.compute == "f32"});
}

static std::vector<int> version_numbers(const std::string& version) {
    std::vector<int> numbers;
    std::istringstream parts(version);
    for (std::string part; std::getline(parts, part, '.');) numbers.push_back(number<int>(part).value_or(0));
    return numbers;
}

/// What to say beside an error of an engine that is older than those that such graphs were run on; else "".
std::string Sessions::too_old(const std::string& graph) const {
    const auto& oldest = bundle_.manifest().graphs.at(graph).engines;
    const auto known = oldest.find(engine_name_);
    if (known == oldest.end() || version_numbers(engine_.version()) >= version_numbers(known->second)) return "";
    return "; such graphs were run on version " + known->second + " and newer, this is " + engine_.version();
}

/// What to do where an engine's error, in its words, is one of memory; else "".
static std::string out_of_memory(const std::string& error) {
    for (const char* words : {"bad_alloc", "allocate memory", "can't alloc"}) {
        if (error.find(words) != error.npos) return "; memory ran out: try --low-memory, or a smaller picture";
    }
    return "";
}

void Sessions::with(const std::string& graph, Tensors constants, const std::function<void()>& use) {
    try {
        const auto start = Clock::now();
        if (!open_.contains(graph)) open_[graph] = open(graph);
        open_[graph]->bind(std::move(constants));
        usage_[graph].load_seconds += seconds_since(start);
        use();
        usage_[graph].precision = open_[graph]->precision();
    } catch (const RunError& error) {
        const std::string text = error.what(), named = text.find(graph) == text.npos ? graph + ": " + text : text;
        throw RunError(named + too_old(graph) + out_of_memory(text));
    }
    if (one_at_a_time_) {
        open_.clear();
        malloc_trim(0);  // or the next graph is loaded beside what the C library kept
    }
}

Tensors Sessions::run(const std::string& graph, const Tensors& feeds) {
    const auto start = Clock::now();
    Tensors outputs = open_.at(graph)->run(feeds);
    usage_[graph].run_seconds += seconds_since(start);
    ++usage_[graph].runs;
    return outputs;
}
