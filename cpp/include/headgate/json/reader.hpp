// A strict RFC 8259 reader that calls a handler as it goes: no recursion, no tree, UTF-8 checked, depth limited.
//
// A Handler has these members, each returning false to stop (parse_json then returns handler.status()):
//   bool start_object(); bool end_object(); bool start_array(); bool end_array();
//   bool key(std::string_view);      unescaped; the view is valid during the call only
//   bool string(std::string_view);   likewise
//   bool number(std::string_view token, bool is_integer);
//   bool boolean(bool); bool null(); Status status();
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "headgate/base/status.hpp"
#include "headgate/base/text.hpp"
#include "headgate/json/scan.hpp"

namespace headgate::json {

inline constexpr std::size_t kMaxDepth = 256;

struct ReadOptions {
    std::size_t max_depth = 128;  // at most kMaxDepth
};

namespace detail {

template <class Handler>
class Reader {
public:
    Reader(std::string_view text, Handler& handler, const ReadOptions& options)
        : text_(text), handler_(handler), max_depth_(options.max_depth < kMaxDepth ? options.max_depth : kMaxDepth) {}

    Status run() {
        skip_blanks();
        if (!value()) {
            return failure();
        }
        while (depth_ > 0) {
            if (!step()) {
                return failure();
            }
        }
        skip_blanks();
        if (at_ != text_.size()) {
            fail(ErrorCode::invalid_json, "text after the end of the document");
            return failure();
        }
        return {};
    }

private:
    enum class Next : std::uint8_t { first, rest };

    // One member or element of the innermost container, or its end.
    bool step() {
        const bool in_object = objects_[depth_ - 1];
        const char close = in_object ? '}' : ']';
        skip_blanks();
        if (peek() == close) {
            if (next_ == Next::first || !after_comma_) {
                ++at_;
                --depth_;
                next_ = Next::rest;
                after_comma_ = false;
                return in_object ? handler_.end_object() : handler_.end_array();
            }
            return fail(ErrorCode::invalid_json, "a comma before the end of a container");
        }
        if (next_ == Next::rest && !after_comma_) {
            if (peek() != ',') {
                return fail(ErrorCode::invalid_json, in_object ? "expected ',' or '}'" : "expected ',' or ']'");
            }
            ++at_;
            after_comma_ = true;
            return true;
        }
        after_comma_ = false;
        if (in_object) {
            if (peek() != '"') {
                return fail(ErrorCode::invalid_json, "expected a key in double quotes");
            }
            std::string_view name;
            if (!string_token(name) || !handler_.key(name)) {
                return false;
            }
            skip_blanks();
            if (peek() != ':') {
                return fail(ErrorCode::invalid_json, "expected ':' after a key");
            }
            ++at_;
            skip_blanks();
        }
        next_ = Next::rest;
        return value();
    }

    bool value() {
        switch (peek()) {
            case '{':
                return open(true) && handler_.start_object();
            case '[':
                return open(false) && handler_.start_array();
            case '"': {
                std::string_view view;
                return string_token(view) && handler_.string(view);
            }
            case 't':
                return word("true") && handler_.boolean(true);
            case 'f':
                return word("false") && handler_.boolean(false);
            case 'n':
                return word("null") && handler_.null();
            default:
                return number_token();
        }
    }

    bool open(bool is_object) {
        if (depth_ == max_depth_) {
            return fail(ErrorCode::nesting_too_deep, "nested deeper than " + std::to_string(max_depth_) + " levels");
        }
        objects_[depth_++] = is_object;
        next_ = Next::first;
        ++at_;
        return true;
    }

    bool word(std::string_view expected) {
        if (text_.substr(at_, expected.size()) != expected) {
            return fail(ErrorCode::invalid_json, "expected a value");
        }
        at_ += expected.size();
        return true;
    }

    bool digits() {
        const auto start = at_;
        while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
            ++at_;
        }
        return at_ > start;
    }

    bool number_token() {
        const auto start = at_;
        bool integer = true;
        at_ += peek() == '-' ? 1 : 0;
        if (peek() == '0') {
            ++at_;
        } else if (!digits()) {
            at_ = start;
            return fail(ErrorCode::invalid_json, "expected a value");
        }
        if (peek() == '.') {
            integer = false;
            ++at_;
            if (!digits()) {
                return fail(ErrorCode::invalid_json, "expected digits after the decimal point");
            }
        }
        if (peek() == 'e' || peek() == 'E') {
            integer = false;
            ++at_;
            at_ += peek() == '+' || peek() == '-' ? 1 : 0;
            if (!digits()) {
                return fail(ErrorCode::invalid_json, "expected digits in the exponent");
            }
        }
        return handler_.number(text_.substr(start, at_ - start), integer);
    }

