// Which names of fields every reader of a table takes as a column's.
#pragma once

#include <string>
#include <string_view>

namespace headgate::checkpoint {

// The name as readers that do not tell upper from lower case compare it (DuckDB, Spark, Delta). Letters outside ASCII
// are folded one by one.
std::string folded_name(std::string_view name);

// Whether a column may have this folded name: it is not empty, holds no control characters, and is neither our own
// `_rest` nor one that Arrow's datasets or Delta's change feed have for themselves.
bool is_readable_name(std::string_view folded);

}  // namespace headgate::checkpoint
