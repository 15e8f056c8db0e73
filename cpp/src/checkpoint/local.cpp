// The source and the target on a local disk.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <set>

#include "headgate/base/file.hpp"
#include "headgate/checkpoint/ports.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::int64_t kLockPollUs = 20'000;
constexpr std::size_t kEntriesPerPoll = 4096;

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
        while (!stop()) {
            const auto wanted = next();
            if (!wanted) {
                return;
            }
            Fetched fetched;
            fetched.index = wanted->index;
            key_.assign(wanted->key);
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
            key = below.empty() ? std::string(name) : below + "/" + std::string(name);
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

Status refuse_network_storage(const std::string& folder) {
    // statfs(2) magic numbers: NFS, SMB, SMB2/CIFS, 9p, FUSE. None promises our locks and renames.
    static constexpr std::array<std::uint32_t, 5> network = {0x6969, 0x517B, 0xFE534D42, 0x01021997, 0x65735546};
    struct statfs info {};
    if (::statfs(folder.c_str(), &info) != 0) {
        return status_from_errno(errno, "cannot look at " + folder);
    }
    const auto type = static_cast<std::uint32_t>(info.f_type);
    if (std::find(network.begin(), network.end(), type) != network.end()) {
        return {ErrorCode::unsupported_storage,
                folder + " is on a network file system, where locks and renames cannot be trusted; use a local disk"};
    }
    return {};
}

// The table is `path`, its parts are in `path`.ledger/, and `path`.lock keeps other runs out while one works.
class FileTarget final : public Target {
public:
    FileTarget(std::string path, std::int64_t lock_timeout_us)
        : path_(std::move(path)),
          parts_(path_ + ".ledger"),
          scratch_(path_ + ".tmp-" + std::to_string(getpid())),
          lock_timeout_us_(lock_timeout_us) {}
    ~FileTarget() override { FileTarget::end(); }
    FileTarget(const FileTarget&) = delete;
    FileTarget& operator=(const FileTarget&) = delete;

    Status begin(Clock& clock, const Interrupt& interrupt) override {
        HG_RETURN_IF_ERROR(make_folders(parent_folder(path_)));
        HG_RETURN_IF_ERROR(refuse_network_storage(parent_folder(path_)));
        const auto lock = path_ + ".lock";
        lock_ = FileDescriptor(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
        if (!lock_.ok()) {
            return status_from_errno(errno, "cannot create lock " + lock);
        }
        const auto deadline = Deadline::after(clock, lock_timeout_us_);
        while (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
            if (errno != EWOULDBLOCK && errno != EINTR) {
                return status_from_errno(errno, "cannot lock " + lock);
            }
            if (deadline.left_us(clock) <= 0) {
                return {ErrorCode::busy, "another run holds " + lock};
            }
            if (!sleep_interruptibly(clock, kLockPollUs, interrupt)) {
                return {ErrorCode::interrupted, "interrupted while waiting for " + lock};
            }
        }
        sweep_temporaries();
        return {};
    }

    Result<std::optional<std::string>> peek() override {
        HG_RETURN_IF_ERROR(identify(seen_));
        return seen_.there ? std::optional(path_) : std::nullopt;
    }

    Result<std::string> fetch() override { return path_; }

    Result<std::string> read_part(const std::string& name) override {
        auto bytes = read_file(parts_ + "/" + name);
        if (!bytes.ok() && bytes.status().code() == ErrorCode::not_found) {
            return Status(ErrorCode::corrupt_data, "a ledger segment of " + path_ + " is missing: " + name);
        }
        return bytes;
    }

    Status write_part(const std::string& name, std::string_view bytes) override {
        HG_RETURN_IF_ERROR(make_folders(parts_));
        return write_file_durably(parts_ + "/" + name, bytes);
    }

    std::string scratch() override {
        static_cast<void>(make_folders(scratch_));  // what cannot be written there says so itself
        return scratch_;
    }

    // The lock already keeps others out; the comparison catches a writer that does not honour it.
    Status commit(const std::string& path) override {
        Identity now;
        HG_RETURN_IF_ERROR(identify(now));
        if (!(now == seen_)) {
            return {ErrorCode::version_conflict, path_ + " changed while this run was working; run again"};
        }
        if (::rename(path.c_str(), path_.c_str()) != 0) {
            return status_from_errno(errno, "cannot replace " + path_);
        }
        return sync_folder(parent_folder(path_));
    }

    void sweep(const std::vector<std::string>& named_parts) override {
        const std::set<std::string> named(named_parts.begin(), named_parts.end());
        std::error_code error;
        for (const auto& entry : std::filesystem::directory_iterator(parts_, error)) {
            if (!named.contains(entry.path().filename().string())) {
                std::filesystem::remove(entry.path(), error);
            }
        }
    }

    void end() override {
        std::error_code ignored;
        std::filesystem::remove_all(scratch_, ignored);
    }

    bool may_race() const override { return false; }  // the lock sees to that
    std::string name() const override { return path_; }

private:
    struct Identity {
        bool there = false;
        std::uint64_t inode = 0;
        std::int64_t size = 0;
        std::int64_t modified_ns = 0;
        bool operator==(const Identity&) const = default;
    };

    // Of runs that died; whoever holds the lock works alone.
    void sweep_temporaries() const {
        std::error_code error;
        const auto prefix = std::filesystem::path(path_).filename().string() + ".tmp-";
        for (const auto& entry : std::filesystem::directory_iterator(parent_folder(path_), error)) {
            if (entry.path().filename().string().starts_with(prefix)) {
                std::filesystem::remove_all(entry.path(), error);
            }
        }
    }

    Status identify(Identity& out) const {
        struct stat info {};
        out = {};
        if (::stat(path_.c_str(), &info) == 0) {
            out = {true, info.st_ino, info.st_size, nanoseconds(info.st_mtim)};
            return {};
        }
        auto status = status_from_errno(errno, "cannot open " + path_);
        return status.code() == ErrorCode::not_found ? Status() : status;
    }

    std::string path_;
    std::string parts_;
    std::string scratch_;
    std::int64_t lock_timeout_us_;
    FileDescriptor lock_;
    Identity seen_;
};

class StagingTarget final : public Target {
public:
    StagingTarget(std::string footer_file, std::string out, std::shared_ptr<Target> parts)
        : footer_file_(std::move(footer_file)), out_(std::move(out)), parts_(std::move(parts)) {}

    // The caller holds `parts` open over several runs.
    Status begin(Clock& /*clock*/, const Interrupt& /*interrupt*/) override { return {}; }
    Result<std::optional<std::string>> peek() override {
        return footer_file_.empty() ? std::nullopt : std::optional(footer_file_);
    }
    Result<std::string> fetch() override { return footer_file_; }  // without rows: only new ones are written
    Result<std::string> read_part(const std::string& name) override { return parts_->read_part(name); }
    Status write_part(const std::string& name, std::string_view bytes) override {
        return parts_->write_part(name, bytes);
    }
    std::string scratch() override { return parent_folder(out_); }
    Status commit(const std::string& path) override {
        return ::rename(path.c_str(), out_.c_str()) == 0 ? Status() : status_from_errno(errno, "cannot write " + out_);
    }
    void sweep(const std::vector<std::string>& /*named_parts*/) override {}
    void end() override {}
    bool may_race() const override { return false; }
    std::string name() const override { return parts_->name(); }

private:
    std::string footer_file_;
    std::string out_;
    std::shared_ptr<Target> parts_;
};

}  // namespace

std::uint64_t file_tag(std::uint64_t size, std::int64_t mtime_ns) noexcept {
    SeededRandom mix(size * 0x9E3779B97F4A7C15ULL ^ static_cast<std::uint64_t>(mtime_ns));
    return mix.next();
}

std::shared_ptr<Source> make_folder_source(const std::string& folder) {
    return std::make_shared<FolderSource>(folder);
}

std::shared_ptr<Target> make_staging_target(std::string footer_file, std::string out, std::shared_ptr<Target> parts) {
    return std::make_shared<StagingTarget>(std::move(footer_file), std::move(out), std::move(parts));
}

std::shared_ptr<Target> make_file_target(const std::string& path, std::int64_t lock_timeout_us) {
    return std::make_shared<FileTarget>(path, lock_timeout_us);
}

}  // namespace headgate::checkpoint
