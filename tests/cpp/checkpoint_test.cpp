// The engine on a table in memory-like files: a plain text format stands in for Parquet, so no Arrow is needed.
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "bucket.hpp"
#include "checkpoint/merge.hpp"
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
    Result<Metadata> metadata(const std::string& path) const override {
        HG_ASSIGN(const auto text, read_file(path));
        const auto json = Json::parse(text, nullptr, false);
        if (json.is_discarded()) {
            return Status(ErrorCode::corrupt_data, path + " cannot be read");
        }
        return json.at("metadata").get<Metadata>();
    }
    Result<std::optional<StoredTable>> stored(const std::string&) const override {
        return std::optional<StoredTable>();
    }
    Result<std::unique_ptr<TableReader>> open(const std::string& path, const schema::Schema& schema) const override {
        HG_ASSIGN(const auto text, read_file(path));
        auto rows = schema::Columns::like(schema);
        const auto json = Json::parse(text);
        for (const auto& row : json.at("rows")) {
            const auto id = row.at(0).get<std::string>();
            rows.columns[0].valid.push_back(1);
            rows.columns[0].bytes += id;
            rows.columns[0].offsets.push_back(static_cast<schema::Offset>(rows.columns[0].bytes.size()));
            rows.columns[1].valid.push_back(1);
            rows.columns[1].numbers.push_back(row.at(1).get<std::int64_t>());
            ++rows.rows;
        }
        return std::unique_ptr<TableReader>(std::make_unique<Reader>(std::move(rows)));
    }
    Result<std::unique_ptr<TableWriter>> create(const std::string& path, const schema::Schema&) const override {
        return std::unique_ptr<TableWriter>(std::make_unique<Writer>(path));
    }

private:
    // Two rows at a time, so that every boundary is met.
    class Reader final : public TableReader {
    public:
        explicit Reader(schema::Columns rows) : rows_(std::move(rows)) {}
        Result<std::size_t> next() override {
            begin_ = end_;
            end_ = std::min(rows_.rows, begin_ + 2);
            return end_ - begin_;
        }
        void numbers(std::size_t column, std::vector<std::int64_t>& out) const override {
            const auto& all = rows_.columns[column].numbers;
            out.assign(all.begin() + static_cast<std::ptrdiff_t>(begin_),
                       all.begin() + static_cast<std::ptrdiff_t>(end_));
        }
        void columns(schema::Columns& out) const override {
            if (out.columns.size() != rows_.columns.size()) {
                out = rows_;
            }
            out.clear();
            out.append_range(rows_, begin_, end_);
        }
        Status pass_on(TableWriter& writer) const override {
            schema::Columns out;
            columns(out);
            return writer.append(out);
        }
        Result<std::int64_t> pass_units(TableWriter&, std::size_t, std::int64_t, std::int64_t,
                                        const std::function<Status()>&) override {
            return INT64_MIN;
        }
        Status check(const std::function<Status()>&) override { return {}; }

    private:
        schema::Columns rows_;
        std::size_t begin_ = 0;
        std::size_t end_ = 0;
    };
    class Writer final : public TableWriter {
    public:
        explicit Writer(std::string path) : path_(std::move(path)) {}
        Status append(const schema::Columns& columns) override {
            for (std::size_t row = 0; row < columns.rows; ++row) {
                rows_.push_back({columns.columns[0].text(row), columns.columns[1].numbers[row]});
            }
            return {};
        }
        Status finish(const Metadata& metadata) override {
            return write_file_durably(*real_files(), path_, Json{{"metadata", metadata}, {"rows", rows_}}.dump());
        }

    private:
        std::string path_;
        Json rows_ = Json::array();
    };
};

constexpr const char* kPlan =
    R"({"format": 1, "name": "t", "sort_by": "at", "file_names": ["e-.*\\.jsonl?"], "fields": [
  {"name": "id", "type": "string"}, {"name": "at", "type": "timestamp"}]})";

