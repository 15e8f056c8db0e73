// Which files a run reads: listed, judged on several threads, merged into one sorted list.
#include "checkpoint/file_selection.hpp"

#include <algorithm>
#include <map>
#include <thread>

#include "bucket.hpp"
#include "headgate/base/limit.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

std::vector<std::string> texts(const KeyList& list) {
    std::vector<std::string> out;
    for (std::size_t i = 0; i < list.size(); ++i) {
        out.emplace_back(list[i]);
    }
    return out;
}

std::vector<std::string> texts(const SortedKeys& keys, std::size_t begin, std::size_t end) {
    return texts(keys.range(begin, end));
}

// What is left of it.
std::vector<std::string> texts(ReadingList& list) {
    std::vector<std::string> out;
    for (std::size_t number = 0; const auto stretch = list.next(); ++number) {
        EXPECT_EQ(stretch->number, number);
        EXPECT_EQ(stretch->begin, out.size());
        const auto some = texts(*stretch->keys);
        out.insert(out.end(), some.begin(), some.end());
    }
    return out;
}

// 19 MB in some eighty blocks: they get larger, but not for ever.
TEST(SortedKeys, AListMayHaveManyBlocks) {
    std::vector<KeyList> lists(1);
    std::vector<std::string> model;
    for (int i = 100; i < 400; ++i) {
        model.push_back(std::to_string(i) + std::string(64'000, 'x'));
        lists[0].add(model.back());
    }
    const auto merged = SortedKeys::merged(std::move(lists), 1);
    ASSERT_EQ(texts(merged, 0, merged.size()), model);
}

TEST(SortedKeys, MergedListsAreOneSortedList) {
    SeededRandom random(11);
    for (int round = 0; round < 300; ++round) {
        std::vector<KeyList> lists(random.next() % 9);
        std::vector<std::string> model;
        for (auto& list : lists) {
            // Few different keys: equal ones meet, within a list and across the threads' bounds.
            for (auto n = random.next() % 60; n > 0; --n) {
                model.push_back("key-" + std::to_string(random.next() % 50));
                list.add(model.back());
            }
            list.sort();
        }
        std::sort(model.begin(), model.end());
        const auto merged = SortedKeys::merged(std::move(lists), 1 + round % 3);
        ASSERT_EQ(texts(merged, 0, merged.size()), model) << "round " << round;
    }
}

TEST(SortedKeys, ManyKeysAreMergedByThreads) {
    SeededRandom random(12);
    std::vector<KeyList> lists(40);
    std::vector<std::string> model;
    for (int i = 0; i < 100'000; ++i) {
        model.push_back(std::to_string(random.next()));
        lists[static_cast<std::size_t>(i) % lists.size()].add(model.back());
    }
    for (auto& list : lists) {
        list.sort();
    }
    std::sort(model.begin(), model.end());
    const auto merged = SortedKeys::merged(std::move(lists), 4);
    ASSERT_EQ(texts(merged, 0, merged.size()), model);
    for (int round = 0; round < 200; ++round) {
        const auto begin = random.next() % model.size();
        const auto end = std::min<std::size_t>(model.size(), begin + random.next() % 700);
        ASSERT_EQ(texts(merged, begin, end), std::vector(model.begin() + static_cast<std::ptrdiff_t>(begin),
                                                         model.begin() + static_cast<std::ptrdiff_t>(end)));
    }
}

TEST(SortedKeys, AnyBytesOfAnyLengthComeBack) {
    SeededRandom random(13);
    for (int round = 0; round < 100; ++round) {
        std::vector<std::string> model = {""};
        for (auto n = random.next() % 300; n > 0; --n) {
            // Parts of others, and more: shared lengths and rests on both sides of what one byte counts to.
            const auto& other = model[random.next() % model.size()];
            auto key = other.substr(0, random.next() % (other.size() + 1));
            for (auto more = random.next() % 300; more > 0; --more) {
                key.push_back(static_cast<char>(random.next() % 3 == 0 ? random.next() : 0xFF));
            }
            model.push_back(key);
        }
        std::sort(model.begin(), model.end());
        std::vector<KeyList> lists(1);
        for (const auto& key : model) {
            lists[0].add(key);
        }
        const auto sorted = SortedKeys::merged(std::move(lists), 2);
        ASSERT_EQ(texts(sorted, 0, sorted.size()), model) << "round " << round;
    }
}

TEST(SortedKeys, AppendedOnesComeBackWhileOthersAreAppended) {
    SeededRandom random(15);
    for (int round = 0; round < 20; ++round) {
        std::vector<std::string> model(random.next() % 700);
        for (auto& key : model) {
            key = "key-" + std::to_string(random.next() % 100'000) + std::string(random.next() % 200, 'x');
        }
        std::sort(model.begin(), model.end());
        SortedKeys keys;
        while (keys.size() < model.size()) {
            for (auto n = random.next() % 90; n > 0 && keys.size() < model.size(); --n) {
                keys.append(model[keys.size()]);
            }
            const auto begin = random.next() % (keys.size() + 1);
            const auto end = begin + random.next() % (keys.size() - begin + 1);
            ASSERT_EQ(texts(keys, begin, end), std::vector(model.begin() + static_cast<std::ptrdiff_t>(begin),
                                                           model.begin() + static_cast<std::ptrdiff_t>(end)));
        }
        ASSERT_EQ(texts(keys, 0, keys.size()), model);
    }
}

KeyList numbered(int begin, int end) {
    KeyList out;
    for (int i = begin; i < end; ++i) {
        out.add("key-" + std::to_string(10'000 + i));
    }
    return out;
}

TEST(ReadingList, IsHandedOutInOrderWhileItGrows) {
    if (kSmallLimits) {
        GTEST_SKIP() << "counts what the usual limits give";
    }
    using std::chrono::milliseconds;
    ReadingList list(2);
    EXPECT_EQ(list.readers(), 2U);
    EXPECT_EQ(list.any_within(milliseconds(1)), std::nullopt);
    EXPECT_FALSE(list.next());
    EXPECT_FALSE(list.finished());
    std::vector<std::string> got;
    std::size_t stretches = 0;
    const auto take = [&] {
        const auto stretch = list.next();
        ASSERT_TRUE(stretch);
        EXPECT_EQ(stretch->number, stretches++);
        EXPECT_EQ(stretch->begin, got.size());
        const auto some = texts(*stretch->keys);
        got.insert(got.end(), some.begin(), some.end());
    };
    list.add(numbered(0, 1));
    EXPECT_EQ(list.any_within(milliseconds(1)), true);
    take();
    EXPECT_FALSE(list.next());
    list.add(numbered(1, 1'000));
    while (got.size() < 1'000) {
        take();
    }
    EXPECT_EQ(stretches, 1U + 17U);  // of 62, an eighth of a reader's share, and what is left
    list.add(numbered(1'000, 1'010));
    list.close();
    EXPECT_FALSE(list.finished());
    take();
    EXPECT_EQ(list.finished(), stretches);
    EXPECT_EQ(list.any_within(milliseconds(1)), false);
    EXPECT_EQ(got, texts(numbered(0, 1'010)));
    EXPECT_EQ(list.size(), 1'010U);
}

TEST(ReadingList, ACancelledOneIsFinished) {
    ReadingList list(2);
    list.add(numbered(0, 100));
    ASSERT_TRUE(list.next());
    list.cancel();
    EXPECT_FALSE(list.next());
    EXPECT_EQ(list.finished(), 1U);
}

TEST(ReadingList, NoMoreReadersThanFiles) {
    EXPECT_EQ(ReadingList(numbered(0, 3), 8).readers(), 3U);
    EXPECT_EQ(ReadingList(numbered(0, 0), 8).readers(), 0U);
    EXPECT_EQ(ReadingList(numbered(0, 100), 8).readers(), 8U);
}

TEST(ReadingList, AStretchIsKeptUntilItsReaderIsDoneWithIt) {
    ReadingList list(numbered(0, 48), 2);
    OpenStretches open(list);
    const auto take = [&](std::size_t files) {
        for (Wanted wanted; files > 0; --files) {
            ASSERT_EQ(open.next(wanted), Fetcher::Coming::file);
            EXPECT_EQ(wanted.key, open[wanted.index]);
        }
    };
    take(3);
    list.next();  // another reader has it
    take(3);
    EXPECT_EQ(open[0], "key-10000");
    EXPECT_EQ(open[2], "key-10002");
    EXPECT_EQ(open[8], "key-10008");
    const auto held = open.oldest().keys;
    open.close_before(2);
    EXPECT_EQ(open[2], "key-10002");
    open.close_before(3);
    EXPECT_EQ(open[6], "key-10006");
    EXPECT_EQ((*open.oldest().keys)[0], "key-10006");
    EXPECT_EQ((*held)[2], "key-10002");
    open.close_before(9);
    take(1);
    EXPECT_EQ(open[11], "key-10011");
}

TEST(Segment, EntriesAreSortedByKey) {
    SeededRandom random(14);
    for (const std::size_t count : {0, 1, 2, 15, 16, 17, 33, 1000, 70'000}) {
        std::vector<Entry> entries(count);
        for (auto& entry : entries) {
            // Evenly spread, or nearly all in one place.
            entry.key[count % 2 == 0 ? 0 : 3] = static_cast<std::uint8_t>(random.next());
            entry.key[1] = static_cast<std::uint8_t>(random.next() % 3);
            entry.key[15] = static_cast<std::uint8_t>(random.next());
            entry.tag = random.next();
        }
        auto model = entries;
        const auto whole = [](const Entry& entry) { return std::pair(entry.key, entry.tag); };
        sort_by_key(entries);
        ASSERT_TRUE(std::is_sorted(entries.begin(), entries.end(), ByKey())) << count;
        std::ranges::sort(model, {}, whole);
        std::ranges::sort(entries, {}, whole);
        ASSERT_TRUE(std::ranges::equal(entries, model, {}, whole, whole)) << count;
    }
}

constexpr std::int64_t kOld = 1'000'000;

// Names and what a look at them says, or the listing when it is in order; "gone" files vanish between the listing and
// the look.
class Listed final : public Source {
public:
    struct File {
        std::uint64_t tag = 1;
        std::int64_t modified_us = kOld;
        bool gone = false;
    };
    std::vector<std::pair<std::string, File>> files;
    Status fails_after;
    unsigned cores = 4;
    bool looks_slowly = false;
    bool in_order = false;

    Status list(const ListOptions&, const Interrupt&, const std::function<void(const Object&)>& each) override {
        for (const auto& file : files) {
            if (in_order && file.second.gone) {
                continue;
            }
            Object object{file.first};
            if (in_order) {
                look_at(object);
            }
            each(object);
        }
        return fails_after;
    }
    bool lists_in_order() const override { return in_order; }
    bool look_at(Object& object) override {
        if (looks_slowly) {
            std::this_thread::yield();
        }
        const auto found = std::lower_bound(files.begin(), files.end(), object.key,
                                            [](const auto& file, std::string_view key) { return file.first < key; });
        object.looked_at = true;
        object.tag = found->second.tag;
        object.modified_us = found->second.modified_us;
        return !found->second.gone;
    }
    Result<std::unique_ptr<Fetcher>> fetcher() override { return Status(ErrorCode::unsupported_version, "not here"); }
    std::string name() const override { return "listed"; }
    bool writes_are_atomic() const override { return in_order; }
    unsigned threads() const override { return cores; }
};

// The ledger's parts only.
class Parts final : public Target {
public:
    std::map<std::string, std::string> parts;
    bool slow = false;
    Status begin(Clock&, const Interrupt&) override { return {}; }
    Result<std::optional<std::string>> peek() override { return std::optional<std::string>(); }
    Result<std::string> fetch() override { return std::string(); }
    Result<std::string> read_part(const std::string& name) override {
        for (int i = 0; slow && i < 10'000; ++i) {
            std::this_thread::yield();
        }
        return parts.at(name);
    }
    Status write_part(const std::string&, std::string_view) override { return {}; }
    Status remove_part(const std::string&) override { return {}; }
    Result<std::string> scratch() override { return std::string(); }
    Status commit(const std::string&) override { return {}; }
    void sweep(const std::vector<std::string>&) override {}
    void end() override {}
    bool may_race() const override { return false; }
    std::string name() const override { return "parts"; }
};

class Judging : public testing::TestWithParam<unsigned> {
protected:
    Judging() {
        options.schema = schema::Schema::parse(R"({"format": 1, "name": "t", "file_names":
            ["log-(?P<stamp>[0-9]{8}-[0-9]{6})-[0-9]+\\.json"], "fields": [{"name": "id", "type": "string"}]})")
                             .value();
        options.settle_us = 3'600'000'000;  // an hour: what was written now is young for as long as the test runs
        source->cores = GetParam();
        environment.source = source;
    }
    static std::string named(int n) {
        const auto day = 10 + n % 5;
        return "log-202601" + std::to_string(day) + "-000000-" + std::to_string(n) + ".json";
    }
    // 0: new, 1: known, 2: known and changed, 3: young, 4: gone, 5: a name of another kind.
    void fill(int files) {
        std::map<std::string, std::vector<Entry>> entries;
        for (int n = 0; n < files; ++n) {
            const int kind = n % 6;
            const auto key = kind == 5 ? "other-" + std::to_string(n) : named(n);
            Listed::File file;
            if (kind == 1 || kind == 2) {
                Entry entry;
                entry.key = digest_key(key);
                entry.tag = kind == 1 ? file.tag : 99;
                const auto part = options.partitioned ? options.schema->day_of_name(key) : "";
                entries[options.partitioned ? "seg-1@" + part + ".hgl" : "seg-1.hgl"].push_back(entry);
            }
            file.modified_us = kind == 3 ? SystemClock().now_us() : kOld;
            file.gone = kind == 4;
            source->files.emplace_back(key, file);
            if (kind == 0 || kind == 2 || (kind == 3 && source->in_order)) {
                wanted.push_back(key);
            }
        }
        std::sort(wanted.begin(), wanted.end());
        std::sort(source->files.begin(), source->files.end(),
                  [](const auto& a, const auto& b) { return a.first < b.first; });
        for (auto& [name, some] : entries) {
            std::sort(some.begin(), some.end(), ByKey());
            target.parts[name] = NewSegment(some).seal();
        }
    }
    void expect_all(int files) {
        LedgerView ledger(options, target);
        std::vector<std::string> names;
        for (const auto& part : target.parts) {
            names.push_back(part.first);
        }
        ASSERT_TRUE(ledger.open(names, GetParam() > 1).ok());
        Summary summary;
        ReadingList list(GetParam());
        const auto status = choose(ledger, summary, list);
        ASSERT_TRUE(status.ok()) << status.message();
        ASSERT_TRUE(list.finished() || list.any_within(std::chrono::milliseconds(0)).value());
        ASSERT_EQ(texts(list), wanted);
        EXPECT_EQ(summary.listed, source->in_order ? files / 6 * 5 : files);
        EXPECT_EQ(summary.known, files / 6);
        EXPECT_EQ(summary.deferred, source->in_order ? 0 : files / 6);
        EXPECT_EQ(summary.vanished, source->in_order ? 0 : files / 6);
        EXPECT_EQ(summary.ignored, files / 6);
    }
    Status choose(LedgerView& ledger, Summary& summary, ReadingList& list) {
        FileSelection selection(options, environment, {}, ledger, true, list);
        HG_RETURN_IF_ERROR(selection.begin());
        return selection.finish(summary);
    }
    Status choose(LedgerView& ledger) {
        Summary summary;
        ReadingList list(GetParam());
        return choose(ledger, summary, list);
    }
    Options options;
    Environment environment;
    std::shared_ptr<Listed> source = std::make_shared<Listed>();
    Parts target;
    std::vector<std::string> wanted;
};

TEST_P(Judging, EveryFileIsJudgedOnce) {
    fill(120'000);
    expect_all(120'000);
}

TEST_P(Judging, DaysOfTheLedgerAreReadWhileOthersAreJudged) {
    options.partitioned = true;
    fill(60'000);
    expect_all(60'000);
}

TEST_P(Judging, AListingInOrderIsJudgedAsItComes) {
    source->in_order = true;
    fill(60'000);
    expect_all(60'000);
}

TEST_P(Judging, AListingInOrderReachesTheDaysOfTheLedger) {
    source->in_order = true;
    options.partitioned = true;
    fill(30'000);
    expect_all(30'000);
}

TEST_P(Judging, ALedgerThatCannotBeReadEndsAListingInOrder) {
    source->in_order = true;
    fill(6'000);
    target.parts["seg-1.hgl"].resize(1'000);
    LedgerView ledger(options, target);
    static_cast<void>(ledger.open({"seg-1.hgl"}, true));
    ReadingList list(GetParam());
    Summary summary;
    EXPECT_EQ(choose(ledger, summary, list).code(), ErrorCode::corrupt_data);
    EXPECT_EQ(list.finished(), 0U);
}

TEST_P(Judging, ALedgerIsNotDestroyedWhileItIsRead) {
    fill(600);
    target.slow = true;
    source->fails_after = Status(ErrorCode::io_error, "the listing broke");
    source->files.clear();
    LedgerView ledger(options, target);
    ASSERT_TRUE(ledger.open({"seg-1.hgl"}, true).ok());
    EXPECT_EQ(choose(ledger).code(), ErrorCode::io_error);
}

TEST_P(Judging, ALedgerThatCannotBeReadIsAnError) {
    fill(30'000);
    target.parts["seg-1.hgl"].resize(1'000);
    LedgerView ledger(options, target);
    auto status = ledger.open({"seg-1.hgl"}, GetParam() > 1);
    if (status.ok()) {
        status = choose(ledger);
    }
    EXPECT_EQ(status.code(), ErrorCode::corrupt_data);
}

TEST_P(Judging, AnInterruptEndsItWhileFilesAreLookedAt) {
    fill(60'000);
    std::size_t polls = 0;
    const auto caller = std::this_thread::get_id();
    environment.interrupt = [&] {
        EXPECT_EQ(std::this_thread::get_id(), caller);  // Python's signals belong to one thread
        return ++polls == 3;
    };
    source->looks_slowly = true;
    LedgerView ledger(options, target);
    EXPECT_EQ(choose(ledger).code(), ErrorCode::interrupted);
    EXPECT_EQ(polls, 3U);
}

TEST_P(Judging, AListingThatFailsLeavesNoThreadBehind) {
    fill(60'000);
    source->fails_after = Status(ErrorCode::io_error, "the listing broke");
    LedgerView ledger(options, target);
    EXPECT_EQ(choose(ledger).code(), ErrorCode::io_error);
}

INSTANTIATE_TEST_SUITE_P(Threads, Judging, testing::Values(1U, 2U, 4U));

}  // namespace
}  // namespace headgate::checkpoint
