// The simulated disk itself: what was acknowledged survives, what was not may be torn, and locks hold.
#include <set>

#include "headgate/backends/sim_disk.hpp"
#include "headgate/backends/sqlite.hpp"
#include "support.hpp"

namespace headgate::backends {
namespace {

Result<std::shared_ptr<Database>> open(const std::shared_ptr<SimDisk>& disk, const std::string& owner,
                                       Durability durability = Durability::full) {
    DatabaseOptions options{durability, 0};
    options.vfs = disk->vfs();
    options.vfs_owner = disk;
    return Database::open(owner + "@h.db", options);
}

// Commits until the disk stops it; returns what was acknowledged.
void write_until_stopped(const std::shared_ptr<Database>& database, std::int64_t& next, std::set<std::int64_t>& kept) {
    while (next < 100'000) {
        ++next;
        if (!database->begin().ok() || !database->execute("INSERT INTO t VALUES (?1, 0)", {next}).ok() ||
            !database->execute("UPDATE t SET m = n WHERE m = 0", {}).ok() || !database->commit().ok()) {
            return;
        }
        kept.insert(next);
    }
}

int lost_rows(Durability durability) {
    int lost = 0;
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
        const auto disk = std::make_shared<SimDisk>(seed);
        SeededRandom random(seed);
        std::set<std::int64_t> kept;
        std::int64_t next = 0;
        for (int life = 0; life < 5; ++life) {
            disk->revive("p");
            disk->stop_after("p", static_cast<std::int64_t>(random.next() % 80));
            auto database = open(disk, "p", durability);
            if (database.ok() &&
                database.value()->execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, m)", {}).ok()) {
                const auto found = database.value()->execute("SELECT n, m FROM t", {});
                if (found.ok()) {
                    std::set<std::int64_t> there;
                    for (const auto& row : found.value().rows) {
                        EXPECT_EQ(std::get<std::int64_t>(row[0]), std::get<std::int64_t>(row[1])) << "half a commit";
                        there.insert(std::get<std::int64_t>(row[0]));
                    }
                    for (const auto n : kept) {
                        lost += there.count(n) == 0 ? 1 : 0;
                    }
                    kept = there;
                    write_until_stopped(database.value(), next, kept);
                }
            }
            if (random.next() % 3 != 0) {
                disk->lose_power();
            } else {
                disk->kill("p");
            }
        }
    }
    return lost;
}

TEST(SimDisk, FullDurabilityLosesNothingThatWasAcknowledged) {
    EXPECT_EQ(lost_rows(Durability::full), 0);
}

TEST(SimDisk, NormalDurabilityLosesCommitsWithThePower) {
    EXPECT_GT(lost_rows(Durability::normal), 0);
}

TEST(SimDisk, TwoProcessesExcludeEachOther) {
    const auto disk = std::make_shared<SimDisk>(1);
    auto a = open(disk, "a");
    auto b = open(disk, "b");
    ASSERT_TRUE(a.ok());
    ASSERT_TRUE(b.ok());
    ASSERT_TRUE(a.value()->begin().ok());
    EXPECT_EQ(b.value()->begin().code(), ErrorCode::busy);
    ASSERT_TRUE(a.value()->execute("INSERT INTO state VALUES ('x', 'of a')", {}).ok());
    disk->kill("a");  // its lock is free, its transaction gone
    ASSERT_TRUE(b.value()->begin().ok());
    EXPECT_TRUE(b.value()->execute("SELECT * FROM state", {}).value().rows.empty());
    ASSERT_TRUE(b.value()->execute("INSERT INTO state VALUES ('x', 'of b')", {}).ok());
    EXPECT_TRUE(b.value()->commit().ok());
    EXPECT_FALSE(a.value()->commit().ok());
    disk->revive("a");
    auto again = open(disk, "a");
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again.value()->execute("SELECT doc FROM state", {}).value().rows.size(), 1U);
}

TEST(SimDisk, AnUnsyncedFileMayBeTornASyncedOneIsWhole) {
    int torn = 0;
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        SimDisk disk(seed);
        const std::string content(4096, 'x');
        ASSERT_TRUE(disk.write("p@synced", content).ok());
        ASSERT_TRUE(disk.sync("p@synced").ok());
        ASSERT_TRUE(disk.write("p@loose", content).ok());
        disk.lose_power();
        EXPECT_FALSE(disk.write("p@more", "x").ok());
        disk.revive("p");
        EXPECT_EQ(disk.read("p@synced").value(), content);
        const auto loose = disk.read("p@loose");
        torn += !loose.ok() || loose.value() != content ? 1 : 0;
    }
    EXPECT_GT(torn, 10);
    EXPECT_LT(torn, 50);
}

TEST(SimDisk, AProcessStopsAtTheOperationItWasTold) {
    SimDisk disk(1);
    disk.stop_after("p", 2);
    EXPECT_TRUE(disk.write("p@a", "1").ok());
    EXPECT_TRUE(disk.sync("p@a").ok());
    EXPECT_FALSE(disk.rename("p@a", "p@b").ok());
    EXPECT_TRUE(disk.stopped("p"));
    EXPECT_TRUE(disk.write("q@c", "2").ok());  // others go on
    EXPECT_EQ(disk.list("").size(), 2U);
}

}  // namespace
}  // namespace headgate::backends
