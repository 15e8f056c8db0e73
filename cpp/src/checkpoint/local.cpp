// Sources on disk: folders as the machine has them, and folders behind the seam.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>

#include "headgate/base/file.hpp"
#include "headgate/base/limit.hpp"
#include "headgate/base/text.hpp"
#include "headgate/checkpoint/ports.hpp"
#include "source_folder.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kEntriesPerPoll = limit(4096, 3);
constexpr int kMostLinks = 8;  // one inside the other: many that lead to each other have no end of paths

struct CloseDir {
    void operator()(DIR* dir) const { closedir(dir); }
};

std::int64_t nanoseconds(const struct timespec& time) {
    return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

class FolderFetcher final : public Fetcher {
public:
    FolderFetcher(SourceFolder folder, std::size_t max_file_bytes)
        : folder_(std::move(folder)), most_(max_file_bytes + 1) {}

    void run(const Next& next, const Got& got, const Interrupt& stop) override {
        for (Wanted wanted; !stop() && next(wanted) == Coming::file;) {
            Fetched fetched;
            fetched.index = wanted.index;
            key_.assign(wanted.key);
            load(fetched);
            got(fetched);
        }
    }

private:
    void load(Fetched& out) {
        bool is_outside = false;
        const auto file = folder_.open_file(key_, is_outside);
        if (is_outside) {
            out.outcome = ReadOutcome::outside;
            out.error =
                Status(ErrorCode::permission_denied,
                       "a symbolic link leads out of the source; follow_symlinks=True (--follow-symlinks) reads it");
            return;
        }
        if (!file.ok()) {
            return failed(errno, out);
        }
        struct stat info {};
        if (::fstat(file.get(), &info) != 0) {
            return failed(errno, out);
        }
        if (!S_ISREG(info.st_mode)) {  // it was one when it was listed
            out.error = Status(ErrorCode::invalid_input, "cannot read a source file: it is no regular file");
            return;
        }
        // The tag belongs to these very bytes: it comes from the open file, not from the listing.
        out.tag = file_tag(static_cast<std::uint64_t>(info.st_size), nanoseconds(info.st_mtim));
        bytes_.resize(std::min(static_cast<std::size_t>(info.st_size) + 1, most_));
        std::size_t size = 0;
        while (size < most_) {
            if (size == bytes_.size()) {
                bytes_.resize(std::min(bytes_.size() * 2, most_));
            }
            const auto read = ::read(file.get(), bytes_.data() + size, bytes_.size() - size);
            if (read < 0 && errno == EINTR) {
                continue;
            }
            if (read < 0) {
                return failed(errno, out);
            }
            size += static_cast<std::size_t>(read);
            // The buffer is a byte larger than the file: a read that does not fill it has met the end.
            if (size < bytes_.size()) {
                break;
            }
        }
        out.bytes = std::string_view(bytes_).substr(0, size);
        out.outcome = ReadOutcome::read;
    }

    static void failed(int error, Fetched& out) {
        out.error = status_from_errno(error, "cannot read a source file");
        out.outcome = out.error.code() == ErrorCode::not_found           ? ReadOutcome::vanished
                      : out.error.code() == ErrorCode::permission_denied ? ReadOutcome::refused
                                                                         : ReadOutcome::failed;
    }

    SourceFolder folder_;
    std::size_t most_;  // bytes of a file: one more than it may have
    std::string key_;
    std::string bytes_;
};

class FolderSource final : public Source {
public:
    FolderSource(std::string folder, FolderOptions options) : folder_(std::move(folder)), options_(options) {
        options_.max_file_bytes = std::min(options_.max_file_bytes, SIZE_MAX - 1);
    }

    Status list(const ListOptions& options, const Interrupt& interrupt,
                const std::function<void(const Object&)>& each) override {
        if (!open_) {
            HG_ASSIGN(open_, SourceFolder::open(folder_, options_.follow_links));
        }
        Listing listing{options, interrupt, each, 0, {}};
        return list_into("", 0, listing);
    }

    bool look_at(Object& object) override {
        struct stat info {};
        thread_local std::string key;
        key.assign(object.key);
        if (::fstatat(open_->descriptor(), key.c_str(), &info, 0) != 0) {
            return false;
        }
        const auto modified = nanoseconds(info.st_mtim);
        object.looked_at = true;
        object.tag = file_tag(static_cast<std::uint64_t>(info.st_size), modified);
        object.modified_us = modified / 1000;
        return true;
    }

    Result<std::unique_ptr<Fetcher>> fetcher() override {
        HG_ASSIGN(auto folder, SourceFolder::open(folder_, options_.follow_links));
        return std::unique_ptr<Fetcher>(std::make_unique<FolderFetcher>(std::move(folder), options_.max_file_bytes));
    }

    std::string name() const override { return folder_; }
    bool writes_are_atomic() const override { return false; }
    unsigned threads() const override { return 0; }

private:
    struct Listing {
        const ListOptions& options;
        const Interrupt& interrupt;
        const std::function<void(const Object&)>& each;
        std::size_t seen = 0;
        std::vector<std::pair<dev_t, ino_t>> above;  // the folders that the current one is in, and itself
    };

    // `links`: how many of the folders above were reached by a symbolic link.
    Status list_into(const std::string& below, int links, Listing& listing) {
        const auto folder = below.empty() ? folder_ : folder_ + "/" + below;
        const std::unique_ptr<DIR, CloseDir> dir(opendir(folder.c_str()));
        struct stat self {};
        if (!dir || ::fstat(::dirfd(dir.get()), &self) != 0) {
            return status_from_errno(errno, "cannot list " + folder);
        }
        const std::pair identity(self.st_dev, self.st_ino);
        if (std::find(listing.above.begin(), listing.above.end(), identity) != listing.above.end()) {
            return {};  // a loop of links: its files were listed where it began
        }
        listing.above.push_back(identity);
        std::vector<std::pair<std::string, int>> folders;
        std::string key;
        while (true) {
            errno = 0;
            const dirent* entry = readdir(dir.get());  // NOLINT(concurrency-mt-unsafe): the stream is ours alone
            if (entry == nullptr) {
                if (errno != 0) {
                    return status_from_errno(errno, "cannot list " + folder);
                }
                break;
            }
            if (++listing.seen % kEntriesPerPoll == 0 && listing.interrupt && listing.interrupt()) {
                return {ErrorCode::interrupted, "interrupted while listing " + folder_};
            }
            const std::string_view name = entry->d_name;
            if (name.front() == '.') {
                continue;
            }
            key.assign(below);
            if (!below.empty()) {
                key += '/';
            }
            key += name;
            const auto kind = entry->d_type == DT_REG   ? SourceFolder::Kind::file
                              : entry->d_type == DT_DIR ? SourceFolder::Kind::folder
                                                        : open_->kind_of(key);
            switch (kind) {
                case SourceFolder::Kind::folder:
                    folders.emplace_back(key, links);
                    break;
                case SourceFolder::Kind::linked_folder:
                    if (links < kMostLinks) {
                        folders.emplace_back(key, links + 1);
                    }
                    break;
                case SourceFolder::Kind::outside_folder:
                    listing.each(Object{key, true, 0, 0, true});
                    break;
                case SourceFolder::Kind::file:
                    if (key.starts_with(listing.options.prefix) && key > listing.options.start_after) {
                        listing.each(Object{key});
                    }
                    break;
                case SourceFolder::Kind::nothing:
                    break;
            }
        }
        for (const auto& [sub, count] : folders) {
            HG_RETURN_IF_ERROR(list_into(sub, count, listing));
        }
        listing.above.pop_back();
        return {};
    }

    std::string folder_;
    FolderOptions options_;
    std::optional<SourceFolder> open_;
};

// The same behind the seam; listed and read one by one.
class FilesSource final : public Source {
public:
    FilesSource(std::string folder, std::shared_ptr<FileSystem> files)
        : folder_(std::move(folder)), files_(std::move(files)) {}

    Status list(const ListOptions& options, const Interrupt& /*interrupt*/,
                const std::function<void(const Object&)>& each) override {
        HG_ASSIGN(const auto keys, files_->walk(folder_));
        for (const auto& key : keys) {
            if (base_name(key).front() != '.' && key.starts_with(options.prefix) && key > options.start_after) {
                each(Object{key});
            }
        }
        return {};
    }

    bool look_at(Object& object) override {
        const auto info = files_->info(folder_ + "/" + std::string(object.key));
        if (!info.ok()) {
            return false;
        }
        object.looked_at = true;
        object.tag = tag(info.value());
        object.modified_us = info.value().modified_ns / 1000;
        return true;
    }

    Result<std::unique_ptr<Fetcher>> fetcher() override {
        return std::unique_ptr<Fetcher>(std::make_unique<FilesFetcher>(folder_, files_));
    }

    std::string name() const override { return folder_; }
    bool writes_are_atomic() const override { return true; }
    unsigned threads() const override { return 1; }

private:
    static std::uint64_t tag(const FileInfo& info) {
        return file_tag(static_cast<std::uint64_t>(info.size), info.modified_ns);
    }

    class FilesFetcher final : public Fetcher {
    public:
        FilesFetcher(std::string folder, std::shared_ptr<FileSystem> files)
            : folder_(std::move(folder)), files_(std::move(files)) {}

        void run(const Next& next, const Got& got, const Interrupt& stop) override {
            for (Wanted wanted; !stop() && next(wanted) == Coming::file;) {
                const auto path = folder_ + "/" + std::string(wanted.key);
                Fetched fetched;
                fetched.index = wanted.index;
                const auto info = files_->info(path);
                const auto bytes = files_->read(path);
                if (info.ok() && bytes.ok()) {
                    fetched.tag = tag(info.value());
                    fetched.bytes = bytes.value();
                    fetched.outcome = ReadOutcome::read;
                } else {
                    fetched.error = bytes.ok() ? info.status() : bytes.status();
                    fetched.outcome =
                        fetched.error.code() == ErrorCode::not_found ? ReadOutcome::vanished : ReadOutcome::failed;
                }
                got(fetched);
            }
        }

    private:
        std::string folder_;
        std::shared_ptr<FileSystem> files_;
    };

    std::string folder_;
    std::shared_ptr<FileSystem> files_;
};

}  // namespace

std::uint64_t file_tag(std::uint64_t size, std::int64_t mtime_ns) noexcept {
    SeededRandom mix(size * 0x9E3779B97F4A7C15ULL ^ static_cast<std::uint64_t>(mtime_ns));
    return mix.next();
}

std::shared_ptr<Source> make_folder_source(const std::string& folder, FolderOptions options) {
    return std::make_shared<FolderSource>(folder, options);
}

std::shared_ptr<Source> make_files_source(const std::string& folder, std::shared_ptr<FileSystem> files) {
    return std::make_shared<FilesSource>(folder, std::move(files));
}

}  // namespace headgate::checkpoint
