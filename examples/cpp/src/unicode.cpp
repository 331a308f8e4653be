#include "unicode.hpp"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "error.hpp"

Text decoded(std::string_view utf8) {
    Text text;
    const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(utf8.data());
    for (size_t i = 0; i < utf8.size();) {
        utf8proc_int32_t character = 0;
        const auto length = utf8proc_iterate(bytes + i, static_cast<utf8proc_ssize_t>(utf8.size() - i), &character);
        if (length <= 0) throw RunError("has bytes that are no UTF-8 at character " + std::to_string(text.size() + 1));
        text += static_cast<char32_t>(character);
        i += static_cast<size_t>(length);
    }
    return text;
}

std::string encoded(std::u32string_view text) {
    std::string utf8;
    for (char32_t character : text) {
        utf8proc_uint8_t bytes[4];
        const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(character), bytes);
        utf8.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
    }
    return utf8;
}

Text nfc(const Text& text) {
    const std::string utf8 = encoded(text);
    utf8proc_uint8_t* composed = nullptr;
    const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(utf8.data()),
                                     static_cast<utf8proc_ssize_t>(utf8.size()), &composed,
                                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, std::free);
    if (length < 0) throw RunError(std::string("NFC failed: ") + utf8proc_errmsg(length));
    return decoded({reinterpret_cast<const char*>(composed), static_cast<size_t>(length)});
}

Text lowercase(const Text& text) {
    Text lower;
    for (char32_t character : text) {
        // The one character whose lower case is two; utf8proc's function gives the first of them.
        if (character == U'\u0130') {
            lower += U"i\u0307";
        } else {
            lower += static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character)));
        }
    }
    return lower;
}

static utf8proc_category_t category(char32_t character) {
    return utf8proc_category(static_cast<utf8proc_int32_t>(character));
}

bool is_letter(char32_t character) {
    const auto kind = category(character);
    return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_number(char32_t character) {
    const auto kind = category(character);
    return kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
}

bool is_space(char32_t character) {
    const auto kind = category(character);
    const bool control = (character >= 9 && character <= 13) || character == 0x85;
    return control || (kind >= UTF8PROC_CATEGORY_ZS && kind <= UTF8PROC_CATEGORY_ZP);
}

bool is_unassigned(char32_t character) { return category(character) == UTF8PROC_CATEGORY_CN; }

std::string unicode_version() { return utf8proc_unicode_version(); }
