#include "headgate/schema/schema.hpp"

namespace headgate::schema {

void promote_rest(const Schema& schema, RecordReader& reader, Columns& rows) {
    if (schema.rest == SIZE_MAX) {
        return;
    }
    const auto& rest = rows.columns[schema.rest];
    auto out = Columns::like(schema);
    auto found = Columns::like(schema);
    std::size_t copied = 0;  // rows that are in `out`
    for (std::size_t row = 0; row < rows.rows; ++row) {
        found.clear();
        if (rest.valid[row] == 0 || !reader.read(rest.text(row), &found).empty()) {
            continue;
        }
        out.append_range(rows, copied, row);
        for (std::size_t c = 0; c < out.columns.size(); ++c) {
            const bool is_null = rows.columns[c].valid[row] == 0;
            const bool is_found = c != schema.file_column && found.columns[c].valid[0] != 0;
            if (c == schema.rest || (is_null && is_found)) {
                out.columns[c].append_range(found.columns[c], 0, 1);
            } else {
                out.columns[c].append_range(rows.columns[c], row, row + 1);
            }
        }
        ++out.rows;
        copied = row + 1;
    }
    out.append_range(rows, copied, rows.rows);
    rows = std::move(out);
}

}  // namespace headgate::schema
