// What a run writes beside the table.
#include "checkpoint/parts.hpp"

#include <set>

#include "checkpoint/taken.hpp"
#include "headgate/base/file.hpp"
#include "headgate/checkpoint/refused.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

using Names = std::set<std::string>;

class Parts : public testing::Test {
protected:
    void SetUp() override { ASSERT_TRUE(target->begin(clock, {}).ok()); }
    static Entry entry(int n) {
        Entry out;
        out.key = digest_key(std::to_string(n));
        out.rows = static_cast<std::uint32_t>(n);
        return out;
    }
    tests::TemporaryFolder folder;
    SystemClock clock;
    std::shared_ptr<Target> target = make_file_target(folder / "out.table");
    Refused nothing{nullptr};  // none refused: no schema is asked
};

// Thirty-two older segments of the day "a", and six batches of this run, five of them of that day: these become one,
// and four days without older segments come between it and the day of the sixth.
TEST_F(Parts, NoneReplacesAnotherAfterSomeWereMerged) {
    Footer next;
    int rows = 0;
    for (int n = 0; n < 32; ++n) {
        NewSegment segment;
        segment.add(entry(++rows));
        next.segments.push_back("seg-1-old-" + std::to_string(n) + "@a.hgl");
        ASSERT_TRUE(target->write_part(next.segments.back(), segment.seal()).ok());
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
    ASSERT_TRUE(parts.write(nothing).ok());
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

}  // namespace
}  // namespace headgate::checkpoint
