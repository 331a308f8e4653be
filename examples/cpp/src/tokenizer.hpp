// Prompts to token ids: byte-level BPE by the rules of the manifest, ranks and ids from the bundle's files.
#pragma once

#include <array>
#include <string>
#include <unordered_map>
#include <vector>

#include "bundle.hpp"
#include "tensor.hpp"
#include "words.hpp"

/// Ids and mask of one prompt, `max_length` each, and what was cut off it ("": nothing).
struct Encoding {
    Integers ids, mask;
    std::string truncated;
};

class Tokenizer {
  public:
    /// The tokenizer of a text encoder's graph.
    Tokenizer(const Bundle& bundle, const std::string& graph);

    /// `prompt` is UTF-8, or RunError.
    Encoding operator()(const std::string& prompt) const;

  private:
    using Ranks = std::unordered_map<std::string, size_t>;
    using Rank = Ranks::const_iterator;

    Integers tokens(const Text& text) const;
    void words(const Text& text, Integers& ids) const;
    Rank least(const std::vector<std::string>& pieces) const;
    std::vector<std::string> merged(const std::string& word) const;
    Text normalized(Text text) const;
    std::string text_of(const Integers& ids) const;

    const TokenizerSpec& spec_;
    Pattern pattern_;
    std::array<std::string, 256> characters_;  // the printable character that stands for each byte
    std::unordered_map<std::string, int64_t> ids_;
    std::unordered_map<int64_t, std::string> pieces_;  // but for special tokens
    Ranks ranks_;  // by the two pieces with a blank between
};
