// A source in memory that is listed page by page, in order as it says, or not.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/checkpoint/ports.hpp"

namespace headgate::tests {

class Bucket final : public checkpoint::Source {
public:
    std::map<std::string, std::string> objects;
    std::size_t page = 5;
    bool says_in_order = true;
    std::uint64_t shuffle = 0;  // a seed; 0: listed in order
    std::function<Status(std::size_t page)> before_page;
    std::function<void(std::string_view key)> before_read;

    Status list(const checkpoint::ListOptions& options, const Interrupt& interrupt,
                const std::function<void(const checkpoint::Object&)>& each) override {
        {
            const std::lock_guard lock(mutex_);
            ++listings_;
        }
        std::vector<std::string> keys;
        for (const auto& object : objects) {
            if (object.first.starts_with(options.prefix) && object.first > options.start_after) {
                keys.push_back(object.first);
            }
        }
        if (shuffle != 0) {
            SeededRandom random(shuffle);
            for (auto i = keys.size(); i > 1; --i) {
                std::swap(keys[i - 1], keys[random.next() % i]);
            }
        }
        for (std::size_t i = 0; i < keys.size(); ++i) {
            if (i % page == 0) {
                if (const auto status = before_page ? before_page(i / page) : Status(); !status.ok()) {
                    return status;
                }
                if (interrupt && interrupt()) {
                    return {ErrorCode::interrupted, "interrupted while listing"};
                }
            }
            each({keys[i], true, tag(objects.at(keys[i])), 0});
        }
        return {};
    }
    bool lists_in_order() const override { return says_in_order; }
    bool look_at(checkpoint::Object&) override { return true; }
    std::string name() const override { return "bucket"; }
    bool writes_are_atomic() const override { return true; }
    unsigned threads() const override { return 3; }

    Result<std::unique_ptr<checkpoint::Fetcher>> fetcher() override {
        struct Reader final : checkpoint::Fetcher {
            explicit Reader(Bucket& from) : bucket(from) {}
            void run(const Next& next, const Got& got, const Interrupt& stop) override {
                checkpoint::Wanted wanted;
                for (auto coming = next(wanted); coming != Coming::nothing && !stop(); coming = next(wanted)) {
                    if (coming == Coming::later) {
                        std::this_thread::yield();
                        continue;
                    }
                    if (bucket.before_read) {
                        bucket.before_read(wanted.key);
                    }
                    const auto& bytes = bucket.objects.at(std::string(wanted.key));
                    checkpoint::Fetched fetched;
                    fetched.index = wanted.index;
                    fetched.outcome = checkpoint::ReadOutcome::read;
                    fetched.bytes = bytes;
                    fetched.tag = tag(bytes);
                    got(fetched);
                    bucket.note_read();
                }
            }
            Bucket& bucket;
        };
        return std::unique_ptr<checkpoint::Fetcher>(std::make_unique<Reader>(*this));
    }

    // True once so many objects were read; false when that does not happen for long.
    bool wait_for_reads(std::size_t count) {
        std::unique_lock lock(mutex_);
        const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        return changed_.wait_until(lock, until, [&] { return reads_ >= count; });
    }
    std::size_t reads() const {
        const std::lock_guard lock(mutex_);
        return reads_;
    }
    std::size_t listings() const {
        const std::lock_guard lock(mutex_);
        return listings_;
    }

private:
    static std::uint64_t tag(const std::string& bytes) { return std::hash<std::string>()(bytes); }
    void note_read() {
        const std::lock_guard lock(mutex_);
        ++reads_;
        changed_.notify_all();
    }

    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t reads_ = 0;
    std::size_t listings_ = 0;
};

}  // namespace headgate::tests
