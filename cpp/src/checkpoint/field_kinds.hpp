// What one record says of its fields: which kinds of values its top-level members have.
#pragma once

#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "headgate/base/status.hpp"
#include "headgate/base/text.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::checkpoint {

enum Kind : unsigned {
    kNull = 1U,
    kTimestamp = 2U,
    kDate = 4U,
    kText = 8U,
    kInteger = 16U,
    kReal = 32U,
    kBoolean = 64U,
    kTexts = 128U,
    kOther = 256U,
    kZoned = 512U,        // a timestamp that names its zone
    kBigInteger = 1024U,  // an integer that a float64 may not hold
    kNaive = 2048U,       // a timestamp that names no zone
    kOddTime = 4096U,     // of a year that no timestamp has: one such value makes no column of times text
};

inline unsigned kind_of_text(std::string_view text) {
    if (text.size() == 10 && parse_date(text)) {
        return kDate;
    }
    if (text.find('T') == std::string_view::npos) {
        return kText;
    }
    const auto time = parse_timestamp_text(text);
    if (!time.ok()) {
        return time.status().code() == ErrorCode::number_out_of_range ? kOddTime : kText;
    }
    return time.value().has_zone ? kTimestamp | kZoned : kTimestamp | kNaive;
}

inline unsigned kind_of_integer(std::string_view token) {
    // What int64 holds stays exact; a longer one is kept as JSON text.
    constexpr std::int64_t kMostExact = 1LL << 53;
    std::int64_t value = 0;
    if (std::from_chars(token.data(), token.data() + token.size(), value).ec != std::errc{}) {
        return kOther;
    }
    return value > kMostExact || value < -kMostExact ? kInteger | kBigInteger : kInteger;
}

// The handler of one document: notes the kinds of its top-level members.
class Notes {
public:
    using Times = std::map<std::string, schema::TimeForm>;
    Notes(std::size_t most, const Times& times) : times_(times), most_(most) {}

    void begin() {
        depth_ = 0;
        ignored_ = false;
        is_object_ = false;
        members_.clear();
    }
    bool start_object() {
        if (depth_ == 0) {
            is_object_ = true;
        }
        return open(kOther);
    }
    bool start_array() { return open(kTexts); }
    bool end_object() { return close(); }
    bool end_array() { return close(); }
    bool key(std::string_view name) {
        if (depth_ == 1) {
            ignored_ = members_.size() >= most_;
            if (!ignored_) {
                members_.emplace_back(std::string(name), 0U);
            }
        }
        return true;
    }
    bool string(std::string_view value) {
        if (depth_ == 1) {
            note(is_time(value, false) ? static_cast<unsigned>(kTimestamp) : kind_of_text(value));
        }
        return true;
    }
    bool number(std::string_view token, bool is_integer) {
        if (depth_ == 1 && is_time(token, true)) {
            return value(kTimestamp);
        }
        return value(is_integer ? kind_of_integer(token) : static_cast<unsigned>(kReal));
    }
    bool boolean(bool /*value*/) { return value(kBoolean); }
    bool null() { return value(kNull); }
    static Status status() { return {}; }

    bool is_object() const { return is_object_; }
    const std::vector<std::pair<std::string, unsigned>>& members() const { return members_; }

private:
    bool open(unsigned kind) {
        if (depth_ == 1) {
            note(kind);
        } else if (depth_ > 1) {
            note(kOther);  // deeper than a list of strings
        }
        ++depth_;
        return true;
    }
    bool close() {
        --depth_;
        return true;
    }
    bool value(unsigned kind) {
        if (depth_ > 0) {
            note(depth_ == 1 ? kind : static_cast<unsigned>(kOther));
        }
        return true;
    }
    // Whether the member that we are in is to be read as a time, and this is one.
    bool is_time(std::string_view text, bool is_number) const {
        if (times_.empty() || ignored_ || members_.empty()) {
            return false;
        }
        const auto form = times_.find(members_.back().first);
        bool exact = true;
        return form != times_.end() && schema::parse_time(form->second, text, is_number, exact).has_value();
    }
    void note(unsigned kind) {
        if (!members_.empty() && is_object_ && !ignored_) {
            members_.back().second |= kind;
        }
    }

    const Times& times_;
    const std::size_t most_;  // members of a document; more stay in `_rest`
    std::size_t depth_ = 0;
    bool ignored_ = false;  // the member that we are in
    bool is_object_ = false;
    std::vector<std::pair<std::string, unsigned>> members_;
};

}  // namespace headgate::checkpoint