class Engine : public testing::Test {
protected:
    void SetUp() override {
        ASSERT_EQ(mkdir((folder / "in").c_str(), 0777), 0);
        source = folder / "in";
        target = folder / "out.table";
        options.schema = schema::Schema::parse(kPlan).value();
        options.settle_us = 0;
        options.threads = 3;
        environment.table = std::make_shared<TextTable>();
        environment.clock = std::make_shared<SystemClock>();
        environment.random = std::make_shared<SystemRandom>();
    }
    void TearDown() override { static_cast<void>(set_faults("")); }
    void event(const std::string& id, int second) {
        tests::write_file(source + "/e-" + id + ".json", text(id, second));
    }
    static std::string text(const std::string& id, int second) {
        return R"({"id": ")" + id + R"(", "at": ")" + format_timestamp(second * 1'000'000LL) + "\"}";
    }
    // The ports are opened for every run, as a new process would.
    Result<Summary> update() {
        environment.source = bucket ? bucket : make_folder_source(source);
        environment.target = make_file_target(target);
        return checkpoint::update(options, environment);
    }
    Summary run() {
        auto out = update();
        EXPECT_TRUE(out.ok()) << out.status().message();
        return out.ok() ? out.value() : Summary{};
    }
    std::set<std::string> parts() const {
        const auto names = real_files()->names(target + ".ledger").value();
        return {names.begin(), names.end()};
    }
    std::string ids() {
        std::string out;
        auto reader = environment.table->open(target, *options.schema);
        schema::Columns rows;
        while (reader.ok() && reader.value()->next().value() > 0) {
            reader.value()->columns(rows);
            for (std::size_t row = 0; row < rows.rows; ++row) {
                out += rows.columns[0].text(row);
            }
        }
        return out;
    }
    tests::TemporaryFolder folder;
    std::string source;
    std::shared_ptr<tests::Bucket> bucket;  // instead of the folder
    std::string target;
    Options options;
    Environment environment;
};

TEST_F(Engine, TakesEverythingOnceSortedAndStable) {
    event("c", 30);
    event("a", 10);
    event("b", 10);
    tests::write_file(source + "/other.json", "{}");
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
    tests::write_file(source + "/e-bad.json", "{");
    tests::write_file(source + "/e-l.jsonl", text("x", 2) + "\n\n{\"id\": 1}\n" + text("y", 3) + "\n");
    const auto first = run();
    EXPECT_EQ(first.rows_added, 3);
    EXPECT_EQ(first.rejected_records, 2);
    EXPECT_EQ(first.rejected_files, 1);
    EXPECT_EQ(first.records, 5);
    EXPECT_EQ(first.problems.at("json"), 1);
    ASSERT_EQ(first.rejects->size(), 2U);
    std::uint64_t at = 0;
    const auto rejects = first.rejects->read(at, 1U << 20U).value();
    EXPECT_EQ(rejects.at(1).offset, text("x", 2).size() + 2);
    EXPECT_EQ(run().known, 3);
}

TEST_F(Engine, RemembersTheFilesOfAFirstRunWithoutAGoodEvent) {
    EXPECT_FALSE(run().committed);
    EXPECT_NE(access(target.c_str(), F_OK), 0);
    tests::write_file(source + "/e-bad.json", "{");
    const auto out = run();
    EXPECT_TRUE(out.first_run && out.committed);
    EXPECT_EQ(out.rows_total, 0);
    const auto again = run();
    EXPECT_FALSE(again.committed);
    EXPECT_EQ(again.known, 1);
    event("a", 1);
    EXPECT_EQ(run().rows_total, 1);
}

TEST_F(Engine, AnUnreadableCheckpointIsNeverAFirstRun) {
    event("a", 1);
    run();
    tests::write_file(target, "garbage");
    event("b", 2);
    EXPECT_EQ(update().status().code(), ErrorCode::corrupt_data);
    EXPECT_EQ(read_file(target).value(), "garbage");
}

TEST_F(Engine, AMissingOrBrokenSegmentIsAnError) {
    event("a", 1);
    run();
    for (const auto& entry : std::filesystem::directory_iterator(target + ".ledger")) {
        auto bytes = read_file(entry.path().string()).value();
        bytes[20] = static_cast<char>(bytes[20] ^ 1);
        tests::write_file(entry.path().string(), bytes);
    }
    EXPECT_EQ(update().status().code(), ErrorCode::corrupt_data);
    std::filesystem::remove_all(target + ".ledger");
    EXPECT_EQ(update().status().code(), ErrorCode::corrupt_data);
}

