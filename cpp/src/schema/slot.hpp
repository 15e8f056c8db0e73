// One member of a record on its way into a column.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "headgate/schema/schema.hpp"

namespace headgate::schema {

enum class Got : std::uint8_t { absent, null, string, integer, real, boolean, list, json, other };

struct Slot {
    Got got = Got::absent;
    bool twice = false;      // came again
    std::size_t choice = 0;  // of the members that may hold the field: which one it was
    bool boolean = false;
    std::string text;                // string, number token, or canonical JSON
    std::vector<std::string> items;  // list of strings
    std::size_t count = 0;           // items in use
    std::int64_t number = 0;         // checked value of an integer or timestamp
    double real = 0;
    bool is_rounded = false;  // a checked number or time says less than the text
};

bool contains(const std::vector<std::string>& values, std::string_view value);
// The default of a plan, JSON text.
void parse_default(const std::string& text, Type type, Slot& slot);
// Checks what is there (not absent, not null) and fills `number` and `real`; the kind of the problem, or nothing.
std::string_view check_slot(const Field& field, Slot& slot);

}  // namespace headgate::schema
