#include "headgate/hash/identity.hpp"
#include "support.hpp"

namespace headgate::hash {
namespace {

TEST(Identity, GoldenValues) {
    // FIPS 180-4's example, and ids that never change.
    EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(event_id("{}").value(), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    EXPECT_EQ(event_id(R"({"b":1.0,"a":"x"})").value(), event_id(R"({ "a" : "x", "b" : 1 })").value());
    EXPECT_EQ(dedup_key("Headline", "tiingo", "2026-05-01").size(), 32U);
    EXPECT_EQ(dedup_key("Headline", "tiingo", "2026-05-01"), sha256_hex("Headline|tiingo|2026-05-01").substr(0, 32));
}

TEST(Identity, BatchEqualsOneByOne) {
    std::vector<std::string> texts;
    for (int i = 0; i < 5'000; ++i) {
        texts.push_back("{\"n\":" + std::to_string(i) + ",\"a\":\"" + std::string(60, 'x') + "\"}");
    }
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    const auto ids = event_ids(views, 4);
    ASSERT_TRUE(ids.ok());
    for (std::size_t i = 0; i < texts.size(); ++i) {
        ASSERT_EQ(ids.value()[i], event_id(texts[i]).value());
    }
}

TEST(Identity, BatchNamesTheFirstBadDocument) {
    const std::vector<std::string_view> texts = {"1", "[", "{"};
    const auto ids = event_ids(texts, 2);
    ASSERT_FALSE(ids.ok());
    EXPECT_EQ(ids.status().message().substr(0, 11), "document 1:");
    EXPECT_TRUE(event_ids({}, 2).value().empty());
}

}  // namespace
}  // namespace headgate::hash
