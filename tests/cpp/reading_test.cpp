// Files read by several threads: in the order of the list, few large ones too, and never far ahead of the caller.
#include "checkpoint/reading.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "headgate/base/limit.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

// Every file has the same records, one a line.
class Repeated final : public Source {
public:
    explicit Repeated(std::string content, unsigned threads) : content_(std::move(content)), threads_(threads) {}

    Status list(const ListOptions&, const Interrupt&, const std::function<void(const Object&)>&) override { return {}; }
    bool look_at(Object&) override { return true; }
    std::string name() const override { return "repeated"; }
    bool writes_are_atomic() const override { return true; }
    unsigned threads() const override { return threads_; }

    Result<std::unique_ptr<Fetcher>> fetcher() override {
        struct Reader final : Fetcher {
            explicit Reader(Repeated& from) : source(from) {}
            void run(const Next& next, const Got& got, const Interrupt& stop) override {
                for (Wanted wanted; next(wanted) == Coming::file;) {
                    source.arrived();
                    Fetched fetched;
                    fetched.index = wanted.index;
                    fetched.outcome = ReadOutcome::read;
                    fetched.bytes = source.content_;
                    got(fetched);
                    if (stop()) {
                        return;
                    }
                }
            }
            Repeated& source;
        };
        return std::unique_ptr<Fetcher>(std::make_unique<Reader>(*this));
    }

    // True once so many files were begun; false when that does not happen for a while.
    bool wait_for_files(std::size_t files, std::chrono::milliseconds most) {
        std::unique_lock lock(mutex_);
        return changed_.wait_until(lock, std::chrono::steady_clock::now() + most, [&] { return begun_ >= files; });
    }
    std::size_t readers() const { return readers_.size(); }
    std::size_t gather = 1;  // so many readers wait for each other before the first goes on

private:
    void arrived() {
        std::unique_lock lock(mutex_);
        ++begun_;
        readers_.insert(std::this_thread::get_id());
        changed_.notify_all();
        changed_.wait_until(lock, std::chrono::steady_clock::now() + std::chrono::seconds(5),
                            [&] { return readers_.size() >= gather; });
    }

    std::string content_;
    unsigned threads_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t begun_ = 0;
    std::set<std::thread::id> readers_;
};

struct Reading {
    Reading(std::size_t files, const std::string& content, unsigned threads)
        : source(std::make_shared<Repeated>(content, threads)) {
        options.schema =
            schema::Schema::parse(R"({"format": 1, "name": "t", "fields": [{"name": "text", "type": "string"}]})")
                .value();
        environment.source = source;
        for (std::size_t i = 0; i < files; ++i) {
            keys.add(name(i));
        }
    }
    static std::string name(std::size_t i) { return "file-" + std::to_string(1000 + i) + ".jsonl"; }
    Status run(const std::function<Status(Piece&)>& take) {
        ReadingList list(std::move(keys), reading_threads(options.threads, *source));
        return read_files(
            options, list, [](auto, const auto&) { return nullptr; }, environment, take);
    }
    std::shared_ptr<Repeated> source;
    Options options;
    Environment environment;
    KeyList keys;
};

std::string megabytes(std::size_t count) {
    const auto line = R"({"text": ")" + std::string(1 << 16, 'x') + "\"}\n";
    std::string out;
    while (out.size() < count << 20U) {
        out += line;
    }
    return out;
}

TEST(Reading, FewFilesAreSharedByTheThreads) {
    if (kSmallLimits) {
        GTEST_SKIP() << "counts what the usual limits give";
    }
    Reading reading(8, megabytes(1), 4);
    reading.source->gather = 4;
    std::size_t expected = 0;
    const auto status = reading.run([&](Piece& piece) {
        for (const auto& file : piece.files) {
            EXPECT_EQ(file.key, Reading::name(expected++));
            EXPECT_EQ(file.records, 16U);
        }
        return Status();
    });
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(expected, 8U);
    EXPECT_EQ(reading.source->readers(), 4U);
}