    // The common case, a string without escapes, is a view into the text; others are unescaped into scratch_.
    bool string_token(std::string_view& out) {
        const auto start = ++at_;
        if (!plain_run()) {
            return false;
        }
        if (text_[at_] == '"') {
            out = text_.substr(start, at_ - start);
            ++at_;
            return true;
        }
        scratch_.assign(text_.substr(start, at_ - start));
        while (text_[at_] != '"') {
            if (!escape()) {
                return false;
            }
            const auto from = at_;
            if (!plain_run()) {
                return false;
            }
            scratch_.append(text_.substr(from, at_ - from));
        }
        ++at_;
        out = scratch_;
        return true;
    }

    // Forward to the next '"' or '\\', checking UTF-8 and control characters on the way.
    bool plain_run() {
        while (true) {
            at_ = run_end<true>(text_, at_);
            if (at_ >= text_.size()) {
                return fail(ErrorCode::invalid_json, "a string without its closing quote");
            }
            const auto c = static_cast<unsigned char>(text_[at_]);
            if (c == '"' || c == '\\') {
                return true;
            }
            if (c < 0x20) {
                return fail(ErrorCode::invalid_json, "a control character inside a string");
            }
            const auto length = utf8_sequence(text_, at_);
            if (length == 0) {
                return fail(ErrorCode::invalid_unicode, "malformed UTF-8");
            }
            at_ += length;
        }
    }

    bool hex4(std::uint32_t& out) {
        out = 0;
        for (int i = 0; i < 4; ++i, ++at_) {
            const char c = peek();
            std::uint32_t digit = 0;
            if (c >= '0' && c <= '9') {
                digit = static_cast<std::uint32_t>(c - '0');
            } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
                digit = static_cast<std::uint32_t>((c | 0x20) - 'a') + 10U;
            } else {
                return fail(ErrorCode::invalid_json, "expected four hex digits after \\u");
            }
            out = out * 16U + digit;
        }
        return true;
    }

    bool escape() {
        static constexpr std::string_view from = "\"\\/bfnrt";
        static constexpr std::string_view to = "\"\\/\b\f\n\r\t";
        ++at_;
        const char c = peek();
        ++at_;
        if (c != 'u') {
            const auto index = from.find(c);
            if (c == '\0' || index == std::string_view::npos) {
                return fail(ErrorCode::invalid_json, "an unknown escape inside a string");
            }
            scratch_.push_back(to[index]);
            return true;
        }
        std::uint32_t code = 0;
        if (!hex4(code)) {
            return false;
        }
        if (code >= 0xD800 && code <= 0xDBFF && text_.substr(at_, 2) == "\\u") {
            at_ += 2;
            std::uint32_t low = 0;
            if (!hex4(low)) {
                return false;
            }
            if (low < 0xDC00 || low > 0xDFFF) {
                return fail(ErrorCode::invalid_unicode, "a lone surrogate");
            }
            code = 0x10000U + ((code - 0xD800U) << 10U) + (low - 0xDC00U);
        } else if (code >= 0xD800 && code <= 0xDFFF) {
            return fail(ErrorCode::invalid_unicode, "a lone surrogate");
        }
        append_utf8(code);
        return true;
    }

    void append_utf8(std::uint32_t code) {
        const auto put = [this](std::uint32_t byte) { scratch_.push_back(static_cast<char>(byte)); };
        if (code < 0x80) {
            put(code);
        } else if (code < 0x800) {
            put(0xC0U | (code >> 6U));
            put(0x80U | (code & 0x3FU));
        } else if (code < 0x10000) {
            put(0xE0U | (code >> 12U));
            put(0x80U | ((code >> 6U) & 0x3FU));
            put(0x80U | (code & 0x3FU));
        } else {
            put(0xF0U | (code >> 18U));
            put(0x80U | ((code >> 12U) & 0x3FU));
            put(0x80U | ((code >> 6U) & 0x3FU));
            put(0x80U | (code & 0x3FU));
        }
    }

    void skip_blanks() {
        while (at_ < text_.size()) {
            const char c = text_[at_];
            if (c != ' ' && c != '\n' && c != '\t' && c != '\r') {
                return;
            }
            ++at_;
        }
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    bool fail(ErrorCode code, const std::string& what) {
        error_ = Status(code, what + " at byte " + std::to_string(at_));
        return false;
    }

    Status failure() { return error_.ok() ? handler_.status() : error_; }

    std::string_view text_;
    Handler& handler_;
    std::size_t max_depth_;
    std::size_t at_ = 0;
    std::size_t depth_ = 0;
    std::array<bool, kMaxDepth> objects_{};
    Next next_ = Next::first;
    bool after_comma_ = false;
    std::string scratch_;
    Status error_;
};

}  // namespace detail

template <class Handler>
Status parse_json(std::string_view text, Handler& handler, const ReadOptions& options = {}) {
    return detail::Reader<Handler>(text, handler, options).run();
}

}  // namespace headgate::json
