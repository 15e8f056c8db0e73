// What is read back from disk is somebody's text: names stay in their folder, sizes are looked at before anything is
// allocated, and devices and pipes are not opened as files.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoint/footer.hpp"
#include "checkpoint/parts.hpp"
#include "headgate/base/file.hpp"
#include "headgate/checkpoint/ports.hpp"
#include "support.hpp"

namespace headgate::checkpoint {
namespace {

using Json = nlohmann::json;

Json sound_footer() {
    return Json::parse(R"({"format": 1, "schema": "t", "version": 3, "write_id": "0123456789abcdef",
        "segments": ["seg-1-0123456789ab.hgl"], "rejects": ["rej-1-0123456789ab.jsonl"], "rows": 2,
        "last_timestamp_us": 7, "superseded": 1, "skipped": 0, "last_full_listing_us": 5})");
}

TEST(Footer, NamesPartsOfItsOwnFolderOnly) {
    ASSERT_TRUE(parse_footer({{kFooterKey, sound_footer().dump()}}, "t").ok());
    const std::vector<std::string> names = {"",
                                            ".",
                                            "..",
                                            "/dev/zero",
                                            "../../../../../dev/zero",
                                            "a/b",
                                            "a/../b",
                                            "a/",
                                            std::string("a\0b", 3),
                                            ".tmp-1",
                                            "a\nb",
                                            "\x1b[2J",
                                            std::string(256, 'a'),
                                            std::string(1'000'000, '/')};
    for (const auto* kind : {"segments", "rejects"}) {
        for (const auto& name : names) {
            auto footer = sound_footer();
            footer[kind].push_back(name);
            const auto found = parse_footer({{kFooterKey, footer.dump()}}, "t");
            ASSERT_FALSE(found.ok()) << kind << " " << name.substr(0, 100);
            EXPECT_EQ(found.status().code(), ErrorCode::corrupt_data);
            EXPECT_NE(found.status().message().find(kind), std::string::npos);
            EXPECT_LT(found.status().message().size(), 2'000U);
            EXPECT_EQ(found.status().message().find_first_of("\n\x1b"), std::string::npos);
        }
    }
}

TEST(Footer, HasNumbersThatCanBeCountedOn) {
    for (const auto* name :
         {"format", "version", "rows", "last_timestamp_us", "superseded", "skipped", "last_full_listing_us"}) {
        for (const auto& value : {Json(1e300), Json(1.5), Json(-1e300), Json("1"), Json(true), Json(nullptr),
                                  Json(UINT64_MAX), Json::array({1})}) {
            auto footer = sound_footer();
            footer[name] = value;
            const auto found = parse_footer({{kFooterKey, footer.dump()}}, "t");
            ASSERT_FALSE(found.ok()) << name << " " << value;
            EXPECT_EQ(found.status().code(), ErrorCode::corrupt_data);
        }
    }
    for (const auto* name : {"version", "rows", "superseded", "skipped", "last_full_listing_us"}) {
        auto footer = sound_footer();
        footer[name] = INT64_MAX;
        EXPECT_FALSE(parse_footer({{kFooterKey, footer.dump()}}, "t").ok()) << name;
    }
    auto footer = sound_footer();
    footer["rows"] = -1;
    EXPECT_FALSE(parse_footer({{kFooterKey, footer.dump()}}, "t").ok());
    footer = sound_footer();
    footer["format"] = std::uint64_t{1} << 32U;  // as an int of 32 bits it would be 0
    EXPECT_EQ(parse_footer({{kFooterKey, footer.dump()}}, "t").status().code(), ErrorCode::unsupported_version);
}

TEST(ReadFile, TakesRegularFilesOnlyAndNoMoreThanItMay) {
    tests::TemporaryFolder folder;
    tests::write_file(folder / "file", "12345");
    EXPECT_EQ(read_file(folder / "file").value(), "12345");
    EXPECT_EQ(read_file(folder / "file", 5).value(), "12345");
    EXPECT_EQ(read_file(folder / "file", 4).status().code(), ErrorCode::message_too_large);
    ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
    const FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un address {};
    address.sun_family = AF_UNIX;
    (folder / "socket").copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address), 0);
    for (const auto& special : {std::string("/dev/zero"), folder / "pipe", folder.path()}) {
        EXPECT_EQ(read_file(special).status().code(), ErrorCode::invalid_input) << special;
    }
    EXPECT_FALSE(read_file(folder / "socket").ok());
    // A terabyte without a block on the disk.
    const FileDescriptor sparse(::open((folder / "sparse").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(sparse.get(), off_t{1} << 40U), 0);
    EXPECT_EQ(read_file(folder / "sparse", kMostPartBytes).status().code(), ErrorCode::message_too_large);
}

class OfATable : public testing::Test {
protected:
    tests::TemporaryFolder folder;
    std::string path = folder / "out.table";
    SystemClock clock;
};

TEST_F(OfATable, PartsThatAreNoFilesAreDamage) {
    const auto target = make_file_target(path);
    ASSERT_TRUE(target->begin(clock, {}).ok());
    ASSERT_TRUE(target->write_part("seg-1.hgl", "x").ok());
    ASSERT_EQ(mkfifo((path + ".ledger/seg-2.hgl").c_str(), 0600), 0);
    ASSERT_EQ(symlink("/dev/zero", (path + ".ledger/seg-3.hgl").c_str()), 0);
    ASSERT_EQ(mkdir((path + ".ledger/seg-4.hgl").c_str(), 0700), 0);
    const FileDescriptor sparse(::open((path + ".ledger/seg-5.hgl").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(sparse.get(), off_t{1} << 40U), 0);
    for (const auto* name : {"seg-2.hgl", "seg-3.hgl", "seg-4.hgl", "seg-5.hgl", "seg-6.hgl"}) {
        EXPECT_EQ(target->read_part(name).status().code(), ErrorCode::corrupt_data) << name;
    }
}

TEST_F(OfATable, NothingButAFileIsATable) {
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    const auto target = make_file_target(path);
    ASSERT_TRUE(target->begin(clock, {}).ok());
    EXPECT_EQ(target->peek().status().code(), ErrorCode::invalid_input);
}

// What cannot be read back as one part stays several.
TEST_F(OfATable, SegmentsAreNotMergedIntoOneThatIsTooLong) {
    const auto target = make_file_target(path);
    ASSERT_TRUE(target->begin(clock, {}).ok());
    Footer next;
    int n = 0;
    const auto entry = [&n] {
        Entry out;
        out.key = digest_key(std::to_string(n++));
        return out;
    };
    for (int i = 0; i < 40; ++i) {
        next.segments.push_back("seg-1-old-" + std::to_string(i) + ".hgl");
        ASSERT_TRUE(target->write_part(next.segments.back(), NewSegment({entry()}).seal()).ok());
    }
    for (const std::size_t most : {40U, 41U}) {
        NewParts parts(*target, "0123456789abcdef", 5, most);
        parts.begin(2);
        parts.add("", entry());
        --n;  // the same file both times
        auto merged = next;
        ASSERT_TRUE(parts.compact(merged).ok());
        EXPECT_EQ(merged.segments.size(), most == 40 ? 40U : 0U);
    }
}

// Reads these files of a source, one after the other.
void fetch(Source& source, const std::vector<std::string>& keys, const std::function<void(const Fetched&)>& take) {
    std::size_t next = 0;
    source.fetcher().value()->run(
        [&](Wanted& wanted) {
            if (next == keys.size()) {
                return Fetcher::Coming::nothing;
            }
            wanted = {next, keys[next]};
            ++next;
            return Fetcher::Coming::file;
        },
        take, [] { return false; });
}

TEST(FolderSource, ReadsNoMoreOfAFileThanItMay) {
    tests::TemporaryFolder folder;
    tests::write_file(folder / "small.json", "12345");
    const FileDescriptor sparse(::open((folder / "sparse.json").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(sparse.get(), off_t{1} << 40U), 0);
    ASSERT_EQ(mkfifo((folder / "pipe.json").c_str(), 0600), 0);
    const auto source = make_folder_source(folder.path(), {5});
    const std::vector<std::string> keys = {"small.json", "sparse.json", "pipe.json"};
    std::vector<std::size_t> sizes;
    std::vector<ReadOutcome> outcomes;
    fetch(*source, keys, [&](const Fetched& fetched) {
        sizes.push_back(fetched.bytes.size());
        outcomes.push_back(fetched.outcome);
    });
    EXPECT_EQ(sizes, (std::vector<std::size_t>{5, 6, 0}));
    EXPECT_EQ(outcomes, (std::vector<ReadOutcome>{ReadOutcome::read, ReadOutcome::read, ReadOutcome::failed}));
}

// A source with links of every kind, and a folder beside it.
class Links : public testing::Test {
protected:
    void SetUp() override {
        for (const auto* name : {"in", "in/sub", "outside", "outside/deep"}) {
            ASSERT_EQ(mkdir((folder / name).c_str(), 0700), 0);
        }
        tests::write_file(folder / "in/a.json", "a");
        tests::write_file(folder / "in/sub/b.json", "b");
        tests::write_file(folder / "outside/secret.json", "secret");
        tests::write_file(folder / "outside/deep/c.json", "c");
        link("a.json", "in/inside.json");
        link(folder / "in/sub/b.json", "in/absolute.json");
        link("sub", "in/again");
        link("../outside/secret.json", "in/out.json");
        link(folder / "outside/secret.json", "in/sub/far.json");
        link("../outside", "in/folder");
        link("nowhere", "in/dangling.json");
        link("loop.json", "in/loop.json");
        link("/dev/zero", "in/zero.json");
    }
    void link(const std::string& to, const std::string& at) {
        ASSERT_EQ(symlink(to.c_str(), (folder / at).c_str()), 0);
    }
    using Files = std::map<std::string, std::string>;
    // What is read of every listed file, or "outside", "vanished", "failed".
    Files read(bool follow_links) {
        const auto source = make_folder_source(folder / "in", {100, follow_links});
        std::vector<std::string> keys;
        EXPECT_TRUE(source->list({}, {}, [&](const Object& object) { keys.emplace_back(object.key); }).ok());
        Files out;
        fetch(*source, keys, [&](const Fetched& fetched) {
            out[keys[fetched.index]] = fetched.outcome == ReadOutcome::read       ? std::string(fetched.bytes)
                                       : fetched.outcome == ReadOutcome::outside  ? "outside"
                                       : fetched.outcome == ReadOutcome::vanished ? "vanished"
                                                                                  : "failed";
        });
        return out;
    }
    tests::TemporaryFolder folder;
};

TEST_F(Links, ThatLeaveTheSourceAreNamedAndNotRead) {
    EXPECT_EQ(read(false), (Files{{"a.json", "a"},
                                  {"absolute.json", "b"},
                                  {"dangling.json", "vanished"},
                                  {"folder", "outside"},
                                  {"inside.json", "a"},
                                  {"loop.json", "failed"},
                                  {"out.json", "outside"},
                                  {"sub/b.json", "b"},
                                  {"sub/far.json", "outside"}}));
}

TEST_F(Links, AreFollowedWhenThatIsAskedFor) {
    EXPECT_EQ(read(true), (Files{{"a.json", "a"},
                                 {"absolute.json", "b"},
                                 {"again/b.json", "b"},
                                 {"again/far.json", "secret"},
                                 {"dangling.json", "vanished"},
                                 {"folder/deep/c.json", "c"},
                                 {"folder/secret.json", "secret"},
                                 {"inside.json", "a"},
                                 {"loop.json", "failed"},
                                 {"out.json", "secret"},
                                 {"sub/b.json", "b"},
                                 {"sub/far.json", "secret"}}));
}

// Without a limit, six folders that each link to all of them have more paths than anybody can list.
TEST_F(Links, LoopsEnd) {
    link("..", "in/sub/up");
    link("../../in", "outside/deep/back");
    EXPECT_EQ(read(true).count("folder/deep/back/a.json"), 0U);
    EXPECT_EQ(read(true).count("folder/deep/c.json"), 1U);
    for (int i = 0; i < 6; ++i) {
        const auto name = "outside/" + std::to_string(i);
        ASSERT_EQ(mkdir((folder / name).c_str(), 0700), 0);
        for (int j = 0; j < 6; ++j) {
            link("../" + std::to_string(j), name + "/to" + std::to_string(j));
        }
    }
    EXPECT_EQ(read(true).count("folder/deep/c.json"), 1U);
}

// A folder that becomes a link after it was listed.
TEST_F(Links, MadeAfterTheListingAreNotFollowedEither) {
    const auto source = make_folder_source(folder / "in");
    const auto fetcher = std::move(source->fetcher().value());
    ASSERT_EQ(std::rename((folder / "in/sub").c_str(), (folder / "in/was").c_str()), 0);
    link("../outside/deep", "in/sub");
    bool asked = false;
    auto outcome = ReadOutcome::read;
    fetcher->run(
        [&](Wanted& wanted) {
            wanted = {0, "sub/c.json"};
            return std::exchange(asked, true) ? Fetcher::Coming::nothing : Fetcher::Coming::file;
        },
        [&](const Fetched& fetched) { outcome = fetched.outcome; }, [] { return false; });
    EXPECT_EQ(outcome, ReadOutcome::outside);
}

}  // namespace
}  // namespace headgate::checkpoint
