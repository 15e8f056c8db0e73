#include <bit>
#include <charconv>
#include <cmath>

#include "headgate/base/clock.hpp"
#include "headgate/json/canonical.hpp"
#include "headgate/json/scan.hpp"
#include "support.hpp"

namespace headgate::json {
namespace {

std::string canonical(std::string_view text) {
    const auto result = canonicalize(text);
    return result.ok() ? result.value() : "error: " + std::string(error_kind(result.status().code()));
}

std::string number(double value) {
    std::string out;
    append_number(out, value);
    return out;
}

TEST(Canonical, ExampleOfTheRfc) {
    // RFC 8785, section 3.2.2 and 3.2.4.
    EXPECT_EQ(canonical(R"({"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]})"),
              "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],"
              "\"string\":\"\xE2\x82\xAC$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}");
}

TEST(Canonical, KeysSortByUtf16) {
    // RFC 8785, section 3.2.3: astral characters sort before U+E000..U+FFFF.
    EXPECT_EQ(
        canonical("{\"\\u20ac\":1,\"\\r\":2,\"\\ufb33\":3,\"1\":4,\"\\ud83d\\ude00\":5,\"\\u0080\":6,\"\\u00f6\":7}"),
        "{\"\\r\":2,\"1\":4,\"\xC2\x80\":6,\"\xC3\xB6\":7,\"\xE2\x82\xAC\":1,\"\xF0\x9F\x98\x80\":5,\"\xEF\xAC\xB3\":"
        "3}");
}

