#include "memory.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "error.hpp"

/// Bytes that Linux says can be had; 0 where nobody says.
static double available_memory() {
    std::ifstream file("/proc/meminfo");
    for (std::string name, unit; file >> name;) {
        double kilobytes = 0;
        if (name == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
    }
    return 0;
}

/// What a graph takes: its files, and per row of the batch a constant and what grows with the latents' positions.
static double bytes_of(const Call& call, const Manifest& manifest, const Plan& plan) {
    const Graph& graph = manifest.graphs.at(call.graph);
    std::set<std::string> files{graph.file};
    for (const Data& data : graph.data) files.insert(data.file);
    double bytes = 0;
    for (const std::string& name : files) {
        const auto file = manifest.files.find(name);
        if (file != manifest.files.end()) bytes += static_cast<double>(file->second.size);
    }
    if (graph.activations.size() != 3 || call.stage.empty()) return bytes;
    const Shape& latents = plan.stage(call.stage).latents;
    const double positions = static_cast<double>(latents[2]) * static_cast<double>(latents[3]);
    const auto& by = graph.activations;
    return bytes + static_cast<double>(plan.rows(call)) * (by[0] + by[1] * positions + by[2] * positions * positions);
}

void check_memory(const Manifest& manifest, const Plan& plan, bool low_memory) {
    double sum = 0, most = 0;
    for (const Call& call : manifest.host.run) {
        const double bytes = bytes_of(call, manifest, plan);
        sum += bytes;
        most = std::max(most, bytes);
    }
    const double available = available_memory(), needed = low_memory ? most : sum;
    if (available == 0 || needed <= available) return;
    const auto megabytes = [](double bytes) { return std::to_string(static_cast<int64_t>(bytes / 1e6)) + " MB"; };
    const bool fits = !low_memory && most <= available;
    throw UsageError("the picture needs " + megabytes(needed) + " of memory at the least and " + megabytes(available) +
                     " are free: " +
                     (fits ? "with --low-memory it needs " + megabytes(most) : "ask for a smaller picture"));
}

int64_t peak_memory() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}
