// The union of the fields of all records of a source, with the narrowest type that holds every value.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>
#include <utility>

#include "column_names.hpp"
#include "field_kinds.hpp"
#include "headgate/base/mutex.hpp"
#include "headgate/base/text.hpp"
#include "headgate/base/threads.hpp"
#include "headgate/checkpoint/records.hpp"
#include "headgate/json/reader.hpp"
#include "reading.hpp"

namespace headgate::checkpoint {
namespace {

using namespace std::string_view_literals;
using Json = nlohmann::json;

constexpr std::size_t kNamesPerColumn = 16;  // are counted: where ids are names, every record brings new ones
constexpr auto kPoll = std::chrono::milliseconds(50);

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

class Inferrer {
public:
    Inferrer(const InferOptions& options, const Environment& environment) : options_(options), env_(environment) {}

    Result<std::string> execute() {
        HG_ASSIGN(const auto names, file_names());
        for (const auto& [field, unit] : options_.times) {
            const auto form = schema::time_form(unit);
            if (!form || *form <= schema::TimeForm::wide) {
                return Status(ErrorCode::invalid_input,
                              "time: '" + unit + "' of field '" + field + "' is no unit; expected s, ms, us or ns");
            }
            times_.emplace(field, *form);
        }
        KeyList keys;
        std::int64_t listed = 0;
        std::string other;
        HG_RETURN_IF_ERROR(env_.source->list({}, env_.interrupt, [&](const Object& object) {
            if (schema::is_checkpoint_file(object.key) || belongs_to_target(object.key, options_.target_key)) {
                return;
            }
            ++listed;
            if (names->accepts_name(object.key)) {
                keys.add(object.key);
            } else if (other.empty()) {
                other = names->shown_name(object.key);
            }
        }));
        if (keys.size() == 0) {
            return Status(ErrorCode::invalid_input, nothing_to_read(listed, other));
        }
        ReadingList list(std::move(keys), reading_threads(options_.threads, *env_.source));
        HG_RETURN_IF_ERROR(read(list));
        const MutexLock lock(mutex_);  // the readers have ended
        std::erase_if(fields_, [this](const auto& field) {
            // A member that has the name of the column of file names is kept in `_rest`.
            return !options_.file_column.empty() && folded_name(field.first) == folded_name(options_.file_column);
        });
        if (fields_.empty()) {
            return nothing_found(static_cast<std::int64_t>(list.size()));
        }
        return plan();
    }

private:
    // A table's own plan says how its files are read.
    Result<std::shared_ptr<const schema::Schema>> file_names() {
        if (!options_.base_plan.empty()) {
            HG_ASSIGN(auto base, schema::Schema::parse(options_.base_plan));
            options_.records = base->records;
            options_.file_column = base->file_column == SIZE_MAX ? "" : base->fields[base->file_column].name;
            return base;
        }
        auto out = std::make_shared<schema::Schema>();
        if (!options_.file_names.empty()) {
            HG_ASSIGN(out->any_file_name, schema::Pattern::compile(options_.file_names));
        }
        return std::shared_ptr<const schema::Schema>(std::move(out));
    }

    std::string nothing_to_read(std::int64_t listed, const std::string& other) const {
        if (listed == 0) {
            return "no schema can be inferred: there is no file in " + env_.source->name();
        }
        return "no schema can be inferred: the names of all " + std::to_string(listed) + " files in " +
               env_.source->name() + " are of another kind (the first is " + other +
               "); --names says which are to be read";
    }

    // What was seen instead of records; the kind of the error is that of unreadable files if all of them are.
    Status nothing_found(std::int64_t files) const HG_REQUIRES(mutex_) {
        std::string what;
        for (const auto& [kind, count] : seen_) {
            what += (what.empty() ? "" : ", ") + std::to_string(count) + " " + kind;
        }
        const bool unread = unread_ == files;
        const auto message = "no schema can be inferred: no record in " + std::to_string(files) + " files of " +
                             env_.source->name() + (what.empty() ? " (all of them are empty)" : " (" + what + ")");
        return {unread ? first_unread_.code() : ErrorCode::invalid_input, message};
    }

