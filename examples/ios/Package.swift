// swift-tools-version: 5.9
import PackageDescription

#if os(Linux)
// Headers of ONNX Runtime, as Debian's libonnxruntime-dev has them; WUERSTCHEN_NO_ENGINE does without an engine.
let engines: [Target] = Context.environment["WUERSTCHEN_NO_ENGINE"] == nil
    ? [.systemLibrary(name: "COnnxRuntime")] : []
let engineDependencies: [Target.Dependency] = engines.map { .target(name: $0.name) }
let packages: [Package.Dependency] = []
#else
let engines: [Target] = []
let engineDependencies: [Target.Dependency] = [.product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")]
let packages: [Package.Dependency] = [
    .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0"),
]
#endif

let package = Package(
    name: "Wuerstchen",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [.library(name: "Wuerstchen", targets: ["Wuerstchen"])],
    dependencies: packages,
    targets: engines + [
        .target(name: "Wuerstchen", dependencies: engineDependencies),
        .executableTarget(name: "wuerstchen-cli", dependencies: ["Wuerstchen"]),
        .testTarget(name: "WuerstchenTests", dependencies: ["Wuerstchen"]),
    ]
)
