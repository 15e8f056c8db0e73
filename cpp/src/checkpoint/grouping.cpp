#include "headgate/checkpoint/grouping.hpp"

#include <algorithm>

#include "headgate/base/limit.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::uint32_t kNone = UINT32_MAX;
// The largest number of combinations for which a table is used. Such a table fits in the second-level cache.
constexpr std::size_t kCells = limit(64 * 1024, 4);

bool valid(const KeyColumn& column, std::size_t row) {
    return column.valid.empty() || column.valid[row] != 0;
}

}  // namespace

void HashIndex::grow() {
    slots_.assign(std::max<std::size_t>(64, slots_.size() * 2), kFree);
    for (std::size_t number = 0; number < hashes_.size(); ++number) {
        std::size_t at = hashes_[number] & (slots_.size() - 1);
        while (slots_[at] != kFree) {
            at = (at + 1) & (slots_.size() - 1);
        }
        slots_[at] = static_cast<std::uint32_t>(number);
    }
}

std::uint32_t Values::code(std::string_view text) {
    const auto equal = [&](std::uint32_t code) {
        const auto* const other = std::get_if<std::string_view>(&values_[code]);
        return other != nullptr && *other == text;
    };
    const auto [code, added] = index_.find(hash_of(text), equal);
    if (added) {
        values_.emplace_back(std::string_view(texts_.emplace_back(text)));
    }
    return code;
}

std::uint32_t Values::code(std::int64_t number) {
    const auto equal = [&](std::uint32_t code) {
        const auto* const other = std::get_if<std::int64_t>(&values_[code]);
        return other != nullptr && *other == number;
    };
    const auto [code, added] = index_.find(mixed(static_cast<std::uint64_t>(number)), equal);
    if (added) {
        values_.emplace_back(number);
    }
    return code;
}

std::uint32_t Values::null() {
    const auto equal = [&](std::uint32_t code) { return std::holds_alternative<std::monostate>(values_[code]); };
    const auto [code, added] = index_.find(0, equal);
    if (added) {
        values_.emplace_back();
    }
    return code;
}

std::size_t Grouping::size() const {
    if (values_.empty()) {
        return any_ ? 1 : 0;
    }
    return pairs_.empty() ? values_.front().size() : pairs_.back().members.size();
}

const Values::Value& Grouping::value(std::size_t group, std::size_t column) const {
    auto at = static_cast<std::uint32_t>(group);
    for (std::size_t level = pairs_.size(); level > column; --level) {
        at = pairs_[level - 1].members[at].first;
    }
    return values_[column][column == 0 ? at : pairs_[column - 1].members[at].second];
}

std::uint32_t Grouping::code_of(std::size_t column, const KeyColumn& from, std::size_t value) {
    return from.text ? values_[column].code(from.texts[value]) : values_[column].code(from.numbers[value]);
}

std::uint32_t Grouping::code_of_row(std::size_t column, const KeyColumn& from, std::size_t row) {
    if (!valid(from, row)) {
        return values_[column].null();
    }
    if (!from.coded) {
        return code_of(column, from, row);
    }
    // The values of a batch's dictionary are looked up once each, and only if a row has them.
    auto& code = known_[column][static_cast<std::size_t>(from.codes[row])];
    if (code == kNone) {
        code = code_of(column, from, static_cast<std::size_t>(from.codes[row]));
    }
    return code;
}

std::uint32_t Grouping::pair(std::size_t level, std::uint32_t before, std::uint32_t code) {
    auto& members = pairs_[level].members;
    const auto equal = [&](std::uint32_t i) { return members[i] == std::pair(before, code); };
    const auto [number, added] = pairs_[level].index.find(mixed((std::uint64_t{before} << 32U) | code), equal);
    if (added) {
        members.emplace_back(before, code);
    }
    return number;
}

void Grouping::number(std::span<const KeyColumn> columns, std::size_t rows, std::vector<std::uint32_t>& groups) {
    groups.assign(rows, 0);
    any_ = any_ || rows > 0;
    known_.resize(columns.size());
    std::size_t cells = columns.empty() ? kCells + 1 : 1;
    for (std::size_t c = 0; c < columns.size(); ++c) {
        if (columns[c].coded) {
            known_[c].assign(columns[c].values(), kNone);
        }
        cells = columns[c].coded && cells <= kCells ? cells * (columns[c].values() + 1) : kCells + 1;
    }
    if (cells <= kCells && rows > cells) {
        by_table(columns, rows, cells, groups);
        return;
    }
    // One column after the other: the look-ups of neighbouring rows wait for memory at the same time, which is twice as
    // fast as one row after the other.
    for (std::size_t c = 0; c < columns.size(); ++c) {
        for (std::size_t row = 0; row < rows; ++row) {
            const auto code = code_of_row(c, columns[c], row);
            groups[row] = c == 0 ? code : pair(c - 1, groups[row], code);
        }
    }
}

// For columns with few values each. The codes of a row are the number of a cell in a table, and a combination is looked
// up for the first row of a cell only.
void Grouping::by_table(std::span<const KeyColumn> columns, std::size_t rows, std::size_t cells,
                        std::vector<std::uint32_t>& groups) {
    for (const auto& column : columns) {
        const auto width = static_cast<std::uint32_t>(column.values() + 1);  // the last value is null
        if (column.valid.empty()) {
            for (std::size_t row = 0; row < rows; ++row) {
                groups[row] = groups[row] * width + static_cast<std::uint32_t>(column.codes[row]);
            }
        } else {
            for (std::size_t row = 0; row < rows; ++row) {
                const auto code = column.valid[row] != 0 ? static_cast<std::uint32_t>(column.codes[row]) : width - 1;
                groups[row] = groups[row] * width + code;
            }
        }
    }
    cell_groups_.assign(cells, kNone);
    for (std::size_t row = 0; row < rows; ++row) {
        auto& group = cell_groups_[groups[row]];
        if (group == kNone) {
            for (std::size_t c = 0; c < columns.size(); ++c) {
                const auto code = code_of_row(c, columns[c], row);
                group = c == 0 ? code : pair(c - 1, group, code);
            }
        }
        groups[row] = group;
    }
}

template <class T, class ValueOf>
void Newest::keep(std::span<const std::uint32_t> groups, const KeyColumn& by, std::vector<T>& best,
                  const ValueOf& value) {
    best.resize(rows_.size());
    for (std::size_t row = 0; row < groups.size(); ++row) {
        const auto group = groups[row];
        const auto at = seen_ + static_cast<std::int64_t>(row);
        if (valid(by, row)) {
            const auto mine = value(by.coded ? static_cast<std::size_t>(by.codes[row]) : row);
            if (has_[group] == 0 || mine >= best[group]) {
                best[group] = mine;
                has_[group] = 1;
                rows_[group] = at;
            }
        } else if (has_[group] == 0) {
            rows_[group] = at;
        }
    }
}

void Newest::add(std::span<const std::uint32_t> groups, const KeyColumn& by) {
    const auto largest = std::ranges::max_element(groups);
    if (largest == groups.end()) {
        return;
    }
    if (const std::size_t size = *largest + std::size_t{1}; size > rows_.size()) {
        rows_.resize(size, -1);
        has_.resize(size);
    }
    if (by.text) {
        keep(groups, by, texts_, [&](std::size_t i) { return by.texts[i]; });
    } else {
        keep(groups, by, numbers_, [&](std::size_t i) { return by.numbers[i]; });
    }
    seen_ += static_cast<std::int64_t>(groups.size());
}

}  // namespace headgate::checkpoint
