// Passes pieces from the threads that read files to the thread that consumes them.
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "headgate/base/limit.hpp"
#include "headgate/base/mutex.hpp"
#include "headgate/base/status.hpp"
#include "reading.hpp"

namespace headgate::checkpoint {

inline constexpr std::size_t kPieceBytes = limit(8U << 20U, 64);  // a larger stretch is handed over in pieces

// A bounded queue in which worker threads put pieces, and from which one thread takes them in the order of their key
// ranges ("stretches"). If more than kAheadBytes are waiting, workers that are ahead of the consumer block.
class Exchange {
public:
    static constexpr auto kPoll = std::chrono::milliseconds(50);

    void put(std::size_t stretch, Piece piece, std::size_t bytes, bool last) {
        const MutexLock lock(mutex_);
        while (held_ + bytes > kAheadBytes && held_ > 0 && (stretch != first_ || ready()) && !stopped_) {
            changed_.wait_for(mutex_, kPoll);
        }
        held_ += bytes;
        slots_.resize(std::max(slots_.size(), stretch - first_ + 1));
        auto& slot = slots_[stretch - first_];
        slot.pieces.emplace_back(std::move(piece), bytes);
        slot.done = last;
        changed_.notify_all();
    }

    // Waits up to kPoll for the next piece in order. Returns nothing if there was none in that time, or if a worker has
    // ended meanwhile.
    std::optional<Piece> take() {
        const MutexLock lock(mutex_);
        if (!ready() && !std::exchange(ended_, false)) {
            changed_.wait_for(mutex_, kPoll);
        }
        if (!ready()) {
            return std::nullopt;
        }
        auto& slot = slots_.front();
        auto out = std::move(slot.pieces.front().first);
        held_ -= slot.pieces.front().second;
        slot.pieces.pop_front();
        if (slot.pieces.empty() && slot.done) {
            slots_.pop_front();
            ++first_;
        }
        changed_.notify_all();
        return out;
    }

    // Takes back a piece that was consumed, so that its memory is used again.
    void give_back(Piece piece) {
        if (piece.columns.memory_bytes() > kPieceBytes) {
            return;
        }
        piece.files.clear();
        piece.columns.clear();
        piece.keys.reset();
        const MutexLock lock(mutex_);
        spare_.push_back(std::move(piece));
    }
    std::optional<Piece> spare() {
        const MutexLock lock(mutex_);
        if (spare_.empty()) {
            return std::nullopt;
        }
        auto out = std::move(spare_.back());
        spare_.pop_back();
        return out;
    }

    // How many key ranges were consumed completely.
    std::size_t taken() {
        const MutexLock lock(mutex_);
        return first_;
    }

    // A worker calls this when it has ended, because there may be nothing to wait for any more.
    void end() {
        const MutexLock lock(mutex_);
        ended_ = true;
        changed_.notify_all();
    }

    void stop(Status why = {}) {
        const MutexLock lock(mutex_);
        stopped_ = true;
        if (error_.ok()) {
            error_ = std::move(why);
        }
        changed_.notify_all();
    }
    Status error() {
        const MutexLock lock(mutex_);
        return error_;
    }

private:
    static constexpr std::size_t kAheadBytes = limit(64U << 20U, 200);  // the size of the pieces that may wait

    struct Slot {
        std::deque<std::pair<Piece, std::size_t>> pieces;
        bool done = false;
    };
    bool ready() const HG_REQUIRES(mutex_) { return !slots_.empty() && !slots_.front().pieces.empty(); }

    Mutex mutex_;
    ConditionVariable changed_;
    // One slot for each key range that was not consumed completely.
    std::deque<Slot> slots_ HG_GUARDED_BY(mutex_);
    // The number of slots_.front().
    std::size_t first_ HG_GUARDED_BY(mutex_) = 0;
    // The size in bytes of all pieces in the slots.
    std::size_t held_ HG_GUARDED_BY(mutex_) = 0;
    std::vector<Piece> spare_ HG_GUARDED_BY(mutex_);
    bool ended_ HG_GUARDED_BY(mutex_) = false;
    bool stopped_ HG_GUARDED_BY(mutex_) = false;
    Status error_ HG_GUARDED_BY(mutex_);
};

}  // namespace headgate::checkpoint