    Status read(ReadingList& list) {
        std::size_t running = list.readers();
        const auto end = [this, &running] {
            const MutexLock lock(mutex_);
            --running;
            finished_.notify_all();
        };
        Threads threads([this] { stop_ = true; });
        for (std::size_t i = running; i > 0; --i) {
            threads.start([this, &list, &end] {
                try {
                    work(list);
                } catch (...) {
                    end();
                    throw;
                }
                end();
            });
        }
        MutexLock lock(mutex_);
        while (running > 0) {
            finished_.wait_until(mutex_, std::chrono::steady_clock::now() + kPoll);
            lock.unlock();
            if (env_.progress && !stop_) {
                env_.progress(done_, static_cast<std::int64_t>(list.size()));
            }
            if (env_.interrupt && !stop_ && env_.interrupt()) {
                stop_ = true;
                interrupted_ = true;
            }
            lock.lock();
        }
        lock.unlock();
        threads.join();
        lock.lock();
        return interrupted_ ? Status(ErrorCode::interrupted, "interrupted; nothing was written") : error_;
    }

    void work(ReadingList& list) {
        auto fetcher = env_.source->fetcher();
        if (!fetcher.ok()) {
            const MutexLock lock(mutex_);
            error_ = fetcher.status();
            return;
        }
        Reader reader(*this);
        std::string buffer;
        OpenStretches open(list);
        fetcher.value()->run(
            [&](Wanted& out) { return open.next(out); },
            [&](const Fetched& fetched) {
                std::string_view content;
                ++done_;
                open.close_before(fetched.index);
                const auto key = open[fetched.index];
                if (fetched.outcome != ReadOutcome::read) {
                    return note_unread(fetched);
                }
                const auto status = unpacked(key, fetched.bytes, options_.max_file_bytes, env_.unpack, buffer, content);
                if (status.ok()) {
                    reader.begin(fetched.index);
                    split_records(key, content, options_.records, reader);
                } else {
                    reader.refuse(0, status.code() == ErrorCode::message_too_large ? "too_large" : "packing");
                }
            },
            [this] { return stop_.load(); });
        const MutexLock lock(mutex_);
        reader.add_to(*this);
    }

    // What cannot be read or parsed is counted by the run itself; here it is what an error can tell.
    void note_unread(const Fetched& fetched) {
        const MutexLock lock(mutex_);
        const auto kind = fetched.outcome == ReadOutcome::archived ? "archived" : error_kind(fetched.error.code());
        ++seen_["files cannot be read: " + std::string(kind)];
        if (unread_++ == 0) {
            first_unread_ = fetched.error;
        }
    }

    // One per thread: what its files have.
    class Reader final : public RecordSink {
    public:
        explicit Reader(const Inferrer& all) : all_(all), notes_(all.most_names(), all.times_) {}

        void begin(std::size_t file) { position_ = static_cast<std::uint64_t>(file) << 16U; }

        bool take_object(std::string_view text, std::uint64_t /*offset*/) override {
            notes_.begin();
            status_ = json::parse_json(text, notes_);
            if (!status_.ok() || !notes_.is_object()) {
                return false;
            }
            ++records_;
            auto position = position_;
            for (const auto& [name, kinds] : notes_.members()) {
                auto& seen = fields_[name];
                seen.kinds |= kinds;
                seen.records += std::exchange(seen.last, records_) == records_ ? 0 : 1;
                seen.first = std::min(seen.first, position++);
            }
            if (fields_.size() > all_.most_names()) {
                all_.forget_rare(fields_);
            }
            return true;
        }

        void take(std::string_view text, std::uint64_t offset) override {
            if (!take_object(text, offset)) {
                refuse(offset, status_.ok()                                ? "type"
                               : status_.code() == ErrorCode::invalid_json ? "json"
                                                                           : error_kind(status_.code()));
            }
        }

        void refuse(std::uint64_t /*offset*/, std::string_view kind) override {
            ++seen_["records are no objects: " + std::string(kind)];
        }

        void begin_document(std::uint64_t /*end*/) override {}
        void end_document() override {}

        void add_to(Inferrer& all) const HG_REQUIRES(all.mutex_) {
            all.records_ += records_;
            for (const auto& [name, seen] : fields_) {
                auto& sum = all.fields_[name];
                sum.kinds |= seen.kinds;
                sum.records += seen.records;
                sum.first = std::min(sum.first, seen.first);
            }
            for (const auto& [what, count] : seen_) {
                all.seen_[what] += count;
            }
        }

