// What a run writes beside the table: named once each, taken back by a run that fails, swept when nobody can need it.
#include "checkpoint/parts.hpp"

#include <set>

#include "headgate/base/file.hpp"
#include "headgate/checkpoint/refused.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

using Names = std::set<std::string>;

class Parts : public testing::Test {
protected:
    void SetUp() override { open(); }
    // As another process would, which the lock lets in only after this one.
    void open() {
        target.reset();
        target = make_file_target(path);
        ASSERT_TRUE(target->begin(clock, {}).ok());
        ASSERT_TRUE(target->peek().ok());
    }
    Names there() const {
        const auto names = real_files()->names(path + ".ledger");
        return names.ok() ? Names(names.value().begin(), names.value().end()) : Names();
    }
    static Entry entry(int n) {
        Entry out;
        out.key = digest_key(std::to_string(n));
        out.rows = static_cast<std::uint32_t>(n);
        return out;
    }
    tests::TemporaryFolder folder;
    std::string path = folder / "out.table";
    SystemClock clock;
    std::shared_ptr<Target> target;
    Refused nothing{nullptr};  // none refused: no schema is asked
};

TEST_F(Parts, AreTakenBackUnlessTheyMayBeNamed) {
    {
        NewParts parts(*target, "0123456789abcdef", 2);
        parts.begin(1);
        for (int n = 0; n < 5; ++n) {
            parts.add("", entry(n));
            ASSERT_TRUE(parts.write_if_full().ok());
        }
        ASSERT_EQ(there(), (Names{"seg-1-0123456789ab.hgl", "seg-1-0123456789ab-1.hgl"}));
        ASSERT_TRUE(parts.write({&nothing}).ok());
        ASSERT_EQ(there().size(), 3U);
    }
    EXPECT_EQ(there(), Names());
    {
        NewParts parts(*target, "0123456789abcdef");
        parts.begin(1);
        parts.add("", entry(1));
        ASSERT_TRUE(parts.write({&nothing}).ok());
        parts.keep();
    }
    EXPECT_EQ(there(), Names{"seg-1-0123456789ab.hgl"});
}

// Thirty-two older segments of the day "a", and six batches of this run, five of them of that day: these become one,
// and four days without older segments come between it and the day of the sixth.
TEST_F(Parts, NoneReplacesAnotherAfterSomeWereMerged) {
    Footer next;
    int rows = 0;
    for (int n = 0; n < 32; ++n) {
        next.segments.push_back("seg-1-old-" + std::to_string(n) + "@a.hgl");
        ASSERT_TRUE(target->write_part(next.segments.back(), NewSegment({entry(++rows)}).seal()).ok());
    }
    NewParts parts(*target, "0123456789abcdef", 1);
    parts.begin(2);
    for (const auto* day : {"a", "a", "a", "a", "a", "f"}) {
        parts.add(day, entry(++rows));
        ASSERT_TRUE(parts.write_if_full().ok());
    }
    for (const auto* day : {"a", "b", "c", "d", "f"}) {
        parts.add(day, entry(++rows));
    }
    ASSERT_TRUE(parts.compact(next).ok());
    ASSERT_TRUE(parts.write({&nothing}).ok());
    parts.name_in(next);
    std::set<std::uint32_t> found;
    for (const auto& name : next.segments) {
        const auto bytes = target->read_part(name);
        ASSERT_TRUE(bytes.ok()) << name;
        const auto entries = read_segment(bytes.value(), name).value();
        for (const auto& taken : entries) {
            EXPECT_TRUE(found.insert(taken.rows).second) << name << " has an entry that another one has";
        }
    }
    EXPECT_EQ(found.size(), static_cast<std::size_t>(rows));
    EXPECT_EQ(Names(next.segments.begin(), next.segments.end()).size(), next.segments.size());
}

TEST_F(Parts, AreNotSweptWhereAnotherTableWasPut) {
    tests::write_file(path, "a table");
    open();
    ASSERT_TRUE(target->write_part("seg-1-mine.hgl", "x").ok());
    ASSERT_TRUE(target->write_part("seg-1-dead.hgl", "x").ok());
    tests::write_file(path + ".restored", "a table of somebody's, with parts of its own");
    ASSERT_EQ(std::rename((path + ".restored").c_str(), path.c_str()), 0);
    target->sweep({"seg-1-mine.hgl"});
    EXPECT_EQ(there(), (Names{"seg-1-mine.hgl", "seg-1-dead.hgl"}));
    ASSERT_TRUE(target->peek().ok());
    target->sweep({"seg-1-mine.hgl"});
    EXPECT_EQ(there(), Names{"seg-1-mine.hgl"});
}

}  // namespace
}  // namespace headgate::checkpoint
