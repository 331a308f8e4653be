import SwiftUI
import Wuerstchen

/// Pictures and checks of one bundle, one after the other, off the main thread.
@MainActor
final class PictureMaker: ObservableObject {
    @Published private(set) var status = ""
    @Published private(set) var progress = 0.0
    @Published private(set) var picture: CGImage?
    @Published private(set) var isBusy = false
    private var task: Task<Void, Never>?
    private let folder: URL

    init(folder: URL) { self.folder = folder }

    func make(prompt: String, seed: Int64) {
        start { [folder] tell in
            let begun = Date()
            let bundle = try ModelBundle(folder)
            var options = Options(prompt: prompt)
            options.seed = seed
            let plan = try Plan(bundle.manifest, options)
            try checkMemory(bundle.manifest, plan, oneAtATime: true)
            var watch = Watch()
            watch.step = { name, done, total in
                try Task.checkCancellation()
                tell { maker in
                    maker.progress = Double(done) / Double(total)
                    maker.status = "\(name): \(done) of \(total)"
                }
            }
            let sessions = Sessions(try makeEngine(bundle, Execution()), oneAtATime: true)
            let image = try Run(bundle.manifest, sessions, try loadTokenizers(bundle), plan, watch).image()
            let made = cgImage(try Picture(image, bundle.manifest.host.picture))
            let seconds = String(format: "%.1f s", Date().timeIntervalSince(begun))
            tell { maker in
                maker.picture = made
                maker.status = seconds
            }
        }
    }

    /// The golden check on this phone: a line a kind of comparison, then the first tensor that differs.
    func check() {
        start { [folder] tell in
            let bundle = try ModelBundle(folder)
            let check = Check(bundle, try loadTokenizers(bundle), try Recording(bundle))
            let engine = try makeEngine(bundle, Execution())
            var lines: [String] = []
            for one in [check.replay, check.tokens, { try check.graphs(engine) }, { try check.ownRun(engine) }] {
                try Task.checkCancellation()
                let compared = try one()
                lines += summary(compared)
                let said = lines.joined(separator: "\n")
                tell { $0.status = said }
                if let differing = compared.first(where: { !$0.holds }) { throw differing.failure(bundle.name) }
            }
        }
    }

    /// The step that runs is the last one.
    func stop() { task?.cancel() }

    private func start(_ work: @escaping @Sendable (@escaping (@escaping @MainActor (PictureMaker) -> Void) -> Void) throws -> Void) {
        guard !isBusy else { return }
        isBusy = true
        status = ""
        task = Task.detached(priority: .userInitiated) { [weak self] in
            let tell: (@escaping @MainActor (PictureMaker) -> Void) -> Void = { change in
                Task { @MainActor in if let self { change(self) } }
            }
            do {
                try work(tell)
            } catch is CancellationError {
                tell { $0.status = "stopped" }
            } catch {
                let said = asOurs(error, "the run failed").description
                tell { $0.status += ($0.status.isEmpty ? "" : "\n") + said }
            }
            tell { $0.isBusy = false }
        }
    }
}

private func cgImage(_ picture: Picture) -> CGImage? {
    guard let provider = CGDataProvider(data: Data(picture.pixels) as CFData) else { return nil }
    return CGImage(
        width: picture.width, height: picture.height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: picture.width * 3,
        space: CGColorSpaceCreateDeviceRGB(), bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue),
        provider: provider, decode: nil, shouldInterpolate: false, intent: .defaultIntent)
}