// A line of two bytes would be a hundred in memory.
TEST(Reading, AFileOfManyBadLinesComesInParts) {
    constexpr std::size_t kLines = 200'000;
    std::string content = "{\"text\": \"first\"}\n";
    for (std::size_t i = 0; i < kLines; ++i) {
        content += "x\n";
    }
    content += "{\"text\": \"last\"}\n";
    Reading reading(2, content, 2);
    std::vector<std::string> ended;
    std::size_t parts = 0;
    std::size_t rows = 0;
    std::uint64_t expected = 18;
    std::uint64_t records = 0;
    const auto status = reading.run([&](Piece& piece) {
        std::size_t bad = 0;
        for (const auto& file : piece.files) {
            ++parts;
            records += file.records;
            bad += file.bad.size();
            for (const auto& one : file.bad) {
                EXPECT_EQ(one.offset, expected);
                expected += 2;
            }
            EXPECT_EQ(file.bytes, content.size());
            if (!file.goes_on) {
                ended.emplace_back(file.key);
                EXPECT_EQ(file.entry.rows, 2U);
                EXPECT_EQ(file.entry.flags, Entry::kLines);
                expected = 18;
            }
        }
        EXPECT_LE(bad, 20'000U);
        rows += piece.columns.rows;
        return Status();
    });
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(ended, (std::vector<std::string>{Reading::name(0), Reading::name(1)}));
    EXPECT_GE(parts, 2 * kLines / 20'000);
    EXPECT_EQ(records, 2 * (kLines + 2));
    EXPECT_EQ(rows, 4U);
}

TEST(Reading, AFileOfManyRowsComesInParts) {
    Reading reading(1, megabytes(40), 1);
    std::size_t pieces = 0;
    std::size_t rows = 0;
    const auto status = reading.run([&](Piece& piece) {
        ++pieces;
        rows += piece.columns.rows;
        EXPECT_LE(piece.columns.memory_bytes(), 12U << 20U);
        return Status();
    });
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_GE(pieces, 4U);
    EXPECT_EQ(rows, 640U);
}

TEST(Refused, LinesComeBackFromMemoryAndFromTheFile) {
    tests::TemporaryFolder folder;
    const auto schema = schema::Schema::parse(
        R"({"format": 1, "name": "t", "fields": [{"name": "text", "type": "string"}], "file_names": ["e-(?P<id>.+)[.]json"], "private_groups": ["id"]})");
    ASSERT_TRUE(schema.ok()) << schema.status().message();
    Refused refused(schema.value());
    std::uint64_t at = 0;
    EXPECT_EQ(refused.read(at, 100).value().size(), 0U);
    constexpr std::uint64_t kMany = 150'000;  // 13 MB
    int asked = 0;
    for (std::uint64_t n = 0; n < kMany; ++n) {
        ASSERT_TRUE(refused
                        .add("prod/e-" + std::to_string(n) + ".json", n, {{"text", "type"}, {"", "unknown"}},
                             [&] {
                                 ++asked;
                                 return Result<std::string>(folder / "");
                             })
                        .ok());
    }
    EXPECT_EQ(asked, 1);  // for the one file
    EXPECT_EQ(refused.size(), kMany);
    for (const std::size_t bytes : {1U << 12U, 3U << 20U}) {
        std::uint64_t n = 0;
        for (at = 0;;) {
            const auto some = refused.read(at, bytes).value();
            if (some.empty()) {
                break;
            }
            for (const auto& one : some) {
                ASSERT_EQ(one.offset, n++);
                ASSERT_EQ(one.name, "e-****.json");
                ASSERT_EQ(one.problems.size(), 2U);
            }
        }
        EXPECT_EQ(n, kMany);
    }
    at = 0;
    EXPECT_TRUE(refused.lines(at, 1).value().starts_with(R"({"key":"prod/e-0.json")"));  // a whole one, however short
}

TEST(Reading, ASlowCallerIsNotBuriedInRows) {
    for (const unsigned threads : {1U, 3U}) {
        Reading reading(60, megabytes(4), threads);  // 240 MiB; 64 may wait, and a piece or two in every thread's hands
        std::size_t rows = 0;
        bool first = true;
        const auto status = reading.run([&](Piece& piece) {
            if (std::exchange(first, false)) {
                EXPECT_FALSE(reading.source->wait_for_files(40, std::chrono::milliseconds(300)));
            }
            rows += piece.columns.rows;
            return Status();
        });
        EXPECT_TRUE(status.ok()) << status.message();
        EXPECT_EQ(rows, 60U * 64U);
    }
}

}  // namespace
}  // namespace headgate::checkpoint
