// Rows of a table whose schema has evolved since, as the new schema has them.
#pragma once

#include <arrow/api.h>

#include <memory>
#include <vector>

#include "headgate/checkpoint/ports.hpp"

namespace headgate::backends {

checkpoint::StoredTable stored_columns(const arrow::Schema& found);

// Turns batches of one schema into batches of another: columns by name, missing ones null, numbers widened.
class Adapter {
public:
    // TypeError when the columns of `from` do not become those of `to` in this way.
    static arrow::Result<Adapter> make(const arrow::Schema& from, std::shared_ptr<arrow::Schema> to);

    // Invalid when a widened integer has no equal float64.
    arrow::Result<std::shared_ptr<arrow::RecordBatch>> adapt(const arrow::RecordBatch& batch) const;

private:
    std::shared_ptr<arrow::Schema> to_;
    std::vector<int> sources_;  // the column of a batch for each of `to_`, or -1
};

}  // namespace headgate::backends
