// Rows that wait to be sorted: what comes out is what went in, coded or not, and in the order asked for.
#include "checkpoint/held.hpp"

#include <algorithm>
#include <numeric>

#include "headgate/base/clock.hpp"
#include "headgate/base/limit.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

using schema::Columns;
using schema::RowAt;

std::shared_ptr<const schema::Schema> every_type() {
    return schema::Schema::parse(R"({"format": 1, "name": "t", "sort_by": "at", "extra": "forbid", "fields": [
        {"name": "few", "type": "string"}, {"name": "many", "type": "string", "nullable": true},
        {"name": "day", "type": "date", "nullable": true}, {"name": "body", "type": "json", "nullable": true},
        {"name": "tags", "type": "string_list"}, {"name": "real", "type": "float64"}, {"name": "flag", "type": "bool"},
        {"name": "at", "type": "timestamp"}]})")
        .value();
}

std::string cell(const schema::Column& column, std::size_t row) {
    if (column.valid[row] == 0) {
        return "null";
    }
    switch (column.type) {
        case schema::Type::string:
        case schema::Type::date:
        case schema::Type::json:
            return std::string(column.text(row));
        case schema::Type::float64:
            return std::to_string(column.reals[row]);
        case schema::Type::string_list: {
            std::string out;
            for (auto i = column.offsets[row]; i < column.offsets[row + 1]; ++i) {
                out.append(column.bytes, column.item_offsets[i], column.item_offsets[i + 1] - column.item_offsets[i]);
                out += ',';
            }
            return out;
        }
        default:
            return std::to_string(column.numbers[row]);
    }
}

std::vector<std::string> lines(const Columns& columns) {
    std::vector<std::string> out(columns.rows);
    for (std::size_t row = 0; row < columns.rows; ++row) {
        for (const auto& column : columns.columns) {
            out[row] += cell(column, row) + "|";
        }
    }
    return out;
}

// `variety`: how many different values "many" has; large texts now and then when `large`.
Columns rows_of(SeededRandom& random, const std::shared_ptr<const schema::Schema>& schema, std::size_t count,
                std::size_t variety, bool large) {
    schema::RecordReader reader(schema);
    auto out = Columns::like(*schema);
    for (std::size_t i = 0; i < count; ++i) {
        const auto pick = [&](std::size_t n) { return std::to_string(random.next() % n); };
        const auto many = large && random.next() % 50 == 0 ? std::string(300, 'x') + pick(3) : "m" + pick(variety);
        const std::string null = "null";
        std::string text = R"({"few": "f)" + pick(4) + R"(", "many": )";
        text += random.next() % 9 == 0 ? null : "\"" + many + "\"";
        text += R"(, "day": )" + (random.next() % 9 == 0 ? null : "\"2024-01-1" + pick(10) + "\"");
        text += R"(, "body": {"a": )" + pick(variety) + R"(}, "tags": ["t)" + pick(3) + R"("], "real": 0.5, "flag": )";
        text += random.next() % 2 == 0 ? "true" : "false";
        text += R"(, "at": "2024-01-01T00:00:)" + std::to_string(10 + random.next() % 40) + R"(Z"})";
        const auto& problems = reader.read(text, &out);
        EXPECT_TRUE(problems.empty()) << text << (problems.empty() ? "" : problems[0].kind);
    }
    return out;
}

void holds(const std::vector<std::size_t>& sizes, std::size_t variety, bool large) {
    SeededRandom random(31 + variety);
    const auto schema = every_type();
    HeldRows held(*schema);
    std::vector<std::string> model;
    std::vector<std::int64_t> times;
    for (const auto size : sizes) {
        const auto part = rows_of(random, schema, size, variety, large);
        const auto from = size / 7;
        held.append(part, from, part.rows);
        const auto all = lines(part);
        model.insert(model.end(), all.begin() + static_cast<std::ptrdiff_t>(from), all.end());
        times.insert(times.end(), part.columns[7].numbers.begin() + static_cast<std::ptrdiff_t>(from),
                     part.columns[7].numbers.end());
    }
    ASSERT_EQ(held.rows(), model.size());
    auto arrived = Columns::like(*schema);
    held.copy(held.order(SIZE_MAX), arrived);
    EXPECT_EQ(lines(arrived), model);

    std::vector<std::size_t> by_time(model.size());
    std::iota(by_time.begin(), by_time.end(), 0U);
    std::ranges::stable_sort(by_time, {}, [&](std::size_t i) { return times[i]; });
    const auto order = held.order(7);
    auto sorted = Columns::like(*schema);
    const auto half = order.size() / 2;
    held.copy(std::span(order).first(half), sorted);
    held.copy(std::span(order).subspan(half), sorted);
    const auto found = lines(sorted);
    ASSERT_EQ(found.size(), model.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        ASSERT_EQ(found[i], model[by_time[i]]) << i;
        ASSERT_EQ(held.number(7, order[i]), times[by_time[i]]);
    }
}

TEST(HeldRows, FewTextsComeBack) {
    holds({0, 1, 100, 7000, 20000}, 50, false);
}

// More than 4,096 of them: the slab in which that happens, and the later ones, are not coded.
TEST(HeldRows, ManyTextsComeBack) {
    holds({500, 9000, 9000, 20000}, 6000, false);
}

TEST(HeldRows, LongTextsEndTheCoding) {
    holds({40, 60, 17000}, 20, true);
}

TEST(HeldRows, RepeatedTextTakesTwoBytes) {
    if (kSmallLimits) {
        GTEST_SKIP() << "counts what the usual limits give";
    }
    SeededRandom random(5);
    const auto schema = every_type();
    const auto part = rows_of(random, schema, 10'000, 30, false);
    HeldRows held(*schema);
    const auto empty = held.memory_bytes();
    held.append(part, 0, part.rows);
    EXPECT_GT(held.memory_bytes(), empty);
    EXPECT_LT(held.memory_bytes() - 40 * part.rows, part.memory_bytes() * 2 / 3);
}

}  // namespace
}  // namespace headgate::checkpoint
