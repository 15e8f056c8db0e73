// Mutexes that say what they guard. Clang's thread-safety analysis, which `make check` runs, refuses code that reads or
// writes a guarded member without its mutex. Other compilers see the plain standard types.
//
//     class Counter {
//     public:
//         void add() {
//             const MutexLock lock(mutex_);
//             ++count_;
//         }
//
//     private:
//         Mutex mutex_;
//         int count_ HG_GUARDED_BY(mutex_) = 0;
//     };
//
// The analysis needs annotated types, and libstdc++'s std::mutex has no annotations. Therefore the core uses these
// types everywhere, and a test refuses std::mutex and its locks elsewhere. Constructors and destructors are not
// analysed: no other thread knows the object yet, or any more.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <shared_mutex>

#if defined(__clang__)
#define HG_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define HG_THREAD_ANNOTATION(x)
#endif

// On a member: it is read and written only while `mutex` is held.
#define HG_GUARDED_BY(mutex) HG_THREAD_ANNOTATION(guarded_by(mutex))
// On a function: the caller holds `mutex`, before and after the call.
#define HG_REQUIRES(...) HG_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define HG_REQUIRES_SHARED(...) HG_THREAD_ANNOTATION(requires_shared_capability(__VA_ARGS__))
// On a function: it returns with the mutex locked, or unlocked.
#define HG_ACQUIRE(...) HG_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define HG_ACQUIRE_SHARED(...) HG_THREAD_ANNOTATION(acquire_shared_capability(__VA_ARGS__))
#define HG_RELEASE(...) HG_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define HG_RELEASE_SHARED(...) HG_THREAD_ANNOTATION(release_shared_capability(__VA_ARGS__))
// On a class: a mutex, or an object that holds one for as long as it lives.
#define HG_CAPABILITY(name) HG_THREAD_ANNOTATION(capability(name))
#define HG_SCOPED_CAPABILITY HG_THREAD_ANNOTATION(scoped_lockable)
// On a function that the analysis cannot follow. Every use states the reason.
#define HG_NO_THREAD_SAFETY_ANALYSIS HG_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace headgate {

class HG_CAPABILITY("mutex") Mutex {
public:
    Mutex() = default;
    Mutex(const Mutex&) = delete;
    Mutex& operator=(const Mutex&) = delete;
    void lock() HG_ACQUIRE() { mutex_.lock(); }
    void unlock() HG_RELEASE() { mutex_.unlock(); }

private:
    friend class ConditionVariable;
    std::mutex mutex_;
};

// Holds a Mutex until the end of the scope. unlock() and lock() give it back in between, for instance around a callback
// that may take Python's global interpreter lock.
class HG_SCOPED_CAPABILITY MutexLock {
public:
    explicit MutexLock(Mutex& mutex) HG_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
    ~MutexLock() HG_RELEASE() {
        if (is_locked_) {
            mutex_.unlock();
        }
    }
    MutexLock(const MutexLock&) = delete;
    MutexLock& operator=(const MutexLock&) = delete;
    void lock() HG_ACQUIRE() {
        mutex_.lock();
        is_locked_ = true;
    }
    void unlock() HG_RELEASE() {
        is_locked_ = false;
        mutex_.unlock();
    }

private:
    Mutex& mutex_;
    bool is_locked_ = true;
};

// Several readers or one writer.
class HG_CAPABILITY("shared mutex") SharedMutex {
public:
    SharedMutex() = default;
    SharedMutex(const SharedMutex&) = delete;
    SharedMutex& operator=(const SharedMutex&) = delete;
    void lock() HG_ACQUIRE() { mutex_.lock(); }
    void unlock() HG_RELEASE() { mutex_.unlock(); }
    void lock_shared() HG_ACQUIRE_SHARED() { mutex_.lock_shared(); }
    void unlock_shared() HG_RELEASE_SHARED() { mutex_.unlock_shared(); }

private:
    std::shared_mutex mutex_;
};

// Holds a SharedMutex until the end of the scope, for reading.
class HG_SCOPED_CAPABILITY ReaderLock {
public:
    explicit ReaderLock(SharedMutex& mutex) HG_ACQUIRE_SHARED(mutex) : mutex_(mutex) { mutex_.lock_shared(); }
    ~ReaderLock() HG_RELEASE() { mutex_.unlock_shared(); }
    ReaderLock(const ReaderLock&) = delete;
    ReaderLock& operator=(const ReaderLock&) = delete;

private:
    SharedMutex& mutex_;
};

// Holds a SharedMutex until the end of the scope, for writing.
class HG_SCOPED_CAPABILITY WriterLock {
public:
    explicit WriterLock(SharedMutex& mutex) HG_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
    ~WriterLock() HG_RELEASE() { mutex_.unlock(); }
    WriterLock(const WriterLock&) = delete;
    WriterLock& operator=(const WriterLock&) = delete;

private:
    SharedMutex& mutex_;
};

// Waiting for another thread. Every wait has a time limit: std::condition_variable::wait needs a newer libstdc++ than
// AWS Lambda's (GLIBCXX_3.4.30), and waiting threads look for interrupts anyway. A wait may end early without a
// notification, so callers check their condition again.
class ConditionVariable {
public:
    void notify_one() noexcept { changed_.notify_one(); }
    void notify_all() noexcept { changed_.notify_all(); }

    // Unlocks `mutex` while it waits and locks it again before it returns. Returns false if the time was over.
    bool wait_until(Mutex& mutex, std::chrono::steady_clock::time_point end) HG_REQUIRES(mutex) {
        std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
        const auto result = changed_.wait_until(lock, end);
        lock.release();  // the caller still holds the mutex
        return result == std::cv_status::no_timeout;
    }
    bool wait_for(Mutex& mutex, std::chrono::milliseconds time) HG_REQUIRES(mutex) {
        return wait_until(mutex, std::chrono::steady_clock::now() + time);
    }

private:
    std::condition_variable changed_;
};

}  // namespace headgate
