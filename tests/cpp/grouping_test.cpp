// Groups of rows: by table and by hash, over batches whose dictionaries differ, against a map of strings.
#include "headgate/checkpoint/grouping.hpp"

#include <deque>
#include <map>

#include "headgate/base/clock.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

std::string cell_text(const Values::Value& value) {
    if (const auto* const number = std::get_if<std::int64_t>(&value)) {
        return std::to_string(*number);
    }
    const auto* const text = std::get_if<std::string_view>(&value);
    return text == nullptr ? "null" : "'" + std::string(*text) + "'";
}

// One column of one batch, and the memory that its views point into.
struct Batch {
    std::vector<std::string> texts;
    std::vector<std::int64_t> numbers;
    std::vector<std::string> shown;  // of each row, as cell_text
    KeyColumn column;
};

// kind 0: text for each row; 1: coded text; 2: numbers. `variety` distinct values, some of them null.
Batch batch(SeededRandom& random, int kind, std::size_t rows, std::size_t variety, bool nulls) {
    Batch out;
    out.column.text = kind != 2;
    out.column.coded = kind == 1;
    if (kind == 1) {
        const auto shift = random.next() % 3;  // another dictionary in every batch, also with unused values
        for (std::size_t i = 0; i < variety; ++i) {
            out.texts.push_back("value-" + std::to_string((i + shift) % (variety + 1)));
        }
    }
    for (std::size_t row = 0; row < rows; ++row) {
        const auto pick = random.next() % variety;
        const bool null = nulls && random.next() % 5 == 0;
        out.column.valid.push_back(null ? 0 : 1);
        if (kind == 0) {
            out.texts.push_back("value-" + std::to_string(pick));
        } else if (kind == 1) {
            out.column.codes.push_back(static_cast<std::int32_t>(null ? 0 : pick));
        } else {
            out.numbers.push_back(static_cast<std::int64_t>(pick) - 3);
        }
        const auto text = [&] { return "'" + out.texts[kind == 0 ? row : pick] + "'"; };
        out.shown.push_back(null ? "null" : kind == 2 ? std::to_string(out.numbers[row]) : text());
    }
    if (!nulls) {
        out.column.valid.clear();
    }
    return out;
}

TEST(Grouping, CountsWhatAMapCounts) {
    SeededRandom random(21);
    for (int round = 0; round < 200; ++round) {
        const auto width = random.next() % 5;
        const auto variety = 1 + random.next() % (round % 7 == 0 ? 900 : 6);
        std::vector<int> kinds(width);
        for (auto& kind : kinds) {
            kind = round % 2 == 0 ? 1 : static_cast<int>(random.next() % 3);  // all coded: the table's way
        }
        Grouping grouping(width);
        std::map<std::vector<std::string>, int> model;
        std::vector<int> counts;
        for (int part = 0; part < 4; ++part) {
            const auto rows = random.next() % 700;
            std::deque<Batch> made;  // the views point into it
            std::vector<KeyColumn> columns;
            for (const auto kind : kinds) {
                made.push_back(batch(random, kind, rows, variety, random.next() % 2 == 0));
                made.back().column.texts.assign(made.back().texts.begin(), made.back().texts.end());
                made.back().column.numbers = made.back().numbers;
                columns.push_back(made.back().column);
            }
            std::vector<std::uint32_t> groups;
            grouping.number(columns, rows, groups);
            counts.resize(grouping.size());
            for (std::size_t row = 0; row < rows; ++row) {
                std::vector<std::string> key;
                for (std::size_t c = 0; c < width; ++c) {
                    key.push_back(made[c].shown[row]);
                    ASSERT_EQ(cell_text(grouping.value(groups[row], c)), key.back()) << "round " << round;
                }
                ++model[key];
                ++counts[groups[row]];
            }
        }
        std::map<std::vector<std::string>, int> found;
        for (std::size_t group = 0; group < grouping.size(); ++group) {
            std::vector<std::string> key;
            for (std::size_t c = 0; c < width; ++c) {
                key.push_back(cell_text(grouping.value(group, c)));
            }
            found[key] = counts[group];
        }
        ASSERT_EQ(found, model) << "round " << round;
    }
}

TEST(Grouping, NumbersAndTextsAndNullAreDifferentValues) {
    Values values;
    const auto one = values.code("1");
    EXPECT_NE(values.code(std::int64_t{1}), one);
    EXPECT_NE(values.null(), one);
    EXPECT_EQ(values.code("1"), one);
    EXPECT_NE(values.code(""), values.null());
    EXPECT_EQ(values.size(), 4U);
}

TEST(Newest, OfEqualOnesTheLastAndNullIsTheSmallest) {
    KeyColumn by;
    by.text = false;
    const std::vector<std::int64_t> first = {5, 9, 0, 9};
    by.numbers = first;
    by.valid = {1, 1, 0, 1};
    Newest newest;
    newest.add(std::vector<std::uint32_t>{0, 1, 2, 1}, by);
    EXPECT_EQ(newest.rows(), (std::vector<std::int64_t>{0, 3, 2}));
    const std::vector<std::int64_t> second = {5, 8, INT64_MIN, 1};
    by.numbers = second;
    by.valid = {1, 1, 1, 0};
    newest.add(std::vector<std::uint32_t>{0, 1, 2, 3}, by);
    EXPECT_EQ(newest.rows(), (std::vector<std::int64_t>{4, 3, 6, 7}));
}

TEST(Newest, OrdersTextAlsoWhenItIsCoded) {
    KeyColumn by;
    by.texts = {"2024-01-02", "2024-01-10"};
    by.coded = true;
    by.codes = {1, 0, 0};
    Newest newest;
    newest.add(std::vector<std::uint32_t>{0, 0, 1}, by);
    EXPECT_EQ(newest.rows(), (std::vector<std::int64_t>{0, 2}));
    by.coded = false;
    by.codes.clear();
    by.texts = {"2024-01-10", "2023-12-31"};
    newest.add(std::vector<std::uint32_t>{0, 1}, by);
    EXPECT_EQ(newest.rows(), (std::vector<std::int64_t>{3, 2}));
}

}  // namespace
}  // namespace headgate::checkpoint
