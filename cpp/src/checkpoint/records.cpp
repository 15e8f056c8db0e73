#include "headgate/checkpoint/records.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "headgate/base/text.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kMostDepth = 128;  // of the way to the records, as of records
constexpr auto kNone = std::string_view::npos;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kBlanks = " \t\n\v\f\r\x1E";  // the last one is the record separator of RFC 7464

bool opens(std::string_view text, std::size_t at) {
    return at < text.size() && (text[at] == '{' || text[at] == '[');
}

std::size_t skip_blanks(std::string_view text, std::size_t at) {
    return std::min(text.find_first_not_of(kBlanks, at), text.size());
}

// After the closing quote; kNone when the line ends before it, as no string goes over two lines.
std::size_t end_of_string(std::string_view text, std::size_t at) {
    for (++at; at < text.size(); ++at) {
        if (text[at] == '"') {
            return at + 1;
        }
        if (text[at] == '\\') {
            ++at;
        } else if (text[at] == '\n') {
            break;
        }
    }
    return kNone;
}

// After the value that begins at `at`; kNone when it has no end. Brackets and strings are all that is looked at: the
// parser judges the rest.
std::size_t end_of_value(std::string_view text, std::size_t at) {
    for (std::size_t depth = 0; at < text.size(); ++at) {
        switch (text[at]) {
            case '"':
                at = end_of_string(text, at);
                if (at == kNone || depth == 0) {
                    return at;
                }
                --at;
                break;
            case '{':
            case '[':
                ++depth;
                break;
            case '}':
            case ']':
                if (depth <= 1) {
                    return depth == 1 ? at + 1 : at;
                }
                --depth;
                break;
            case ',':
            case ':':
            case ' ':
            case '\t':
            case '\n':
            case '\r':
                if (depth == 0) {
                    return at;
                }
                break;
            default:
                if (depth == 0) {
                    return std::min(text.find_first_of(" \t\r\n,:[]{}\"", at), text.size());
                }
        }
    }
    return kNone;
}

bool is_name(std::string_view quoted, std::string_view name) {
    if (quoted.find('\\') == kNone) {
        return quoted.substr(1, quoted.size() - 2) == name;
    }
    const auto text = nlohmann::json::parse(quoted, nullptr, false);
    return text.is_string() && text.get_ref<const std::string&>() == name;
}

// What a name promises, for files whose bytes do not tell.
enum class Named : std::uint8_t { document, lines, log };

Named promised_by(std::string_view key) {
    const auto name = schema::without_packing(key);
    static constexpr std::array<std::string_view, 4> kLines = {".jsonl", ".ndjson", ".jsonlines", ".ldjson"};
    if (std::any_of(kLines.begin(), kLines.end(), [&](auto ending) { return ends_with_ignoring_case(name, ending); })) {
        return Named::lines;
    }
    return ends_with_ignoring_case(name, ".log") ? Named::log : Named::document;
}

// Calls `each` with offset and text of every line that is not blank, without its outer blanks.
template <class Each>
void for_lines(std::string_view text, std::size_t begin, const Each& each) {
    for (auto at = begin; at < text.size();) {
        const auto end = std::min(text.find('\n', at), text.size());
        const auto first = skip_blanks(text, at);
        if (first < end) {
            const auto last = text.find_last_not_of(kBlanks, end - 1);
            each(first, text.substr(first, last + 1 - first));
        }
        at = end + 1;
    }
}

// Of a file that does not begin with a whole value: whether most lines are whole objects.
bool are_lines(std::string_view text, std::size_t begin) {
    std::size_t all = 0;
    std::size_t whole = 0;
    for_lines(text, begin, [&](std::size_t at, std::string_view line) {
        ++all;
        // Nested objects of a document that is written over several lines are indented.
        const bool indented = at > 0 && text[at - 1] != '\n';
        whole += !indented && line.front() == '{' && end_of_value(line, 0) == line.size() ? 1 : 0;
    });
    return whole > 0 && (whole + 2 >= all || 2 * whole > all);
}

std::size_t after_mark(std::string_view content) {
    return content.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0;
}

class Splitter {
public:
    Splitter(std::string_view text, std::span<const std::string> path, RecordSink& sink)
        : text_(text), path_(path), sink_(sink) {}

