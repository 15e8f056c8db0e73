// What an inferred schema has no column for.
#pragma once

#include <functional>
#include <string_view>

#include "headgate/json/canonical.hpp"

namespace headgate::schema {

// The handler of a second pass over a record that has something for `_rest`: those members only, as canonical JSON.
class RestCollector {
public:
    using Wanted = std::function<bool(std::string_view)>;
    RestCollector(json::CanonicalWriter& writer, Wanted wanted) : writer_(writer), wanted_(std::move(wanted)) {
        writer_.clear();
    }
    bool start_object() {
        const bool outermost = depth_++ == 0;
        return !(outermost || on_) || writer_.start_object();
    }
    bool end_object() {
        const bool outermost = --depth_ == 0;
        return !(outermost || on_) || writer_.end_object();
    }
    bool start_array() {
        ++depth_;
        return !on_ || writer_.start_array();
    }
    bool end_array() {
        --depth_;
        return !on_ || writer_.end_array();
    }
    bool key(std::string_view name) {
        if (depth_ == 1) {
            on_ = wanted_(name);
        }
        return !on_ || writer_.key(name);
    }
    bool string(std::string_view value) { return !on_ || writer_.string(value); }
    bool number(std::string_view token, bool is_integer) { return !on_ || writer_.number(token, is_integer); }
    bool boolean(bool value) { return !on_ || writer_.boolean(value); }
    bool null() { return !on_ || writer_.null(); }
    Status status() const { return writer_.status(); }

private:
    json::CanonicalWriter& writer_;
    Wanted wanted_;
    std::size_t depth_ = 0;
    bool on_ = false;
};

}  // namespace headgate::schema
