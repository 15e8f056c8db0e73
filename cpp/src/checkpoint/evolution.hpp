// Decides whether a table has the columns of a run's schema, or can get them without a change of its values.
#pragma once

#include <map>
#include <string>

#include "headgate/checkpoint/ports.hpp"

namespace headgate::checkpoint {

enum class Evolution : std::uint8_t {
    none,      // the columns are those of the schema
    reorders,  // the same columns in another order
    adds,      // there are new nullable columns, which are null in the existing rows
    widens,    // a type of numbers becomes wider; the existing rows have to be rewritten
};

// Returns the types of a schema's columns by name, in the form that is stored in the footer.
std::map<std::string, std::string> column_types(const schema::Schema& schema);

// Returns how `stored` has to change to be a table of `schema`. Returns corrupt_data, with the names of the columns, if
// that is impossible, or if it has to change and `may_evolve` is false. `types` are the types from the footer; a column
// without one has the type of the file. `target` is the name of the table in errors.
Result<Evolution> compare_columns(const StoredTable& stored, const std::map<std::string, std::string>& types,
                                  const schema::Schema& schema, bool may_evolve, const std::string& target);

}  // namespace headgate::checkpoint
