import Foundation

/// A bundle's folder, its manifest read and checked. Files are hashed before they are used, each once for as
/// long as it stays as it is; no path leads out of the folder.
public final class ModelBundle {
    /// What messages call it.
    public let name: String
    public let manifest: Manifest
    private let root: URL
    private var hashed: [String: Date] = [:]  // the time of those that agreed

    public init(_ folder: URL) throws {
        name = folder.relativePath
        let named = folder.resolvingSymlinksInPath()
        root = named.lastPathComponent == manifestName ? named.deletingLastPathComponent() : named
        guard let data = try? Data(contentsOf: root.appendingPathComponent(manifestName)) else {
            throw HostError.run("\(name) is no bundle: it has no \(manifestName); make one with 'python -m exporter'")
        }
        let place = "\(name): \(manifestName)"
        let json = try Json.parse(data, place)
        do {
            try checkKnown(json)
            // Before anything else: no file outside the folder is opened, not even to be hashed.
            for path in try json.at("files").entries().keys { try checkInside(path) }
            manifest = try Manifest(json)
            try checkReferences(manifest)
            try checkRun(manifest)
        } catch let error as HostError {
            throw HostError(description: "\(place): \(error)", exitCode: error.exitCode)
        }
    }

    /// Whether the manifest vouches for a file.
    public func has(_ path: String) -> Bool { manifest.files[path] != nil }

    /// A file that is there and is the one the manifest names; HostError otherwise.
    public func file(_ path: String) throws -> URL {
        guard let wanted = manifest.files[path] else { throw HostError.run("\(name): the manifest names no \(path)") }
        let file = root.appendingPathComponent(path)
        try checkLink(path, file)
        guard let state = try? FileManager.default.attributesOfItem(atPath: file.resolvingSymlinksInPath().path),
            state[.type] as? FileAttributeType == .typeRegular
        else { throw HostError.run("\(name): \(path) is missing; export the bundle again") }
        let size = (state[.size] as? NSNumber)?.intValue ?? -1
        guard size == wanted.size else {
            throw HostError.run("\(name): \(path) has \(size) bytes, the manifest says \(wanted.size); export the bundle again")
        }
        let time = state[.modificationDate] as? Date ?? .distantPast
        if hashed[path] != time {
            guard try sha256(file) == wanted.sha256 else {
                throw HostError.run("\(name): \(path) is not the file the manifest names (SHA-256 differs); export the bundle again")
            }
            hashed[path] = time
        }
        return file
    }

    public func data(_ path: String) throws -> Data { try Data(contentsOf: file(path)) }

    public func json(_ path: String) throws -> Json { try Json.parse(data(path), "\(name): \(path)") }

    /// A graph's file, or for Core ML its package, every file of it hashed; an engine finds the weights by itself.
    public func graphFile(_ graph: String) throws -> URL {
        let spec = manifest.graphs[graph]!  // host.run was checked to name graphs that are there
        let files = filesOf(spec, manifest)
        for path in files { _ = try file(path) }
        return root.appendingPathComponent(spec.file)
    }

    private func checkLink(_ path: String, _ file: URL) throws {
        let target = file.resolvingSymlinksInPath().path
        guard target.hasPrefix(root.path + "/") else {
            throw HostError.run("\(name): \(path) links to \(target), outside the bundle; copy it with its files (cp -rL)")
        }
    }
}

/// HostError unless parts are joined by '/', none of them empty, '.' or '..'; no '\', a separator elsewhere.
public func checkInside(_ path: String) throws {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    let climbs = parts.contains { ["", ".", ".."].contains($0) } || path.contains { "\\:\0".contains($0) }
    guard !climbs else { throw HostError.run("it names '\(path)', a path outside the bundle") }
}

/// The files of a graph: itself and its weights, or all of its package.
func filesOf(_ graph: Graph, _ manifest: Manifest) -> [String] {
    if manifest.files[graph.file] != nil { return [graph.file] + graph.data.map(\.file) }
    return manifest.files.keys.filter { $0.hasPrefix(graph.file + "/") }.sorted()
}

/// Everything the manifest refers to is among the files it vouches for, under the name that the engine looks for.
private func checkReferences(_ manifest: Manifest) throws {
    for graph in manifest.graphs.values {
        try checkInside(graph.file)
        guard !filesOf(graph, manifest).isEmpty else { throw HostError.run("it names no \(graph.file) among its files") }
        for data in graph.data {
            try checkInside(data.location)
            let beside = (graph.file.split(separator: "/").dropLast() + [Substring(data.location)]).joined(separator: "/")
            guard beside == data.file else { throw HostError.run("'\(data.location)' of \(graph.file) is not \(data.file)") }
        }
    }
    let ofGraphs = manifest.graphs.values.flatMap { $0.data.map(\.file) }
    let ofTexts = manifest.tokenizers.values.flatMap { ["\($0.folder)/vocab.json", "\($0.folder)/merges.txt"] }
    if let missing = (ofGraphs + ofTexts).first(where: { manifest.files[$0] == nil }) {
        throw HostError.run("it names no \(missing) among its files")
    }
}
