// What a thread throws reaches its caller, whoever else is at work: the process does not end.
#include "headgate/base/threads.hpp"

#include <atomic>
#include <new>
#include <stdexcept>

#include "bucket.hpp"
#include "checkpoint/footer.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

TEST(Threads, HandTheFirstExceptionToWhoeverJoins) {
    std::atomic<bool> stopped{false};
    Threads threads([&] { stopped = true; });
    for (int i = 0; i < 3; ++i) {
        threads.start([&, i] {
            if (i == 1) {
                throw std::length_error("one");
            }
            while (!stopped) {
                std::this_thread::yield();
            }
        });
    }
    EXPECT_THROW(threads.join(), std::length_error);
    threads.join();  // it was said once
    EXPECT_EQ(threads.size(), 0U);
}

TEST(Threads, AreStoppedAndJoinedWhenTheirOwnerThrows) {
    std::atomic<int> ended{0};
    const auto owner = [&] {
        std::atomic<bool> stopped{false};
        Threads threads([&] { stopped = true; });
        for (int i = 0; i < 3; ++i) {
            threads.start([&] {
                while (!stopped) {
                    std::this_thread::yield();
                }
                ++ended;
            });
        }
        throw std::bad_alloc();
    };
    EXPECT_THROW(owner(), std::bad_alloc);
    EXPECT_EQ(ended, 3);
}

constexpr const char* kPlan = R"({"format": 1, "name": "t", "fields": [{"name": "id", "type": "string"}]})";

// A committed table that has one segment.
class OneSegment final : public Target, public TableFile {
public:
    bool is_there = false;
    Status begin(Clock&, const Interrupt&) override { return {}; }
    Result<std::optional<std::string>> peek() override {
        return is_there ? std::optional<std::string>("table") : std::nullopt;
    }
    Result<std::string> fetch() override { return std::string("table"); }
    Result<std::string> read_part(const std::string&) override { throw std::bad_alloc(); }
    Status write_part(const std::string&, std::string_view) override { throw std::bad_alloc(); }
    Status remove_part(const std::string&) override { return {}; }
    Result<std::string> scratch() override { return std::string("."); }
    Status commit(const std::string&) override { return {}; }
    void sweep(const std::vector<std::string>&) override {}
    void end() override {}
    bool may_race() const override { return false; }
    std::string name() const override { return "table"; }

    Result<Metadata> metadata(const std::string&) const override {
        Footer footer;
        footer.schema = "t";
        footer.version = 1;
        footer.segments = {"seg-1.hgl"};
        return Metadata{{kFooterKey, render_footer(footer)}};
    }
    Result<std::optional<StoredTable>> stored(const std::string&) const override {
        return std::optional<StoredTable>();
    }
    Result<std::unique_ptr<TableReader>> open(const std::string&, const schema::Schema&) const override {
        throw std::bad_alloc();
    }
    Result<std::unique_ptr<TableWriter>> create(const std::string&, const schema::Schema&) const override {
        throw std::bad_alloc();
    }
};

class Throwing : public testing::TestWithParam<bool> {
protected:
    void SetUp() override {
        options.schema = schema::Schema::parse(kPlan).value();
        options.threads = 3;
        bucket->page = 10;
        bucket->says_in_order = GetParam();
        for (int i = 0; i < 2'000; ++i) {
            bucket->objects[std::to_string(10'000 + i) + ".json"] = R"({"id": "a"})";
        }
        environment.source = bucket;
        environment.target = table;
        environment.table = table;
        environment.clock = std::make_shared<SystemClock>();
        environment.random = std::make_shared<SystemRandom>();
    }
    std::shared_ptr<tests::Bucket> bucket = std::make_shared<tests::Bucket>();
    std::shared_ptr<OneSegment> table = std::make_shared<OneSegment>();
    Options options;
    Environment environment;
};

TEST_P(Throwing, AListing) {
    bucket->before_page = [](std::size_t page) -> Status {
        if (page == 150) {
            throw std::bad_alloc();
        }
        return {};
    };
    EXPECT_THROW(static_cast<void>(update(options, environment)), std::bad_alloc);
}

TEST_P(Throwing, AReadingThread) {
    bucket->before_read = [](std::string_view key) {
        if (key == "11500.json") {
            throw std::bad_alloc();
        }
    };
    EXPECT_THROW(static_cast<void>(update(options, environment)), std::bad_alloc);
    EXPECT_THROW(static_cast<void>(infer({}, environment)), std::bad_alloc);
}

TEST_P(Throwing, TheOneThatTakesWhatOthersRead) {
    environment.interrupt = [this]() -> bool {
        if (bucket->reads() > 0) {
            throw std::bad_alloc();
        }
        return false;
    };
    EXPECT_THROW(static_cast<void>(update(options, environment)), std::bad_alloc);
}

TEST_P(Throwing, ASegmentOfTheLedger) {
    table->is_there = true;
    EXPECT_THROW(static_cast<void>(update(options, environment)), std::bad_alloc);
}

TEST_P(Throwing, WhatIsWrittenBesideTheTable) {
    EXPECT_THROW(static_cast<void>(update(options, environment)), std::bad_alloc);
}

INSTANTIATE_TEST_SUITE_P(Listings, Throwing, testing::Bool());

}  // namespace
}  // namespace headgate::checkpoint
