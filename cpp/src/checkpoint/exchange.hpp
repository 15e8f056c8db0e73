// How pieces go from the threads that read files to the one that takes them.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "headgate/base/limit.hpp"
#include "headgate/base/status.hpp"
#include "reading.hpp"

namespace headgate::checkpoint {

inline constexpr std::size_t kPieceBytes = limit(8U << 20U, 64);  // a larger stretch is handed over in pieces

// Where workers put their pieces and the caller takes them, stretch by stretch in order. A worker that is far ahead
// waits, unless the caller waits for it.
class Exchange {
public:
    static constexpr auto kPoll = std::chrono::milliseconds(50);

    void put(std::size_t stretch, Piece piece, std::size_t bytes, bool last) {
        std::unique_lock lock(mutex_);
        while (held_ + bytes > kAheadBytes && held_ > 0 && (stretch != first_ || ready()) && !stopped_) {
            changed_.wait_until(lock, std::chrono::steady_clock::now() + kPoll);
        }
        held_ += bytes;
        slots_.resize(std::max(slots_.size(), stretch - first_ + 1));
        auto& slot = slots_[stretch - first_];
        slot.pieces.emplace_back(std::move(piece), bytes);
        slot.done = last;
        changed_.notify_all();
    }

    // Nothing within the poll interval, or a worker has ended.
    std::optional<Piece> take() {
        std::unique_lock lock(mutex_);
        if (!ready() && !std::exchange(ended_, false)) {
            // wait_until, not wait: the latter needs a newer libstdc++ than Lambda's.
            changed_.wait_until(lock, std::chrono::steady_clock::now() + kPoll);
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

    // A piece that was used up comes back to be filled again: its memory has been paid for.
    void give_back(Piece piece) {
        if (piece.columns.memory_bytes() > kPieceBytes) {
            return;
        }
        piece.files.clear();
        piece.columns.clear();
        piece.keys.reset();
        const std::lock_guard lock(mutex_);
        spare_.push_back(std::move(piece));
    }
    std::optional<Piece> spare() {
        const std::lock_guard lock(mutex_);
        if (spare_.empty()) {
            return std::nullopt;
        }
        auto out = std::move(spare_.back());
        spare_.pop_back();
        return out;
    }

    // How many stretches were taken whole.
    std::size_t taken() {
        const std::lock_guard lock(mutex_);
        return first_;
    }

    // A worker has: perhaps there is nothing to wait for.
    void end() {
        const std::lock_guard lock(mutex_);
        ended_ = true;
        changed_.notify_all();
    }

    void stop(Status why = {}) {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
        if (error_.ok()) {
            error_ = std::move(why);
        }
        changed_.notify_all();
    }
    Status error() {
        const std::lock_guard lock(mutex_);
        return error_;
    }

private:
    static constexpr std::size_t kAheadBytes = limit(64U << 20U, 200);  // of pieces that nobody has taken yet

    struct Slot {
        std::deque<std::pair<Piece, std::size_t>> pieces;
        bool done = false;
    };
    bool ready() const { return !slots_.empty() && !slots_.front().pieces.empty(); }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Slot> slots_;  // of stretches that were not taken yet
    std::size_t first_ = 0;   // the number of slots_.front()
    std::size_t held_ = 0;
    std::vector<Piece> spare_;
    bool ended_ = false;
    bool stopped_ = false;
    Status error_;
};

}  // namespace headgate::checkpoint