TEST_F(Engine, AFailureAtAnyPointLeavesTheOldOneAndTheNextRunTakesAll) {
    event("a", 1);
    run();
    const auto named = parts();
    ASSERT_EQ(named.size(), 1U);
    for (const auto* point :
         {"file.before_rename:fail:1", "checkpoint.after_segments:fail:1", "checkpoint.before_commit:fail:1"}) {
        event("b", 2);
        ASSERT_TRUE(set_faults(point).ok());
        EXPECT_EQ(update().status().code(), ErrorCode::fault_injected) << point;
        ASSERT_TRUE(set_faults("").ok());
        EXPECT_EQ(ids(), "a") << point;
        EXPECT_EQ(parts(), named) << point;
    }
    EXPECT_EQ(run().rows_added, 1);
    EXPECT_EQ(ids(), "ab");
    EXPECT_EQ(parts().size(), 2U);
}

TEST_F(Engine, WhatDeadRunsLeftIsGoneBeforeAnythingIsWritten) {
    event("a", 1);
    run();
    const auto named = parts();
    tests::write_file(target + ".ledger/seg-2-dead.hgl", "x");
    tests::write_file(target + ".ledger/.tmp-dead", "x");
    event("b", 2);
    ASSERT_TRUE(set_faults("file.before_rename:fail:1").ok());
    EXPECT_EQ(update().status().code(), ErrorCode::fault_injected);
    EXPECT_EQ(parts(), named);
    // But a table that is not there may come back, and would need them.
    ASSERT_TRUE(set_faults("checkpoint.before_commit:fail:1").ok());
    ASSERT_EQ(std::rename(target.c_str(), (target + ".aside").c_str()), 0);
    EXPECT_EQ(update().status().code(), ErrorCode::fault_injected);
    EXPECT_EQ(parts(), named);
    ASSERT_EQ(std::rename((target + ".aside").c_str(), target.c_str()), 0);
    ASSERT_TRUE(set_faults("").ok());
    EXPECT_EQ(run().rows_added, 1);
    EXPECT_EQ(ids(), "ab");
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
    const auto footer = Json::parse(environment.table->metadata(target).value().at("headgate"));
    EXPECT_LE(footer.at("segments").size(), 32U);
    EXPECT_EQ(run().known, 40);
}

TEST_F(Engine, AnInterruptEndsTheRunAndWritesNothing) {
    for (int i = 0; i < 3'000; ++i) {
        event(std::to_string(i), i);
    }
    environment.interrupt = [] { return true; };
    EXPECT_EQ(update().status().code(), ErrorCode::interrupted);
    EXPECT_NE(access(target.c_str(), F_OK), 0);
}

