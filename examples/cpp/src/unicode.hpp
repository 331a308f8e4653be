// What a tokenizer needs of Unicode, by utf8proc's tables, whose version decides which characters are known.
#pragma once

#include <string>
#include <string_view>

using Text = std::u32string;

/// RunError for bytes that are no UTF-8, saying where.
Text decoded(std::string_view utf8);
std::string encoded(std::u32string_view text);

/// Canonical composition.
Text nfc(const Text& text);

/// Each character's own full lower case, with no rule for a sigma at the end of a word.
Text lowercase(const Text& text);

bool is_letter(char32_t character);
bool is_number(char32_t character);
bool is_space(char32_t character);

/// Whether the tables know no such character: newer ones may, and treat it as a letter or a capital.
bool is_unassigned(char32_t character);

/// The version of Unicode that the tables are of.
std::string unicode_version();
