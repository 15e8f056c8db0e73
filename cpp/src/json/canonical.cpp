#include "headgate/json/canonical.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "headgate/json/reader.hpp"

namespace headgate::json {
namespace {

// 2^53 - 1: the largest n such that n and n + 1 are both doubles (Number.MAX_SAFE_INTEGER).
constexpr std::string_view kMaxSafe = "9007199254740991";

bool is_safe_integer(std::string_view digits) noexcept {
    return digits.size() < kMaxSafe.size() || (digits.size() == kMaxSafe.size() && digits <= kMaxSafe);
}

// Ranks of UTF-8 lead bytes, with which comparing bytes gives the order of UTF-16. The two orders differ above U+FFFF
// only: UTF-16 begins such a character with a surrogate (D800-DFFF), which sorts below E000-FFFF, while the UTF-8 lead
// bytes F0-F4 sort above EE-EF.
unsigned utf16_rank(unsigned char byte) noexcept {
    if (byte < 0xEE) {
        return byte;
    }
    return byte <= 0xEF ? byte + 0x10U : byte - 2U;
}

// Returns the ranks of the first eight bytes as one big-endian number. Shorter strings are padded with zeros.
std::uint64_t utf16_prefix(std::string_view text) noexcept {
    std::uint64_t out = 0;
    if (!text.empty()) {
        std::memcpy(&out, text.data(), std::min<std::size_t>(8, text.size()));
    }
    if ((out & detail::kHigh) == 0) {
        return __builtin_bswap64(out);  // the rank of an ASCII byte is the byte itself
    }
    out = 0;
    for (std::size_t i = 0; i < 8; ++i) {
        out = (out << 8U) | (i < text.size() ? utf16_rank(static_cast<unsigned char>(text[i])) : 0U);
    }
    return out;
}

// Returns the n of 0.d * 10^n for a number that is not zero. Its sign tells an overflow from an underflow.
long decimal_exponent(std::string_view token) noexcept {
    const auto e = std::min(token.find_first_of("eE"), token.size());
    const auto mantissa = token.substr(0, e);
    const auto point = std::min(mantissa.find('.'), mantissa.size());
    const auto lead = std::min(mantissa.find_first_of("123456789"), mantissa.size());
    long exponent = 0;
    if (e < token.size()) {
        const char* begin = token.data() + e + 1 + (token[e + 1] == '+' ? 1 : 0);
        const char* end = token.data() + token.size();
        if (std::from_chars(begin, end, exponent).ec != std::errc{}) {
            exponent = token[e + 1] == '-' ? -1'000'000'000L : 1'000'000'000L;
        }
    }
    const auto shift = static_cast<long>(point) - static_cast<long>(lead);
    return exponent + (lead < point ? shift : shift + 1);
}

// Accepts every document, and remembers what it began with.
struct Outermost {
    bool object = false;
    bool first = true;
    bool start_object() {
        object = object || std::exchange(first, false);
        return true;
    }
    bool any() {
        first = false;
        return true;
    }
    static bool end_object() { return true; }
    bool start_array() { return any(); }
    static bool end_array() { return true; }
    static bool key(std::string_view /*name*/) { return true; }
    bool string(std::string_view /*value*/) { return any(); }
    bool number(std::string_view /*token*/, bool /*is_integer*/) { return any(); }
    bool boolean(bool /*value*/) { return any(); }
    bool null() { return any(); }
    static Status status() { return {}; }
};

}  // namespace

bool is_tiny(std::string_view token) noexcept {
    return decimal_exponent(token) < 0;
}

bool is_object(std::string_view text) {
    Outermost handler;
    return parse_json(text, handler).ok() && handler.object;
}

int compare_utf16(std::string_view a, std::string_view b) noexcept {
    const auto size = std::min(a.size(), b.size());
    for (std::size_t i = 0; i < size; ++i) {
        if (a[i] != b[i]) {
            const auto x = utf16_rank(static_cast<unsigned char>(a[i]));
            const auto y = utf16_rank(static_cast<unsigned char>(b[i]));
            return x < y ? -1 : 1;
        }
    }
    if (a.size() == b.size()) {
        return 0;
    }
    return a.size() < b.size() ? -1 : 1;
}

void append_number(std::string& out, double value) {
    if (value == 0) {
        out.push_back('0');  // also for -0
        return;
    }
    // The shortest digits that are read back as the same double, in the form d[.ddd]e[+-]xx.
    std::array<char, 32> buffer{};
    const auto end =
        std::to_chars(buffer.data(), buffer.data() + buffer.size(), std::abs(value), std::chars_format::scientific).ptr;
    const std::string_view text(buffer.data(), static_cast<std::size_t>(end - buffer.data()));
    const auto e = text.find('e');
    int exponent = 0;
    const char* exponent_begin = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
    std::from_chars(exponent_begin, end, exponent);
    std::array<char, 24> digits{};
    int k = 0;
    for (const char c : text.substr(0, e)) {
        if (c != '.') {
            digits[static_cast<std::size_t>(k++)] = c;
        }
    }
    const int n = exponent + 1;  // the value is 0.digits * 10^n
    const auto put = [&](int from, int to) { out.append(digits.data() + from, static_cast<std::size_t>(to - from)); };
    const auto zeros = [&](int count) { out.append(static_cast<std::size_t>(count), '0'); };
    if (std::signbit(value)) {
        out.push_back('-');
    }
    if (k <= n && n <= 21) {
        put(0, k);
        zeros(n - k);
    } else if (0 < n && n <= 21) {
        put(0, n);
        out.push_back('.');
        put(n, k);
    } else if (-6 < n && n <= 0) {
        out.append("0.");
        zeros(-n);
        put(0, k);
    } else {
        put(0, 1);
        if (k > 1) {
            out.push_back('.');
            put(1, k);
        }
        out.push_back('e');
        out.push_back(n - 1 < 0 ? '-' : '+');
        out.append(std::to_string(std::abs(n - 1)));
    }
}

bool CanonicalWriter::fail(ErrorCode code, std::string message) {
    error_ = Status(code, std::move(message));
    return false;
}

void CanonicalWriter::clear() {
    out_.clear();
    keys_.clear();
    members_.clear();
    levels_.clear();
    error_ = Status();
}

// Writes the comma before an element of an array. The one before a member of an object is written by key().
void CanonicalWriter::before_value() {
    if (levels_.empty() || levels_.back().is_object) {
        return;
    }
    if (!levels_.back().empty) {
        out_.push_back(',');
    }
    levels_.back().empty = false;
}

void CanonicalWriter::end_member() {
    if (!levels_.empty() && levels_.back().is_object) {
        members_.back().end = out_.size();
    }
}

bool CanonicalWriter::start_object() {
    before_value();
    out_.push_back('{');
    levels_.push_back({true, members_.size(), keys_.size(), out_.size(), true, true});
    return true;
}

bool CanonicalWriter::start_array() {
    before_value();
    out_.push_back('[');
    levels_.push_back({false, 0, 0, 0, true, true});
    return true;
}

bool CanonicalWriter::end_array() {
    levels_.pop_back();
    out_.push_back(']');
    end_member();
    return true;
}

std::string_view CanonicalWriter::key_of(const Member& member) const {
    return std::string_view(keys_).substr(member.key, member.key_size);
}

int CanonicalWriter::compare(const Member& a, const Member& b) const {
    if (a.prefix != b.prefix) {
        return a.prefix < b.prefix ? -1 : 1;
    }
    return compare_utf16(key_of(a), key_of(b));
}

bool CanonicalWriter::key(std::string_view name) {
    auto& level = levels_.back();
    if (!level.empty) {
        out_.push_back(',');
    }
    members_.push_back({keys_.size(), name.size(), out_.size(), 0, utf16_prefix(name)});
    keys_.append(name);
    if (!level.empty) {
        const int order = compare(members_[members_.size() - 2], members_.back());
        if (order == 0) {
            return fail(ErrorCode::duplicate_key, "an object names one key twice");
        }
        level.sorted = level.sorted && order < 0;
    }
    level.empty = false;
    append_string(name);
    out_.push_back(':');
    return true;
}

bool CanonicalWriter::reorder(const Level& level) {
    const auto first = members_.begin() + static_cast<std::ptrdiff_t>(level.first_member);
    std::sort(first, members_.end(), [this](const Member& a, const Member& b) { return compare(a, b) < 0; });
    const auto same = [this](const Member& a, const Member& b) { return compare(a, b) == 0; };
    if (std::adjacent_find(first, members_.end(), same) != members_.end()) {
        return fail(ErrorCode::duplicate_key, "an object names one key twice");
    }
    scratch_.clear();
    for (auto member = first; member != members_.end(); ++member) {
        if (member != first) {
            scratch_.push_back(',');
        }
        scratch_.append(out_, member->begin, member->end - member->begin);
    }
    std::copy(scratch_.begin(), scratch_.end(), out_.begin() + static_cast<std::ptrdiff_t>(level.body_begin));
    return true;
}

bool CanonicalWriter::end_object() {
    const auto level = levels_.back();
    levels_.pop_back();
    if (!level.sorted && !reorder(level)) {
        return false;
    }
    members_.resize(level.first_member);
    keys_.resize(level.keys_begin);
    out_.push_back('}');
    end_member();
    return true;
}

void CanonicalWriter::append_string(std::string_view value) {
    static constexpr std::string_view hex = "0123456789abcdef";
    out_.push_back('"');
    std::size_t from = 0;
    for (auto i = detail::run_end<false>(value, 0); i < value.size(); i = detail::run_end<false>(value, i + 1)) {
        const auto c = static_cast<unsigned char>(value[i]);
        out_.append(value, from, i - from);
        from = i + 1;
        static constexpr std::string_view named = "\b\t\n\f\r\"\\";
        static constexpr std::string_view letters = "btnfr\"\\";
        const auto index = named.find(value[i]);
        out_.push_back('\\');
        if (index != std::string_view::npos) {
            out_.push_back(letters[index]);
        } else {
            out_.append("u00");
            out_.push_back(hex[c >> 4U]);
            out_.push_back(hex[c & 15U]);
        }
    }
    out_.append(value, from, value.size() - from);
    out_.push_back('"');
}

bool CanonicalWriter::string(std::string_view value) {
    before_value();
    append_string(value);
    end_member();
    return true;
}

namespace {

// The significant digits of a number, from the first to the last that is not zero, and the power of ten of the first.
// Zero has no digits.
struct Decimal {
    std::string digits;
    std::int64_t power = 0;
    bool operator==(const Decimal&) const = default;
};

Decimal decimal_of(std::string_view token) {
    Decimal out;
    std::int64_t point = -1;  // the number of digits before the decimal point
    std::int64_t seen = 0;
    std::size_t at = token.starts_with('-') ? 1 : 0;
    for (; at < token.size() && token[at] != 'e' && token[at] != 'E'; ++at) {
        if (token[at] == '.') {
            point = seen;
            continue;
        }
        ++seen;
        if (!out.digits.empty() || token[at] != '0') {
            if (out.digits.empty()) {
                out.power = -seen;
            }
            out.digits += token[at];
        }
    }
    std::int64_t exponent = 0;
    if (at < token.size()) {
        const auto text = token.substr(at + (at + 1 < token.size() && token[at + 1] == '+' ? 2 : 1));
        if (std::from_chars(text.data(), text.data() + text.size(), exponent).ec != std::errc{}) {
            exponent = INT32_MAX;  // larger than any double's exponent
        }
    }
    out.power += (point < 0 ? seen : point) + exponent;
    out.digits.erase(out.digits.find_last_not_of('0') + 1);
    if (out.digits.empty()) {
        out.power = 0;
    }
    return out;
}

}  // namespace

bool double_holds(std::string_view token, double nearest) {
    constexpr std::size_t kAlwaysHeld = 15;  // a double holds that many digits of any number in the normal range
    if (token.size() <= kAlwaysHeld && std::isnormal(nearest)) {
        return true;
    }
    std::string shortest;
    append_number(shortest, nearest);
    return decimal_of(shortest) == decimal_of(token);
}

bool CanonicalWriter::number(std::string_view token, bool is_integer) {
    if (!is_integer && big_integers_ == BigIntegers::verbatim) {
        double nearest = 0;
        const auto error = std::from_chars(token.data(), token.data() + token.size(), nearest).ec;
        if (error != std::errc{} || !double_holds(token, nearest)) {
            before_value();
            out_.append(token);
            end_member();
            return true;
        }
    }
    if (!is_integer) {
        double value = 0;
        const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), value);
        // from_chars reports underflow and overflow alike. In ECMAScript a number that underflows is zero.
        if (error == std::errc::result_out_of_range) {
            if (decimal_exponent(token) > 0) {
                return fail(ErrorCode::number_out_of_range, "a number too large for a double");
            }
            value = 0;
        }
        return number(value);
    }
    const bool negative = token.front() == '-';
    const auto digits = negative ? token.substr(1) : token;
    if (big_integers_ == BigIntegers::refuse && !is_safe_integer(digits)) {
        return fail(ErrorCode::number_out_of_range,
                    "an integer beyond 2^53 - 1, which RFC 8785 cannot keep apart from its neighbours");
    }
    if (digits.size() > kMostDigits) {
        return fail(ErrorCode::number_out_of_range,
                    "an integer of more than " + std::to_string(kMostDigits) + " digits");
    }
    before_value();
    out_.append(digits == "0" ? digits : token);
    end_member();
    return true;
}

bool CanonicalWriter::number(double value) {
    if (!std::isfinite(value)) {
        return fail(ErrorCode::number_out_of_range, "NaN and infinities have no JSON form");
    }
    before_value();
    append_number(out_, value);
    end_member();
    return true;
}

bool CanonicalWriter::boolean(bool value) {
    before_value();
    out_.append(value ? "true" : "false");
    end_member();
    return true;
}

bool CanonicalWriter::null() {
    before_value();
    out_.append("null");
    end_member();
    return true;
}

Result<std::string> canonicalize(std::string_view text, BigIntegers big_integers) {
    CanonicalWriter writer(big_integers);
    HG_RETURN_IF_ERROR(parse_json(text, writer));
    return std::string(writer.view());
}

}  // namespace headgate::json
