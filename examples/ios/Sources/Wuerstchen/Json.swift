import Foundation

/// A value of a JSON file and the place where it stands, for errors that name it.
public struct Json {
    let value: Any
    public let place: String

    /// HostError, beginning with `name`, where `data` is no JSON.
    public static func parse(_ data: Data, _ name: String) throws -> Json {
        do {
            return Json(value: try JSONSerialization.jsonObject(with: data, options: [.fragmentsAllowed]), place: "")
        } catch {
            let why = (error as NSError).userInfo["NSDebugDescription"] as? String ?? "\(error.localizedDescription)"
            throw HostError.run("\(name) is not valid JSON (\(oneLine(why))); export the bundle again")
        }
    }

    public var isNull: Bool { value is NSNull }
    public var isText: Bool { value is String }
    public var isList: Bool { value is [Any] }

    public func text() throws -> String {
        guard let text = value as? String else { throw wrong("a text") }
        return text
    }

    public func flag() throws -> Bool {
        guard let flag = truth else { throw wrong("true or false") }
        return flag
    }

    public func number() throws -> Double {
        guard truth == nil, let number = (value as? NSNumber)?.doubleValue, number.isFinite else { throw wrong("a number") }
        return number
    }

    public func float() throws -> Float { Float(try number()) }

    public func whole() throws -> Int {
        guard truth == nil, let number = value as? NSNumber, let whole = Int(exactly: number.doubleValue) else {
            throw wrong("a whole number")
        }
        return whole
    }

    public func list() throws -> [Json] {
        guard let list = value as? [Any] else { throw wrong("a list") }
        return list.enumerated().map { Json(value: $1, place: "\(place)[\($0)]") }
    }

    public func entries() throws -> [String: Json] {
        guard let fields = value as? [String: Any] else { throw wrong("an object") }
        return Dictionary(uniqueKeysWithValues: fields.map { ($0, Json(value: $1, place: below($0))) })
    }

    /// HostError where there is no such key.
    public func at(_ key: String) throws -> Json {
        guard let fields = value as? [String: Any] else { throw wrong("an object") }
        guard let found = fields[key] else { throw HostError.run("\(below(key)) is missing") }
        return Json(value: found, place: below(key))
    }

    public func texts() throws -> [String] { try list().map { try $0.text() } }
    public func floats() throws -> [Float] { try list().map { try $0.float() } }
    public func textsByKey() throws -> [String: String] { try entries().mapValues { try $0.text() } }

    /// A whole number in a range.
    public func within(_ range: ClosedRange<Int>) throws -> Int {
        let whole = try whole()
        guard range.contains(whole) else { throw outside(range.lowerBound, range.upperBound) }
        return whole
    }

    public func numberWithin(_ range: ClosedRange<Double>) throws -> Double {
        let number = try number()
        guard range.contains(number) else { throw outside(range.lowerBound, range.upperBound) }
        return number
    }

    /// A text, number or truth as text.
    public var plain: String {
        if let truth { return "\(truth)" }
        if let text = value as? String { return text }
        if let number = value as? NSNumber { return number.stringValue }
        return shown
    }

    /// As it would stand in a file, for messages.
    public var shown: String {
        if isNull { return "null" }
        if let text = value as? String { return "\"\(text.prefix(80))\"" }
        if let list = value as? [Any] {
            return "[" + list.prefix(8).map { Json(value: $0, place: "").shown }.joined(separator: ", ") + "]"
        }
        return value is [String: Any] ? "an object" : plain
    }

    private var truth: Bool? {
        guard let number = value as? NSNumber, isTruth(number) else { return nil }
        return number.boolValue
    }

    private func below(_ key: String) -> String { place.isEmpty ? key : "\(place).\(key)" }

    private func outside<Bound>(_ least: Bound, _ most: Bound) -> HostError {
        .run("\(place) is \(shown); it must be \(least) to \(most)")
    }

    private func wrong(_ wanted: String) -> HostError {
        .run("\(place.isEmpty ? "the file" : place) is \(shown); it must be \(wanted)")
    }
}

/// JSON's numbers and truths are one class in Foundation, told apart by their C type: 'c' is a truth.
private func isTruth(_ number: NSNumber) -> Bool { String(cString: number.objCType) == "c" }
