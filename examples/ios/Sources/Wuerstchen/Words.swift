import Foundation

/// A text as Unicode scalars, which the tokenizer's rules go by.
typealias Scalars = [Unicode.Scalar]

func scalars(_ text: String) -> Scalars { Array(text.unicodeScalars) }

func text<Points: Sequence>(of points: Points) -> String where Points.Element == Unicode.Scalar {
    var view = String.UnicodeScalarView()
    view.append(contentsOf: points)
    return String(view)
}

/// Unicode's \p{L}, \p{N}, White_Space and \w, by the tables of this system.
func isLetter(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: true
    default: false
    }
}

func isNumber(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .decimalNumber, .letterNumber, .otherNumber: true
    default: false
    }
}

func isSpace(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.isWhitespace }

func isUnassigned(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.generalCategory == .unassigned }

func isOfWord(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .nonspacingMark, .spacingMark, .enclosingMark, .connectorPunctuation: true
    default: isLetter(scalar) || isNumber(scalar)
    }
}

/// The regular expressions of tokenizer rules: alternatives of characters, \p{L}, \p{N}, \s and sets of them, each
/// once or repeated by '+'. No more than these, read by the same code everywhere: engines of regular expressions
/// differ in their classes, and a stranger's expression could keep one busy for years. HostError for anything else.
struct Pattern {
    private typealias Takes = (Unicode.Scalar) -> Bool
    private typealias Item = (takes: Takes, repeats: Bool)
    private static let special = scalars(".()[]{}*?+^$-")
    private static let classes: [(name: Scalars, takes: Takes)] = [
        (scalars("p{L}"), isLetter), (scalars("p{N}"), isNumber), (scalars("s"), isSpace),
    ]
    private var alternatives: [[Item]] = [[]]

    init(_ expression: String) throws {
        let unknown = HostError.run("this host does not know the regular expression '\(expression)'")
        var rest = scalars(expression)[...]

        func take(_ scalar: Unicode.Scalar) -> Bool {
            guard rest.first == scalar else { return false }
            rest.removeFirst()
            return true
        }
        func single() throws -> Takes {
            guard let scalar = rest.popFirst() else { throw unknown }
            if scalar == "\\" {
                guard let found = Pattern.classes.first(where: { rest.starts(with: $0.name) }) else { throw unknown }
                rest.removeFirst(found.name.count)
                return found.takes
            }
            guard !Pattern.special.contains(scalar) else { throw unknown }
            return { $0 == scalar }
        }
        /// One character, class, or set of those in brackets.
        func item() throws -> Takes {
            guard take("[") else { return try single() }
            let negated = take("^")
            var members: [Takes] = []
            while !take("]") { members.append(try single()) }
            return { scalar in members.contains { $0(scalar) } != negated }
        }
        while !rest.isEmpty {
            if take("|") {
                alternatives.append([])
            } else {
                let takes = try item()
                alternatives[alternatives.count - 1].append((takes, take("+")))
            }
        }
    }

    func matches(_ text: Scalars) -> [Scalars] {
        var found: [Scalars] = []
        walk(text) { start, length in if length > 0 { found.append(Array(text[start..<start + length])) } }
        return found
    }

    func replaced(_ text: Scalars, _ content: Scalars) -> Scalars {
        var made: Scalars = []
        walk(text) { start, length in if length > 0 { made += content } else { made.append(text[start]) } }
        return made
    }

    /// Each match with its length, and each character between matches with 0.
    private func walk(_ text: Scalars, _ see: (Int, Int) -> Void) {
        var place = 0
        while place < text.count {
            let length = alternatives.lazy.map { matched($0, text, place) }.first { $0 > 0 } ?? 0
            see(place, length)
            place += max(length, 1)
        }
    }

    /// How many characters an alternative matches; repeats take all they can, and give none back.
    private func matched(_ items: [Item], _ text: Scalars, _ start: Int) -> Int {
        var place = start
        for item in items {
            guard place < text.count, item.takes(text[place]) else { return 0 }
            place += 1
            while item.repeats, place < text.count, item.takes(text[place]) { place += 1 }
        }
        return place - start
    }
}
