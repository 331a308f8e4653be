import Foundation
import Wuerstchen

/// A bundle and a prompt to a PNG file: what an app does, for tests and measurements.
@main
enum Main {
    static func main() {
        do {
            let line = try CommandLine(Array(ProcessInfo.processInfo.arguments.dropFirst()))
            if line.flags.contains("help") {
                print(help)
            } else if line.flags.isDisjoint(with: ["check", "replay"]) {
                try makePicture(line)
            } else {
                try check(line)
            }
        } catch {
            let ours = asOurs(error, "the run failed")
            say("error: \(ours)")
            exit(ours.exitCode)
        }
    }
}

private func say(_ text: String) { FileHandle.standardError.write(Data("\(text)\n".utf8)) }

private func makePicture(_ line: CommandLine) throws {
    let output = URL(fileURLWithPath: line.output)
    try checkWritable(output, line.output)
    let start = Date()
    let bundle = try ModelBundle(line.bundle)
    let plan = try Plan(bundle.manifest, line.options)
    let oneAtATime = line.flags.contains("low-memory")
    try checkMemory(bundle.manifest, plan, oneAtATime: oneAtATime)
    let sessions = Sessions(try makeEngine(bundle, line.execution), oneAtATime: oneAtATime)
    var watch = Watch()
    watch.step = { name, done, total in
        if done == total, !line.flags.contains("quiet") { say("\(name): \(done) of \(total)") }
    }
    watch.truncated = { say("warning: '\($0.prefix(40))'...: too long, cut off before '\($1)'") }
    let run = Run(bundle.manifest, sessions, try loadTokenizers(bundle), plan, watch)
    let picture = try Picture(try run.image(), bundle.manifest.host.picture)
    do {
        try picture.png(["wuerstchen": json(parameters(plan))]).write(to: output, options: .atomic)
    } catch {
        throw HostError.run("\(line.output): \(oneLine(error.localizedDescription))")
    }
    report(line, picture, run, Date().timeIntervalSince(start))
}

/// What the picture says of itself.
private func parameters(_ plan: Plan) -> [String: Any] {
    [
        "prompt": plan.options.prompt, "negative_prompt": plan.options.negative, "seed": [plan.options.seed],
        "height": plan.sizes.picture[0], "width": plan.sizes.picture[1],
        "steps": plan.stages["stage_c"]?.rows.count ?? 0, "guidance": plan.stages["stage_c"]?.scale ?? 0,
        "decoder_steps": plan.stages["stage_b"]?.rows.count ?? 0, "decoder_guidance": plan.stages["stage_b"]?.scale ?? 0,
    ]
}

private func report(_ line: CommandLine, _ picture: Picture, _ run: Run, _ total: Double) {
    let peak = peakMemory()
    if line.flags.contains("json") {
        let graphs = run.spent.mapValues { ["load": $0.load, "run": $0.run, "runs": Double($0.runs)] }
        let seconds: [String: Any] = ["total": total, "graphs": graphs]
        print(
            json([
                "picture": line.output, "height": picture.height, "width": picture.width, "seconds": seconds,
                "peak_bytes": peak.map { $0 as Any } ?? NSNull(),
            ]))
    } else if !line.flags.contains("quiet") {
        let memory = peak.map { ", peak memory \($0 / 1_000_000) MB" } ?? ""
        print("\(line.output): \(picture.height) x \(picture.width) in \(String(format: "%.1f", total)) s\(memory)")
    }
}

/// The checks in their order; HostError names the first tensor that differs.
private func check(_ line: CommandLine) throws {
    let bundle = try ModelBundle(line.bundle)
    let check = Check(bundle, try loadTokenizers(bundle), try Recording(bundle))
    var checks = [check.replay, check.tokens]
    if line.flags.contains("check") {
        let engine = try makeEngine(bundle, line.execution)
        checks += [{ try check.graphs(engine) }, { try check.ownRun(engine) }]
    }
    var all: [Compared] = []
    for one in checks {
        let compared = try one()
        all += compared
        if line.flags.isDisjoint(with: ["json", "quiet"]) { summary(compared).forEach { print($0) } }
        if let differing = compared.first(where: { !$0.holds }) { throw differing.failure(line.name) }
    }
    if !line.flags.contains("quiet") {
        for prompt in Set(check.leftOut).sorted() {
            say("left out: '\(prompt.prefix(40))' has characters that this Swift's Unicode does not know")
        }
    }
    if line.flags.contains("json") {
        print(json(all.map { one -> [String: Any] in
            ["what": one.what, "tensor": one.tensor, "error": finite(one.error), "limit": one.limit, "decibels": one.decibels]
        }))
    }
}

/// JSON has no infinity: what equals the golden run to the bit keeps as many decibels as there are.
private func finite(_ value: Double) -> Any { value.isFinite ? value : NSNull() }

private func checkWritable(_ file: URL, _ name: String) throws {
    var isFolder: ObjCBool = false
    let folder = file.deletingLastPathComponent().path
    guard FileManager.default.fileExists(atPath: folder, isDirectory: &isFolder), isFolder.boolValue else {
        throw HostError.usage("--output \(name): the folder \(folder) does not exist")
    }
    if FileManager.default.fileExists(atPath: file.path, isDirectory: &isFolder), isFolder.boolValue {
        throw HostError.usage("--output \(name): it is a folder; give another file name")
    }
    guard FileManager.default.isWritableFile(atPath: folder) else {
        throw HostError.usage("--output \(name): the folder \(folder) cannot be written to")
    }
}

private func json(_ value: Any) -> String {
    guard let data = try? JSONSerialization.data(withJSONObject: value, options: [.sortedKeys]) else { return "{}" }
    return String(decoding: data, as: UTF8.self)
}
