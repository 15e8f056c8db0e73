#include "slot.hpp"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "headgate/base/text.hpp"
#include "headgate/json/canonical.hpp"
#include "headgate/json/reader.hpp"

namespace headgate::schema {
namespace {

bool in_range(const Field& field, double value) {
    return (!field.minimum || value >= *field.minimum) && (!field.maximum || value <= *field.maximum);
}

std::string_view check_integer(const Field& field, Slot& slot) {
    std::string_view digits = slot.text;
    const bool from_text = slot.got == Got::string && field.digits;
    if (from_text) {
        digits = trim_blanks(digits);
    }
    const bool plain = !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos;
    if (slot.got != Got::integer && !(from_text && plain)) {
        return "type";
    }
    const auto error = std::from_chars(digits.data(), digits.data() + digits.size(), slot.number).ec;
    const bool fits =
        error == std::errc{} && (field.type == Type::int64 || (slot.number >= INT32_MIN && slot.number <= INT32_MAX));
    return fits && in_range(field, static_cast<double>(slot.number)) ? "" : "range";
}

// Whether a double holds the integer as it is.
bool is_exact(std::string_view digits) {
    constexpr std::int64_t kMost = 1LL << 53;
    std::int64_t value = 0;
    const auto error = std::from_chars(digits.data(), digits.data() + digits.size(), value).ec;
    return error == std::errc{} && value >= -kMost && value <= kMost;
}

std::string_view check_real(const Field& field, Slot& slot) {
    if (slot.got != Got::integer && slot.got != Got::real) {
        return "type";
    }
    const auto* const end = slot.text.data() + slot.text.size();
    auto error = std::from_chars(slot.text.data(), end, slot.real).ec;
    if (error == std::errc::result_out_of_range && !field.exact && json::is_tiny(slot.text)) {
        error = {};
        slot.real = slot.text.front() == '-' ? -0.0 : 0.0;  // as every reader of JSON rounds it
    }
    const bool kept = !field.exact || slot.got != Got::integer || is_exact(slot.text);
    slot.is_rounded = field.exact && slot.got == Got::real && !json::double_holds(slot.text, slot.real);
    return error == std::errc{} && kept && in_range(field, slot.real) ? "" : "range";
}

std::string_view check_boolean(Slot& slot) {
    slot.number = slot.boolean ? 1 : 0;
    return slot.got == Got::boolean ? "" : "type";
}

std::string_view check_string(const Field& field, std::string& text) {
    if (field.blanks != Blanks::keep) {
        const auto trimmed = trim_blanks(text);
        if (field.blanks == Blanks::refuse && trimmed.size() != text.size()) {
            return "blank";
        }
        if (trimmed.size() != text.size()) {
            text = std::string(trimmed);
        }
    }
    if (!field.values.empty() && !contains(field.values, text)) {
        return "enum";
    }
    return field.pattern && !field.pattern->matches(text) ? "pattern" : "";
}

std::string_view check_text(const Field& field, Slot& slot) {
    const bool number = slot.got == Got::integer || slot.got == Got::real;
    const bool is_epoch = number && field.type == Type::timestamp && field.time > TimeForm::wide;
    if (slot.got != Got::string && !is_epoch) {
        return "type";
    }
    if (const auto kind = check_string(field, slot.text); !kind.empty()) {
        return kind;
    }
    const bool bounded = field.min_length > 0 || field.max_length != SIZE_MAX;
    const auto length = bounded ? utf8_length(slot.text) : 0;
    if (bounded && (length < field.min_length || length > field.max_length)) {
        return "length";
    }
    if (field.type == Type::date) {
        return parse_date(slot.text) ? "" : "date";
    }
    if (field.type == Type::timestamp) {
        if (field.time != TimeForm::iso) {
            bool exact = true;
            const auto parsed = parse_time(field.time, slot.text, slot.got != Got::string, exact);
            slot.number = parsed.value_or(0);
            slot.is_rounded = !exact;
            return parsed ? "" : "timestamp";
        }
        const auto parsed = parse_timestamp_text(slot.text);
        if (!parsed.ok()) {
            return "timestamp";
        }
        const auto& time = parsed.value();
        slot.number = time.us;
        slot.is_rounded =
            field.exact && (time.has_nanoseconds || time.has_offset || (field.zoned && *field.zoned != time.has_zone));
    }
    return {};
}

std::string_view check_list(const Field& field, Slot& slot) {
    if (slot.got != Got::list) {
        return "type";
    }
    if (slot.count < field.min_length || slot.count > field.max_length) {
        return "length";
    }
    for (std::size_t i = 0; i < slot.count; ++i) {
        if (const auto kind = check_string(field, slot.items[i]); !kind.empty()) {
            return kind;
        }
    }
    return {};
}

}  // namespace

bool contains(const std::vector<std::string>& values, std::string_view value) {
    return std::find(values.begin(), values.end(), value) != values.end();
}

void parse_default(const std::string& text, Type type, Slot& slot) {
    const auto value = nlohmann::json::parse(text);
    if (value.is_null()) {
        slot.got = Got::null;
    } else if (type == Type::json) {
        json::CanonicalWriter writer(json::BigIntegers::verbatim);
        static_cast<void>(json::parse_json(text, writer));
        slot.got = Got::json;
        slot.text = writer.view();
    } else if (value.is_boolean()) {
        slot.got = Got::boolean;
        slot.boolean = value.get<bool>();
    } else if (value.is_string()) {
        slot.got = Got::string;
        slot.text = value.get<std::string>();
    } else if (value.is_number()) {
        slot.got = value.is_number_integer() ? Got::integer : Got::real;
        slot.text = text;
    } else {
        slot.got = value.is_array() ? Got::list : Got::other;
        for (const auto& item : value) {
            slot.got = item.is_string() ? slot.got : Got::other;
            slot.items.push_back(item.is_string() ? item.get<std::string>() : "");
            ++slot.count;
        }
    }
}

std::string_view check_slot(const Field& field, Slot& slot) {
    switch (field.type) {
        case Type::int32:
        case Type::int64:
            return check_integer(field, slot);
        case Type::float64:
            return check_real(field, slot);
        case Type::boolean:
            return check_boolean(slot);
        case Type::string_list:
            return check_list(field, slot);
        case Type::json:
            return {};
        default:
            return check_text(field, slot);
    }
}

}  // namespace headgate::schema
