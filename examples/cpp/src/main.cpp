// wuerstchen BUNDLE PROMPT: a bundle folder and a prompt to a PNG file.
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <new>
#include <nlohmann/json.hpp>

#include "check.hpp"
#include "error.hpp"
#include "loop.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "png.hpp"
#include "unicode.hpp"

using nlohmann::json;

/// To standard error, for standard output has the results: one line that counts, or where no terminal is, its end.
static void progress(const Options& options, const std::string& graph, size_t done, size_t total) {
    const bool terminal = isatty(STDERR_FILENO);
    if (options.quiet || (!terminal && done < total)) return;
    std::cerr << (terminal ? "\r" : "") << graph << ": " << done << " of " << total;
    std::cerr << (done == total ? "\n" : "") << std::flush;
}

static json usage_of(const Sessions& sessions) {
    json graphs = json::object();
    for (const auto& [graph, usage] : sessions.usage()) {
        graphs[graph] = {{"load_seconds", usage.load_seconds},
                         {"run_seconds", usage.run_seconds},
                         {"runs", usage.runs},
                         {"precision", usage.precision}};
    }
    return graphs;
}

/// Bytes that are no UTF-8, which a cut prompt may end in, become replacement characters.
static void print(const json& value) {
    std::cout << value.dump(1, ' ', false, json::error_handler_t::replace) << "\n";
}

/// Shows progress, and says and keeps what was cut off a prompt.
static Listener listener_for(const Options& options, json& truncated) {
    return {[&options](auto& graph, size_t done, size_t total) { progress(options, graph, done, total); },
            [](auto&&...) {},
            [&truncated](auto& prompt, auto& lost) {
                if (truncated.contains(prompt)) return;
                truncated[prompt] = lost;
                std::cerr << "warning: '" << encoded(decoded(prompt).substr(0, 40))
                          << "'...: too long, cut off before '" << lost << "'\n";
            }};
}

static void print_result(const Options& options, const json& result) {
    if (options.json) return print(result);
    if (options.quiet) return;
    std::cout << "wrote " << options.output.string() << " (" << result["height"] << " x " << result["width"]
              << ", seed " << result["seed"] << ") in " << result["seconds"].get<double>() << " s on "
              << result["engine"].get<std::string>() << "\n";
}

static int make_picture(const Options& options, const Bundle& bundle) {
    const auto start = std::chrono::steady_clock::now();
    const Manifest& manifest = bundle.manifest();
    const Plan plan = make_plan(manifest, options.sampling);
    check_fixed_shapes(manifest, plan);
    if (!options.no_memory_check) check_memory(manifest, plan, options.low_memory);
    const std::string name = engine_for(manifest, options.execution.engine);
    const auto engine = make_engine(name, options.execution);
    Sessions sessions(bundle, *engine, name, options.low_memory);
    json truncated = json::object();
    Loop loop(bundle, sessions, plan, listener_for(options, truncated));
    save_png(loop(*options.prompt, options.negative_prompt), manifest.host.picture, options.output);
    print_result(options, {{"picture", options.output.string()},
                           {"seed", options.sampling.seed},
                           {"height", plan.sizes.picture[0]},
                           {"width", plan.sizes.picture[1]},
                           {"truncated", truncated},
                           {"engine", engine->name() + " " + engine->version()},
                           {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()},
                           {"peak_bytes", peak_memory()},
                           {"graphs", usage_of(sessions)}});
    return 0;
}

/// Prints each check; RunError naming the first tensor that is too far off.
static void show(const Report& report, const Options& options) {
    json lines = json::array();
    for (const Check& check : report.checks()) {
        const bool passed = check.error <= check.limit;
        lines.push_back({{"what", check.what}, {"error", check.error}, {"limit", check.limit}, {"passed", passed}});
        if (!options.json && !options.quiet) {
            std::cout << check.what << ": error " << check.error << " (at most " << check.limit << ")\n";
        }
    }
    if (options.json) print(lines);
    for (const std::string& note : report.notes()) {
        if (!options.quiet) std::cerr << "note: " << note << "\n";
    }
    if (!report.failure().empty()) throw RunError(options.bundle.string() + ": " + report.failure());
}

/// From what needs the least to what needs the most; what fails is not built upon.
static int check_bundle(const Options& options, const Bundle& bundle) {
    const Golden golden = read_golden(bundle);
    const Plan plan = make_plan(bundle.manifest(), golden.options);
    Report report;
    replay(bundle, golden, plan, report);
    check_tokens(bundle, golden, report);
    if (options.check && report.failure().empty()) {
        const std::string name = engine_for(bundle.manifest(), options.execution.engine);
        const auto engine = make_engine(name, options.execution);
        Sessions sessions(bundle, *engine, name, options.low_memory);
        check_graphs(bundle, golden, plan, sessions, report);
        if (report.failure().empty()) check_free_run(bundle, golden, plan, sessions, report);
    }
    show(report, options);
    return 0;
}

static int run(const std::vector<std::string>& words) {
    const Options options = parse_options(words);
    if (options.help) {
        std::cout << kHelp;
        return 0;
    }
    if (options.prompt) check_output(options.output);
    const Bundle bundle(options.bundle, !options.no_verify);
    return options.prompt ? make_picture(options, bundle) : check_bundle(options, bundle);
}

static int failed(int code, const std::string& line) {
    if (isatty(STDERR_FILENO)) std::cerr << "\r\x1b[K";  // over what progress counted
    std::cerr << "error: " << one_line(line) << "\n";
    return code;
}

int main(int count, char** words) {
    try {
        const int code = run({words + 1, words + count});
        if (!std::cout.flush()) return failed(RunError::exit_code, "cannot write to standard output");
        return code;
    } catch (const UsageError& error) {
        return failed(UsageError::exit_code, error.what());
    } catch (const std::bad_alloc&) {
        return failed(RunError::exit_code, "out of memory: try --low-memory, or a smaller picture");
    } catch (const std::length_error&) {  // of a vector
        return failed(RunError::exit_code, "out of memory: ask for a smaller picture");
    } catch (const std::exception& error) {
        return failed(RunError::exit_code, error.what());
    }
}
