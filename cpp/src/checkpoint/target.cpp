// Targets on disk: a table replaced by one rename under a lock, and the staging area of an append.
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <set>

#include "headgate/base/file.hpp"
#include "headgate/base/text.hpp"
#include "headgate/checkpoint/ports.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::int64_t kLockPollUs = 20'000;

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
    FileTarget(std::string path, std::int64_t lock_timeout_us, std::shared_ptr<FileSystem> files)
        : files_(std::move(files)),
          path_(std::move(path)),
          parts_(path_ + ".ledger"),
          scratch_(path_ + ".tmp-" + files_->process_name()),
          lock_timeout_us_(lock_timeout_us) {}
    ~FileTarget() override { FileTarget::end(); }
    FileTarget(const FileTarget&) = delete;
    FileTarget& operator=(const FileTarget&) = delete;

    Status begin(Clock& clock, const Interrupt& interrupt) override {
        HG_RETURN_IF_ERROR(files_->make_folders(parent_folder(path_)));
        if (files_ == real_files()) {
            HG_RETURN_IF_ERROR(refuse_network_storage(parent_folder(path_)));
        }
        const auto lock = path_ + ".lock";
        const auto deadline = Deadline::after(clock, lock_timeout_us_);
        while (true) {
            auto held = files_->try_lock(lock);
            if (held.ok()) {
                lock_ = std::move(held.value());
                sweep_temporaries();
                return {};
            }
            if (held.status().code() != ErrorCode::busy || deadline.left_us(clock) <= 0) {
                return held.status();
            }
            if (!sleep_interruptibly(clock, kLockPollUs, interrupt)) {
                return {ErrorCode::interrupted, "interrupted while waiting for " + lock};
            }
        }
    }

    Result<std::optional<std::string>> peek() override {
        HG_RETURN_IF_ERROR(identify(seen_));
        return seen_.there ? std::optional(path_) : std::nullopt;
    }

    Result<std::string> fetch() override { return path_; }

    Result<std::string> read_part(const std::string& name) override {
        auto bytes = files_->read(parts_ + "/" + name, kMostPartBytes);
        if (bytes.ok()) {
            return bytes;
        }
        switch (bytes.status().code()) {
            case ErrorCode::not_found:
                return Status(ErrorCode::corrupt_data, "a ledger segment of " + path_ + " is missing: " + name);
            case ErrorCode::invalid_input:  // a device, a pipe or a folder
            case ErrorCode::message_too_large:
                return Status(ErrorCode::corrupt_data, bytes.status().message());
            default:
                return bytes;
        }
    }

    Status write_part(const std::string& name, std::string_view bytes) override {
        HG_RETURN_IF_ERROR(files_->make_folders(parts_));
        return write_file_durably(*files_, parts_ + "/" + name, bytes);
    }

    Status remove_part(const std::string& name) override { return files_->remove(parts_ + "/" + name); }

    Result<std::string> scratch() override {
        HG_RETURN_IF_ERROR(files_->make_folders(scratch_));
        return scratch_;
    }

    // The lock already keeps others out; the comparison catches a writer that does not honour it.
    Status commit(const std::string& path) override {
        Identity now;
        HG_RETURN_IF_ERROR(identify(now));
        if (!(now == seen_)) {
            return {ErrorCode::version_conflict, path_ + " changed while this run was working; run again"};
        }
        HG_RETURN_IF_ERROR(files_->rename(path, path_));
        HG_RETURN_IF_ERROR(files_->sync_folder(parent_folder(path_)));
        static_cast<void>(identify(seen_));  // for sweep(); it is committed, whatever this says
        return {};
    }

    // Not where somebody put another table: those parts may be its own.
    void sweep(const std::vector<std::string>& named_parts) override {
        Identity now;
        if (!identify(now).ok() || !(now == seen_)) {
            return;
        }
        const std::set<std::string> named(named_parts.begin(), named_parts.end());
        const auto parts = files_->names(parts_);
        for (const auto& name : parts.ok() ? parts.value() : std::vector<std::string>()) {
            if (!named.contains(name)) {
                static_cast<void>(remove_part(name));
            }
        }
    }

    void end() override { static_cast<void>(files_->remove_all(scratch_)); }

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
        const auto folder = parent_folder(path_);
        const auto prefix = std::string(base_name(path_)) + ".tmp-";
        const auto names = files_->names(folder);
        for (const auto& name : names.ok() ? names.value() : std::vector<std::string>()) {
            if (name.starts_with(prefix)) {
                static_cast<void>(files_->remove_all(folder + "/" + name));
            }
        }
    }

    Status identify(Identity& out) const {
        out = {};
        const auto info = files_->info(path_);
        if (info.ok() && !info.value().regular) {
            return {ErrorCode::invalid_input, path_ + " is no regular file, and cannot be a table"};
        }
        if (info.ok()) {
            out = {true, info.value().inode, info.value().size, info.value().modified_ns};
            return {};
        }
        return info.status().code() == ErrorCode::not_found ? Status() : info.status();
    }

    std::shared_ptr<FileSystem> files_;
    std::string path_;
    std::string parts_;
    std::string scratch_;
    std::int64_t lock_timeout_us_;
    std::unique_ptr<FileLock> lock_;
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
    Status remove_part(const std::string& name) override { return parts_->remove_part(name); }
    Result<std::string> scratch() override { return parent_folder(out_); }
    Status commit(const std::string& path) override {
        return ::rename(path.c_str(), out_.c_str()) == 0 ? Status() : status_from_errno(errno, "cannot write " + out_);
    }
    void sweep(const std::vector<std::string>& /*named_parts*/) override {}
    void end() override {}
    bool may_race() const override { return false; }
    // The parts are in `<table>/_headgate`.
    std::string name() const override { return parent_folder(parts_->name()); }

private:
    std::string footer_file_;
    std::string out_;
    std::shared_ptr<Target> parts_;
};

}  // namespace

std::shared_ptr<Target> make_staging_target(std::string footer_file, std::string out, std::shared_ptr<Target> parts) {
    return std::make_shared<StagingTarget>(std::move(footer_file), std::move(out), std::move(parts));
}

std::shared_ptr<Target> make_file_target(const std::string& path, std::int64_t lock_timeout_us,
                                         std::shared_ptr<FileSystem> files) {
    return std::make_shared<FileTarget>(path, lock_timeout_us, files ? std::move(files) : real_files());
}

}  // namespace headgate::checkpoint
