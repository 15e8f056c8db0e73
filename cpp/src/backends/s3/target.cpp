// The target of a checkpoint on S3: the table is read by ranges and replaced by one conditional PUT.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <set>

#include "client.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/scratch.hpp"
#include "headgate/base/text.hpp"

namespace headgate::backends {
namespace {

using namespace s3;

constexpr std::uint64_t kTail = 1U << 20U;  // how many bytes at the end of the table are read first
constexpr std::uint64_t kLargestPut = 5ULL << 30U;
// Parts that no commit names are removed only at this age: younger ones may belong to a run that has not finished.
constexpr std::int64_t kOrphanUs = 86'400'000'000;

class S3Target final : public checkpoint::Target {
public:
    S3Target(std::shared_ptr<Shared> shared, std::string key, const std::string& scratch_parent)
        : shared_(std::move(shared)), client_(shared_), key_(std::move(key)), scratch_parent_(scratch_parent) {}
    ~S3Target() override { S3Target::end(); }
    S3Target(const S3Target&) = delete;
    S3Target& operator=(const S3Target&) = delete;

    Status begin(Clock& /*clock*/, const Interrupt& interrupt) override {
        interrupt_ = interrupt;
        return {};
    }

    Result<std::optional<std::string>> peek() override {
        etag_.clear();
        size_ = 0;
        std::string code;
        auto answer =
            client_.send({"GET", key_, {}, {{"range", "bytes=-" + std::to_string(kTail)}}, "", ""}, interrupt_, &code);
        if (!answer.ok()) {
            // Only this error code means that there is no checkpoint yet.
            if (answer.status().code() == ErrorCode::not_found && code != "NoSuchBucket") {
                return std::optional<std::string>();
            }
            return about(answer.status());
        }
        etag_ = answer.value().header("etag");
        const auto& tail = answer.value().body;
        size_ = total_size(answer.value());
        if (size_ < tail.size()) {
            return Status(ErrorCode::malformed_response, name() + ": S3 sent more than the object has");
        }
        // To read the footer, a sparse file of the right size that contains the end of the table is enough.
        HG_ASSIGN(const auto folder, scratch());
        const auto path = folder + "/peek";
        const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        if (!file.ok() || ::ftruncate(file.get(), static_cast<off_t>(size_)) != 0) {
            return status_from_errno(errno, "cannot write " + path);
        }
        HG_RETURN_IF_ERROR(write_at(file, size_ - tail.size(), tail, "a temporary file"));
        // The last eight bytes of a Parquet file are the length of its footer (little endian) and "PAR1".
        if (tail.size() >= 8 && tail.substr(tail.size() - 4) == "PAR1" && tail.size() < size_) {
            std::uint32_t footer = 0;
            std::memcpy(&footer, tail.data() + tail.size() - 8, sizeof footer);
            if (const std::uint64_t whole = std::uint64_t{footer} + 8; whole > tail.size() && whole <= size_) {
                HG_RETURN_IF_ERROR(download(file, size_ - whole, size_ - tail.size()));
            }
        }
        return std::optional(path);
    }

    Result<std::string> fetch() override {
        HG_ASSIGN(const auto folder, scratch());
        auto path = folder + "/table";
        const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        if (!file.ok()) {
            return status_from_errno(errno, "cannot write " + path);
        }
        HG_RETURN_IF_ERROR(download(file, 0, size_));
        return path;
    }

    Result<std::string> read_part(const std::string& name) override {
        // In ranges: the client's limit is that of the source's files.
        std::string bytes;
        auto missing = false;
        for (std::uint64_t size = 1; bytes.size() < size && !missing;) {
            const auto range =
                "bytes=" + std::to_string(bytes.size()) + "-" + std::to_string(bytes.size() + kS3RangeBytes - 1);
            auto answer = client_.send({"GET", part(name), {}, {{"range", range}}, "", ""}, interrupt_);
            missing = !answer.ok() && answer.status().code() == ErrorCode::not_found;
            if (!answer.ok() && !missing) {
                return about(answer.status());
            }
            if (answer.ok()) {
                size = total_size(answer.value());
                if (size > checkpoint::kMostPartBytes || answer.value().body.empty()) {
                    return Status(ErrorCode::corrupt_data,
                                  "a ledger segment of " + this->name() + " is too large to be one: " + name);
                }
                bytes += answer.value().body;
            }
        }
        if (!missing) {
            return bytes;
        }
        // Another run may have merged the segments meanwhile; it has then committed another table.
        if (const auto before = etag_; !peek().ok() || etag_ != before) {
            return Status(ErrorCode::version_conflict, this->name() + " changed while this run was working");
        }
        return Status(ErrorCode::corrupt_data, "a ledger segment of " + this->name() + " is missing: " + name);
    }

