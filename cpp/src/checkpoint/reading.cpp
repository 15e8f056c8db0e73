#include "reading.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "headgate/base/file.hpp"
#include "headgate/base/text.hpp"
#include "headgate/hash/identity.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kFilesPerBatch = 512;
constexpr auto kPoll = std::chrono::milliseconds(50);

struct CloseDir {
    void operator()(DIR* dir) const { closedir(dir); }
};

Status list_into(const std::string& root, const std::string& prefix, std::vector<std::string>& out) {
    const auto folder = prefix.empty() ? root : root + "/" + prefix;
    const std::unique_ptr<DIR, CloseDir> dir(opendir(folder.c_str()));
    if (!dir) {
        return status_from_errno(errno, "cannot list " + folder);
    }
    while (true) {
        errno = 0;
        const dirent* entry = readdir(dir.get());  // NOLINT(concurrency-mt-unsafe): the stream is ours alone
        if (entry == nullptr) {
            return errno == 0 ? Status() : status_from_errno(errno, "cannot list " + folder);
        }
        const std::string_view name = entry->d_name;
        if (name.front() == '.') {
            continue;
        }
        auto key = prefix.empty() ? std::string(name) : prefix + "/" + std::string(name);
        auto type = entry->d_type;
        if (type == DT_UNKNOWN || type == DT_LNK) {
            struct stat info {};
            if (::stat((root + "/" + key).c_str(), &info) != 0) {
                continue;  // vanished, or a dangling link
            }
            type = S_ISDIR(info.st_mode) && entry->d_type != DT_LNK ? DT_DIR
                   : S_ISREG(info.st_mode)                          ? DT_REG
                                                                    : DT_UNKNOWN;
        }
        if (type == DT_DIR) {
            HG_RETURN_IF_ERROR(list_into(root, key, out));
        } else if (type == DT_REG) {
            out.push_back(std::move(key));
        }
    }
}

// One per worker: its parser and its read buffer.
class Worker {
public:
    Worker(const Options& options, int folder, const Taken& known)
        : options_(options), folder_(folder), known_(known), reader_(options.schema) {}

    void run(const Listed& file, FileResult& result, schema::Columns& columns) {
        result.entry.key = file.digest;
        result.outcome = load(file.key, result);
        if (result.outcome != FileOutcome::read) {
            return;
        }
        const auto digest = hash::sha256(bytes_);
        std::memcpy(&result.entry.content, digest.data(), sizeof result.entry.content);
        if (const auto found = known_.find(file.digest);
            found != known_.end() && found->second.content == result.entry.content) {
            const auto tag = result.entry.tag;
            result.entry = found->second;
            result.entry.tag = tag;
            result.same_content = true;
            return;
        }
        parse(file.key, result, columns);
    }

private:
    FileOutcome load(const std::string& key, FileResult& result) {
        const FileDescriptor file(::openat(folder_, key.c_str(), O_RDONLY | O_CLOEXEC));
        if (!file.ok()) {
            return failed(errno, result);
        }
        struct stat info {};
        if (::fstat(file.get(), &info) != 0) {
            return failed(errno, result);
        }
        // The tag belongs to these very bytes: it comes from the open file, not from the listing.
        result.entry.tag = file_tag(static_cast<std::uint64_t>(info.st_size),
                                    info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec);
        bytes_.resize(static_cast<std::size_t>(info.st_size) + 1);
        std::size_t size = 0;
        while (true) {
            if (size == bytes_.size()) {
                bytes_.resize(bytes_.size() * 2);
            }
            const auto got = ::read(file.get(), bytes_.data() + size, bytes_.size() - size);
            if (got < 0 && errno == EINTR) {
                continue;
            }
            if (got < 0) {
                return failed(errno, result);
            }
            size += static_cast<std::size_t>(got);
            // The buffer is a byte larger than the file: a read that does not fill it has met the end.
            if (size < bytes_.size()) {
                break;
            }
        }
        bytes_.resize(size);
        result.bytes = size;
        return FileOutcome::read;
    }

