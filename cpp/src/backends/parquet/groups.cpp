// Groups rows that arrive as Arrow record batches.
#include <arrow/api.h>
#include <arrow/c/bridge.h>

#include <algorithm>
#include <utility>

#include "convert.hpp"
#include "headgate/backends/parquet.hpp"

namespace headgate::backends {
namespace {

using checkpoint::KeyColumn;

void read_validity(const arrow::Array& array, KeyColumn& out) {
    out.valid.clear();
    if (array.null_count() != 0) {
        out.valid.resize(static_cast<std::size_t>(array.length()));
        for (std::int64_t row = 0; row < array.length(); ++row) {
            out.valid[static_cast<std::size_t>(row)] = array.IsValid(row) ? 1 : 0;
        }
    }
}

void read_texts(const arrow::StringArray& array, KeyColumn& out) {
    out.text = true;
    out.texts.resize(static_cast<std::size_t>(array.length()));
    for (std::int64_t i = 0; i < array.length(); ++i) {
        out.texts[static_cast<std::size_t>(i)] = array.GetView(i);
    }
}

// Checks the codes of a dictionary column, because those of a damaged file may be out of range.
bool read_codes(const arrow::Int32Array& codes, KeyColumn& out) {
    const auto* const first = codes.raw_values();
    out.codes.assign(first, first + codes.length());
    if (!out.valid.empty()) {
        for (std::size_t row = 0; row < out.codes.size(); ++row) {
            out.codes[row] = out.valid[row] != 0 ? out.codes[row] : 0;  // the code under a null is undefined in Arrow
        }
        if (out.texts.empty()) {
            return std::ranges::all_of(out.valid, [](std::uint8_t valid) { return valid == 0; });
        }
    }
    std::uint32_t largest = 0;
    for (const auto code : out.codes) {
        largest = std::max(largest, static_cast<std::uint32_t>(code));
    }
    return out.codes.empty() || largest < out.texts.size();
}

arrow::Status read_column(const arrow::Array& array, KeyColumn& out) {
    read_validity(array, out);
    out.coded = array.type_id() == arrow::Type::DICTIONARY;
    if (out.coded) {
        const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
        if (coded.dictionary()->type_id() == arrow::Type::STRING && coded.indices()->type_id() == arrow::Type::INT32) {
            read_texts(static_cast<const arrow::StringArray&>(*coded.dictionary()), out);
            return read_codes(static_cast<const arrow::Int32Array&>(*coded.indices()), out)
                       ? arrow::Status::OK()
                       : arrow::Status::Invalid("a code is beyond its dictionary");
        }
    } else if (array.type_id() == arrow::Type::STRING) {
        read_texts(static_cast<const arrow::StringArray&>(array), out);
        return arrow::Status::OK();
    } else if (array.type_id() == arrow::Type::INT64) {
        const auto& numbers = static_cast<const arrow::Int64Array&>(array);
        out.text = false;
        out.numbers = {numbers.raw_values(), static_cast<std::size_t>(numbers.length())};
        return arrow::Status::OK();
    }
    return arrow::Status::TypeError("groups: a column is ", array.type()->ToString());
}

// Reads a stream of record batches, and gives access to the columns of the current one.
class Batches {
public:
    static Result<Batches> open(ArrowArrayStream& stream, const Interrupt& interrupt) {
        auto reader = arrow::ImportRecordBatchReader(&stream);
        return reader.ok() ? Result<Batches>(Batches(std::move(*reader), interrupt)) : unreadable(reader.status());
    }

    std::span<const KeyColumn> columns() const { return columns_; }

    // Reads the next batch and returns its number of rows; 0 at the end.
    Result<std::size_t> next() {
        do {
            if (interrupt_ && interrupt_()) {
                return Status(ErrorCode::interrupted, "the query was interrupted");
            }
            if (const auto status = reader_->ReadNext(&batch_); !status.ok()) {
                return unreadable(status);
            }
        } while (batch_ != nullptr && batch_->num_rows() == 0);
        if (batch_ == nullptr) {
            return std::size_t{0};
        }
        for (std::size_t c = 0; c < columns_.size(); ++c) {
            if (const auto status = read_column(*batch_->column(static_cast<int>(c)), columns_[c]); !status.ok()) {
                return unreadable(status);
            }
        }
        return static_cast<std::size_t>(batch_->num_rows());
    }

private:
    Batches(std::shared_ptr<arrow::RecordBatchReader> reader, const Interrupt& interrupt)
        : reader_(std::move(reader)),
          interrupt_(interrupt),
          columns_(static_cast<std::size_t>(reader_->schema()->num_fields())) {}

    static Status unreadable(const arrow::Status& status) {
        return from_arrow(status, "rows cannot be read", ErrorCode::corrupt_data);
    }

    std::shared_ptr<arrow::RecordBatchReader> reader_;
    Interrupt interrupt_;
    std::vector<KeyColumn> columns_;
    std::shared_ptr<arrow::RecordBatch> batch_;  // owns the memory that the columns refer to
};

}  // namespace

Result<Counted> count_groups(ArrowArrayStream& rows, const Interrupt& interrupt) {
    HG_ASSIGN(auto batches, Batches::open(rows, interrupt));
    Counted out{checkpoint::Grouping(batches.columns().size()), {}};
    std::vector<std::uint32_t> groups;
    while (true) {
        HG_ASSIGN(const auto count, batches.next());
        if (count == 0) {
            return out;
        }
        out.groups.number(batches.columns(), count, groups);
        out.counts.resize(out.groups.size());
        for (const auto group : groups) {
            ++out.counts[group];
        }
    }
}

Result<std::vector<std::int64_t>> newest_rows(ArrowArrayStream& rows, const Interrupt& interrupt) {
    HG_ASSIGN(auto batches, Batches::open(rows, interrupt));
    const auto keys = batches.columns().size() - 1;
    checkpoint::Grouping grouping(keys);
    checkpoint::Newest newest;
    std::vector<std::uint32_t> groups;
    while (true) {
        HG_ASSIGN(const auto count, batches.next());
        if (count == 0) {
            break;
        }
        grouping.number(batches.columns().first(keys), count, groups);
        newest.add(groups, batches.columns().back());
    }
    auto out = newest.rows();
    std::ranges::sort(out);
    return out;
}

}  // namespace headgate::backends
