// Sources on disk: folders as the machine has them, and folders behind the seam.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "headgate/base/file.hpp"
#include "headgate/base/limit.hpp"
#include "headgate/base/text.hpp"
#include "headgate/checkpoint/ports.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kEntriesPerPoll = limit(4096, 3);

struct CloseDir {
    void operator()(DIR* dir) const { closedir(dir); }
};

std::int64_t nanoseconds(const struct timespec& time) {
    return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

class FolderFetcher final : public Fetcher {
public:
    explicit FolderFetcher(FileDescriptor folder) : folder_(std::move(folder)) {}

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
        const FileDescriptor file(::openat(folder_.get(), key_.c_str(), O_RDONLY | O_CLOEXEC));
        if (!file.ok()) {
            return failed(errno, out);
        }
        struct stat info {};
        if (::fstat(file.get(), &info) != 0) {
            return failed(errno, out);
        }
        // The tag belongs to these very bytes: it comes from the open file, not from the listing.
        out.tag = file_tag(static_cast<std::uint64_t>(info.st_size), nanoseconds(info.st_mtim));
        bytes_.resize(static_cast<std::size_t>(info.st_size) + 1);
        std::size_t size = 0;
        while (true) {
            if (size == bytes_.size()) {
                bytes_.resize(bytes_.size() * 2);
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

    FileDescriptor folder_;
    std::string key_;
    std::string bytes_;
};

class FolderSource final : public Source {
public:
    explicit FolderSource(std::string folder) : folder_(std::move(folder)) {}

    Status list(const ListOptions& options, const Interrupt& interrupt,
                const std::function<void(const Object&)>& each) override {
        if (!descriptor_.ok()) {
            HG_ASSIGN(descriptor_, open());
        }
        std::size_t seen = 0;
        return list_into("", options, interrupt, each, seen);
    }

    bool look_at(Object& object) override {
        struct stat info {};
        thread_local std::string key;
        key.assign(object.key);
        if (::fstatat(descriptor_.get(), key.c_str(), &info, 0) != 0) {
            return false;
        }
        const auto modified = nanoseconds(info.st_mtim);
        object.looked_at = true;
        object.tag = file_tag(static_cast<std::uint64_t>(info.st_size), modified);
        object.modified_us = modified / 1000;
        return true;
    }

    Result<std::unique_ptr<Fetcher>> fetcher() override {
        HG_ASSIGN(auto folder, open());
        return std::unique_ptr<Fetcher>(std::make_unique<FolderFetcher>(std::move(folder)));
    }

    std::string name() const override { return folder_; }
    bool writes_are_atomic() const override { return false; }
    unsigned threads() const override { return 0; }

private:
    Result<FileDescriptor> open() const {
        FileDescriptor folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!folder.ok()) {
            return status_from_errno(errno, "cannot list " + folder_);
        }
        return folder;
    }

    Status list_into(const std::string& below, const ListOptions& options, const Interrupt& interrupt,
                     const std::function<void(const Object&)>& each, std::size_t& seen) {
        const auto folder = below.empty() ? folder_ : folder_ + "/" + below;
        const std::unique_ptr<DIR, CloseDir> dir(opendir(folder.c_str()));
        if (!dir) {
            return status_from_errno(errno, "cannot list " + folder);
        }
        std::vector<std::string> folders;
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
            if (++seen % kEntriesPerPoll == 0 && interrupt && interrupt()) {
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
            auto type = entry->d_type;
            if (type == DT_UNKNOWN || type == DT_LNK) {
                struct stat info {};
                if (::fstatat(descriptor_.get(), key.c_str(), &info, 0) != 0) {
                    continue;  // vanished, or a dangling link
                }
                type = S_ISDIR(info.st_mode) && entry->d_type != DT_LNK ? DT_DIR
                       : S_ISREG(info.st_mode)                          ? DT_REG
                                                                        : DT_UNKNOWN;
            }
            if (type == DT_DIR) {
                folders.push_back(key);
            } else if (type == DT_REG && key.starts_with(options.prefix) && key > options.start_after) {
                each(Object{key});
            }
        }
        for (const auto& sub : folders) {
            HG_RETURN_IF_ERROR(list_into(sub, options, interrupt, each, seen));
        }
        return {};
    }

    std::string folder_;
    FileDescriptor descriptor_;
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

std::shared_ptr<Source> make_folder_source(const std::string& folder) {
    return std::make_shared<FolderSource>(folder);
}

std::shared_ptr<Source> make_files_source(const std::string& folder, std::shared_ptr<FileSystem> files) {
    return std::make_shared<FilesSource>(folder, std::move(files));
}

}  // namespace headgate::checkpoint
