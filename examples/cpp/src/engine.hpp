// The engine seam: the only thing that differs between ONNX Runtime and OpenVINO.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "manifest.hpp"
#include "tensor.hpp"

/// How graphs are asked to run; what is empty is the engine's own default.
struct Execution {
    std::string engine, precision;
    std::optional<int> threads;
    std::string onnxruntime;  // path of ONNX Runtime's library
};

/// A graph on disk, and how its session is to be opened: `f32` holds it to fp32 where the engine has a choice.
struct GraphFile {
    std::string name;
    std::filesystem::path path;
    const Graph& graph;
    const SessionRules& rules;
    bool f32;
};

/// One graph, ready to run. Errors are RunErrors.
class Session {
  public:
    virtual ~Session() = default;

    /// Keeps inputs that stay the same from run to run.
    virtual void bind(Tensors constants) = 0;

    /// All outputs by name, from the other inputs.
    virtual Tensors run(const Tensors& feeds) = 0;

    /// What it computes in: f32, bf16 or f16.
    virtual std::string precision() = 0;
};

class Engine {
  public:
    virtual ~Engine() = default;

    virtual std::string name() const = 0;
    virtual std::string version() const = 0;
    virtual std::unique_ptr<Session> open(const GraphFile& file) = 0;
};

/// The name of the engine for a bundle, the first that runs it where none is asked for; UsageError where this
/// program has none, or not the one asked for.
std::string engine_for(const Manifest& manifest, const std::string& asked);

/// An engine by name. UsageError for options it does not have, RunError where its library does not load.
std::unique_ptr<Engine> make_engine(const std::string& name, const Execution& execution);

std::unique_ptr<Engine> make_onnxruntime(const Execution& execution);
std::unique_ptr<Engine> make_openvino(const Execution& execution);

/// RunError naming the inputs of a graph that nothing gives.
void check_inputs(const Graph& graph, const Tensors& constants, const Tensors& feeds);
