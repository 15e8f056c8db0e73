// Many keys in little memory.
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

// Keys in blocks of text: a string object each would double the memory of ten million names.
class KeyList {
public:
    void add(std::string_view key);
    void sort();
    std::size_t size() const { return keys_.size(); }
    std::string_view operator[](std::size_t i) const { return keys_[i]; }

private:
    friend class SortedKeys;
    std::vector<std::unique_ptr<char[]>> blocks_;
    std::size_t room_ = 0;  // in the last block
    char* end_ = nullptr;   // of what the last block holds
    std::vector<std::string_view> keys_;
};

// Sorted keys, each as what follows the part that it shares with the one before: names of one grammar share most of
// theirs. A third of the memory of a list, and read in the order in which they lie.
class SortedKeys {
public:
    // All keys of lists that are sorted each.
    static SortedKeys merged(std::vector<KeyList> sorted, std::size_t threads);
    void append(std::string_view key);  // after all others, which were appended too
    std::size_t size() const { return size_; }
    KeyList range(std::size_t begin, std::size_t end) const;

private:
    // Where every so many keys begin, the first of them whole.
    struct Coded {
        void put(const std::string& group);
        std::vector<std::unique_ptr<char[]>> blocks;
        std::vector<const char*> groups;
        std::size_t room = 0;  // in the last block
        char* end = nullptr;   // of what it holds
    };
    static Coded code(const std::string_view* begin, const std::string_view* end);

    Coded coded_;
    std::string group_;  // not full yet: what was appended last
    std::string last_;   // of its keys
    std::size_t size_ = 0;
};

// Neighbours of a sorted list, taken by one reader.
struct Stretch {
    std::size_t number = 0;  // of the stretches
    std::size_t begin = 0;   // of the keys
    std::shared_ptr<const KeyList> keys;
};

// What a run has to read: handed out in stretches, in order, to several readers, and perhaps still growing.
class ReadingList {
public:
    explicit ReadingList(std::size_t readers) : readers_(readers) {}
    ReadingList(KeyList keys, std::size_t readers);  // these, in whatever order, and no more

    void add(const KeyList& keys);  // sorted, and after all others
    void add(SortedKeys keys);      // to an empty list
    void close();                   // nothing more comes
    void cancel();                  // nothing more comes, and nothing more is to be read
    void clear();                   // frees the memory; nobody reads any more

    // True once there are keys, false when none will come; nothing when neither was so within `most`.
    std::optional<bool> any_within(std::chrono::milliseconds most) const;
    // Nothing: there is none now, and none to come if it is finished().
    std::optional<Stretch> next();
    // How many stretches it was altogether, once the last was handed out.
    std::optional<std::size_t> finished() const;
    std::size_t size() const;
    std::size_t readers() const;  // worth having: no more than there are files, as far as that is known

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

// The stretches that one reader has begun, until it is done with them.
class OpenStretches {
public:
    explicit OpenStretches(ReadingList& list) : list_(list) {}

    Fetcher::Coming next(Wanted& out);  // of the last stretch, or of another one of the list
    std::string_view operator[](std::size_t index) const;
    const Stretch& oldest() const { return open_.front(); }  // whoever has its keys may look at them for as long
    void close_before(std::size_t index);                    // keys before it are not asked for any more

private:
    ReadingList& list_;
    std::deque<Stretch> open_;
    std::size_t at_ = 0;
    std::size_t end_ = 0;  // of the last stretch
};

}  // namespace headgate::checkpoint