    void split(std::size_t begin, Named named) {
        const auto at = skip_blanks(text_, begin);
        if (at == text_.size()) {
            if (named == Named::document) {
                sink_.take(text_.substr(begin), begin);  // a document that is not there
            }
            return;
        }
        if (path_.empty() && text_[at] == '{' && sink_.take_object(text_.substr(begin), begin)) {
            return;
        }
        const auto end = opens(text_, at) ? end_of_value(text_, at) : kNone;
        const auto next = end == kNone ? kNone : skip_blanks(text_, end);
        if (next == text_.size()) {
            document(at, end, begin);
        } else if (next != kNone && opens(text_, next) && !is_own_line(at, end, next)) {
            documents(at);
        } else if ((next != kNone && opens(text_, next)) || named == Named::lines || are_lines(text_, begin)) {
            lines(begin);
        } else {
            sink_.take(text_.substr(begin), begin);
        }
    }

private:
    // Whether the value is on one line, and what comes next on another one.
    bool is_own_line(std::size_t at, std::size_t end, std::size_t next) const {
        return text_.find('\n', at) >= end && text_.substr(end, next - end).find('\n') != kNone;
    }

    void lines(std::size_t begin) {
        std::size_t taken = begin;  // up to here
        for_lines(text_, begin, [&](std::size_t at, std::string_view line) {
            if (at < taken) {
                return;
            }
            if (path_.empty() && line.front() == '{' && sink_.take_object(line, at)) {
                return;
            }
            if (is_sequence(line)) {
                Splitter(text_.substr(0, at + line.size()), path_, sink_).documents(at);
            } else if (const auto end = end_over_lines(line, at); end != kNone) {
                taken = end;
            } else {
                sink_.take(line, at);
            }
        });
    }

    // Among lines there may be a document that goes over several: takes it, and gives its end. After one that has no
    // end no other is looked for: a file of torn lines would be read to its end for each of them.
    std::size_t end_over_lines(std::string_view line, std::size_t at) {
        if (!may_go_over_lines_ || !path_.empty() || line.front() != '{' || end_of_value(line, 0) != kNone) {
            return kNone;
        }
        const auto end = end_of_value(text_, at);
        may_go_over_lines_ = end != kNone && sink_.take_object(text_.substr(at, end - at), at);
        return may_go_over_lines_ ? end : kNone;
    }

    static bool is_sequence(std::string_view line) {
        for (std::size_t at = 0; at < line.size(); at = skip_blanks(line, at)) {
            if (!opens(line, at) || (at = end_of_value(line, at)) == kNone) {
                return false;
            }
        }
        return true;
    }

    void documents(std::size_t at) {
        while ((at = skip_blanks(text_, at)) < text_.size()) {
            const auto end = opens(text_, at) ? end_of_value(text_, at) : kNone;
            if (end == kNone) {
                sink_.take(text_.substr(at), at);
                return;
            }
            document(at, end, at);
            at = end;
        }
    }

    // `begin` is where errors say that it begins.
    void document(std::size_t at, std::size_t end, std::size_t begin) {
        const bool is_array = text_[at] == '[';
        if ((path_.empty() && !is_array) || text_[end - 1] != (is_array ? ']' : '}')) {
            sink_.take(text_.substr(at, end - at), begin);
            return;
        }
        sink_.begin_document(end);
        if (path_.empty()) {
            elements(at, end, [this](std::size_t from, std::size_t to) { take(from, to); });
        } else {
            inside(at, end, begin, 0, 0);
        }
        sink_.end_document();
    }

    void take(std::size_t from, std::size_t to) { sink_.take(text_.substr(from, to - from), from); }

    // Calls `each` with begin and end of every element; what follows something that is none is one bad record.
    template <class Each>
    void elements(std::size_t at, std::size_t end, const Each& each) {
        if (text_[end - 1] != ']') {
            return take(at, end);
        }
        const auto inner = text_.substr(0, end - 1);
        at = skip_blanks(inner, at + 1);
        for (bool first = true; at < inner.size() || !first; first = false) {
            const auto to = at < inner.size() ? end_of_value(inner, at) : kNone;
            if (to == kNone || to == at) {
                return take(std::min(at, end - 1), end);
            }
            each(at, to);
            at = skip_blanks(inner, to);
            if (at == inner.size()) {
                return;
            }
            if (inner[at] != ',') {
                return take(at, end);
            }
            at = skip_blanks(inner, at + 1);
        }
    }

