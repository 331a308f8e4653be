#include "options.hpp"

#include <functional>
#include <map>

#include "error.hpp"
#include "numbers.hpp"
#include "unicode.hpp"

const char* const kHelp = R"(usage: wuerstchen BUNDLE PROMPT [options]     make a picture
       wuerstchen BUNDLE --replay             check everything but the graphs by the golden run
       wuerstchen BUNDLE --check [options]    the same, then the graphs, then a whole run

  -o, --output FILE           PNG file (default: out.png)
  --negative-prompt TEXT      what the picture should not show
  --seed N                    whole number (default: 0)
  --steps N                   even Stage C steps (default: the bundle's schedule)
  --decoder-steps N           even Stage B steps (default: the bundle's schedule)
  --guidance X                Stage C guidance scale; up to 1 is off (default: the bundle's)
  --decoder-guidance X        Stage B guidance scale (default: the bundle's)
  --size HEIGHTxWIDTH         in pixels, such as 512x768; or --height N, --width N (default: the bundle's)
  --engine NAME               onnxruntime or openvino (default: the first that runs the bundle)
  --onnxruntime FILE          ONNX Runtime's library (default: $ONNXRUNTIME, then libonnxruntime.so.1)
  --execution-precision TYPE  f32, bf16 or f16, which OpenVINO computes in (default: its own; condition
                              graphs always f32)
  --threads N                 CPU threads a graph runs on (default: one a core)
  --low-memory                hold one graph in memory at a time
  --no-memory-check           start even where the run cannot fit into the memory that is free
  --no-verify                 trust the files of graphs: check their sizes, and not their SHA-256
  --json                      print the result, with times, as JSON
  --quiet                     print errors only
)";

static int64_t whole(const std::string& option, const std::string& text) {
    const auto value = number<int64_t>(text);
    if (!value) throw UsageError(option + ": '" + text + "' is no whole number");
    return *value;
}

static double real(const std::string& option, const std::string& text) {
    const auto value = number<double>(text);
    if (!value) throw UsageError(option + ": '" + text + "' is no number");
    return *value;
}

static int threads(const std::string& option, const std::string& text) {
    const int64_t value = whole(option, text);
    if (value < 1 || value > 4096) throw UsageError(option + " is " + text + "; it must be 1 to 4096");
    return static_cast<int>(value);
}

static std::string precision(const std::string& option, const std::string& text) {
    if (text != "f32" && text != "bf16" && text != "f16") throw UsageError(option + ": there are f32, bf16 and f16");
    return text;
}

/// Bytes as the text they are, or UsageError: no tokenizer could read others.
static std::string utf8(const std::string& what, const std::string& text) {
    try {
        decoded(text);
    } catch (const RunError& error) {
        throw UsageError(what + " " + error.what() + "; set the terminal to UTF-8");
    }
    return text;
}

static void set_size(SamplingOptions& sampling, const std::string& option, const std::string& text) {
    const size_t middle = text.find('x');
    const auto height = number<int64_t>(text.substr(0, middle));
    const auto width = number<int64_t>(middle == text.npos ? "" : text.substr(middle + 1));
    if (!height || !width) throw UsageError(option + ": '" + text + "' is no size such as 512x768, height x width");
    if (sampling.height || sampling.width) throw UsageError("--size and --height or --width exclude each other");
    sampling.height = height;
    sampling.width = width;
}

using Setter = std::function<void(const std::string& option, const std::string& text)>;

static std::map<std::string, Setter> setters(Options& options) {
    SamplingOptions& sampling = options.sampling;
    Execution& execution = options.execution;
    return {
        {"--output", [&](auto&, auto& text) { options.output = text; }},
        {"-o", [&](auto&, auto& text) { options.output = text; }},
        {"--negative-prompt", [&](auto& option, auto& text) { options.negative_prompt = utf8(option, text); }},
        {"--seed", [&](auto& option, auto& text) { sampling.seed = whole(option, text); }},
        {"--steps", [&](auto& option, auto& text) { sampling.steps = whole(option, text); }},
        {"--decoder-steps", [&](auto& option, auto& text) { sampling.decoder_steps = whole(option, text); }},
        {"--guidance", [&](auto& option, auto& text) { sampling.guidance = real(option, text); }},
        {"--decoder-guidance", [&](auto& option, auto& text) { sampling.decoder_guidance = real(option, text); }},
        {"--height", [&](auto& option, auto& text) { sampling.height = whole(option, text); }},
        {"--width", [&](auto& option, auto& text) { sampling.width = whole(option, text); }},
        {"--size", [&](auto& option, auto& text) { set_size(sampling, option, text); }},
        {"--engine", [&](auto&, auto& text) { execution.engine = text; }},
        {"--onnxruntime", [&](auto&, auto& text) { execution.onnxruntime = text; }},
        {"--execution-precision",
         [&](auto& option, auto& text) { execution.precision = precision(option, text); }},
        {"--threads", [&](auto& option, auto& text) { execution.threads = threads(option, text); }},
    };
}

static std::map<std::string, bool*> switches(Options& options) {
    return {{"--low-memory", &options.low_memory},
            {"--no-memory-check", &options.no_memory_check},
            {"--no-verify", &options.no_verify},
            {"--replay", &options.replay},
            {"--check", &options.check},
            {"--json", &options.json},
            {"--quiet", &options.quiet},
            {"--help", &options.help},
            {"-h", &options.help}};
}

static void place(Options& options, std::vector<std::string> words) {
    if (words.empty() || words[0].empty()) throw UsageError("there is no bundle folder (see --help)");
    if (words.size() > 2) throw UsageError("one prompt at a time: put it in quotes (see --help)");
    options.bundle = words[0];
    if (words.size() == 2) options.prompt = utf8("PROMPT", words[1]);
    const bool checks = options.replay || options.check;
    if (checks && options.prompt) throw UsageError("--replay and --check make no picture: leave the prompt out");
    if (options.replay && options.check) throw UsageError("--check replays, too: leave --replay out");
    if (!checks && !options.prompt) throw UsageError("there is no prompt; give one (it may be empty: \"\")");
}

Options parse_options(const std::vector<std::string>& words) {
    Options options;
    const auto set = setters(options);
    const auto on = switches(options);
    std::vector<std::string> rest;
    for (size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        if (word == "--") {
            rest.insert(rest.end(), words.begin() + static_cast<std::ptrdiff_t>(i) + 1, words.end());
            break;
        }
        const size_t equals = word.starts_with("--") ? word.find('=') : word.npos;
        const std::string option = word.substr(0, equals);
        if (on.contains(option) && equals == word.npos) {
            *on.at(option) = true;
        } else if (set.contains(option)) {
            const bool next = i + 1 < words.size() && !words[i + 1].starts_with("--");
            if (equals == word.npos && !next) throw UsageError(option + " needs a value (see --help)");
            set.at(option)(option, equals == word.npos ? words[++i] : word.substr(equals + 1));
        } else if (word.size() > 1 && word[0] == '-') {
            throw UsageError("there is no " + option + " (see --help)");
        } else {
            rest.push_back(word);
        }
    }
    if (!options.help) place(options, rest);
    return options;
}
