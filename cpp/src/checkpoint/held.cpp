#include "held.hpp"

#include <algorithm>

#include "headgate/base/limit.hpp"

namespace headgate::checkpoint {
namespace {

using schema::Column;
using schema::Columns;
using schema::RowAt;

// A slab has this many rows, or fewer if they are large: it is full at either limit.
constexpr std::size_t kRowsPerSlab = limit(16 * 1024, 8);
constexpr std::size_t kBytesPerSlab = limit(16U << 20U, 512);
// A column is stored as codes while it has at most this many distinct texts, none of them longer than this many bytes.
constexpr std::size_t kMostTexts = limit(4096, 3);
constexpr std::size_t kMostTextBytes = limit(256, 8);

struct Keyed {
    std::int64_t value;
    RowAt at;
};
// What sorting needs for each row; std::stable_sort makes a copy.
constexpr std::size_t kSortingBytes = 2 * sizeof(Keyed) + sizeof(RowAt);

bool is_text(schema::Type type) {
    return type == schema::Type::string || type == schema::Type::date || type == schema::Type::json;
}

void append_text(Column& column, std::string_view text) {
    column.bytes.append(text);
    column.offsets.push_back(static_cast<schema::Offset>(column.bytes.size()));
    column.valid.push_back(1);
}

}  // namespace

std::optional<TextCodes::Code> TextCodes::code(std::string_view text) {
    if (last_ < values_.size() && this->text(last_) == text) {
        return last_;  // adjacent rows often have the same text
    }
    if (values_.size() == kMostTexts || text.size() > kMostTextBytes) {
        return std::nullopt;
    }
    const auto known = values_.size();
    last_ = static_cast<Code>(values_.code(text));
    if (values_.size() > known) {
        bytes_ += sizeof(std::string) + text.size() + sizeof(Values::Value) + 2 * sizeof(std::uint64_t);
    }
    return last_;
}

std::size_t HeldRows::Slab::memory_bytes() const {
    std::size_t out = columns.memory_bytes();
    for (const auto& column : codes) {
        out += column.size() * sizeof(TextCodes::Code);
    }
    return out;
}

HeldRows::HeldRows(const schema::Schema& schema)
    : empty_(Columns::like(schema)), texts_(empty_.columns.size()), coding_(empty_.columns.size()) {
    for (std::size_t c = 0; c < empty_.columns.size(); ++c) {
        coding_[c] = is_text(empty_.columns[c].type);
        if (coding_[c]) {
            texts_[c].emplace();
        }
    }
}

// Returns a slab with space for at least one more row, and adds a new one if the last is full.
HeldRows::Slab& HeldRows::slab() {
    if (!slabs_.empty()) {
        const auto used = slabs_.back().memory_bytes();
        if (slabs_.back().columns.rows < kRowsPerSlab && used < kBytesPerSlab) {
            return slabs_.back();
        }
        full_bytes_ += used;
    }
    Slab fresh{empty_, std::vector<std::vector<TextCodes::Code>>(coding_.size())};
    if (!slabs_.empty()) {
        fresh.columns.reserve_as(slabs_.back().columns);
    }
    for (std::size_t c = 0; c < coding_.size(); ++c) {
        if (coding_[c]) {
            fresh.codes[c].reserve(kRowsPerSlab);
        }
    }
    return slabs_.emplace_back(std::move(fresh));
}

void HeldRows::append(const Columns& from, std::size_t begin, std::size_t end) {
    rows_ += end - begin;
    while (begin < end) {
        auto& to = slab();
        const auto stop = std::min(end, begin + kRowsPerSlab - to.columns.rows);
        for (std::size_t c = 0; c < coding_.size(); ++c) {
            if (coding_[c]) {
                append_coded(c, from.columns[c], begin, stop, to);
            } else {
                to.columns.columns[c].append_range(from.columns[c], begin, stop);
            }
        }
        to.columns.rows += stop - begin;
        begin = stop;
    }
}

void HeldRows::append_coded(std::size_t column, const Column& from, std::size_t begin, std::size_t end, Slab& to) {
    auto& codes = to.codes[column];
    auto& texts = *texts_[column];
    for (auto row = begin; row < end; ++row) {
        if (from.valid[row] == 0) {
            codes.push_back(TextCodes::kNull);
        } else if (const auto code = texts.code(from.text(row))) {
            codes.push_back(*code);
        } else {
            // Too many texts: the codes of this slab are replaced by their texts. Earlier slabs stay as they are.
            auto& plain = to.columns.columns[column];
            for (const auto earlier : codes) {
                earlier == TextCodes::kNull ? plain.append_null() : append_text(plain, texts.text(earlier));
            }
            codes = std::vector<TextCodes::Code>();
            plain.append_range(from, row, end);
            coding_[column] = false;
            return;
        }
    }
}

std::size_t HeldRows::memory_bytes() const {
    std::size_t out = full_bytes_ + rows_ * kSortingBytes;
    for (const auto& texts : texts_) {
        out += texts ? texts->memory_bytes() : 0;
    }
    if (!slabs_.empty()) {
        out += slabs_.back().memory_bytes();
    }
    return out;
}

std::vector<RowAt> HeldRows::order(std::size_t sort) const {
    std::vector<RowAt> out;
    out.reserve(rows_);
    bool sorted = true;
    for (std::uint32_t part = 0; part < slabs_.size(); ++part) {
        for (std::uint32_t row = 0; row < slabs_[part].columns.rows; ++row) {
            const RowAt at{part, row};
            sorted = sorted && (sort == SIZE_MAX || out.empty() || number(sort, out.back()) <= number(sort, at));
            out.push_back(at);
        }
    }
    if (sorted) {
        return out;
    }
    std::vector<Keyed> keyed;
    keyed.reserve(rows_);
    for (const auto& at : out) {
        keyed.push_back({number(sort, at), at});
    }
    std::ranges::stable_sort(keyed, {}, &Keyed::value);
    std::ranges::transform(keyed, out.begin(), &Keyed::at);
    return out;
}

void HeldRows::copy(std::span<const RowAt> which, Columns& out) const {
    for (std::size_t c = 0; c < coding_.size(); ++c) {
        copy_column(c, which, out.columns[c]);
    }
    out.rows += which.size();
}

void HeldRows::copy_column(std::size_t column, std::span<const RowAt> which, Column& out) const {
    if (!texts_[column]) {
        std::vector<const Column*> parts;
        for (const auto& slab : slabs_) {
            parts.push_back(&slab.columns.columns[column]);
        }
        out.append_rows(parts, which);
        return;
    }
    for (const auto& at : which) {
        const auto& codes = slabs_[at.part].codes[column];
        const auto& plain = slabs_[at.part].columns.columns[column];
        const bool coded = !codes.empty();
        if (coded ? codes[at.row] == TextCodes::kNull : plain.valid[at.row] == 0) {
            out.append_null();
        } else {
            append_text(out, coded ? texts_[column]->text(codes[at.row]) : plain.text(at.row));
        }
    }
}

}  // namespace headgate::checkpoint
