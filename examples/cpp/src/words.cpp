#include "words.hpp"

#include "error.hpp"

using Takes = std::function<bool(char32_t)>;

/// Reads a pattern from left to right.
class Reader {
  public:
    explicit Reader(const std::string& pattern) : pattern_(decoded(pattern)) {}

    bool done() const { return place_ == pattern_.size(); }

    bool take(char32_t character) {
        const bool there = !done() && pattern_[place_] == character;
        place_ += there;
        return there;
    }

    /// One character, class, or set of those in brackets.
    Takes item() {
        if (!take(U'[')) return single();
        const bool negated = take(U'^');
        std::vector<Takes> members;
        while (!take(U']')) members.push_back(single());
        return [negated, members](char32_t character) {
            for (const Takes& takes : members) {
                if (takes(character)) return !negated;
            }
            return negated;
        };
    }

  private:
    Takes single() {
        if (done()) throw unknown();
        const char32_t character = pattern_[place_++];
        if (character == U'\\') return escaped();
        if (std::u32string_view(U".()[]{}*?+^$-").find(character) != std::u32string_view::npos) throw unknown();
        return [character](char32_t other) { return other == character; };
    }

    Takes escaped() {
        const std::u32string_view rest = std::u32string_view(pattern_).substr(place_);
        const std::pair<std::u32string_view, bool (*)(char32_t)> classes[] = {
            {U"p{L}", is_letter}, {U"p{N}", is_number}, {U"s", is_space}};
        for (const auto& [name, takes] : classes) {
            if (rest.starts_with(name)) {
                place_ += name.size();
                return takes;
            }
        }
        throw unknown();
    }

    RunError unknown() const {
        return RunError("this host does not know the regular expression " + encoded(pattern_));
    }

    Text pattern_;
    size_t place_ = 0;
};

Pattern::Pattern(const std::string& pattern) {
    Reader reader(pattern);
    while (!reader.done()) {
        if (reader.take(U'|')) {
            alternatives_.push_back({});
            continue;
        }
        Takes takes = reader.item();
        alternatives_.back().push_back({std::move(takes), reader.take(U'+')});
    }
}

/// How many characters an alternative matches; repeats take all they can, and give none back.
size_t Pattern::matched(const Alternative& items, const Text& text, size_t start) {
    size_t place = start;
    for (const Item& item : items) {
        if (place == text.size() || !item.takes(text[place])) return 0;
        ++place;
        while (item.repeats && place < text.size() && item.takes(text[place])) ++place;
    }
    return place - start;
}

/// How many characters the first alternative that matches takes; 0 where none does.
size_t Pattern::first_match(const Text& text, size_t start) const {
    for (const Alternative& items : alternatives_) {
        if (const size_t length = matched(items, text, start)) return length;
    }
    return 0;
}

std::vector<Text> Pattern::matches(const Text& text) const {
    std::vector<Text> found;
    for (size_t place = 0; place < text.size();) {
        const size_t length = first_match(text, place);
        if (length > 0) found.push_back(text.substr(place, length));
        place += length > 0 ? length : 1;
    }
    return found;
}

Text Pattern::replaced(const Text& text, const Text& content) const {
    Text changed;
    for (size_t place = 0; place < text.size();) {
        const size_t length = first_match(text, place);
        changed += length > 0 ? content : text.substr(place, 1);
        place += length > 0 ? length : 1;
    }
    return changed;
}