    // The records behind path_[level...] in the value from `at` to `end`.
    void inside(std::size_t at, std::size_t end, std::size_t document, std::size_t level, std::size_t depth) {
        if (depth > kMostDepth) {
            return sink_.refuse(document, error_kind(ErrorCode::nesting_too_deep));
        }
        if (text_[at] == '[') {
            const bool arrived = level == path_.size();
            elements(at, end, [&](std::size_t from, std::size_t to) {
                arrived ? take(from, to) : inside(from, to, document, level, depth + 1);
            });
            return;
        }
        const bool is_object = text_[at] == '{' && text_[end - 1] == '}';
        const auto found = is_object && level < path_.size() ? members(at, end, path_[level]) : Found{};
        if (found.count == 1) {
            inside(found.begin, found.end, document, level + 1, depth + 1);
        } else {
            sink_.refuse(document, found.count > 1 ? "duplicate" : "records");
        }
    }

    struct Found {
        std::size_t begin = 0;
        std::size_t end = 0;
        std::size_t count = 0;
    };

    // The members of that name in the object from `at` to `end`.
    Found members(std::size_t at, std::size_t end, std::string_view name) const {
        Found found;
        const auto inner = text_.substr(0, end - 1);
        for (at = skip_blanks(inner, at + 1); at < inner.size() && inner[at] == '"'; at = skip_blanks(inner, at + 1)) {
            const auto key_end = end_of_string(inner, at);
            const auto colon = key_end == kNone ? inner.size() : skip_blanks(inner, key_end);
            const auto value =
                colon < inner.size() && inner[colon] == ':' ? skip_blanks(inner, colon + 1) : inner.size();
            const auto value_end = value < inner.size() ? end_of_value(inner, value) : kNone;
            if (value_end == kNone) {
                return {};
            }
            if (is_name(inner.substr(at, key_end - at), name)) {
                found = {value, value_end, found.count + 1};
            }
            at = skip_blanks(inner, value_end);
            if (at == inner.size() || inner[at] != ',') {
                break;
            }
        }
        return found;
    }

    std::string_view text_;
    std::span<const std::string> path_;
    RecordSink& sink_;
    bool may_go_over_lines_ = true;
};

}  // namespace

void split_records(std::string_view key, std::string_view content, std::span<const std::string> path,
                   RecordSink& sink) {
    Splitter(content, path, sink).split(after_mark(content), promised_by(key));
}

bool names_lines(std::string_view key) {
    return promised_by(key) != Named::document;
}

bool holds_lines(std::string_view key, std::string_view content) {
    const auto begin = after_mark(content);
    const auto at = skip_blanks(content, begin);
    const auto end_of_line = std::min(content.find('\n', at), content.size());
    const auto next_line = skip_blanks(content, end_of_line);
    if (next_line == content.size()) {  // one line, or none
        return names_lines(key) && (at == content.size() || content[at] != '[');
    }
    const auto line = content.substr(at, end_of_text(content.substr(0, end_of_line)) - at);
    if (opens(content, at) && opens(content, next_line) && end_of_value(line, 0) == line.size()) {
        return true;
    }
    const bool promised = promised_by(key) == Named::lines;
    if (!promised && content.find("\n{", at) == kNone) {
        return false;  // without a look at all of a document that is written over several lines
    }
    const auto end = opens(content, at) ? end_of_value(content, at) : kNone;
    const bool is_one_document = end != kNone && skip_blanks(content, end) == content.size();
    return !is_one_document && (promised || are_lines(content, begin));
}

std::size_t begin_of_text(std::string_view content, std::size_t offset) {
    return skip_blanks(content, offset == 0 ? after_mark(content) : offset);
}

std::size_t end_of_text(std::string_view text) {
    const auto last = text.find_last_not_of(kBlanks);
    return last == kNone ? 0 : last + 1;
}

bool is_whole_object(std::string_view text) {
    const auto at = skip_blanks(text, 0);
    const auto end = at < text.size() && text[at] == '{' ? end_of_value(text, at) : kNone;
    return end != kNone && skip_blanks(text, end) == text.size();
}

}  // namespace headgate::checkpoint
