#include "tokenizer.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "error.hpp"

using nlohmann::json;

/// GPT-2's table: printable Latin-1 stands for itself, the other bytes for characters from U+0100 on.
static std::array<std::string, 256> byte_characters() {
    std::array<std::string, 256> characters;
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xff && byte != 0xad);
        characters[byte] = encoded(Text(1, printable ? byte : next++));
    }
    return characters;
}

Tokenizer::Tokenizer(const Bundle& bundle, const std::string& graph)
    : spec_(bundle.manifest().tokenizers.at(graph)), pattern_(spec_.rules.words), characters_(byte_characters()) {
    try {
        json::parse(bundle.text(spec_.folder + "/vocab.json")).get_to(ids_);
    } catch (const json::exception& error) {
        throw RunError(spec_.folder + "/vocab.json is damaged: " + one_line(error.what()));
    }
    for (const auto& [piece, id] : ids_) pieces_[id] = piece;
    for (const AddedToken& token : spec_.rules.added) {
        if (token.special) pieces_.erase(token.id);  // marks, and no text
    }
    std::istringstream lines(bundle.text(spec_.folder + "/merges.txt"));
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty() && !line.starts_with("#version")) ranks_.emplace(line, ranks_.size());
    }
    for (const Normalization& step : spec_.rules.normalization) {
        if (step.kind == "replace") Pattern check(step.pattern);
        else if (step.kind != "nfc" && step.kind != "lowercase") throw RunError("unknown normalization " + step.kind);
    }
}

Encoding Tokenizer::operator()(const std::string& prompt) const {
    Integers tokens = this->tokens(decoded(prompt));
    const size_t length = static_cast<size_t>(spec_.max_length);
    const size_t kept = std::min(tokens.size(), length - 2);  // the start and the end take two places
    Encoding encoding{{spec_.bos_id}, Integers(kept + 2, 1), text_of({tokens.begin() + kept, tokens.end()})};
    encoding.ids.insert(encoding.ids.end(), tokens.begin(), tokens.begin() + kept);
    encoding.ids.push_back(spec_.eos_id);
    encoding.ids.resize(length, spec_.pad_id);
    encoding.mask.resize(length, 0);
    return encoding;
}

Text Tokenizer::normalized(Text text) const {
    for (const Normalization& step : spec_.rules.normalization) {
        if (step.kind == "nfc") text = nfc(text);
        if (step.kind == "lowercase") text = lowercase(text);
        if (step.kind == "replace") text = Pattern(step.pattern).replaced(text, decoded(step.content));
    }
    return text;
}

/// An added token in a text: where it begins and ends, the blanks it swallows included.
struct Found {
    size_t begin, end;
    const AddedToken* token;
};

static bool in_word(const Text& text, size_t place) {
    return place < text.size() && (is_letter(text[place]) || is_number(text[place]) || text[place] == U'_');
}

/// The first added token of a text from `start` on, the longest of several; no token where there is none.
static Found find_added(const std::vector<AddedToken>& added, bool normalized, const Text& text, size_t start) {
    Found first{text.size(), text.size(), nullptr};
    size_t longest = 0;
    for (const AddedToken& token : added) {
        const Text content = decoded(token.content);
        if (token.normalized != normalized || content.empty()) continue;
        for (size_t at = text.find(content, start); at != Text::npos; at = text.find(content, at + 1)) {
            const size_t end = at + content.size();
            if (token.single_word && ((at > 0 && in_word(text, at - 1)) || in_word(text, end))) continue;
            if (at < first.begin || (at == first.begin && content.size() > longest)) {
                first = {at, end, &token};
                longest = content.size();
            }
            break;
        }
    }
    if (first.token == nullptr) return first;
    while (first.token->lstrip && first.begin > start && is_space(text[first.begin - 1])) --first.begin;
    while (first.token->rstrip && first.end < text.size() && is_space(text[first.end])) ++first.end;
    return first;
}

/// Parts a text at its added tokens: `between` gets what lies between them, `ids` theirs.
template <typename Between>
static void part(const std::vector<AddedToken>& added, bool normalized, const Text& text, Integers& ids,
                 Between between) {
    for (size_t start = 0; start < text.size();) {
        const Found found = find_added(added, normalized, text, start);
        between(text.substr(start, found.begin - start));
        if (found.token == nullptr) return;
        ids.push_back(found.token->id);
        start = found.end;
    }
}

Integers Tokenizer::tokens(const Text& text) const {
    const std::vector<AddedToken>& added = spec_.rules.added;
    Integers ids;
    part(added, false, text, ids, [&](const Text& raw) {
        part(added, true, normalized(raw), ids, [&](const Text& piece) { words(piece, ids); });
    });
    return ids;
}

void Tokenizer::words(const Text& text, Integers& ids) const {
    for (const Text& word : pattern_.matches(text)) {
        for (const std::string& piece : merged(encoded(word))) {
            const auto found = ids_.find(piece);
            ids.push_back(found == ids_.end() ? spec_.rules.unknown_id : found->second);
        }
    }
}

/// Two neighbours of the least rank, or ranks_.end().
Tokenizer::Rank Tokenizer::least(const std::vector<std::string>& pieces) const {
    Rank best = ranks_.end();
    for (size_t i = 0; i + 1 < pieces.size(); ++i) {
        const Rank found = ranks_.find(pieces[i] + ' ' + pieces[i + 1]);
        if (found != ranks_.end() && (best == ranks_.end() || found->second < best->second)) best = found;
    }
    return best;
}

/// The pieces of a word: its bytes, of which the pairs of the least rank are merged until there is none.
std::vector<std::string> Tokenizer::merged(const std::string& word) const {
    std::vector<std::string> pieces;
    for (char byte : word) pieces.push_back(characters_[static_cast<unsigned char>(byte)]);
    pieces.back() += spec_.rules.end_of_word;
    for (Rank pair = least(pieces); pair != ranks_.end(); pair = least(pieces)) {
        std::vector<std::string> joined;
        for (size_t i = 0; i < pieces.size(); ++i) {
            const bool merges = i + 1 < pieces.size() && pieces[i] + ' ' + pieces[i + 1] == pair->first;
            joined.push_back(merges ? pieces[i] + pieces[i + 1] : pieces[i]);
            i += merges;
        }
        pieces = std::move(joined);
    }
    return pieces;
}

/// What ids stand for, as text; a character that was cut in two is a replacement character.
std::string Tokenizer::text_of(const Integers& ids) const {
    std::unordered_map<std::string, char> bytes;
    for (size_t byte = 0; byte < 256; ++byte) bytes[characters_[byte]] = static_cast<char>(byte);
    std::string text;
    for (int64_t id : ids) {
        const auto found = pieces_.find(id);
        if (found == pieces_.end()) continue;
        std::string piece = found->second;
        const bool last = piece.ends_with(spec_.rules.end_of_word);
        if (last) piece.resize(piece.size() - spec_.rules.end_of_word.size());
        for (char32_t character : decoded(piece)) {
            const auto byte = bytes.find(encoded(Text(1, character)));
            if (byte != bytes.end()) text += byte->second;
        }
        if (last) text += ' ';
    }
    while (text.ends_with(' ')) text.pop_back();
    return text;
}
