// The engine on a table in memory-like files: a plain text format stands in for Parquet, so no Arrow is needed.
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "checkpoint/segment.hpp"
#include "headgate/base/fault.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/text.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

using Json = nlohmann::json;

// Rows as JSON: [["id", at], ...] with the metadata beside them.
class TextTable final : public TableFile {
public:
    Result<std::map<std::string, std::string>> metadata(const std::string& path) const override {
        HG_ASSIGN(const auto text, read_file(path));
        const auto json = Json::parse(text, nullptr, false);
        if (json.is_discarded()) {
            return Status(ErrorCode::corrupt_data, path + " cannot be read");
        }
        return json.at("metadata").get<std::map<std::string, std::string>>();
    }
    Result<schema::Columns> read(const std::string& path, const schema::Schema& schema) const override {
        HG_ASSIGN(const auto text, read_file(path));
        auto out = schema::Columns::like(schema);
        const auto json = Json::parse(text);
        for (const auto& row : json.at("rows")) {
            const auto id = row.at(0).get<std::string>();
            out.columns[0].valid.push_back(1);
            out.columns[0].bytes += id;
            out.columns[0].offsets.push_back(out.columns[0].bytes.size());
            out.columns[1].valid.push_back(1);
            out.columns[1].numbers.push_back(row.at(1).get<std::int64_t>());
            ++out.rows;
        }
        return out;
    }
    Status write(const std::string& path, const schema::Schema&, const schema::Columns& columns,
                 const std::map<std::string, std::string>& metadata) const override {
        Json json{{"metadata", metadata}, {"rows", Json::array()}};
        for (std::size_t row = 0; row < columns.rows; ++row) {
            json["rows"].push_back({columns.columns[0].text(row), columns.columns[1].numbers[row]});
        }
        return write_file_durably(path, json.dump());
    }
};

constexpr const char* kPlan =
    R"({"format": 1, "name": "t", "sort_by": "at", "file_names": ["e-.*\\.jsonl?"], "fields": [
  {"name": "id", "type": "string"}, {"name": "at", "type": "timestamp"}]})";

class Engine : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_EQ(mkdir((folder / "in").c_str(), 0777), 0);
        options.source = folder / "in";
        options.target = folder / "out.table";
        options.schema = schema::Schema::parse(kPlan).value();
        options.settle_us = 0;
        options.threads = 3;
        environment.table = std::make_shared<TextTable>();
        environment.clock = std::make_shared<SystemClock>();
        environment.random = std::make_shared<SystemRandom>();
    }
    void TearDown() override { static_cast<void>(set_faults("")); }
    void event(const std::string& id, int second) {
        tests::write_file(options.source + "/e-" + id + ".json", text(id, second));
    }
    static std::string text(const std::string& id, int second) {
        return R"({"id": ")" + id + R"(", "at": ")" + format_timestamp(second * 1'000'000LL) + "\"}";
    }
    Summary run() {
        auto out = update(options, environment);
        EXPECT_TRUE(out.ok()) << out.status().message();
        return out.ok() ? out.value() : Summary{};
    }
    std::string ids() {
        std::string out;
        const auto columns = environment.table->read(options.target, *options.schema);
        for (std::size_t row = 0; columns.ok() && row < columns.value().rows; ++row) {
            out += columns.value().columns[0].text(row);
        }
        return out;
    }
    tests::TemporaryFolder folder;
    Options options;
    Environment environment;
};

TEST_F(Engine, TakesEverythingOnceSortedAndStable) {
    event("c", 30);
    event("a", 10);
    event("b", 10);
    tests::write_file(options.source + "/other.json", "{}");
    const auto first = run();
    EXPECT_TRUE(first.first_run && first.committed);
    EXPECT_EQ(first.rows_added, 3);
    EXPECT_EQ(first.ignored, 1);
    EXPECT_EQ(ids(), "abc");
    const auto again = run();
    EXPECT_FALSE(again.committed);
    EXPECT_EQ(again.known, 3);
    event("d", 5);   // late
    event("e", 10);  // a tie with older rows comes after them
    event("f", 30);  // a tie at the newest timestamp
    const auto third = run();
    EXPECT_EQ(third.rows_added, 3);
    EXPECT_EQ(third.late_rows, 2);
    EXPECT_EQ(ids(), "dabecf");
    EXPECT_EQ(third.rows_total, 6);
    EXPECT_EQ(third.version, 2);
}

TEST_F(Engine, KeepsEveryVersionOfAnOverwrittenFile) {
    event("a", 1);
    run();
    event("a", 1);  // the same content, another time of writing
    EXPECT_EQ(run().rows_added, 0);
    event("a", 2);
    const auto changed = run();
    EXPECT_EQ(changed.changed, 1);
    EXPECT_EQ(changed.rows_added, 1);
    EXPECT_EQ(ids(), "aa");
    EXPECT_EQ(run().known, 1);
}

