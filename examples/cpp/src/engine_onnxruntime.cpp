// ONNX Runtime on the CPU. Its library is loaded when it is first used: linking would pin one version of it.
#include <dlfcn.h>

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdlib>

#include "engine.hpp"
#include "error.hpp"
#include "numbers.hpp"

constexpr uint32_t kOldestApi = 15;  // whose functions are all that is called here

/// A tensor that reads the values where they are; they have to stay there for as long as it lives.
static Ort::Value view(const Tensor& tensor) {
    static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return std::visit(
        [&](const auto& values) {
            using Value = typename std::decay_t<decltype(values)>::value_type;
            return Ort::Value::CreateTensor<Value>(memory, const_cast<Value*>(values.data()), values.size(),
                                                   tensor.shape.data(), tensor.shape.size());
        },
        tensor.values);
}

static Tensor copied(const Ort::Value& value, const std::string& name) {
    const auto info = value.GetTensorTypeAndShapeInfo();
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        throw RunError("output '" + name + "' is not of fp32");
    }
    const float* values = value.GetTensorData<float>();
    return {info.GetShape(), Floats(values, values + info.GetElementCount())};
}

class OnnxRuntimeSession : public Session {
  public:
    OnnxRuntimeSession(Ort::Env& env, const GraphFile& file, const Ort::SessionOptions& options)
        : graph_(file.graph), session_(env, file.path.c_str(), options) {}

    void bind(Tensors constants) override { constants_ = std::move(constants); }

    Tensors run(const Tensors& feeds) override {
        check_inputs(graph_, constants_, feeds);
        std::vector<const char*> inputs, outputs;
        std::vector<Ort::Value> values;
        for (const TensorSpec& input : graph_.inputs) {
            const auto fed = feeds.find(input.name);
            inputs.push_back(input.name.c_str());
            values.push_back(view(fed == feeds.end() ? constants_.at(input.name) : fed->second));
        }
        for (const TensorSpec& output : graph_.outputs) outputs.push_back(output.name.c_str());
        return results(inputs, values, outputs);
    }

    /// The CPU provider has fp16 kernels on ARM64 only: elsewhere each node is widened.
    std::string precision() override {
#ifdef __aarch64__
        if (graph_.precision == "fp16") return "f16";
#endif
        return "f32";
    }

  private:
    Tensors results(const std::vector<const char*>& inputs, const std::vector<Ort::Value>& values,
                    const std::vector<const char*>& outputs) {
        try {
            const auto computed = session_.Run(Ort::RunOptions{nullptr}, inputs.data(), values.data(), values.size(),
                                               outputs.data(), outputs.size());
            Tensors results;
            for (size_t i = 0; i < computed.size(); ++i) results[outputs[i]] = copied(computed[i], outputs[i]);
            return results;
        } catch (const Ort::Exception& error) {
            throw RunError("ONNX Runtime failed: " + one_line(error.what()));
        }
    }

    const Graph& graph_;
    Tensors constants_;
    Ort::Session session_;
};

class OnnxRuntime : public Engine {
  public:
    OnnxRuntime(const std::string& version, std::optional<int> threads)
        : version_(version), threads_(threads), env_(ORT_LOGGING_LEVEL_FATAL, "wuerstchen") {}

    std::string name() const override { return "ONNX Runtime"; }
    std::string version() const override { return version_; }

    std::unique_ptr<Session> open(const GraphFile& file) override {
        try {
            return std::make_unique<OnnxRuntimeSession>(env_, file, options(file));
        } catch (const Ort::Exception& error) {
            throw RunError("ONNX Runtime cannot load " + file.path.string() + ": " + one_line(error.what()));
        }
    }

  private:
    Ort::SessionOptions options(const GraphFile& file) const {
        Ort::SessionOptions options;
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // errors are thrown
        if (threads_) options.SetIntraOpNumThreads(*threads_);
        if (file.rules.memory_pattern == false) options.DisableMemPattern();
        for (const auto& [key, value] : file.rules.config) options.AddConfigEntry(key.c_str(), value.c_str());
        if (file.f32) {
            for (const auto& [key, value] : file.rules.config_f32) options.AddConfigEntry(key.c_str(), value.c_str());
        }
        return options;
    }

    std::string version_;
    std::optional<int> threads_;
    Ort::Env env_;
};

/// The library by the path given, by the environment's, or by its name alone.
static void* load_library(const std::string& path) {
    const char* named = std::getenv("ONNXRUNTIME");
    std::string file = !path.empty() ? path : named != nullptr ? named : "libonnxruntime.so.1";
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // its own builds gather and send unless told so before they load
    if (void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    throw UsageError("ONNX Runtime does not load (" + one_line(dlerror()) +
                     "); give its library's path with --onnxruntime or in ONNXRUNTIME");
}

/// The newest interface that both the library and this program's headers know; 1.N has number N.
static uint32_t api_version(const std::string& version) {
    const size_t dot = version.find('.');
    const auto minor = number<uint32_t>(version.substr(dot + 1, version.find('.', dot + 1) - dot - 1));
    return std::min<uint32_t>(minor.value_or(0), ORT_API_VERSION);
}

std::unique_ptr<Engine> make_onnxruntime(const Execution& execution) {
    if (!execution.precision.empty()) {
        throw UsageError("--execution-precision is for OpenVINO: ONNX Runtime computes as the bundle was exported");
    }
    void* library = load_library(execution.onnxruntime);
    using Base = const OrtApiBase* (*)();
    const auto base = reinterpret_cast<Base>(dlsym(library, "OrtGetApiBase"));
    if (base == nullptr) throw UsageError(execution.onnxruntime + " is not ONNX Runtime's library");
    const std::string version = base()->GetVersionString();
    const uint32_t known = api_version(version);
    const OrtApi* api = known >= kOldestApi ? base()->GetApi(known) : nullptr;
    if (api == nullptr) {
        throw UsageError("ONNX Runtime " + version + " is too old: this program needs 1." + std::to_string(kOldestApi));
    }
    Ort::InitApi(api);
    return std::make_unique<OnnxRuntime>(version, execution.threads);
}
