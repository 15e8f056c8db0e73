// The union of the fields of all records of a source, with the narrowest type that holds every value.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <unordered_map>
#include <utility>

#include "column_names.hpp"
#include "headgate/base/text.hpp"
#include "headgate/json/reader.hpp"
#include "reading.hpp"

namespace headgate::checkpoint {
namespace {

using namespace std::string_view_literals;
using Json = nlohmann::json;

constexpr std::size_t kNamesPerColumn = 16;  // are counted: where ids are names, every record brings new ones
constexpr auto kPoll = std::chrono::milliseconds(50);

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

struct Seen {
    unsigned kinds = 0;
    std::uint64_t records = 0;
    std::uint64_t last = 0;            // the number of the last of them: a name may come twice in one
    std::uint64_t first = UINT64_MAX;  // file and position of the first one: columns keep the order of the sender
};

using Fields = std::unordered_map<std::string, Seen>;
using Named = std::pair<std::string, Seen>;

// Leaves the `most` fields that the most records have; of equal ones those that came first.
void keep_frequent(std::vector<Named>& fields, std::size_t most) {
    if (fields.size() > most) {
        std::nth_element(fields.begin(), fields.begin() + static_cast<std::ptrdiff_t>(most), fields.end(),
                         [](const Named& a, const Named& b) {
                             return std::tie(b.second.records, a.second.first, a.first) <
                                    std::tie(a.second.records, b.second.first, b.first);
                         });
        fields.resize(most);
    }
}

// The fields that can be columns. Of names that readers take for one (they differ in case only), the one that the most
// records have; the others, and names that readers cannot take, stay in `_rest`.
std::vector<Named> readable_columns(const Fields& fields) {
    std::unordered_map<std::string, Named> best;
    for (const auto& field : fields) {
        auto folded = folded_name(field.first);
        if (!is_readable_name(folded)) {
            continue;
        }
        const auto found = best.find(folded);
        if (found == best.end()) {
            best.emplace(std::move(folded), field);
        } else if (std::tie(found->second.second.records, field.second.first) <
                   std::tie(field.second.records, found->second.second.first)) {
            found->second = field;
        }
    }
    std::vector<Named> out;
    out.reserve(best.size());
    for (auto& [folded, field] : best) {
        out.push_back(std::move(field));
    }
    return out;
}

unsigned kind_of_text(std::string_view text) {
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

unsigned kind_of_integer(std::string_view token) {
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
    explicit Notes(std::size_t most) : most_(most) {}

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
            note(kind_of_text(value));
        }
        return true;
    }
    bool number(std::string_view token, bool is_integer) { return value(is_integer ? kind_of_integer(token) : kReal); }
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
    void note(unsigned kind) {
        if (!members_.empty() && is_object_ && !ignored_) {
            members_.back().second |= kind;
        }
    }

    const std::size_t most_;  // members of a document; more stay in `_rest`
    std::size_t depth_ = 0;
    bool ignored_ = false;  // the member that we are in
    bool is_object_ = false;
    std::vector<std::pair<std::string, unsigned>> members_;
};

class Inferrer {
public:
    Inferrer(const InferOptions& options, const Environment& environment) : options_(options), env_(environment) {}

    Result<std::string> execute() {
        KeyList keys;
        HG_RETURN_IF_ERROR(env_.source->list({}, env_.interrupt, [&](const Object& object) {
            const auto name = schema::without_packing(object.key);
            const bool ours =
                schema::is_checkpoint_file(object.key) || belongs_to_target(object.key, options_.target_key);
            if (!ours && (name.ends_with(".json") || name.ends_with(".jsonl"))) {
                keys.add(object.key);
            }
        }));
        ReadingList list(std::move(keys), reading_threads(options_.threads, *env_.source));
        HG_RETURN_IF_ERROR(read(list));
        if (fields_.empty()) {
            return Status(ErrorCode::invalid_input,
                          "no schema can be inferred: there is no JSON object in a .json or "
                          ".jsonl file of " +
                              env_.source->name());
        }
        return plan();
    }

private:
    Status read(ReadingList& list) {
        std::size_t running = list.readers();
        std::vector<std::thread> threads;
        for (std::size_t i = running; i > 0; --i) {
            threads.emplace_back([this, &list, &running] {
                work(list);
                const std::lock_guard lock(mutex_);
                --running;
                finished_.notify_all();
            });
        }
        std::unique_lock lock(mutex_);
        while (running > 0) {
            finished_.wait_until(lock, std::chrono::steady_clock::now() + kPoll);
            lock.unlock();
            if (env_.interrupt && !stop_ && env_.interrupt()) {
                stop_ = true;
                interrupted_ = true;
            }
            lock.lock();
        }
        lock.unlock();
        for (auto& thread : threads) {
            thread.join();
        }
        return interrupted_ ? Status(ErrorCode::interrupted, "interrupted; nothing was written") : error_;
    }

