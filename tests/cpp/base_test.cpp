#include <sys/wait.h>

#include <set>

#include "headgate/base/clock.hpp"
#include "headgate/base/fault.hpp"
#include "headgate/base/status.hpp"
#include "headgate/base/text.hpp"
#include "support.hpp"

namespace headgate {
namespace {

TEST(Status, EveryCodeHasItsOwnKind) {
    const auto kinds = all_error_kinds();
    EXPECT_EQ(kinds.size(), static_cast<std::size_t>(ErrorCode::last_));
    EXPECT_EQ(std::set<std::string_view>(kinds.begin(), kinds.end()).size(), kinds.size());
    EXPECT_EQ(error_kind(ErrorCode::stale_lease), "stale_lease");
    EXPECT_EQ(error_kind(ErrorCode::fault_injected), "fault_injected");
}

TEST(Timestamp, ReadsTheDocumentedForms) {
    const std::int64_t expected = 1'705'312'800'000'000;  // 2024-01-15T10:00:00Z
    for (const auto* text : {"2024-01-15T10:00:00Z", "2024-01-15T10:00:00", "2024-01-15T10:00:00.000Z",
                             "2024-01-15T12:30:00+02:30", "2024-01-15T04:00:00-0600", "2024-01-15T10:00:00+00"}) {
        const auto parsed = parse_timestamp(text);
        ASSERT_TRUE(parsed.ok()) << text;
        EXPECT_EQ(parsed.value(), expected) << text;
    }
    EXPECT_EQ(parse_timestamp("2024-01-15T10:00:00.123456789Z").value(), expected + 123'456);
    for (const auto* text : {"", "2024-01-15", "2024-01-15 10:00:00Z", "2024-02-30T10:00:00Z", "2024-01-15T24:00:00Z",
                             "2024-01-15T10:00:60Z", "2024-01-15T10:00:00.Z", "0000-01-01T00:00:00Z",
                             "2024-01-15T10:00:00Zx", "1705312800", "2023-02-29T00:00:00Z"}) {
        EXPECT_FALSE(parse_timestamp(text).ok()) << text;
    }
}

TEST(Timestamp, FormatIsTheInverse) {
    SeededRandom random(7);
    for (int i = 0; i < 20'000; ++i) {
        // Years 1 to 9999.
        const auto us = static_cast<std::int64_t>(random.next() % 315'537'897'600ULL) * 1'000'000 -
                        62'135'596'800'000'000 + static_cast<std::int64_t>(random.next() % 1'000'000);
        const auto parsed = parse_timestamp(format_timestamp(us));
        ASSERT_TRUE(parsed.ok()) << format_timestamp(us);
        ASSERT_EQ(parsed.value(), us);
    }
    EXPECT_EQ(format_timestamp(0), "1970-01-01T00:00:00Z");
    EXPECT_EQ(format_timestamp(-1), "1969-12-31T23:59:59.999999Z");
}

TEST(Utf8, RefusesWhatUnicodeRefuses) {
    EXPECT_TRUE(is_utf8("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"));
    for (const auto* text :
         {"\x80", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC3", "\xF8\x88\x80\x80"}) {
        EXPECT_FALSE(is_utf8(text));
    }
    EXPECT_EQ(utf8_length("a\xC3\xA9\xF0\x9F\x98\x80"), 3U);
}

TEST(Faults, FireAtTheNamedHitOnly) {
    ASSERT_TRUE(set_faults("a.b:fail:2").ok());
    EXPECT_TRUE(fault_point("a.b").ok());
    EXPECT_TRUE(fault_point("other").ok());
    EXPECT_EQ(fault_point("a.b").code(), ErrorCode::fault_injected);
    EXPECT_TRUE(fault_point("a.b").ok());
    EXPECT_FALSE(set_faults("nonsense").ok());
    EXPECT_FALSE(set_faults("a:explode:1").ok());
    ASSERT_TRUE(set_faults("").ok());
    EXPECT_FALSE(faults_installed.load());
}

TEST(Process, IsDeadOnlyWhenProved) {
    EXPECT_FALSE(process_is_dead(process_identity()));
    EXPECT_FALSE(process_is_dead("another-boot:1:1"));
    EXPECT_FALSE(process_is_dead(""));
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    const auto child = fork();
    if (child == 0) {
        const auto identity = process_identity();
        const auto written = write(fds[1], identity.data(), identity.size());
        _exit(written > 0 ? 0 : 1);
    }
    char buffer[256];
    const auto size = read(fds[0], buffer, sizeof buffer);
    ASSERT_GT(size, 0);
    const std::string identity(buffer, static_cast<std::size_t>(size));
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(process_is_dead(identity));
    close(fds[0]);
    close(fds[1]);
}

TEST(Sleep, EndsWhenInterrupted) {
    ManualClock clock;
    int polls = 0;
    EXPECT_FALSE(sleep_interruptibly(clock, 60'000'000, [&] { return ++polls == 3; }));
    EXPECT_LE(clock.now_us(), 100'000);
    EXPECT_TRUE(sleep_interruptibly(clock, 120'000, {}));
}

TEST(Random, SeedsRepeat) {
    SeededRandom a(42);
    SeededRandom b(42);
    EXPECT_EQ(a.token_hex(), b.token_hex());
    SystemRandom system;
    EXPECT_NE(system.token_hex(), system.token_hex());
    EXPECT_EQ(system.token_hex().size(), 32U);
}

}  // namespace
}  // namespace headgate
