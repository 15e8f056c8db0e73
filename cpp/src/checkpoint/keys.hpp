// Many keys in little memory.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

namespace headgate::checkpoint {

// Keys in blocks of text: a string object each would double the memory of ten million names.
class KeyList {
public:
    // All keys of lists that are sorted each, in one sorted list.
    static KeyList merged(std::vector<KeyList> sorted, std::size_t threads);

    void add(std::string_view key);
    void sort();
    std::size_t size() const { return keys_.size(); }
    std::string_view operator[](std::size_t i) const { return keys_[i]; }

private:
    std::vector<std::unique_ptr<char[]>> blocks_;
    std::size_t room_ = 0;  // in the last block
    char* end_ = nullptr;   // of what the last block holds
    std::vector<std::string_view> keys_;
};

}  // namespace headgate::checkpoint
