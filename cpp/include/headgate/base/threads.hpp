// Threads that are always joined, and whose exceptions reach whoever joins them.
#pragma once

#include <exception>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "headgate/base/mutex.hpp"

namespace headgate {

// A thread whose work throws does not end the process, and neither does an owner that throws before it has joined: the
// destructor joins. `stop`, when it is given, has to make the others end soon: it is called when a thread's work has
// thrown, on that thread, and by a destructor that finds threads which were not joined. It may be called several times.
// All but `stop` belongs to one thread.
class Threads {
public:
    explicit Threads(std::function<void()> stop = {}) : stop_(std::move(stop)) {}
    ~Threads() {
        if (!threads_.empty() && stop_) {
            stop_();
        }
        join_all();
    }
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

    template <class Work>
    void start(Work work) {
        threads_.emplace_back([this, work = std::move(work)]() mutable {
            try {
                work();
            } catch (...) {
                note(std::current_exception());
                if (stop_) {
                    stop_();
                }
            }
        });
    }

    std::size_t size() const { return threads_.size(); }

    // Waits for all of them; then the first exception that one of them has thrown is thrown here.
    void join() {
        join_all();
        std::exception_ptr error;
        {
            const MutexLock lock(mutex_);
            error = std::exchange(error_, nullptr);
        }
        if (error) {
            std::rethrow_exception(error);
        }
    }

private:
    void note(std::exception_ptr error) {
        const MutexLock lock(mutex_);
        if (!error_) {
            error_ = std::move(error);
        }
    }
    void join_all() {
        for (auto& thread : threads_) {
            thread.join();
        }
        threads_.clear();
    }

    std::function<void()> stop_;
    Mutex mutex_;
    std::exception_ptr error_ HG_GUARDED_BY(mutex_);
    std::vector<std::thread> threads_;
};

}  // namespace headgate