    static FileOutcome failed(int error, FileResult& result) {
        result.error = status_from_errno(error, "cannot read a source file");
        switch (result.error.code()) {
            case ErrorCode::not_found:
                return FileOutcome::vanished;
            case ErrorCode::permission_denied:
                return FileOutcome::unreadable;
            default:
                return FileOutcome::failed;
        }
    }

    void parse(const std::string& key, FileResult& result, schema::Columns& columns) {
        const std::string_view all(bytes_);
        if (!key.ends_with(".jsonl")) {
            record(all, 0, result, columns);
        } else {
            for (std::size_t at = 0; at < all.size();) {
                const auto end = std::min(all.find('\n', at), all.size());
                if (!trim_blanks(all.substr(at, end - at)).empty()) {
                    record(all.substr(at, end - at), at, result, columns);
                }
                at = end + 1;
            }
        }
        result.entry.flags = result.entry.rows == 0 && !result.bad.empty() ? 1U : 0U;
    }

    void record(std::string_view text, std::uint64_t offset, FileResult& result, schema::Columns& columns) {
        ++result.records;
        const auto& problems = reader_.read(text, &columns);
        if (problems.empty()) {
            ++result.entry.rows;
        } else {
            result.bad.push_back({offset, problems});
        }
    }

    const Options& options_;
    int folder_;
    const Taken& known_;
    schema::RecordReader reader_;
    std::string bytes_;
};

}  // namespace

std::uint64_t file_tag(std::uint64_t size, std::int64_t mtime_ns) noexcept {
    SeededRandom mix(size * 0x9E3779B97F4A7C15ULL ^ static_cast<std::uint64_t>(mtime_ns));
    return mix.next();
}

Result<std::vector<std::string>> list_files(const std::string& folder) {
    std::vector<std::string> out;
    HG_RETURN_IF_ERROR(list_into(folder, "", out));
    std::sort(out.begin(), out.end());
    return out;
}

Result<std::vector<Batch>> read_files(const Options& options, const std::vector<Listed>& files, const Taken& known,
                                      const Environment& environment) {
    const FileDescriptor folder(::open(options.source.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder.ok()) {
        return status_from_errno(errno, "cannot open " + options.source);
    }
    std::vector<Batch> batches((files.size() + kFilesPerBatch - 1) / kFilesPerBatch);
    std::atomic<std::size_t> next{0};
    std::atomic<std::int64_t> done{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;
    std::condition_variable finished;
    std::size_t running = 0;

    const auto work = [&] {
        Worker worker(options, folder.get(), known);
        while (!stop.load(std::memory_order_relaxed)) {
            const auto b = next.fetch_add(1);
            if (b >= batches.size()) {
                break;
            }
            auto& batch = batches[b];
            batch.columns = schema::Columns::like(*options.schema);
            const auto begin = b * kFilesPerBatch;
            const auto end = std::min(files.size(), begin + kFilesPerBatch);
            batch.files.resize(end - begin);
            for (auto i = begin; i < end; ++i) {
                worker.run(files[i], batch.files[i - begin], batch.columns);
            }
            done.fetch_add(static_cast<std::int64_t>(end - begin));
        }
        const std::lock_guard lock(mutex);
        --running;
        finished.notify_all();
    };

    const auto wanted = options.threads != 0 ? options.threads : std::max(1U, std::thread::hardware_concurrency());
    running = std::min<std::size_t>(wanted, batches.size());
    std::vector<std::thread> threads;
    for (std::size_t i = running; i > 0; --i) {
        threads.emplace_back(work);
    }
    bool interrupted = false;
    std::unique_lock lock(mutex);
    while (running > 0) {
        // wait_until, not wait: the latter needs a newer libstdc++ than Lambda's.
        finished.wait_until(lock, std::chrono::steady_clock::now() + kPoll);
        lock.unlock();
        if (environment.interrupt && !interrupted && environment.interrupt()) {
            interrupted = true;
            stop = true;
        }
        if (environment.progress) {
            environment.progress(done.load(), static_cast<std::int64_t>(files.size()));
        }
        lock.lock();
    }
    lock.unlock();
    for (auto& thread : threads) {
        thread.join();
    }
    if (interrupted) {
        return Status(ErrorCode::interrupted, "interrupted while reading; nothing was written");
    }
    return batches;
}

}  // namespace headgate::checkpoint
