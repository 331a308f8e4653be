import Foundation
import Wuerstchen

let help = """
    usage: wuerstchen-cli [options] BUNDLE PROMPT
           wuerstchen-cli BUNDLE --replay | --check

    Make a picture from a prompt with an ONNX or a Core ML bundle.

      -o, --output FILE          PNG file (default: out.png)
      --negative-prompt TEXT     what the picture should not show
      --seed N                   whole number (default: 0)
      --steps N                  even Stage C steps (default: the bundle's schedule)
      --guidance X               Stage C guidance scale; up to 1 is off (default: the bundle's)
      --decoder-steps N          even Stage B steps (default: the bundle's schedule)
      --decoder-guidance X       Stage B guidance scale (default: the bundle's)
      --height N, --width N      size in pixels (default: the bundle's)
      --size HEIGHTxWIDTH        both at once, such as 512x768
      --threads N                CPU threads a graph runs on (default: the engine's)
      --units NAME               ONNX Runtime: cpu, xnnpack, coreml; Core ML: cpu, gpu, ane, all (default: the engine's)
      --low-memory               hold one graph in memory at a time
      --replay                   check noise, schedules, wiring and ids by the golden run, without an engine
      --check                    that, then each graph, then a whole run, each within the bundle's tolerances
      --json                     print the result, or every comparison, as JSON
      --quiet                    no progress
      --help                     print this and exit
    """

private let valued: Set = [
    "output", "negative-prompt", "seed", "steps", "guidance", "decoder-steps", "decoder-guidance", "height", "width", "size",
    "threads", "units",
]
private let flagged: Set = ["low-memory", "replay", "check", "json", "quiet", "help"]

/// The command line, named as that of `python -m runtimes` is. HostError names the option that is wrong.
struct CommandLine {
    private(set) var flags: Set<String> = []
    private(set) var options = Options(prompt: "")
    private(set) var execution = Execution()
    private var values: [String: String] = [:]
    private var positionals: [String] = []

    init(_ words: [String]) throws {
        try read(words)
        if flags.contains("help") { return }
        try check()
        options.prompt = positionals.count > 1 ? positionals[1] : ""
        options.negative = values["negative-prompt"] ?? ""
        options.seed = try seed(values["seed"] ?? "0")
        options.steps = try whole("steps")
        options.guidance = try number("guidance")
        options.decoderSteps = try whole("decoder-steps")
        options.decoderGuidance = try number("decoder-guidance")
        options.height = try side("height", 0)
        options.width = try side("width", 1)
        execution.threads = try whole("threads")
        execution.units = values["units"]
    }

    var bundle: URL { URL(fileURLWithPath: positionals[0]) }
    var name: String { positionals[0] }
    var output: String { values["output"] ?? "out.png" }

    private mutating func read(_ words: [String]) throws {
        var left = words[...]
        while let word = left.popFirst() {
            if word == "--" {
                positionals += left
                return
            }
            guard word.hasPrefix("-"), word != "-" else {
                positionals.append(word)
                continue
            }
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            let name = word == "-o" ? "output" : String(parts[0].dropFirst(2))
            if flagged.contains(name), parts.count == 1 {
                flags.insert(name)
            } else if valued.contains(name), word == "-o" || word.hasPrefix("--") {
                guard let value = parts.count > 1 ? parts[1] : left.popFirst() else {
                    throw HostError.usage("\(word) needs a value (see --help)")
                }
                values[name] = value
            } else {
                throw HostError.usage("unknown option '\(word)' (see --help)")
            }
        }
    }

    private func check() throws {
        let makesNone = !flags.isDisjoint(with: ["check", "replay"])
        if positionals.isEmpty { throw HostError.usage("there is no bundle; give its folder (see --help)") }
        if makesNone, positionals.count > 1 {
            throw HostError.usage("--check and --replay make no picture: leave the prompt out")
        }
        if !makesNone, positionals.count == 1 {
            throw HostError.usage("there is no prompt; give one (it may be empty: \"\")")
        }
        if positionals.count > 2 {
            throw HostError.usage("one prompt makes one picture; '\(positionals[2])' is one too many (put a prompt in quotes)")
        }
        if !output.lowercased().hasSuffix(".png") {
            throw HostError.usage("--output \(output): pictures are PNG files, end the name in .png")
        }
    }

    private func whole(_ name: String) throws -> Int? {
        guard let value = values[name] else { return nil }
        guard let whole = Int(value) else { throw HostError.usage("--\(name) is '\(value)'; it must be a whole number") }
        guard whole >= 1 else { throw HostError.usage("--\(name) is \(value); it must be at least 1") }
        return whole
    }

    private func number(_ name: String) throws -> Double? {
        guard let value = values[name] else { return nil }
        guard let number = Double(value), number.isFinite else {
            throw HostError.usage("--\(name) is '\(value)'; it must be a number")
        }
        return number
    }

    private func seed(_ value: String) throws -> Int64 {
        guard let seed = Int64(value) else {
            throw HostError.usage("--seed is '\(value)'; it must be a whole number such as 7, below 2^63")
        }
        return seed
    }

    private func side(_ name: String, _ place: Int) throws -> Int? {
        guard let size = values["size"] else { return try whole(name) }
        if values[name] != nil { throw HostError.usage("--size and --\(name) exclude each other") }
        let sides = size.lowercased().split(separator: "x", omittingEmptySubsequences: false).compactMap { Int($0) }
        guard sides.count == 2, sides.allSatisfy({ $0 > 0 }) else {
            throw HostError.usage("--size is '\(size)'; it must be height x width, such as 512x768")
        }
        return sides[place]
    }
}
