#include "headgate/backends/file.hpp"
#include "headgate/base/fault.hpp"
#include "support.hpp"

namespace headgate::backends {
namespace {

using store::PutMode;

TEST(FileStore, KeepsObjects) {
    tests::TemporaryFolder folder;
    auto objects = make_file_store(folder / "a/b").value();
    ASSERT_TRUE(objects->put("x/y", "one", PutMode::overwrite).ok());
    ASSERT_TRUE(objects->put("x/y", "two", PutMode::overwrite).ok());
    EXPECT_EQ(objects->get("x/y").value(), "two");
    EXPECT_EQ(objects->put("x/y", "three", PutMode::if_absent).code(), ErrorCode::already_exists);
    EXPECT_TRUE(objects->put("x/z", "z", PutMode::if_absent).ok());
    EXPECT_EQ(objects->list("x/").value(), (std::vector<std::string>{"x/y", "x/z"}));
    EXPECT_TRUE(objects->remove("x/y").ok());
    EXPECT_TRUE(objects->remove("x/y").ok());
    EXPECT_FALSE(objects->exists("x/y").value());
    EXPECT_EQ(objects->get("x/y").status().code(), ErrorCode::not_found);
}

TEST(FileStore, RefusesKeysThatLeaveTheFolder) {
    tests::TemporaryFolder folder;
    auto objects = make_file_store(folder.path()).value();
    for (const auto& key : {std::string("../x"), std::string("/x"), std::string("a/../../x"), std::string(""),
                            std::string("a//b"), std::string("a/"), std::string("."), std::string("a\0b", 3)}) {
        EXPECT_EQ(objects->put(key, "x", PutMode::overwrite).code(), ErrorCode::invalid_input) << key;
    }
}

TEST(FileStore, AFailedPutLeavesTheOldObjectAndNoTrace) {
    tests::TemporaryFolder folder;
    auto objects = make_file_store(folder.path()).value();
    ASSERT_TRUE(objects->put("k", "old", PutMode::overwrite).ok());
    ASSERT_TRUE(set_faults("file.before_rename:fail:1").ok());
    EXPECT_FALSE(objects->put("k", "new", PutMode::overwrite).ok());
    ASSERT_TRUE(set_faults("").ok());
    EXPECT_EQ(objects->get("k").value(), "old");
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
        files += entry.is_regular_file() ? 1 : 0;
    }
    EXPECT_EQ(files, 1U);
}

TEST(FileStore, LeftoversOfADeadProcessAreNotInTheWay) {
    tests::TemporaryFolder folder;
    auto objects = make_file_store(folder.path()).value();
    // A container's processes often have one and the same number: the next names are taken already.
    const auto next = real_files()->temporary_name();
    const auto number = std::stoi(next.substr(next.find('-') + 1));
    for (int i = 1; i <= 20; ++i) {
        tests::write_file(folder / (".tmp-" + real_files()->process_name() + "-" + std::to_string(number + i)), "old");
    }
    ASSERT_TRUE(objects->put("k", "new", PutMode::overwrite).ok());
    ASSERT_TRUE(objects->put("l", "new", PutMode::if_absent).ok());
    EXPECT_EQ(objects->list("").value(), (std::vector<std::string>{"k", "l"}));
}

TEST(FileStore, SaysWhyAFolderCannotBeUsed) {
    tests::TemporaryFolder folder;
    tests::write_file(folder / "file", "");
    EXPECT_FALSE(make_file_store(folder / "file").ok());
    EXPECT_FALSE(make_file_store(folder / "file/below").ok());
}

}  // namespace
}  // namespace headgate::backends
