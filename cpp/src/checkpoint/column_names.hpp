// Which names of fields can be names of columns in every program that reads the table.
#pragma once

#include <string>
#include <string_view>

namespace headgate::checkpoint {

// Returns the name in the form in which DuckDB, Spark and Delta compare names: without upper and lower case. Letters
// outside ASCII are folded one by one.
std::string folded_name(std::string_view name);

// Whether a column may have this folded name. It must not be empty or contain control characters, and must not be our
// own
// `_rest` or a name that Arrow's datasets or Delta's change feed reserve.
bool is_readable_name(std::string_view folded);

}  // namespace headgate::checkpoint