    void work(ReadingList& list) {
        auto fetcher = env_.source->fetcher();
        if (!fetcher.ok()) {
            const std::lock_guard lock(mutex_);
            error_ = fetcher.status();
            return;
        }
        Fields fields;
        std::uint64_t records = 0;
        Notes notes(most_names());
        std::string buffer;
        OpenStretches open(list);
        fetcher.value()->run(
            [&](Wanted& out) { return open.next(out); },
            [&](const Fetched& fetched) {
                // What cannot be read or parsed is counted by the run itself.
                std::string_view content;
                open.close_before(fetched.index);
                const auto key = open[fetched.index];
                if (fetched.outcome != ReadOutcome::read ||
                    !unpacked(key, fetched.bytes, options_.max_file_bytes, env_.unpack, buffer, content).ok()) {
                    return;
                }
                each_record(key, content, [&](std::string_view text, std::uint64_t) {
                    notes.begin();
                    if (!json::parse_json(text, notes).ok() || !notes.is_object()) {
                        return;
                    }
                    ++records;
                    std::uint64_t position = fetched.index << 16U;
                    for (const auto& [name, kinds] : notes.members()) {
                        auto& seen = fields[name];
                        seen.kinds |= kinds;
                        seen.records += std::exchange(seen.last, records) == records ? 0 : 1;
                        seen.first = std::min(seen.first, position++);
                    }
                    if (fields.size() > most_names()) {
                        forget_rare(fields);
                    }
                });
            },
            [this] { return stop_.load(); });
        const std::lock_guard lock(mutex_);
        records_ += records;
        for (const auto& [name, seen] : fields) {
            auto& all = fields_[name];
            all.kinds |= seen.kinds;
            all.records += seen.records;
            all.first = std::min(all.first, seen.first);
        }
    }

    std::size_t most_names() const { return options_.max_columns * kNamesPerColumn; }

    // What every record has is never among them. A name that comes again is counted anew, and typed by what comes then:
    // values of another type go to `_rest`.
    void forget_rare(Fields& fields) const {
        std::vector<Named> kept(std::make_move_iterator(fields.begin()), std::make_move_iterator(fields.end()));
        keep_frequent(kept, most_names() / 2);
        fields = Fields(std::make_move_iterator(kept.begin()), std::make_move_iterator(kept.end()));
    }

    static const char* type_of(unsigned kinds) {
        if ((kinds & kOddTime) != 0 && (kinds & kTimestamp) == 0) {
            kinds |= kText;
        }
        switch (kinds & ~(kNull | kZoned | kNaive | kBigInteger | kOddTime)) {
            case kTimestamp:
                return "timestamp";
            case kDate:
                return "date";
            case kText:
            case kText | kDate:
            case kText | kTimestamp:
            case kDate | kTimestamp:
            case kText | kDate | kTimestamp:
                return "string";
            case kInteger:
                return "int64";
            case kReal:
            case kReal | kInteger:
                return "float64";
            case kBoolean:
                return "bool";
            default:
                return "json";  // several kinds, nested values, or nothing but null
        }
    }

    Result<std::string> plan() {
        Json out{{"format", 1},     {"name", options_.name},   {"extra", "rest"},
                 {"lenient", true}, {"fields", Json::array()}, {"file_names", {".+[.]jsonl?"}}};
        auto order = readable_columns(fields_);
        if (!options_.base_plan.empty()) {
            out = Json::parse(options_.base_plan);
            keep_columns_of(out, order);
        }
        const auto room = options_.max_columns - std::min(options_.max_columns, out["fields"].size());
        keep_frequent(order, room);
        std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
            return std::tie(a.second.first, a.first) < std::tie(b.second.first, b.first);
        });
        std::string sort_by = out.value("sort_by", "");
        for (const auto& [name, seen] : order) {
            const std::string type = type_of(seen.kinds);
            const bool always = seen.records == records_ && (seen.kinds & kNull) == 0;
            const bool wanted = options_.sort_by.empty() ? name == "timestamp" : name == options_.sort_by;
            if (options_.base_plan.empty() && wanted && type == "timestamp" && always) {
                sort_by = name;
            }
            auto& field = out["fields"].emplace_back(
                Json{{"name", name}, {"type", type}, {"required", false}, {"nullable", true}});
            if (type == "timestamp") {
                field["zoned"] = (seen.kinds & kZoned) != 0;
            }
        }
        if (!options_.sort_by.empty() && sort_by.empty()) {
            return Status(
                ErrorCode::invalid_input,
                "sort_by: '" + options_.sort_by + "' is not a timestamp in every record of " + env_.source->name());
        }
        out["sort_by"] = sort_by;
        return out.dump();
    }

    // Leaves the fields in `order` that are no columns of `base` yet, in whatever case. Integers of `base` become
    // float64 where other numbers have come and no value would be rounded.
    void keep_columns_of(Json& base, std::vector<Named>& order) const {
        std::set<std::string> names;
        for (auto& field : base.at("fields")) {
            const auto name = field.at("name").get<std::string>();
            names.insert(folded_name(name));
            const auto seen = fields_.find(name);
            if (field.at("type") == "int64" && seen != fields_.end() && type_of(seen->second.kinds) == "float64"sv &&
                (seen->second.kinds & kBigInteger) == 0) {
                field["type"] = "float64";
            }
        }
        std::erase_if(order, [&](const Named& field) { return names.contains(folded_name(field.first)); });
    }

    const InferOptions& options_;
    const Environment& env_;
    std::atomic<bool> stop_{false};
    bool interrupted_ = false;
    std::mutex mutex_;
    std::condition_variable finished_;
    Fields fields_;
    std::uint64_t records_ = 0;
    Status error_;
};

}  // namespace

Result<std::string> infer(const InferOptions& options, const Environment& environment) {
    return Inferrer(options, environment).execute();
}

}  // namespace headgate::checkpoint