TEST_F(Engine, RemembersBadFilesAndNamesWhatIsWrong) {
    event("a", 1);
    tests::write_file(options.source + "/e-bad.json", "{");
    tests::write_file(options.source + "/e-l.jsonl", text("x", 2) + "\n\n{\"id\": 1}\n" + text("y", 3) + "\n");
    const auto first = run();
    EXPECT_EQ(first.rows_added, 3);
    EXPECT_EQ(first.rejected_records, 2);
    EXPECT_EQ(first.rejected_files, 1);
    EXPECT_EQ(first.records, 5);
    EXPECT_EQ(first.problems.at("json"), 1);
    ASSERT_EQ(first.first_rejects.size(), 2U);
    EXPECT_EQ(first.first_rejects[1].offset, text("x", 2).size() + 2);
    EXPECT_EQ(run().known, 3);
}

TEST_F(Engine, CreatesNothingWithoutAGoodEvent) {
    tests::write_file(options.source + "/e-bad.json", "{");
    const auto out = run();
    EXPECT_FALSE(out.committed);
    EXPECT_NE(access(options.target.c_str(), F_OK), 0);
}

TEST_F(Engine, AnUnreadableCheckpointIsNeverAFirstRun) {
    event("a", 1);
    run();
    tests::write_file(options.target, "garbage");
    event("b", 2);
    EXPECT_EQ(update(options, environment).status().code(), ErrorCode::corrupt_data);
    EXPECT_EQ(read_file(options.target).value(), "garbage");
}

TEST_F(Engine, AMissingOrBrokenSegmentIsAnError) {
    event("a", 1);
    run();
    for (const auto& entry : std::filesystem::directory_iterator(options.target + ".ledger")) {
        auto bytes = read_file(entry.path().string()).value();
        bytes[20] = static_cast<char>(bytes[20] ^ 1);
        tests::write_file(entry.path().string(), bytes);
    }
    EXPECT_EQ(update(options, environment).status().code(), ErrorCode::corrupt_data);
    std::filesystem::remove_all(options.target + ".ledger");
    EXPECT_EQ(update(options, environment).status().code(), ErrorCode::corrupt_data);
}

TEST_F(Engine, AFailureAtAnyPointLeavesTheOldOneAndTheNextRunTakesAll) {
    event("a", 1);
    run();
    for (const auto* point :
         {"file.before_rename:fail:1", "checkpoint.after_segments:fail:1", "checkpoint.before_commit:fail:1"}) {
        event("b", 2);
        ASSERT_TRUE(set_faults(point).ok());
        EXPECT_EQ(update(options, environment).status().code(), ErrorCode::fault_injected) << point;
        ASSERT_TRUE(set_faults("").ok());
        EXPECT_EQ(ids(), "a") << point;
    }
    EXPECT_EQ(run().rows_added, 1);
    EXPECT_EQ(ids(), "ab");
    // Orphans of the failed runs are swept: only the segments that the footer names are left.
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(options.target + ".ledger")) {
        files += entry.is_regular_file() ? 1 : 0;
    }
    EXPECT_EQ(files, 2U);
}

TEST_F(Engine, YoungFilesWait) {
    event("a", 1);
    options.settle_us = 3'600'000'000;
    const auto out = run();
    EXPECT_EQ(out.deferred, 1);
    EXPECT_EQ(out.taken_files, 0);
}

TEST_F(Engine, WatermarkModeSkipsWhatIsNotNewer) {
    event("a", 10);
    run();
    options.mode = Mode::watermark;
    event("b", 10);
    event("c", 11);
    const auto out = run();
    EXPECT_EQ(out.skipped_before_watermark, 1);
    EXPECT_EQ(ids(), "ac");
}

TEST_F(Engine, ManySegmentsAreMerged) {
    for (int i = 0; i < 40; ++i) {
        event(std::string(1, static_cast<char>('A' + i)), i);
        run();
    }
    const auto footer = Json::parse(environment.table->metadata(options.target).value().at("headgate"));
    EXPECT_LE(footer.at("segments").size(), 32U);
    EXPECT_EQ(run().known, 40);
}

TEST_F(Engine, AnInterruptEndsTheRunAndWritesNothing) {
    for (int i = 0; i < 3'000; ++i) {
        event(std::to_string(i), i);
    }
    environment.interrupt = [] { return true; };
    EXPECT_EQ(update(options, environment).status().code(), ErrorCode::interrupted);
    EXPECT_NE(access(options.target.c_str(), F_OK), 0);
}

TEST_F(Engine, RefusesAnotherSchemasCheckpoint) {
    event("a", 1);
    run();
    std::string other(kPlan);
    other.replace(other.find("\"t\""), 3, "\"u\"");
    options.schema = schema::Schema::parse(other).value();
    EXPECT_EQ(update(options, environment).status().code(), ErrorCode::invalid_input);
}

TEST(Segment, RoundTripsAndRefusesOtherVersions) {
    const std::vector<Entry> entries = {{digest_key("a"), 1, 2, 3, 0}, {digest_key("b"), 4, 5, 0, 1}};
    const auto bytes = write_segment(entries);
    Taken taken;
    ASSERT_TRUE(read_segment(bytes, "s", taken).ok());
    EXPECT_EQ(taken.at(digest_key("b")).flags, 1U);
    auto newer = bytes;
    newer[4] = 9;
    EXPECT_EQ(read_segment(newer, "s", taken).code(), ErrorCode::unsupported_version);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        EXPECT_FALSE(read_segment(std::string_view(bytes).substr(0, size), "s", taken).ok()) << size;
    }
}

}  // namespace
}  // namespace headgate::checkpoint
