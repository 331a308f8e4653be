import Foundation

/// An error a user sees: one line that says what, where and what to do next.
public struct HostError: Error, CustomStringConvertible, Sendable {
    public let description: String
    public let exitCode: Int32

    /// The request cannot be met as asked.
    public static func usage(_ message: String) -> HostError { HostError(description: message, exitCode: 2) }

    /// The request was valid and something failed while it ran, or a check did.
    public static func run(_ message: String) -> HostError { HostError(description: message, exitCode: 1) }
}

private let outOfMemory = ["bad_alloc", "out of memory", "allocate memory", "can't alloc", "failed to allocate"]
private let fewerBytes = "make a smaller picture, hold one graph at a time, or take an int8 or int4 bundle"

/// What a library says of an error, which may be a page, on one line.
public func oneLine(_ text: String) -> String {
    text.split(whereSeparator: \.isWhitespace).joined(separator: " ")
}

/// An error of an engine or of Foundation as one of ours; `what` was being done.
public func asOurs(_ error: Error, _ what: String) -> HostError {
    if let ours = error as? HostError { return ours }
    let said = oneLine((error as NSError).localizedDescription)
    if outOfMemory.contains(where: { said.lowercased().contains($0) }) {
        return .run("\(what): out of memory (\(said)); \(fewerBytes)")
    }
    return .run("\(what): \(said)")
}
