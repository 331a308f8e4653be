import Foundation

#if canImport(os)
import os
#endif

/// Bytes that the system lets this process have; nil where nobody says.
public func availableMemory() -> Double? {
    #if os(iOS)
    let bytes = os_proc_available_memory()
    return bytes > 0 ? Double(bytes) : nil
    #else
    return kilobytes("/proc/meminfo", "MemAvailable:").map { $0 * 1024 }
    #endif
}

/// The most this process has held, in bytes; nil where nobody says.
public func peakMemory() -> Int? { kilobytes("/proc/self/status", "VmHWM:").map { Int($0) * 1024 } }

private func kilobytes(_ file: String, _ name: String) -> Double? {
    guard let data = FileManager.default.contents(atPath: file) else { return nil }
    let lines = String(decoding: data, as: UTF8.self).split(separator: "\n")
    return lines.first { $0.hasPrefix(name) }?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Double($0) }
}

/// HostError where weights and activations alone are more than what is free: the system would end the process.
public func checkMemory(
    _ manifest: Manifest, _ plan: Plan, oneAtATime: Bool, available: Double? = availableMemory()
) throws {
    let each = manifest.host.run.map { bytes(of: $0, manifest, plan) }
    let most = each.max() ?? 0
    let needed = oneAtATime ? most : each.reduce(0, +)
    guard let available, needed > available else { return }
    let fits = !oneAtATime && most <= available
    throw HostError.usage(
        "out of memory: the picture needs \(megabytes(needed)) at the least, \(megabytes(available)) are free; "
            + (fits
                ? "with one graph at a time (--low-memory) it needs \(megabytes(most))"
                : "ask for a smaller picture, or take an int8 or int4 bundle"))
}

/// A graph's files, and per row of the batch a constant and what grows with the latents' positions.
private func bytes(of call: Call, _ manifest: Manifest, _ plan: Plan) -> Double {
    guard let graph = manifest.graphs[call.graph] else { return 0 }
    let weights = Set(filesOf(graph, manifest)).reduce(0.0) { $0 + Double(manifest.files[$1]?.size ?? 0) }
    guard graph.activations.count == 3, !call.stage.isEmpty else { return weights }
    let latents = plan.stage(call.stage).shape
    let positions = Double(latents[2]) * Double(latents[3])
    let by = graph.activations
    return weights + Double(plan.batch(call)) * (by[0] + by[1] * positions + by[2] * positions * positions)
}

private func megabytes(_ bytes: Double) -> String { "\(Int(bytes / 1e6)) MB" }
