import Foundation

/// The manifest's `host`, and what in it this program has code for: anything else is refused, not guessed at.
public let stageNames = ["stage_c", "stage_b"]

/// Numbers beyond this make no model, and would overflow counts of bytes.
public let largest = 1 << 16

public struct Feed {
    public let input: String
    public let source: String
    public let output: String
    public let unconditional: String
}

public struct Call {
    public let graph: String
    public let stage: String
    public let runs: String
    public let rows: String
    public let feeds: [Feed]
}

public struct NoiseRules {
    public let uniformBits: Int
    public let block: Int
    public let minimum: Int
}

public struct ScheduleRules {
    public let alpha: ClosedRange<Float>
    public let timestepScale: Float
}

public struct PictureRules {
    public let clamp: ClosedRange<Float>
    public let scale: Float
}

public struct Tolerance {
    public let compute: String
    public let graphError: Double
    public let latentDb: Double
    public let pictureDb: Double
}

public struct SessionRules {
    public let memoryPattern: Bool?
    public let config: [String: String]
    public let configF32: [String: String]
}

public struct Host {
    public let run: [Call]
    public let tokens: String
    public let noise: NoiseRules
    public let schedule: ScheduleRules
    public let guidanceOffAt: Double
    public let picture: PictureRules
    public let sizes: [Sizes]
    public let tolerances: [String: [Tolerance]]
    public let sessions: [String: SessionRules]

    init(_ json: Json) throws {
        run = try json.at("run").list().map(readCall)
        tokens = try json.at("tokens").text()
        noise = try readNoise(json.at("noise"))
        let schedule = try json.at("schedule")
        self.schedule = ScheduleRules(
            alpha: try readRange(schedule.at("alpha_clamp")), timestepScale: try schedule.at("timestep_scale").float())
        guidanceOffAt = try json.at("guidance").at("off_at").number()
        let picture = try json.at("picture")
        self.picture = PictureRules(
            clamp: try readRange(picture.at("clamp")), scale: Float(try picture.at("scale").numberWithin(1...255)))
        sizes = try json.at("sizes").list().map {
            Sizes(stageC: try sides($0.at("stage_c")), stageB: try sides($0.at("stage_b")), picture: try sides($0.at("picture")))
        }
        tolerances = try json.at("tolerances").entries().mapValues { try $0.list().map(readTolerance) }
        sessions = try json.at("sessions").entries().mapValues(readSession)
    }
}

private let known: [(place: String, values: [String])] = [
    ("host.noise.algorithm", ["torch_cpu_randn"]),
    ("host.noise.generator", ["mt19937"]),
    ("host.noise.transform", ["box_muller"]),
    ("host.noise.tail", ["redraw"]),
    ("host.noise.seed_bits", ["32"]),
    ("host.noise.one_generator", ["true"]),
    ("host.noise.in_last_step", ["true"]),
    ("host.noise.draws", ["stage_c/start", "stage_c/steps", "stage_b/start", "stage_b/steps"]),
    ("host.schedule.kind", ["cosine"]),
    ("host.guidance.halves", ["conditional", "unconditional"]),
    ("host.guidance.epsilon", ["unconditional + scale * (conditional - unconditional)"]),
    ("host.picture.rounding", ["nearest_even"]),
    ("host.picture.channels", ["red", "green", "blue"]),
]
private let knownOfTokenizers: [(place: String, values: [String])] = [
    ("rules.algorithm", ["byte_level_bpe"]),
    ("rules.frame", ["bos", "tokens", "eos"]),
    ("rules.mask", ["bos", "tokens", "eos"]),
]
private let backends = ["onnx", "coreml"]

/// HostError unless format, version and rules are those this host follows; before any of it is used.
func checkKnown(_ json: Json) throws {
    guard try json.at("format").text() == "wuerstchen-bundle" else {
        throw HostError.run("it is not a wuerstchen-bundle manifest")
    }
    let version = try json.at("format_version")
    guard version.shown == "\(formatVersion)" else {
        throw HostError.run(
            "it has format version \(version.shown), this host reads \(formatVersion); export the bundle again with a "
                + "matching version")
    }
    let backend = try json.at("backend")
    guard backends.contains(backend.plain) else {
        throw HostError.run("backend is \(backend.shown), this host knows \(backends.joined(separator: ", "))")
    }
    for (place, values) in known { try checkRule(json, place, values) }
    for spec in try json.at("tokenizers").entries().values {
        for (place, values) in knownOfTokenizers { try checkRule(spec, place, values) }
    }
}

private func checkRule(_ json: Json, _ place: String, _ values: [String]) throws {
    let value = try place.split(separator: ".").reduce(json) { try $0.at(String($1)) }
    let there = value.isList ? try value.list().map(\.plain) : [value.plain]
    guard there == values else {
        throw HostError.run("\(value.place) is \(value.shown), this host knows \(values.joined(separator: ", "))")
    }
}

private func readCall(_ json: Json) throws -> Call {
    Call(
        graph: try json.at("graph").text(),
        stage: try json.at("stage").text(),
        runs: try json.at("when").text(),
        rows: try json.at("rows").text(),
        feeds: try json.at("feeds").list().map {
            Feed(
                input: try $0.at("input").text(), source: try $0.at("source").text(), output: try $0.at("output").text(),
                unconditional: try $0.at("unconditional").text())
        })
}

private func readNoise(_ json: Json) throws -> NoiseRules {
    let block = try json.at("block").within(2...largest)
    guard block % 2 == 0 else { throw HostError.run("\(json.place).block is \(block); it must be even") }
    return NoiseRules(
        uniformBits: try json.at("uniform_bits").within(1...32), block: block,
        minimum: try json.at("minimum").within(block...largest))
}

private func readTolerance(_ json: Json) throws -> Tolerance {
    Tolerance(
        compute: try json.at("compute").text(), graphError: try json.at("graph_error").number(),
        latentDb: try json.at("latent_db").number(), pictureDb: try json.at("picture_db").number())
}

private func readSession(_ json: Json) throws -> SessionRules {
    let pattern = try json.at("memory_pattern")
    return SessionRules(
        memoryPattern: pattern.isNull ? nil : try pattern.flag(), config: try json.at("config").textsByKey(),
        configF32: try json.at("config_f32").textsByKey())
}

private func readRange(_ json: Json) throws -> ClosedRange<Float> {
    let ends = try json.list()
    guard ends.count == 2 else { throw HostError.run("\(json.place) is \(json.shown); it must be two numbers") }
    let least = try ends[0].numberWithin(0...1)
    return Float(least)...Float(try ends[1].numberWithin(least...1))
}

private func sides(_ json: Json) throws -> [Int] {
    let all = try json.list().map { try $0.within(1...largest) }
    guard all.count == 2 else { throw HostError.run("\(json.place) is \(json.shown); it must be height and width") }
    return all
}