    private:
        const Inferrer& all_;
        Notes notes_;
        Fields fields_;
        std::uint64_t records_ = 0;
        std::uint64_t position_ = 0;
        Status status_;
        std::map<std::string, std::int64_t> seen_;
    };

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

    // The column to sort by, if it is a time in every record.
    std::string sort_wish() const HG_REQUIRES(mutex_) {
        if (!options_.sort_by.empty()) {
            return options_.sort_by;
        }
        const bool only_one = options_.times.size() == 1 && !fields_.contains("timestamp");
        return only_one ? options_.times.begin()->first : "timestamp";
    }

    Result<std::string> plan() HG_REQUIRES(mutex_) {
        Json out{
            {"format", 1}, {"name", options_.name}, {"extra", "rest"}, {"lenient", true}, {"fields", Json::array()}};
        if (!options_.file_names.empty()) {
            out["file_names"] = {options_.file_names};
        }
        if (!options_.records.empty()) {
            out["records"] = options_.records;
        }
        Json file_field;
        auto order = readable_columns(fields_);
        if (!options_.base_plan.empty()) {
            out = Json::parse(options_.base_plan);
            if (out["fields"].back().value("source", "") == "file_name") {
                file_field = out["fields"].back();
                out["fields"].erase(out["fields"].size() - 1);
            }
            keep_columns_of(out, order);
        }
        const auto room = options_.max_columns - std::min(options_.max_columns, out["fields"].size());
        keep_frequent(order, room);
        std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
            return std::tie(a.second.first, a.first) < std::tie(b.second.first, b.first);
        });
        std::string sort_by = out.value("sort_by", "");
        for (const auto& [name, seen] : order) {
            const auto unit = options_.times.find(name);
            const bool is_epoch = unit != options_.times.end();
            if (is_epoch && (seen.kinds & kTimestamp) == 0) {
                return Status(ErrorCode::invalid_input,
                              "time: no record has a time in " + unit->second + " as '" + name + "'");
            }
            const std::string type = is_epoch ? "timestamp" : type_of(seen.kinds);
            const bool always = seen.records == records_ && (seen.kinds & ~(kZoned | kNaive | kOddTime)) == kTimestamp;
            if (options_.base_plan.empty() && always && name == sort_wish()) {
                sort_by = name;
            }
            auto& field = out["fields"].emplace_back(
                Json{{"name", name}, {"type", type}, {"required", false}, {"nullable", true}});
            if (is_epoch) {
                field["time"] = unit->second;
            } else if (type == "timestamp") {
                field["zoned"] = (seen.kinds & kZoned) != 0;
            }
        }
        if (options_.base_plan.empty()) {
            for (const auto& [name, unit] : options_.times) {
                if (!fields_.contains(name)) {
                    return Status(ErrorCode::invalid_input,
                                  "time: no record of " + env_.source->name() + " has a field '" + name + "'");
                }
            }
            if (!options_.file_column.empty()) {
                file_field = {{"name", options_.file_column},
                              {"type", "string"},
                              {"required", false},
                              {"nullable", true},
                              {"source", "file_name"}};
            }
        }
        if (!file_field.is_null()) {
            out["fields"].push_back(file_field);  // always the last one
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
    void keep_columns_of(Json& base, std::vector<Named>& order) const HG_REQUIRES(mutex_) {
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

    InferOptions options_;
    const Environment& env_;
    std::atomic<bool> stop_{false};
    std::atomic<std::int64_t> done_{0};  // files
    bool interrupted_ = false;
    Notes::Times times_;  // complete before the first reader starts
    Mutex mutex_;
    ConditionVariable finished_;  // a reader has ended
    Fields fields_ HG_GUARDED_BY(mutex_);
    std::uint64_t records_ HG_GUARDED_BY(mutex_) = 0;
    std::map<std::string, std::int64_t> seen_ HG_GUARDED_BY(mutex_);  // how often something is no record, by what it is
    std::int64_t unread_ HG_GUARDED_BY(mutex_) = 0;
    Status first_unread_ HG_GUARDED_BY(mutex_);
    Status error_ HG_GUARDED_BY(mutex_);
};

}  // namespace

Result<std::string> infer(const InferOptions& options, const Environment& environment) {
    return Inferrer(options, environment).execute();
}

}  // namespace headgate::checkpoint