    Status write_part(const std::string& name, std::string_view bytes) override {
        Call call;
        call.method = "PUT";
        call.key = part(name);
        call.body = bytes;
        const auto answer = client_.send(call, interrupt_);
        return answer.ok() ? Status() : about(answer.status());
    }

    Status remove_part(const std::string& name) override {
        const auto answer = client_.send({"DELETE", part(name), {}, {}, "", ""}, interrupt_);
        return answer.ok() ? Status() : about(answer.status());
    }

    Result<std::string> scratch() override {
        if (!scratch_) {
            HG_ASSIGN(scratch_, ScratchFolder::make(scratch_parent_, *shared_->random));
        }
        return scratch_->path();
    }

    Status commit(const std::string& path) override {
        std::error_code error;
        if (std::filesystem::file_size(path, error) > kLargestPut) {
            return {ErrorCode::message_too_large,
                    name() + " would be larger than the 5 GiB of one conditional write; use a Delta table"};
        }
        Call call;
        call.method = "PUT";
        call.key = key_;
        call.body_file = path;
        call.headers.emplace_back(etag_.empty() ? "if-none-match" : "if-match", etag_.empty() ? "*" : etag_);
        const auto answer = client_.send(call, interrupt_);
        if (answer.ok()) {
            return {};
        }
        // If-Match fails with this code if the object was removed meanwhile, which is a lost race too.
        if (answer.status().code() == ErrorCode::not_found && !etag_.empty()) {
            return {ErrorCode::version_conflict, name() + " was removed while this run was working"};
        }
        return about(answer.status());
    }

    void sweep(const std::vector<std::string>& named_parts) override {
        const std::set<std::string> named(named_parts.begin(), named_parts.end());
        auto options = shared_->options;
        options.prefix = part("");
        const auto listed = make_s3_source(std::move(options), shared_->clock, shared_->random);
        const auto now = shared_->clock->now_us();
        std::vector<std::string> orphans;
        static_cast<void>(listed->list({}, interrupt_, [&](const checkpoint::Object& object) {
            if (!named.contains(std::string(object.key)) && object.modified_us < now - kOrphanUs) {
                orphans.emplace_back(object.key);
            }
        }));
        for (const auto& orphan : orphans) {
            static_cast<void>(remove_part(orphan));
        }
    }

    void end() override { scratch_.reset(); }

    bool may_race() const override { return true; }
    std::string name() const override { return "s3://" + shared_->options.bucket + "/" + key_; }

private:
    // Of the object that a ranged answer is a part of.
    static std::uint64_t total_size(const net::HttpResponse& answer) {
        std::uint64_t size = answer.body.size();
        if (const auto range = answer.header("content-range"); range.find('/') != std::string_view::npos) {
            const auto total = range.substr(range.find('/') + 1);
            std::from_chars(total.data(), total.data() + total.size(), size);
        }
        return size;
    }

    std::string part(const std::string& name) const { return key_ + ".ledger/" + name; }

    Status about(const Status& status) const { return {status.code(), name() + ": " + status.message()}; }

    Status download(const FileDescriptor& file, std::uint64_t begin, std::uint64_t end) {
        for (auto at = begin; at < end; at += kS3RangeBytes) {
            const auto last = std::min(end, at + kS3RangeBytes) - 1;
            const auto range = "bytes=" + std::to_string(at) + "-" + std::to_string(last);
            const auto answer =
                client_.send({"GET", key_, {}, {{"if-match", etag_}, {"range", range}}, "", ""}, interrupt_);
            if (!answer.ok()) {
                return about(answer.status());
            }
            if (answer.value().body.size() != last - at + 1) {
                return {ErrorCode::malformed_response, name() + ": S3 sent another range than was asked for"};
            }
            HG_RETURN_IF_ERROR(write_at(file, at, answer.value().body, "a temporary file"));
        }
        return {};
    }

    std::shared_ptr<Shared> shared_;
    Client client_;
    std::string key_;
    std::string scratch_parent_;
    std::optional<ScratchFolder> scratch_;
    std::string etag_;
    std::uint64_t size_ = 0;
    Interrupt interrupt_;
};

}  // namespace

std::shared_ptr<checkpoint::Target> make_s3_target(S3Options options, std::string key,
                                                   const std::string& scratch_parent, std::shared_ptr<Clock> clock,
                                                   std::shared_ptr<Random> random) {
    auto shared = share(std::move(options), std::move(clock), std::move(random));
    return std::make_shared<S3Target>(std::move(shared), std::move(key), scratch_parent);
}

}  // namespace headgate::backends
