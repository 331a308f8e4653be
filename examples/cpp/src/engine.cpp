#include "engine.hpp"

#include "error.hpp"

struct EngineKind {
    std::string name;
    std::unique_ptr<Engine> (*make)(const Execution&);  // null where this program was built without it
};

// In the order in which they are taken where none is asked for.
static const EngineKind kEngines[] = {
#ifdef WITH_ONNXRUNTIME
    {"onnxruntime", make_onnxruntime},
#else
    {"onnxruntime", nullptr},
#endif
#ifdef WITH_OPENVINO
    {"openvino", make_openvino},
#else
    {"openvino", nullptr},
#endif
};

std::string engine_for(const Manifest& manifest, const std::string& asked) {
    std::string names;
    for (const EngineKind& kind : kEngines) {
        const bool runs = manifest.host.sessions.contains(kind.name);
        if (asked.empty() ? runs && kind.make != nullptr : kind.name == asked) {
            if (runs) return kind.name;
            throw UsageError("--engine " + asked + " does not run bundles for '" + manifest.backend + "'");
        }
        names += (names.empty() ? "" : " and ") + kind.name;
    }
    if (!asked.empty()) throw UsageError("--engine " + asked + ": there are " + names);
    throw UsageError("this program has no engine for bundles for '" + manifest.backend + "'");
}

std::unique_ptr<Engine> make_engine(const std::string& name, const Execution& execution) {
    for (const EngineKind& kind : kEngines) {
        if (kind.name != name) continue;
        if (kind.make == nullptr) throw UsageError("--engine " + name + ": this program was built without it");
        return kind.make(execution);
    }
    throw UsageError("--engine " + name + ": there is no such engine");
}

void check_inputs(const Graph& graph, const Tensors& constants, const Tensors& feeds) {
    for (const TensorSpec& input : graph.inputs) {
        if (!constants.contains(input.name) && !feeds.contains(input.name)) {
            throw RunError("the graph needs '" + input.name + "', which host.run does not feed");
        }
    }
}
