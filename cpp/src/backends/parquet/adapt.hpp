// Reads rows of a table with an earlier schema as rows of the new schema.
#pragma once

#include <arrow/api.h>

#include <memory>
#include <vector>

#include "headgate/checkpoint/ports.hpp"

namespace headgate::backends {

checkpoint::StoredTable stored_columns(const arrow::Schema& found);

// Converts batches of one schema to batches of another. Columns are found by name, missing ones are null, and numbers
// are widened.
class Adapter {
public:
    // Returns TypeError if the columns of `from` cannot be converted to those of `to` in this way.
    static arrow::Result<Adapter> make(const arrow::Schema& from, std::shared_ptr<arrow::Schema> to);

    // Returns Invalid if an integer has no equal float64.
    arrow::Result<std::shared_ptr<arrow::RecordBatch>> adapt(const arrow::RecordBatch& batch) const;

private:
    std::shared_ptr<arrow::Schema> to_;
    std::vector<int> sources_;  // for each column of `to_`, its number in a batch, or -1
};

}  // namespace headgate::backends