TEST_F(Engine, ReadsTheFirstObjectsWhileOthersAreListed) {
    bucket = std::make_shared<tests::Bucket>();
    bucket->page = 300;
    for (int i = 0; i < 1'000; ++i) {
        bucket->objects["e-" + std::to_string(1'000 + i) + ".json"] = text("x", i % 50);
    }
    bucket->before_page = [&](std::size_t page) {
        return bucket->wait_for_reads(page * 300) ? Status() : Status(ErrorCode::timeout, "nobody reads");
    };
    std::int64_t most = 0;
    environment.progress = [&](std::int64_t done, std::int64_t total) {
        EXPECT_LE(done, total);
        most = std::max(most, done);
    };
    const auto first = run();
    EXPECT_EQ(first.listed, 1'000);
    EXPECT_EQ(first.rows_added, 1'000);
    EXPECT_EQ(most, 1'000);
    bucket->before_page = nullptr;
    bucket->objects["e-1500a.json"] = text("y", 7);
    const auto second = run();
    EXPECT_EQ(second.known, 1'000);
    EXPECT_EQ(second.rows_added, 1);
    EXPECT_EQ(bucket->listings(), 2U);
    EXPECT_EQ(bucket->reads(), 1'001U);
}

// The model: a source that is listed whole before anything is read.
TEST_F(Engine, AListingInWhateverOrderGivesTheSameTable) {
    SeededRandom random(21);
    for (int round = 0; round < 30; ++round) {
        std::string expected;
        for (const int kind : {0, 1, 2}) {
            SeededRandom same(static_cast<std::uint64_t>(round));
            bucket = std::make_shared<tests::Bucket>();
            bucket->page = 1 + random.next() % 40;
            bucket->says_in_order = kind != 0;
            bucket->shuffle = kind == 2 ? 1 + random.next() : 0;
            target = folder / ("t-" + std::to_string(round) + "-" + std::to_string(kind));
            std::int64_t listed = 0;
            for (int wave = 0; wave < 3; ++wave) {
                for (auto n = same.next() % 150; n > 0; --n) {
                    const auto id = std::to_string(same.next() % 300);
                    bucket->objects[(same.next() % 9 == 0 ? "o-" : "e-") + id + ".json"] =
                        text(id + ";", static_cast<int>(same.next() % 9));
                }
                const auto before = bucket->listings();
                const auto done = run();
                EXPECT_EQ(done.attempts, 1);
                EXPECT_EQ(done.listed, static_cast<std::int64_t>(bucket->objects.size()));
                EXPECT_EQ(done.listed, done.ignored + done.known + done.taken_files);
                EXPECT_LE(bucket->listings() - before, kind == 2 ? 2U : 1U);
                listed += done.listed;
            }
            if (kind == 0) {
                expected = ids();
            }
            EXPECT_EQ(ids(), expected) << "round " << round << ", kind " << kind;
            EXPECT_GT(listed, 0);
        }
    }
}

TEST_F(Engine, AListingThatBreaksOffWritesNothing) {
    bucket = std::make_shared<tests::Bucket>();
    bucket->page = 100;
    for (int i = 0; i < 1'000; ++i) {
        bucket->objects["e-" + std::to_string(1'000 + i) + ".json"] = text("x", i);
    }
    bucket->before_page = [&](std::size_t page) {
        if (page == 5) {
            bucket->wait_for_reads(400);
            return Status(ErrorCode::permission_denied, "no further");
        }
        return Status();
    };
    EXPECT_EQ(update().status().code(), ErrorCode::permission_denied);
    EXPECT_NE(access(target.c_str(), F_OK), 0);
    // An interrupt ends it as well, though another thread lists; and Python's signals belong to one.
    const auto caller = std::this_thread::get_id();
    std::atomic<bool> interrupted = false;
    bucket->before_page = [&](std::size_t page) {
        const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (page == 5 && !interrupted && std::chrono::steady_clock::now() < until) {
            std::this_thread::yield();
        }
        return Status();
    };
    environment.interrupt = [&] {
        EXPECT_EQ(std::this_thread::get_id(), caller);
        interrupted = bucket->reads() >= 800;  // with those of the run before
        return interrupted.load();
    };
    EXPECT_EQ(update().status().code(), ErrorCode::interrupted);
    EXPECT_NE(access(target.c_str(), F_OK), 0);
}

// What two prefixes of names list is listed once: "e-" stands before all of "e-x-" that is newer.
TEST_F(Engine, NamesUnderSeveralPrefixesAreTakenOnce) {
    auto plan = Json::parse(kPlan);
    for (const auto& prefixes : {R"(["e-", "e-x-"])", R"(["e-x-", "e-", "e-"])", R"(["e-x-", "e-y-"])"}) {
        plan["listing_prefixes"] = Json::parse(prefixes);
        options.schema = schema::Schema::parse(plan.dump()).value();
        options.window_us = 1'000'000;
        for (const bool in_order : {false, true}) {
            bucket = std::make_shared<tests::Bucket>();
            bucket->says_in_order = in_order;
            target = folder / (std::string(prefixes) + (in_order ? "1" : "0"));
            bucket->objects["e-x-19700101-000010.json"] = text("a", 10);
            run();
            bucket->objects["e-x-19700101-000020.json"] = text("b", 20);
            bucket->objects["e-y-19700101-000030.json"] = text("c", 30);
            const auto second = run();
            EXPECT_FALSE(second.complete);
            EXPECT_EQ(second.listed, second.known + second.taken_files);
            EXPECT_EQ(ids(), "abc") << prefixes;
        }
    }
}

TEST_F(Engine, RefusesAnotherSchemasCheckpoint) {
    event("a", 1);
    run();
    std::string other(kPlan);
    other.replace(other.find("\"t\""), 3, "\"u\"");
    options.schema = schema::Schema::parse(other).value();
    EXPECT_EQ(update().status().code(), ErrorCode::invalid_input);
}

// The model: everything in the order of arrival, sorted stably.
TEST_F(Engine, RunsOfAnySizeMergeToTheModelsOrder) {
    SeededRandom random(7);
    for (int round = 0; round < 60; ++round) {
        options.memory = random.next() % 600 + 1;
        options.spill_dir = folder / "spill";
        ASSERT_TRUE(make_folders(options.spill_dir).ok());
        std::vector<std::pair<std::int64_t, std::string>> model;
        const auto some_rows = [&](std::size_t most) {
            auto rows = schema::Columns::like(*options.schema);
            for (auto n = random.next() % (most + 1); n > 0; --n) {
                const auto at = static_cast<std::int64_t>(random.next() % 12);
                const auto id = std::to_string(model.size()) + ";";
                model.emplace_back(at, id);
                rows.columns[0].valid.push_back(1);
                rows.columns[0].bytes += id;
                rows.columns[0].offsets.push_back(static_cast<schema::Offset>(rows.columns[0].bytes.size()));
                rows.columns[1].valid.push_back(1);
                rows.columns[1].numbers.push_back(at);
                ++rows.rows;
            }
            return rows;
        };
        const auto write = [&](SortedRuns& runs, const std::string& path, TableReader* old) {
            auto writer = std::move(environment.table->create(path, *options.schema).value());
            EXPECT_TRUE(runs.merge_into(old, *writer, [] { return Status(); }).ok());
            EXPECT_TRUE(writer->finish({}).ok());
        };
        const auto spill = [this] { return options.spill_dir; };
        SortedRuns first(options, *environment.table, 1, spill);
        ASSERT_TRUE(first.add(some_rows(30), nullptr).ok());
        write(first, folder / "old.table", nullptr);
        std::stable_sort(model.begin(), model.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        SortedRuns second(options, *environment.table, 1, spill);
        for (auto adds = random.next() % 8; adds > 0; --adds) {
            ASSERT_TRUE(second.add(some_rows(20), nullptr).ok());
        }
        auto old = std::move(environment.table->open(folder / "old.table", *options.schema).value());
        write(second, target, old.get());
        std::stable_sort(model.begin(), model.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        std::string expected;
        for (const auto& row : model) {
            expected += row.second;
        }
        ASSERT_EQ(ids(), expected) << "round " << round;
        EXPECT_TRUE(std::filesystem::is_empty(options.spill_dir));
    }
}

TEST_F(Engine, ManySlabsMergeAsOne) {
    SeededRandom random(5);
    for (const bool shuffled : {true, false}) {
        SortedRuns runs(options, *environment.table, 1, [] { return std::string(); });
        std::vector<std::pair<std::int64_t, std::string>> model;
        while (model.size() < 50'000) {
            auto rows = schema::Columns::like(*options.schema);
            for (auto n = random.next() % 9'000; n > 0; --n) {
                const auto size = static_cast<std::int64_t>(model.size());
                const auto at = shuffled ? static_cast<std::int64_t>(random.next() % 1'000) : size / 7;
                model.emplace_back(at, std::to_string(size) + ";");
                rows.columns[0].valid.push_back(1);
                rows.columns[0].bytes += model.back().second;
                rows.columns[0].offsets.push_back(static_cast<schema::Offset>(rows.columns[0].bytes.size()));
                rows.columns[1].valid.push_back(1);
                rows.columns[1].numbers.push_back(at);
                ++rows.rows;
            }
            ASSERT_TRUE(runs.add(rows, nullptr).ok());
        }
        EXPECT_EQ(runs.rows(), static_cast<std::int64_t>(model.size()));
        std::stable_sort(model.begin(), model.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        auto writer = std::move(environment.table->create(target, *options.schema).value());
        EXPECT_EQ(runs.merge_into(nullptr, *writer, [] { return Status(); }).value(), model.back().first);
        ASSERT_TRUE(writer->finish({}).ok());
        std::string expected;
        for (const auto& row : model) {
            expected += row.second;
        }
        ASSERT_EQ(ids(), expected) << shuffled;
    }
}

TEST_F(Engine, ASpillBeyondItsLimitWritesNothing) {
    for (int i = 0; i < 50; ++i) {
        event(std::to_string(i), i);
    }
    options.memory = 1;
    options.spill_limit = 100;
    options.spill_dir = folder / "spill";
    EXPECT_EQ(update().status().code(), ErrorCode::disk_full);
    EXPECT_NE(access(target.c_str(), F_OK), 0);
    EXPECT_TRUE(std::filesystem::is_empty(options.spill_dir));
}

TEST_F(Engine, ARescanFindsWhatKeptItsSizeAndTime) {
    event("a", 1);
    run();
    const auto path = source + "/e-a.json";
    const auto when = std::filesystem::last_write_time(path);
    event("a", 2);
    std::filesystem::last_write_time(path, when);
    EXPECT_EQ(run().known, 1);
    options.rescan = true;
    EXPECT_EQ(run().changed, 1);
    EXPECT_EQ(run().touched, 1);
}

TEST_F(Engine, VerifyAccountsForEveryRow) {
    event("a", 1);
    event("b", 2);
    run();
    event("a", 3);  // another version: both rows stay
    run();
    options.mode = Mode::watermark;
    event("c", 1);  // not newer: skipped
    event("d", 9);
    run();
    tests::write_file(source + "/e-l.jsonl", text("x", 20) + "\n" + text("y", 30) + "\n{}\n");
    run();
    const auto check = [&] {
        environment.source = make_folder_source(source);
        environment.target = make_file_target(target);
        return verify(options, environment).value();
    };
    auto report = check();
    EXPECT_EQ(report.rows, 6);
    EXPECT_EQ(report.rows_in_ledger, 6);
    EXPECT_EQ(report.checked_files, 5);
    EXPECT_EQ(report.differences, std::vector<std::string>());
    event("a", 4);
    event("e", 5);
    std::filesystem::remove(source + "/e-b.json");
    report = check();
    EXPECT_EQ(report.changed, 1);
    EXPECT_EQ(report.pending, 1);
    EXPECT_EQ(report.gone, 1);
    EXPECT_EQ(report.differences.size(), 2U);
    const auto footer = environment.table->metadata(target).value();
    ASSERT_TRUE(environment.table->create(target, *options.schema).value()->finish(footer).ok());
    EXPECT_EQ(check().differences.size(), 4U);  // no rows: neither the footer's nor the ledger's count
}

TEST_F(Engine, InfersTheUnionAndKeepsWhatComesLater) {
    tests::write_file(source + "/1.json", R"({"id": "a", "n": 1, "timestamp": "2024-01-01T00:00:00Z", "x": null})");
    tests::write_file(source + "/2.jsonl",
                      "{\"id\": \"b\", \"n\": 1.5, \"timestamp\": \"2024-01-02T00:00:00Z\", \"tags\": [\"t\"]}\n[1]\n");
    tests::write_file(source + "/3.json", R"({"timestamp": "2024-01-02T00:00:00Z", "mixed": 1, "id": "c"})");
    tests::write_file(source + "/4.json",
                      R"({"timestamp": "2024-01-02T00:00:00Z", "mixed": {"k": 1}, "day": "2024-01-02"})");
    environment.source = make_folder_source(source);
    const auto plan = Json::parse(infer({}, environment).value());
    std::map<std::string, std::string> types;
    for (const auto& field : plan.at("fields")) {
        types[field.at("name")] = field.at("type");
    }
    EXPECT_EQ(types, (std::map<std::string, std::string>{{"id", "string"},
                                                         {"n", "float64"},
                                                         {"timestamp", "timestamp"},
                                                         {"x", "json"},
                                                         {"tags", "json"},
                                                         {"mixed", "json"},
                                                         {"day", "date"}}));
    EXPECT_EQ(plan.at("sort_by"), "timestamp");
    EXPECT_EQ(plan.at("fields").at(0).at("name"), "id");

    schema::RecordReader reader(schema::Schema::parse(plan.dump()).value());
    auto rows = schema::Columns::like(*schema::Schema::parse(plan.dump()).value());
    const auto& problems = reader.read(
        R"({"timestamp": "2024-01-01T00:00:00Z", "n": "many", "new": {"b": 1, "a": [9007199254740993]}, "_rest": 1})",
        &rows);
    EXPECT_TRUE(problems.empty());
    EXPECT_EQ(reader.drifted(), 1U);
    EXPECT_EQ(rows.columns.back().text(0), R"({"_rest":1,"n":"many","new":{"a":[9007199254740993],"b":1}})");
    InferOptions by_id;
    by_id.sort_by = "id";
    EXPECT_EQ(infer(by_id, environment).status().code(), ErrorCode::invalid_input);
}

// Where ids are names, every record brings new ones.
TEST_F(Engine, OfMoreFieldsThanColumnsTheFrequentOnesAreColumns) {
    std::string lines;
    for (int n = 0; n < 400; ++n) {
        lines += '{';
        for (int i = 0; i < 7; ++i) {
            lines += "\"" + std::to_string(n * 7 + i) + "\": 1, ";
        }
        lines += n % 2 == 0 ? R"("half": "x", )" : "";
        lines += R"("id": "a", "timestamp": "2024-01-01T00:00:00Z"})";
        lines += '\n';
    }
    tests::write_file(source + "/1.jsonl", lines);
    environment.source = make_folder_source(source);
    InferOptions few;
    few.max_columns = 3;
    const auto plan = Json::parse(infer(few, environment).value());
    std::vector<std::string> names;
    for (const auto& field : plan.at("fields")) {
        names.push_back(field.at("name"));
    }
    EXPECT_EQ(names, (std::vector<std::string>{"half", "id", "timestamp"}));
    EXPECT_EQ(plan.at("sort_by"), "timestamp");

    // One document alone may have more than are counted.
    tests::write_file(source + "/1.jsonl", lines.substr(0, lines.find('\n')));
    std::string large = R"({"timestamp": "2024-01-01T00:00:00Z")";
    for (int i = 0; i < 1000; ++i) {
        large += ", \"k" + std::to_string(i) + R"(": {"deep": [[]]})";
    }
    tests::write_file(source + "/2.json", large + "}");
    EXPECT_EQ(Json::parse(infer(few, environment).value()).at("sort_by"), "timestamp");
}

TEST_F(Engine, AFieldThatIsTwiceInOneRecordIsNotInEveryRecord) {
    tests::write_file(
        source + "/1.jsonl",
        "{\"timestamp\": \"2024-01-01T00:00:00Z\", \"timestamp\": \"2024-01-01T00:00:00Z\"}\n{\"id\": 1}\n");
    environment.source = make_folder_source(source);
    EXPECT_EQ(Json::parse(infer({}, environment).value()).at("sort_by"), "");
}

TEST(Taken, AnIndexFindsTheSameEntries) {
    for (const std::size_t size : {0U, 1U, 3U, 4U, 9U, 1'000U, 20'000U}) {
        std::vector<Entry> entries(size);
        for (std::size_t i = 0; i < size; ++i) {
            entries[i].key = digest_key(std::to_string(i));
            entries[i].tag = i;
        }
        if (size > 2) {  // the ends of the range
            entries[0].key.fill(0);
            entries[1].key.fill(0xFF);
        }
        Taken taken;
        taken.merge(entries);
        for (const bool indexed : {false, true}) {
            for (const auto& entry : entries) {
                const auto* found = taken.find(entry.key);
                ASSERT_NE(found, nullptr) << size << indexed;
                EXPECT_EQ(found->tag, entry.tag);
            }
            for (int i = 0; i < 1'000; ++i) {
                EXPECT_EQ(taken.find(digest_key("not " + std::to_string(i))), nullptr);
            }
            taken.index();
        }
        taken.merge({{digest_key("newer"), 77, 0, 0, 0}});
        ASSERT_NE(taken.find(digest_key("newer")), nullptr);
        EXPECT_EQ(taken.find(digest_key("newer"))->tag, 77U);
    }
}

TEST(Segment, RoundTripsAndRefusesOtherVersions) {
    const std::vector<Entry> entries = {{digest_key("a"), 1, 2, 3, 0}, {digest_key("b"), 4, 5, 0, 1}};
    const std::string bytes(NewSegment(entries).seal());
    Taken taken;
    taken.merge(read_segment(bytes, "s").value());
    taken.merge({{digest_key("a"), 7, 7, 7, 0}});
    ASSERT_EQ(taken.size(), 2U);
    EXPECT_EQ(taken.find(digest_key("b"))->flags, 1U);
    EXPECT_EQ(taken.find(digest_key("a"))->rows, 7U);
    EXPECT_EQ(taken.find(digest_key("c")), nullptr);
    auto newer = bytes;
    newer[4] = 9;
    EXPECT_EQ(read_segment(newer, "s").status().code(), ErrorCode::unsupported_version);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        EXPECT_FALSE(read_segment(std::string_view(bytes).substr(0, size), "s").ok()) << size;
    }
}

}  // namespace
}  // namespace headgate::checkpoint
