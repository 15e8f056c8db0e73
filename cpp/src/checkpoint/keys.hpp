// Many keys in little memory.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <string_view>
#include <vector>

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
    static SortedKeys of(KeyList keys, std::size_t threads);  // keys in any order

    std::size_t size() const { return size_; }
    KeyList range(std::size_t begin, std::size_t end) const;

private:
    struct Coded;
    static Coded code(const std::string_view* begin, const std::string_view* end);

    std::vector<std::unique_ptr<char[]>> blocks_;
    std::vector<const char*> groups_;  // where every so many keys begin, the first of them whole
    std::size_t size_ = 0;
};

// The stretches of sorted keys that one reader has begun, until it is done with them.
class OpenStretches {
public:
    explicit OpenStretches(const SortedKeys& keys) : keys_(keys) {}

    void open(std::size_t begin, std::size_t end);
    std::string_view operator[](std::size_t index) const;
    // Of the oldest stretch; whoever has them may look at its keys for as long.
    const std::shared_ptr<const KeyList>& oldest() const { return open_.front().keys; }
    void close_before(std::size_t index);  // keys before it are not asked for any more

private:
    struct Stretch {
        std::size_t begin;
        std::shared_ptr<const KeyList> keys;
    };
    const SortedKeys& keys_;
    std::deque<Stretch> open_;
};

}  // namespace headgate::checkpoint
