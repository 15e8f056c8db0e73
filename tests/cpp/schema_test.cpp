#include "headgate/schema/schema.hpp"
#include "headgate/schema/pattern.hpp"
#include "support.hpp"

namespace headgate::schema {
namespace {

bool match(const char* pattern, std::string_view text) {
    const auto compiled = Pattern::compile(pattern);
    EXPECT_TRUE(compiled.ok()) << compiled.status().message();
    std::vector<Pattern::Group> groups;
    const bool matched = compiled.value().matches(text);
    EXPECT_EQ(compiled.value().matches(text, groups), matched) << pattern;
    return matched;
}

TEST(Pattern, MatchesLikeFullmatch) {
    EXPECT_TRUE(match("^[!-~]{1,10}$", "ab-1"));
    EXPECT_FALSE(match("^[!-~]{1,10}$", ""));
    EXPECT_FALSE(match("^[!-~]{1,10}$", "a b"));
    EXPECT_FALSE(match("^[!-~]{1,10}$", "12345678901"));
    EXPECT_TRUE(match("a|bc|", ""));
    EXPECT_TRUE(match("(?:a|b)+c?", "ababc"));
    EXPECT_FALSE(match("(?:a|b)+c?", "ababcc"));
    EXPECT_TRUE(match("a{2}", "aa"));
    EXPECT_FALSE(match("a{2}", "aaa"));
    EXPECT_TRUE(match("a{2,}", "aaaa"));
    EXPECT_TRUE(match("[^-/]+", "\xC3\xA9x"));
    EXPECT_FALSE(match("[^-/]+", "x-y"));
    EXPECT_TRUE(match("[]a-]+", "]-a"));
    EXPECT_TRUE(match(".*\\.json", "x.json"));
    EXPECT_FALSE(match(".*\\.json", "xjson"));
    EXPECT_TRUE(match("\\d{3}", "123"));
}

TEST(Pattern, NamedGroupsAreGreedyFromTheLeft) {
    const auto pattern = Pattern::compile("(?P<a>[a-z-]+)-(?P<b>[a-z]+)").value();
    std::vector<Pattern::Group> groups;
    ASSERT_TRUE(pattern.matches("x-y-z", groups));
    EXPECT_EQ(groups[0].end, 3U);
    EXPECT_EQ(groups[1].begin, 4U);
}

TEST(Pattern, AnyOfMatchesWhatOneOfThemDoes) {
    const std::vector<std::string> texts = {"(?P<a>x+)-y", "^[0-9]{2}$", "(?:u|v(?P<b>w))*z?"};
    std::vector<Pattern> patterns;
    for (const auto& text : texts) {
        patterns.push_back(Pattern::compile(text).value());
    }
    const auto any = Pattern::any_of(patterns);
    std::vector<Pattern::Group> groups;
    for (const auto* subject :
         {"x-y", "xxx-y", "-y", "x-", "12", "1", "123", "uvwz", "v", "vw", "", "z", "zz", "12z", "x-yz"}) {
        const bool one = patterns[0].matches(subject) || patterns[1].matches(subject) || patterns[2].matches(subject);
        EXPECT_EQ(any.matches(subject), one) << subject;
        EXPECT_EQ(any.matches(subject, groups), one) << subject;
    }
    EXPECT_TRUE(groups.empty());
    EXPECT_FALSE(Pattern::any_of({}).matches(""));
}

TEST(Pattern, RefusesWhatItDoesNotKnowByName) {
    for (const auto* text : {"a**", "(?=a)", "\\w", "\\bx", "[a", "(a", "a)", "*a", "a{", "a{2,1}", "(?P<x", "[z-a]",
                             "a{9999}{9}", "\\1", "a$b", "(?i)a", "(a?)*", "(?:a|)+", "(a{0,2}b?){1,}"}) {
        const auto compiled = Pattern::compile(text);
        EXPECT_EQ(compiled.status().code(), ErrorCode::invalid_schema) << text;
    }
}

TEST(Pattern, BadBacktrackingEnds) {
    EXPECT_FALSE(match("(?:a|aa)+b", std::string(200, 'a')));
}

TEST(Pattern, BacktrackingThatGivesUpDoesNotRefuseAMatch) {
    // The right way is the last of 2^30 that backtracking tries.
    const auto pattern = Pattern::compile("(?:a|ab|[a-z]){30}\\d(?:a|b)*").value();
    EXPECT_TRUE(pattern.matches(std::string(30, 'a') + "1" + std::string(5, 'b')));
    const auto nested = Pattern::compile("(?:a|aa)+").value();
    EXPECT_TRUE(nested.matches(std::string(100'000, 'a')));
    EXPECT_FALSE(nested.matches(std::string(100'000, 'a') + "b"));
}

TEST(Pattern, OneOfTooManyStatesStillMatches) {
    // Which of the last 14 characters were an "a" takes 2^14 states.
    EXPECT_TRUE(match("[ab]*a[ab]{13}", "bba" + std::string(13, 'b')));
    EXPECT_FALSE(match("[ab]*a[ab]{13}", std::string(16, 'b')));
}

constexpr const char* kPlan = R"({"format": 1, "name": "t", "extra": "forbid", "sort_by": "at", "fields": [
  {"name": "id", "type": "int32", "digits": true, "minimum": 1},
  {"name": "name", "type": "string", "blanks": "trim", "min_length": 1, "max_length": 5},
  {"name": "code", "type": "string", "blanks": "refuse", "pattern": "^[A-Z]+$", "nullable": true, "required": false},
  {"name": "kind", "type": "string", "values": ["a", "b"], "required": false, "default": "a"},
  {"name": "day", "type": "date"}, {"name": "at", "type": "timestamp"},
  {"name": "tags", "type": "string_list", "max_length": 2, "required": false, "default": []},
  {"name": "extra", "type": "json", "nullable": true, "required": false},
  {"name": "score", "type": "float64", "nullable": true, "required": false, "maximum": 1},
  {"name": "module", "type": "string", "nullable": true, "required": false}],
 "rules": [{"name": "r", "when": {"field": "kind", "in": ["b"]}, "field": "module", "in": ["X"], "else_null": true}]})";

class Records : public testing::Test {
protected:
    std::shared_ptr<const Schema> schema = Schema::parse(kPlan).value();
    RecordReader reader{schema};
    Columns out = Columns::like(*schema);
    std::string problems(const std::string& changes) {
        std::string text =
            R"({"id": 7, "name": "n", "day": "2026-01-31", "at": "2026-01-31T00:00:00Z")" + changes + "}";
        std::string all;
        for (const auto& problem : reader.read(text, &out)) {
            all += (all.empty() ? "" : " ") + problem.field + ":" + problem.kind;
        }
        return all;
    }
    std::string without(const std::string& text) {
        std::string all;
        for (const auto& problem : reader.read(text, &out)) {
            all += (all.empty() ? "" : " ") + problem.field + ":" + problem.kind;
        }
        return all;
    }
};

TEST_F(Records, AGoodRecordFillsOneRow) {
    EXPECT_EQ(problems(R"(, "code": "AB", "tags": ["x", "y"], "extra": {"b": [1.0], "a": null}, "score": 0.5)"), "");
    ASSERT_EQ(out.rows, 1U);
    EXPECT_EQ(out.columns[0].numbers[0], 7);
    EXPECT_EQ(out.columns[3].text(0), "a");
    EXPECT_EQ(out.columns[5].numbers[0], 1'769'817'600'000'000);
    EXPECT_EQ(out.columns[6].offsets[1], 2U);
    EXPECT_EQ(out.columns[7].text(0), R"({"a":null,"b":[1]})");
    EXPECT_EQ(out.columns[9].valid[0], 0);
}

TEST_F(Records, EveryRuleHasItsKind) {
    EXPECT_EQ(problems(R"(, "id": 8)"), "id:duplicate");
    EXPECT_EQ(problems(R"(, "other": 1)"), ":unknown");
    EXPECT_EQ(problems(R"(, "code": " AB")"), "code:blank");
    EXPECT_EQ(problems(R"(, "code": "ab")"), "code:pattern");
    EXPECT_EQ(problems(R"(, "code": 5)"), "code:type");
    EXPECT_EQ(problems(R"(, "kind": "c")"), "kind:enum");
    EXPECT_EQ(problems(R"(, "kind": null)"), "kind:null");
    EXPECT_EQ(problems(R"(, "tags": ["a", "b", "c"])"), "tags:length");
    EXPECT_EQ(problems(R"(, "tags": ["a", 1])"), "tags:type");
    EXPECT_EQ(problems(R"(, "tags": [["a"]])"), "tags:type");
    EXPECT_EQ(problems(R"(, "tags": "a")"), "tags:type");
    EXPECT_EQ(problems(R"(, "score": 1.5)"), "score:range");
    EXPECT_EQ(problems(R"(, "kind": "b")"), "module:rule:r");
    EXPECT_EQ(problems(R"(, "module": "X")"), "module:rule:r");
    EXPECT_EQ(problems(R"(, "kind": "b", "module": "X")"), "");
    EXPECT_EQ(without("[]"), ":type");
    EXPECT_EQ(without("7"), ":type");
    EXPECT_EQ(without("{"), ":json");
    EXPECT_EQ(without("{\"id\": \"\xff\"}"), ":invalid_unicode");
    EXPECT_EQ(without("{}"), "id:missing name:missing day:missing at:missing");
    EXPECT_EQ(without(R"({"id": 0, "name": "", "day": "2026-02-30", "at": "2026-01-01"})"),
              "id:range name:length day:date at:timestamp");
    EXPECT_EQ(without(R"({"id": true, "name": "123456", "day": 5, "at": 1767600000})"),
              "id:type name:length day:type at:type");
    EXPECT_EQ(without(R"({"id": 1.0, "name": "   ", "day": "2026-1-1", "at": "x"})"),
              "id:type name:length day:date at:timestamp");
    EXPECT_EQ(without(R"({"id": 4294967296, "name": "n", "day": "2026-01-01", "at": "2026-01-01T00:00:00"})"),
              "id:range");
    EXPECT_EQ(out.rows, 1U);  // the one good record of this test
}

TEST_F(Records, IntegersMayComeAsDigits) {
    const std::string rest = R"(, "name": "n", "day": "2026-01-31", "at": "2026-01-31T00:00:00Z"})";
    EXPECT_EQ(without(R"({"id": "042")" + rest), "");
    EXPECT_EQ(out.columns[0].numbers[0], 42);
    EXPECT_EQ(without(R"({"id": " 42 ")" + rest), "");
    EXPECT_EQ(without(R"({"id": "-4")" + rest), "id:type");
    EXPECT_EQ(without(R"({"id": "4.0")" + rest), "id:type");
    EXPECT_EQ(without(R"({"id": "")" + rest), "id:type");
    EXPECT_EQ(without(R"({"id": "99999999999999999999")" + rest), "id:range");
}

TEST(Schema, RefusesABrokenPlan) {
    EXPECT_EQ(Schema::parse("{").status().code(), ErrorCode::invalid_schema);
    EXPECT_EQ(Schema::parse(R"({"format": 2, "name": "t", "fields": []})").status().code(),
              ErrorCode::unsupported_version);
    EXPECT_EQ(Schema::parse(R"({"format": 1, "name": "t", "fields": []})").status().code(), ErrorCode::invalid_schema);
    EXPECT_EQ(Schema::parse(R"({"format": 1, "name": "t", "fields": [{"name": "a", "type": "odd"}]})").status().code(),
              ErrorCode::invalid_schema);
    EXPECT_EQ(
        Schema::parse(R"({"format": 1, "name": "t", "sort_by": "a", "fields": [{"name": "a", "type": "string"}]})")
            .status()
            .code(),
        ErrorCode::invalid_schema);
}

}  // namespace
}  // namespace headgate::schema
