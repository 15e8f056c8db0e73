// Listed files in batches, and the threads that decide about each while the source is still being listed.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "headgate/base/limit.hpp"
#include "headgate/base/mutex.hpp"
#include "headgate/base/threads.hpp"
#include "headgate/checkpoint/ports.hpp"
#include "keys.hpp"

namespace headgate::checkpoint {

// What becomes of a listed file.
enum class Decision : std::uint8_t { take, known, deferred, vanished, ignored };

using DecisionCounts = std::array<std::int64_t, 5>;  // by Decision

// Listed objects. Once they are decided about: the sorted keys of those to take.
struct ListedBatch {
    KeyList keys;
    std::vector<Object> objects;  // of a listing that says more than names
    Object object(std::size_t i) const {
        auto out = i < objects.size() ? objects[i] : Object();
        out.key = keys[i];
        return out;
    }
    DecisionCounts counts{};
};

// Decides about listed files on several threads. For a known file in a folder this asks for its size and time, which
// takes longer than listing. The listing thread helps when the others fall behind, and when it has listed everything.
class BatchWorkers {
public:
    // The second argument of `decide`: whether it is called by the listing thread.
    BatchWorkers(std::size_t threads, std::function<void(ListedBatch&, bool)> decide)
        : others_(threads - 1), decide_(std::move(decide)) {}
    ~BatchWorkers() { close(); }
    BatchWorkers(const BatchWorkers&) = delete;
    BatchWorkers& operator=(const BatchWorkers&) = delete;

    // Adds a listed object. By the listing thread only.
    void add(const Object& object) {
        if (batches_.empty() || batches_.back().keys.size() == kKeysPerBatch) {
            publish();
            const MutexLock lock(mutex_);
            batches_.emplace_back();
        }
        auto& batch = batches_.back();
        batch.keys.add(object.key);
        if (object.looked_at) {
            batch.objects.resize(batch.keys.size() - 1);
            batch.objects.push_back(object);
        }
    }

    // Waits until all are decided about.
    std::deque<ListedBatch>& finish() {
        publish();
        work(0);
        join();
        return batches_;
    }

private:
    static constexpr std::size_t kKeysPerBatch = limit(4'096, 3);
    static constexpr std::size_t kMostWaiting = limit(16, 2);  // batches
    static constexpr auto kPoll = std::chrono::milliseconds(50);

    // The last batch is full, or nothing comes any more.
    void publish() {
        {
            const MutexLock lock(mutex_);
            ready_ = batches_.size();
        }
        changed_.notify_one();
        if (!batches_.empty() && threads_.size() < others_) {
            threads_.start([this] { stay(); });
        }
        work(kMostWaiting);
    }

    // Decides about batches on the listing thread until at most `waiting` are left.
    void work(std::size_t waiting) {
        while (auto* batch = next(waiting)) {
            decide_(*batch, true);
        }
    }

    // Decides about batches on another thread until close() is called. The mutex is not held meanwhile.
    void stay() {
        while (auto* batch = wait_for_next()) {
            decide_(*batch, false);
        }
    }

    // The next batch to decide about, or nullptr if no more than `waiting` are left.
    ListedBatch* next(std::size_t waiting) {
        const MutexLock lock(mutex_);
        return ready_ - next_ > waiting ? &batches_[next_++] : nullptr;
    }

    // The next batch to decide about, or nullptr after close().
    ListedBatch* wait_for_next() {
        const MutexLock lock(mutex_);
        while (!closed_ && next_ == ready_) {
            changed_.wait_until(mutex_, std::chrono::steady_clock::now() + kPoll);
        }
        return closed_ ? nullptr : &batches_[next_++];
    }

    // Nothing is added any more, or a decision has thrown.
    void close() {
        const MutexLock lock(mutex_);
        closed_ = true;
        changed_.notify_all();
    }

    void join() {
        close();
        threads_.join();
    }

    std::size_t others_;
    std::function<void(ListedBatch&, bool)> decide_;
    Mutex mutex_;
    ConditionVariable changed_;  // a batch is ready, or close() was called
    // Only the listing thread adds a batch, with the mutex held, so that it may look at the last one without it.
    // Batches stay where they are: each belongs to the thread that decides about it.
    std::deque<ListedBatch> batches_;
    std::size_t ready_ HG_GUARDED_BY(mutex_) = 0;  // how many batches are full
    std::size_t next_ HG_GUARDED_BY(mutex_) = 0;   // how many batches a thread has taken
    bool closed_ HG_GUARDED_BY(mutex_) = false;
    Threads threads_{[this] { close(); }};  // last: they use the rest
};

}  // namespace headgate::checkpoint
