// The regular expressions of a manifest: alternatives of characters and classes, such as 's|[\p{L}]+|[^\s\p{N}]+
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "unicode.hpp"

class Pattern {
  public:
    /// RunError for a pattern of another form: groups, anchors, ranges and the like.
    explicit Pattern(const std::string& pattern);

    /// The matches from left to right; of several alternatives the first that matches.
    std::vector<Text> matches(const Text& text) const;

    /// The text with `content` in place of each match.
    Text replaced(const Text& text, const Text& content) const;

  private:
    struct Item {
        std::function<bool(char32_t)> takes;
        bool repeats;
    };
    using Alternative = std::vector<Item>;

    static size_t matched(const Alternative& items, const Text& text, size_t start);
    size_t first_match(const Text& text, size_t start) const;

    std::vector<Alternative> alternatives_{{}};
};
