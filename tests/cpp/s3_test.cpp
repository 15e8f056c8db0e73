// Signing, XML, and what S3's answers mean, without a server.
#include <deque>

#include "backends/s3/client.hpp"
#include "support.hpp"

namespace headgate::backends::s3 {
namespace {

// The example "GET Object" of AWS's own description of Signature Version 4.
TEST(SigV4, SignsTheServicesExample) {
    Signer signer("us-east-1");
    net::Headers headers = {{"range", "bytes=0-9"}};
    signer.sign({"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""}, "GET",
                "examplebucket.s3.amazonaws.com", "/test.txt", "", sha256_hex(""), 1'369'353'600'000'000, headers);
    EXPECT_EQ(headers.back().second,
              "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
              "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
              "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

TEST(SigV4, EncodesKeysAndSortsQueries) {
    EXPECT_EQ(uri_encode("a/b c+~\xC3\xA9", true), "a/b%20c%2B~%C3%A9");
    EXPECT_EQ(uri_encode("a/b", false), "a%2Fb");
    EXPECT_EQ(canonical_query({{"prefix", "J"}, {"max-keys", "2"}, {"list-type", ""}}),
              "list-type=&max-keys=2&prefix=J");
}

TEST(Xml, GivesLeavesAndEnds) {
    const auto leaves =
        xml_leaves("<R><Contents><Key>a&amp;b</Key></Contents><IsTruncated>true</IsTruncated></R>").value();
    ASSERT_EQ(leaves.size(), 4U);
    EXPECT_EQ(leaves[0].text, "a&b");
    EXPECT_EQ(leaves[1].name, "/Contents");
    EXPECT_FALSE(xml_leaves("<R><half>").ok());
    EXPECT_FALSE(xml_leaves("").ok());
}

// Answers what it was given, in order.
class Scripted final : public net::HttpTransport {
public:
    std::vector<net::HttpResponse> perform(const std::vector<net::HttpRequest>& requests, Deadline, std::size_t,
                                           const Interrupt&) override {
        sent.push_back(requests.front());
        auto out = answers.front();
        answers.pop_front();
        return {out};
    }
    void run(net::HttpFlow&, std::int64_t, std::size_t, const Interrupt&) override { FAIL() << "not used here"; }
    void answer(long status, const std::string& code, Status error = {}) {
        net::HttpResponse out;
        out.status = status;
        out.error = std::move(error);
        out.body = code.empty() ? "" : "<Error><Code>" + code + "</Code></Error>";
        answers.push_back(out);
    }
    std::deque<net::HttpResponse> answers;
    std::vector<net::HttpRequest> sent;
};

class S3 : public testing::Test {
protected:
    Client client() {
        S3Options options;
        options.bucket = "b";
        options.endpoint = "http://h:1/";
        options.transport = [this] { return transport; };
        options.credentials = [this]() -> Result<S3Credentials> {
            ++asked;
            return S3Credentials{"key", "secret", "token"};
        };
        return Client(share(options, clock, std::make_shared<SeededRandom>(1)));
    }
    std::shared_ptr<Scripted> transport = std::make_shared<Scripted>();
    std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>(1'700'000'000'000'000);
    int asked = 0;
};

TEST_F(S3, TriesTransientAnswersAgainAndOthersNot) {
    auto c = client();
    transport->answer(503, "SlowDown");
    transport->answer(0, "", {ErrorCode::connection_failed, "cut"});
    transport->answer(200, "");
    EXPECT_TRUE(c.send({"GET", "k", {}, {}, "", ""}, {}).ok());
    EXPECT_EQ(transport->sent.size(), 3U);
    EXPECT_EQ(transport->sent[0].url, "http://h:1/b/k");
    for (const auto& [status, code, expected] : {std::tuple{404L, "NoSuchKey", ErrorCode::not_found},
                                                 {403L, "AccessDenied", ErrorCode::permission_denied},
                                                 {412L, "PreconditionFailed", ErrorCode::version_conflict},
                                                 {409L, "ConditionalRequestConflict", ErrorCode::version_conflict},
                                                 {400L, "BadRequest", ErrorCode::http_status}}) {
        transport->sent.clear();
        transport->answer(status, code);
        std::string got;
        EXPECT_EQ(c.send({"GET", "k", {}, {}, "", ""}, {}, &got).status().code(), expected);
        EXPECT_EQ(got, code);
        EXPECT_EQ(transport->sent.size(), 1U);
    }
    for (int i = 0; i < 4; ++i) {
        transport->answer(500, "InternalError");
    }
    EXPECT_EQ(c.send({"GET", "k", {}, {}, "", ""}, {}).status().code(), ErrorCode::unavailable);
}

TEST_F(S3, AsksForCredentialsAgainWhenTheyExpire) {
    auto c = client();
    transport->answer(403, "ExpiredToken");
    transport->answer(200, "");
    EXPECT_TRUE(c.send({"GET", "k", {}, {}, "", ""}, {}).ok());
    EXPECT_EQ(asked, 2);
    clock->advance_us(61'000'000);
    transport->answer(200, "");
    EXPECT_TRUE(c.send({"GET", "k", {}, {}, "", ""}, {}).ok());
    EXPECT_EQ(asked, 3);
}

TEST_F(S3, ErrorsNameNeitherKeysNorSecrets) {
    auto c = client();
    transport->answer(403, "AccessDenied");
    const auto message = c.send({"GET", "log-submit-ptid-110001.json", {}, {}, "", ""}, {}).status().message();
    EXPECT_EQ(message.find("110001"), std::string::npos);
    EXPECT_EQ(message.find("secret"), std::string::npos);
    EXPECT_EQ(message.find("token"), std::string::npos);
}

}  // namespace
}  // namespace headgate::backends::s3
