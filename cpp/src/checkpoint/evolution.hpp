// Whether a table has the columns of a run's schema, or could get them without a change of what is in it.
#pragma once

#include <map>
#include <string>

#include "headgate/checkpoint/ports.hpp"

namespace headgate::checkpoint {

enum class Evolution : std::uint8_t {
    none,      // the columns are those of the schema
    reorders,  // the same columns in another order
    adds,      // nullable columns are new; rows that are there have no value for them
    widens,    // numbers become wider: the rows that are there have to be written anew
};

// The types of a schema's columns by name, as the footer keeps them.
std::map<std::string, std::string> column_types(const schema::Schema& schema);

// How `stored` becomes a table of `schema`. corrupt_data, naming the columns, when it does not, or when it would
// have to change and `may_evolve` is false. `types` are those of the footer; a column that is not there has the type
// of the file. `target` names the table in the error.
Result<Evolution> compare_columns(const StoredTable& stored, const std::map<std::string, std::string>& types,
                                  const schema::Schema& schema, bool may_evolve, const std::string& target);

}  // namespace headgate::checkpoint
