// Lists of many keys, that is names of files, in little memory, and how they are divided among the threads that read
// files.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/mutex.hpp"
#include "headgate/checkpoint/ports.hpp"

namespace headgate::checkpoint {

// Keys in large blocks of text. A std::string for each would double the memory of ten million names. For one thread.
class KeyList {
public:
    void add(std::string_view key);
    void sort();
    std::size_t size() const { return keys_.size(); }
    std::string_view operator[](std::size_t i) const { return keys_[i]; }

private:
    friend class SortedKeys;
    std::vector<std::unique_ptr<char[]>> blocks_;
    std::size_t room_ = 0;  // how many bytes are free in the last block
    char* end_ = nullptr;   // where the free bytes of the last block begin
    std::vector<std::string_view> keys_;
};

// Sorted keys with prefix compression: a key is stored as the length of the prefix that it shares with the key before,
// and the rest. Names of log files share most of their text, so this takes a third of the memory of a KeyList.
class SortedKeys {
public:
    // Merges lists, each of which is sorted.
    static SortedKeys merged(std::vector<KeyList> sorted, std::size_t threads);
    void append(std::string_view key);  // `key` is greater than all others, which were appended too
    std::size_t size() const { return size_; }
    KeyList range(std::size_t begin, std::size_t end) const;

private:
    // Every kKeysPerGroup-th key is stored in full, and its position is kept in `groups`, so that reading a range
    // decodes at most kKeysPerGroup keys before it.
    struct Coded {
        void put(const std::string& group);
        std::vector<std::unique_ptr<char[]>> blocks;
        std::vector<const char*> groups;
        std::size_t room = 0;  // how many bytes are free in the last block
        char* end = nullptr;   // where they begin
    };
    static Coded code(const std::string_view* begin, const std::string_view* end);

    Coded coded_;
    std::string group_;  // the last group, which is not full yet
    std::string last_;   // the last key of this group
    std::size_t size_ = 0;
};

// A range of adjacent keys of a sorted list, which one reader reads.
struct Stretch {
    std::size_t number = 0;  // counts the ranges, from 0
    std::size_t begin = 0;   // the position of its first key in the list
    std::shared_ptr<const KeyList> keys;
};

// The keys of the files that a run has to read. Several reader threads take ranges of it, in order, while another
// thread may still add keys. All methods may be called from any thread, except clear().
class ReadingList {
public:
    explicit ReadingList(std::size_t readers) : readers_(readers) {}
    ReadingList(KeyList keys, std::size_t readers);  // exactly these keys, in any order

    void add(const KeyList& keys);  // sorted, and greater than all others
    void add(SortedKeys keys);      // the list is empty before
    void close();                   // no more keys will be added
    void cancel();                  // no more keys will be added, and those that are left are not read
    void clear();                   // frees the memory; nobody reads any more

    // Waits for keys. Returns true if there are some, false if there will be none, and nothing if neither was known
    // within `most`.
    std::optional<bool> any_within(std::chrono::milliseconds most) const;
    // Returns the next range to read, or nullopt if none is ready yet. If finished() also holds, there will be no more.
    std::optional<Stretch> next();
    // Returns the total number of ranges once the last one was taken, and nothing before.
    std::optional<std::size_t> finished() const;
    std::size_t size() const;
    std::size_t readers() const;  // how many readers are worth having: no more than there are files, if that is known

private:
    bool is_finished() const HG_REQUIRES(mutex_) { return closed_ && next_ == keys_.size(); }

    const std::size_t readers_;
    mutable Mutex mutex_;
    mutable ConditionVariable changed_;
    SortedKeys keys_ HG_GUARDED_BY(mutex_);
    std::size_t next_ HG_GUARDED_BY(mutex_) = 0;
    // How many stretches were handed out.
    std::size_t stretches_ HG_GUARDED_BY(mutex_) = 0;
    bool closed_ HG_GUARDED_BY(mutex_) = false;
};

// The ranges that one reader has begun and not finished. For one thread.
class OpenStretches {
public:
    explicit OpenStretches(ReadingList& list) : list_(list) {}

    Fetcher::Coming next(Wanted& out);  // takes the next key of the last range, or of a new range of the list
    std::string_view operator[](std::size_t index) const;
    const Stretch& oldest() const {
        return open_.front();
    }                                      // its keys stay valid for those who hold a reference to them
    void close_before(std::size_t index);  // keys before `index` are not needed any more

private:
    ReadingList& list_;
    std::deque<Stretch> open_;
    std::size_t at_ = 0;
    std::size_t end_ = 0;  // where the last range ends
};

}  // namespace headgate::checkpoint