TEST(Canonical, NumbersOfAppendixB) {
    const std::pair<std::uint64_t, const char*> vectors[] = {
        {0x0000000000000000, "0"},
        {0x8000000000000000, "0"},
        {0x0000000000000001, "5e-324"},
        {0x8000000000000001, "-5e-324"},
        {0x7fefffffffffffff, "1.7976931348623157e+308"},
        {0xffefffffffffffff, "-1.7976931348623157e+308"},
        {0x4340000000000000, "9007199254740992"},
        {0xc340000000000000, "-9007199254740992"},
        {0x4430000000000000, "295147905179352830000"},
        {0x44b52d02c7e14af5, "9.999999999999997e+22"},
        {0x44b52d02c7e14af6, "1e+23"},
        {0x44b52d02c7e14af7, "1.0000000000000001e+23"},
        {0x444b1ae4d6e2ef4e, "999999999999999700000"},
        {0x444b1ae4d6e2ef4f, "999999999999999900000"},
        {0x444b1ae4d6e2ef50, "1e+21"},
        {0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"},
        {0x3eb0c6f7a0b5ed8d, "0.000001"},
        {0x41b3de4355555553, "333333333.3333332"},
        {0x41b3de4355555557, "333333333.33333343"},
        {0xbecbf647612f3696, "-0.0000033333333333333333"},
    };
    for (const auto& [bits, expected] : vectors) {
        EXPECT_EQ(number(std::bit_cast<double>(bits)), expected) << std::hex << bits;
    }
}

TEST(Canonical, RandomDoublesReadBack) {
    SeededRandom random(1);
    for (int i = 0; i < 200'000; ++i) {
        const auto value = std::bit_cast<double>(random.next());
        if (!std::isfinite(value)) {
            continue;
        }
        const auto text = number(value);
        double back = 0;
        ASSERT_EQ(std::from_chars(text.data(), text.data() + text.size(), back).ec, std::errc{}) << text;
        ASSERT_EQ(back, value) << text;
    }
}

TEST(Canonical, RefusesWhatCannotBeKept) {
    EXPECT_EQ(canonical("9007199254740991"), "9007199254740991");
    EXPECT_EQ(canonical("9007199254740992"), "error: number_out_of_range");
    EXPECT_EQ(canonical("-9007199254740992"), "error: number_out_of_range");
    EXPECT_EQ(canonical("9007199254740992.0"), "9007199254740992");  // a double by its point
    EXPECT_EQ(canonical("9007199254740991.7"), "9007199254740992");
    EXPECT_EQ(canonical("1e400"), "error: number_out_of_range");
    EXPECT_EQ(canonical("123456789e999999999999"), "error: number_out_of_range");
    EXPECT_EQ(canonical("1e-400"), "0");
    EXPECT_EQ(canonical("0." + std::string(400, '0') + "1"), "0");
    EXPECT_EQ(canonical("-0"), "0");
    EXPECT_EQ(canonical(R"({"a":1,"a":1})"), "error: duplicate_key");
    EXPECT_EQ(canonical(R"({"b":1,"a":2,"b":3})"), "error: duplicate_key");
    EXPECT_EQ(canonical(R"({"a":1,"\u0061":2})"), "error: duplicate_key");
    EXPECT_EQ(canonical(R"("\ud800")"), "error: invalid_unicode");
    EXPECT_EQ(canonical(R"("\udc00\ud800")"), "error: invalid_unicode");
    EXPECT_EQ(canonical("\"\xED\xA0\x80\""), "error: invalid_unicode");
    EXPECT_EQ(canonicalize("12345678901234567890", BigIntegers::exact).value(), "12345678901234567890");
}

template <bool ascii>
std::size_t slow_run_end(std::string_view text, std::size_t at) {
    while (at < text.size()) {
        const auto c = static_cast<unsigned char>(text[at]);
        if (c < 0x20 || c == '"' || c == '\\' || (ascii && c >= 0x80)) {
            break;
        }
        ++at;
    }
    return at;
}

// Every byte at every place of every length up to a few words, and pairs of marks: what follows one must not hide it.
TEST(Scan, FindsTheFirstByteThatEndsARun) {
    SeededRandom random(7);
    for (std::size_t size = 0; size <= 40; ++size) {
        for (std::size_t place = 0; place < size; ++place) {
            for (int byte = 0; byte < 256; ++byte) {
                std::string text(size, 'a');
                text[place] = static_cast<char>(byte);
                text[random.next() % size] = static_cast<char>(random.next() % 256);
                const auto at = random.next() % (place + 1);
                ASSERT_EQ(detail::run_end<true>(text, at), slow_run_end<true>(text, at)) << size << " " << byte;
                ASSERT_EQ(detail::run_end<false>(text, at), slow_run_end<false>(text, at)) << size << " " << byte;
            }
        }
    }
}

TEST(Reader, RefusesWhatIsNotJson) {
    for (const auto* text : {"",      " ",      "{",        "[",        "[1,]",    "{\"a\":1,}", "{\"a\"}",
                             "{a:1}", "[1 2]",  "01",       "1.",       ".5",      "+1",         "-",
                             "1e",    "nul",    "tru",      "\"",       "\"\\x\"", "\"\\u12\"",  "\"a\nb\"",
                             "[]]",   "{}{}",   "'a'",      "NaN",      "[,1]",    "{,}",        "\xEF\xBB\xBF{}",
                             "\"\\",  "[1,,2]", "{\"a\":}", "{\"a\" 1}"}) {
        EXPECT_EQ(canonical(text), "error: invalid_json") << text;
    }
}

TEST(Reader, AcceptsWhatIs) {
    EXPECT_EQ(canonical(" [ ] "), "[]");
    EXPECT_EQ(canonical("{ }"), "{}");
    EXPECT_EQ(canonical("\t[1 , {\"b\" : [ ] , \"a\" : { } } ]\n"), "[1,{\"a\":{},\"b\":[]}]");
    EXPECT_EQ(canonical(R"({"z":{"b":2,"a":[{"d":1,"c":2}]},"y":0})"), R"({"y":0,"z":{"a":[{"c":2,"d":1}],"b":2}})");
    EXPECT_EQ(canonical("\"12345678\\n1234567890123456\xC3\xA9 tail\""),
              "\"12345678\\n1234567890123456\xC3\xA9 tail\"");
}

TEST(Reader, LimitsDepthWithoutRecursion) {
    const std::string deep = std::string(128, '[') + std::string(128, ']');
    EXPECT_EQ(canonical(deep), deep);
    EXPECT_EQ(canonical("[" + deep + "]"), "error: nesting_too_deep");
    EXPECT_EQ(canonical(std::string(1'000'000, '[')), "error: nesting_too_deep");
}

TEST(Canonical, IsIdempotentOnRandomDocuments) {
    SeededRandom random(99);
    for (int i = 0; i < 2'000; ++i) {
        std::string text;
        const std::function<void(int)> value = [&](int depth) {
            const auto kind = random.next() % (depth > 3 ? 4 : 6);
            if (kind == 0) {
                text += std::to_string(static_cast<int>(random.next() % 2001) - 1000);
            } else if (kind == 1) {
                text += "\"k" + std::to_string(random.next() % 50) + "\\u00e9\"";
            } else if (kind == 2) {
                text += random.next() % 2 == 0 ? "true" : "null";
            } else if (kind == 3) {
                text += number(random.uniform() * 1e9);
            } else {
                const bool object = kind == 4;
                text += object ? "{" : "[";
                const auto count = random.next() % 5;
                for (std::uint64_t n = 0; n < count; ++n) {
                    text += n > 0 ? " ," : "";
                    if (object) {
                        text += "\"" + std::to_string(random.next()) + "\": ";
                    }
                    value(depth + 1);
                }
                text += object ? "}" : "]";
            }
        };
        value(0);
        const auto once = canonicalize(text);
        ASSERT_TRUE(once.ok()) << text;
        ASSERT_EQ(canonicalize(once.value()).value(), once.value());
    }
}

TEST(Canonical, KeepsNoIntegerThatPythonDoesNotRead) {
    for (const auto policy : {BigIntegers::exact, BigIntegers::verbatim}) {
        const std::string longest(kMostDigits, '9');
        EXPECT_EQ(canonicalize("-" + longest, policy).value(), "-" + longest);
        EXPECT_EQ(canonicalize("[" + longest + "9]", policy).status().code(), ErrorCode::number_out_of_range);
    }
}

}  // namespace
}  // namespace headgate::json
