#include <sys/wait.h>

#include "headgate/backends/sqlite.hpp"
#include "support.hpp"

namespace headgate::backends {
namespace {

std::int64_t integer(Database& database, const std::string& sql) {
    const auto result = database.execute(sql, {});
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? std::get<std::int64_t>(result.value().rows.at(0).at(0)) : -1;
}

TEST(Database, CreatesItsSchemaOnce) {
    tests::TemporaryFolder folder;
    auto database = Database::open(folder / "a.db", {}).value();
    EXPECT_EQ(integer(*database, "PRAGMA user_version"), kSchemaVersion);
    EXPECT_EQ(integer(*database, "PRAGMA application_id"), kApplicationId);
    database = nullptr;
    EXPECT_TRUE(Database::open(folder / "a.db", {}).ok());
}

TEST(Database, RefusesAForeignANewerAndABrokenFile) {
    tests::TemporaryFolder folder;
    {
        auto database = Database::open(folder / "newer.db", {}).value();
        ASSERT_TRUE(database->execute("PRAGMA user_version = 99", {}).ok());
    }
    EXPECT_EQ(Database::open(folder / "newer.db", {}).status().code(), ErrorCode::unsupported_version);
    {
        auto database = Database::open(folder / "foreign.db", {}).value();
        ASSERT_TRUE(database->execute("PRAGMA application_id = 7", {}).ok());
        ASSERT_TRUE(database->execute("PRAGMA user_version = 0", {}).ok());
    }
    EXPECT_EQ(Database::open(folder / "foreign.db", {}).status().code(), ErrorCode::corrupt_data);
    tests::write_file(folder / "broken.db", std::string(8192, 'x'));
    EXPECT_EQ(Database::open(folder / "broken.db", {}).status().code(), ErrorCode::corrupt_data);
    EXPECT_EQ(Database::open(folder / "no/such/folder.db", {}).status().code(), ErrorCode::permission_denied);
}

TEST(Database, ValuesRoundTrip) {
    tests::TemporaryFolder folder;
    auto database = Database::open(folder / "a.db", {}).value();
    ASSERT_TRUE(database->execute("CREATE TABLE t (a, b, c, d, e)", {}).ok());
    const SqlRow row = {std::monostate{}, std::int64_t{-5}, 2.5, std::string("x\0y", 3),
                        Blob{std::string("\0\xff", 2)}};
    ASSERT_TRUE(database->execute("INSERT INTO t VALUES (?, ?, ?, ?, ?)", row).ok());
    const auto back = database->execute("SELECT * FROM t", {}, true).value();
    EXPECT_EQ(std::get<std::int64_t>(back.rows[0][1]), -5);
    EXPECT_EQ(std::get<double>(back.rows[0][2]), 2.5);
    EXPECT_EQ(std::get<std::string>(back.rows[0][3]), std::string("x\0y", 3));
    EXPECT_EQ(std::get<Blob>(back.rows[0][4]).bytes, std::string("\0\xff", 2));
    EXPECT_EQ(back.columns.size(), 5U);
    EXPECT_EQ(database->execute("INSERT INTO t VALUES (?)", row).status().code(), ErrorCode::invalid_input);
    EXPECT_EQ(database->execute("SELEKT", {}).status().code(), ErrorCode::invalid_input);
}

TEST(Database, AFailingBatchLeavesNothing) {
    tests::TemporaryFolder folder;
    auto database = Database::open(folder / "a.db", {}).value();
    ASSERT_TRUE(database->execute("CREATE TABLE t (a UNIQUE)", {}).ok());
    const auto result =
        database->execute_many("INSERT INTO t VALUES (?)", {{std::int64_t{1}}, {std::int64_t{2}}, {std::int64_t{1}}});
    EXPECT_EQ(result.status().code(), ErrorCode::already_exists);
    EXPECT_EQ(integer(*database, "SELECT count(*) FROM t"), 0);
    EXPECT_FALSE(database->in_transaction());
}

TEST(Database, ASecondWriterWaitsAndThenSaysBusy) {
    tests::TemporaryFolder folder;
    auto a = Database::open(folder / "a.db", {}).value();
    auto b = Database::open(folder / "a.db", {Durability::full, 50'000}).value();
    ASSERT_TRUE(a->begin().ok());
    EXPECT_EQ(b->begin().code(), ErrorCode::busy);
    ASSERT_TRUE(a->rollback().ok());
    EXPECT_TRUE(b->begin().ok());
}

TEST(Database, WaitingForALockEndsWhenInterrupted) {
    tests::TemporaryFolder folder;
    auto a = Database::open(folder / "a.db", {}).value();
    int polls = 0;
    auto b = Database::open(folder / "a.db", {Durability::full, 60'000'000, [&] { return ++polls >= 2; }}).value();
    ASSERT_TRUE(a->begin().ok());
    EXPECT_EQ(b->begin().code(), ErrorCode::interrupted);
    ASSERT_TRUE(a->rollback().ok());
    polls = -1'000'000;
    EXPECT_TRUE(b->begin().ok());
}

TEST(Database, AFullDiskKeepsWhatWasThere) {
    tests::TemporaryFolder folder;
    auto database = Database::open(folder / "a.db", {}).value();
    ASSERT_TRUE(database->execute("CREATE TABLE t (a)", {}).ok());
    ASSERT_TRUE(database->execute("INSERT INTO t VALUES ('kept')", {}).ok());
    ASSERT_TRUE(database->execute("PRAGMA max_page_count = 60", {}).ok());
    const auto result =
        database->execute_many("INSERT INTO t VALUES (?)", std::vector<SqlRow>(2'000, {std::string(4'000, 'x')}));
    EXPECT_EQ(result.status().code(), ErrorCode::disk_full);
    EXPECT_FALSE(database->in_transaction());
    EXPECT_EQ(integer(*database, "SELECT count(*) FROM t"), 1);
}

// What a forked child answers, as a number.
template <class Work>
int in_child(Work work) {
    const auto child = fork();
    if (child == 0) {
        _exit(work());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}

TEST(Database, AChildUsesWhatItsParentOnlyOpened) {
    tests::TemporaryFolder folder;
    auto database = Database::open(folder / "a.db", {}).value();
    EXPECT_EQ(in_child([&] { return database->execute("CREATE TABLE t (a)", {}).ok() ? 0 : 1; }), 0);
    EXPECT_TRUE(database->execute("INSERT INTO t VALUES (1)", {}).ok());
}

TEST(Database, AFileInUseAtAForkIsRefusedToTheChild) {
    tests::TemporaryFolder folder;
    auto database = Database::open(folder / "a.db", {}).value();
    auto other = Database::open(folder / "b.db", {}).value();
    EXPECT_TRUE(database->execute("SELECT 1", {}).ok());
    const auto refused = [&] {
        if (database->execute("SELECT 1", {}).status().code() != ErrorCode::forked) {
            return 1;
        }
        // Not by another connection either: SQLite believes that this process has the parent's locks.
        if (Database::open(folder / "a.db", {}).status().code() != ErrorCode::forked) {
            return 2;
        }
        return other->execute("SELECT 1", {}).ok() ? 0 : 3;
    };
    EXPECT_EQ(in_child(refused), 0);
    EXPECT_TRUE(database->execute("SELECT 1", {}).ok());
    database = nullptr;
    EXPECT_EQ(in_child([&] { return Database::open(folder / "a.db", {}).ok() ? 0 : 1; }), 0);
}

}  // namespace
}  // namespace headgate::backends
