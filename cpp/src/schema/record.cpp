#include <algorithm>

#include "headgate/base/text.hpp"
#include "headgate/json/reader.hpp"
#include "headgate/schema/schema.hpp"
#include "member_paths.hpp"
#include "rest.hpp"
#include "slot.hpp"

namespace headgate::schema {

// The handler of one document: top-level members go into slots, deeper values of `json` fields into a CanonicalWriter.
class RecordReader::Impl {
public:
    explicit Impl(std::shared_ptr<const Schema> schema)
        : schema_(std::move(schema)),
          slots_(schema_->fields.size()),
          paths_(schema_->fields),
          // What an inferred schema keeps as JSON, it keeps exactly.
          writer_(schema_->rest == SIZE_MAX ? json::BigIntegers::refuse : json::BigIntegers::verbatim) {
        for (const auto& field : schema_->fields) {
            Slot fallback;
            if (field.default_json) {
                parse_default(*field.default_json, field.type, fallback);
            }
            defaults_.push_back(std::move(fallback));
        }
    }

    const std::vector<Problem>& read(std::string_view text, Columns* out) {
        problems_.clear();
        for (auto& slot : slots_) {
            slot.got = Got::absent;
            slot.twice = false;
            slot.count = 0;
            slot.is_rounded = false;
        }
        depth_ = 0;
        level_ = 1;
        expected_ = 0;
        current_ = kNone;
        paths_.begin();
        unknown_ = false;
        is_object_ = false;
        capturing_ = false;
        if (const auto status = json::parse_json(text, *this); !status.ok()) {
            is_object_ = false;
            problems_.clear();
            problems_.push_back(
                {"", status.code() == ErrorCode::invalid_json ? "json" : std::string(error_kind(status.code()))});
            return problems_;
        }
        if (!is_object_) {
            problems_.push_back({"", "type"});
            return problems_;
        }
        if (paths_.any_head()) {
            look_at_heads();
        }
        drifted_.clear();
        for (std::size_t i = 0; i < slots_.size(); ++i) {
            if (i == schema_->file_column) {
                slots_[i].got = Got::string;
                slots_[i].text = file_;
                continue;
            }
            const auto before = problems_.size();
            check(schema_->fields[i], slots_[i], i);
            if (schema_->lenient && problems_.size() > before) {
                problems_.resize(before);
                slots_[i].got = Got::null;
                drifted_.push_back(i);
            } else if (slots_[i].is_rounded && schema_->rest != SIZE_MAX) {
                drifted_.push_back(i);  // the column has what it can hold, `_rest` what was written
            }
        }
        if (problems_.empty() && schema_->rest != SIZE_MAX && (unknown_ || !drifted_.empty())) {
            collect_rest(text);
        }
        if (problems_.empty()) {
            check_rules();
        }
        if (problems_.empty() && out != nullptr) {
            append(*out);
        }
        return problems_;
    }

    std::uint32_t drifted() const { return static_cast<std::uint32_t>(drifted_.size()); }
    bool was_object() const { return is_object_; }
    void begin_file(std::string_view key) { file_ = is_utf8(key) ? std::string(key) : printable(key); }

    // --- the handler's part
    bool start_object() { return open(true); }
    bool start_array() { return open(false); }
    bool end_object() { return close(true); }
    bool end_array() { return close(false); }

    bool key(std::string_view name) {
        if (capturing_) {
            return writer_.key(name);
        }
        if (depth_ > 1) {
            return paths_.empty() || !paths_.is_on_way(depth_) || nested_key(name);
        }
        level_ = 1;
        const bool is_head = !paths_.empty() && paths_.member(name, depth_) != nullptr;
        const auto found = find(name);
        current_ = found.field;
        if (current_ != kNone) {
            return begin_value(found);
        }
        if (!is_head) {
            note_unknown();
        }
        return true;
    }

    bool string(std::string_view value) {
        if (capturing_) {
            return writer_.string(value) && maybe_end_capture();
        }
        if (auto* slot = target(); slot != nullptr) {
            slot->got = Got::string;
            slot->text.assign(value);
        } else if (in_list()) {
            auto& list = slots_[current_];
            if (list.count == list.items.size()) {
                list.items.emplace_back();
            }
            list.items[list.count++].assign(value);
        }
        return true;
    }

    bool number(std::string_view token, bool is_integer) {
        if (capturing_) {
            return writer_.number(token, is_integer) && maybe_end_capture();
        }
        if (auto* slot = target(); slot != nullptr) {
            slot->got = is_integer ? Got::integer : Got::real;
            slot->text.assign(token);
        } else {
            spoil_list();
        }
        return true;
    }

    bool boolean(bool value) {
        if (capturing_) {
            return writer_.boolean(value) && maybe_end_capture();
        }
        if (auto* slot = target(); slot != nullptr) {
            slot->got = Got::boolean;
            slot->boolean = value;
        } else {
            spoil_list();
        }
        return true;
    }

    bool null() {
        if (capturing_ && depth_ > level_) {
            return writer_.null();
        }
        if (capturing_) {
            capturing_ = false;
        }
        if (auto* slot = target(); slot != nullptr) {
            slot->got = Got::null;
        } else {
            spoil_list();
        }
        return true;
    }

    Status status() const { return capturing_ ? writer_.status() : Status(ErrorCode::internal, "record reader"); }

private:
    static constexpr std::size_t kNone = SIZE_MAX;

    // A member of an object that leads to a field.
    bool nested_key(std::string_view name) {
        const auto* node = paths_.member(name, depth_);
        level_ = depth_;
        current_ = node == nullptr ? kNone : node->place.field;
        return current_ == kNone || begin_value(node->place);
    }

    // The next value is of the field current_.
    bool begin_value(Place found) {
        auto& slot = slots_[current_];
        if (slot.got != Got::absent && slot.choice != found.choice) {  // of two members that may hold the field
            const bool better = found.choice < slot.choice;
            if (!is_nested(current_, better ? slot.choice : found.choice)) {
                note_unknown();
            }
            if (!better) {
                current_ = kNone;
                return true;
            }
            slot.got = Got::absent;
            slot.count = 0;
        } else if (slot.got != Got::absent && !slot.twice) {
            slot.twice = true;
            problems_.push_back({schema_->fields[current_].name, "duplicate"});
        }
        slot.choice = found.choice;
        if (schema_->fields[current_].type == Type::json) {
            begin_capture();
        }
        return true;
    }

    bool is_nested(std::size_t field, std::size_t choice) const {
        const auto& paths = schema_->fields[field].paths;
        return std::any_of(paths.begin(), paths.end(), [&](const auto& path) { return path.choice == choice; });
    }

    // A first member of a path that led to no field is an unknown one. All of it is kept in `rest`.
    void look_at_heads() {
        if (schema_->rest != SIZE_MAX) {
            unknown_ = true;
        } else if (!paths_.all_heads_lead([this](const Place& place) {
                       const auto& slot = slots_[place.field];
                       return slot.got != Got::absent && slot.choice == place.choice;
                   })) {
            note_unknown();
        }
    }

    // Members mostly come in the order of the schema: look where the last one leads first.
    Place find(std::string_view name) {
        const auto& fields = schema_->fields;
        // A member "_rest", or one called as the column of file names, is unknown.
        const auto count = std::min({fields.size(), schema_->rest, schema_->file_column});
        for (std::size_t n = 0; n < count; ++n) {
            const auto i = expected_ + n < count ? expected_ + n : expected_ + n - count;
            const auto& keys = fields[i].keys;
            std::size_t choice = 0;
            if (fields[i].key != name) {
                const auto other = std::find(keys.begin(), keys.end(), name);
                if (other == keys.end()) {
                    continue;
                }
                choice = static_cast<std::size_t>(other - keys.begin()) + 1;
            }
            expected_ = i + 1 < count ? i + 1 : 0;
            return {i, choice};
        }
        return {};
    }

    void note_unknown() {
        if (schema_->forbid_unknown && !unknown_) {  // once: a document may have millions
            problems_.push_back({"", "unknown"});    // the name is the sender's text: it may hold anything
        }
        unknown_ = true;
    }

    Slot* target() { return depth_ == level_ && current_ != kNone ? &slots_[current_] : nullptr; }
    bool in_list() const { return depth_ == level_ + 1 && current_ != kNone && slots_[current_].got == Got::list; }
    void spoil_list() {
        if (in_list()) {
            slots_[current_].got = Got::other;
        }
    }

    void begin_capture() {
        writer_.clear();
        capturing_ = true;
    }

    bool maybe_end_capture() {
        if (depth_ == level_) {
            slots_[current_].got = Got::json;
            slots_[current_].text.assign(writer_.view());
            capturing_ = false;
        }
        return true;
    }

    bool open(bool object) {
        if (depth_ == 0) {
            is_object_ = object;
            current_ = kNone;
        } else if (!capturing_ && depth_ == level_ && current_ != kNone) {
            const bool list = !object && schema_->fields[current_].type == Type::string_list;
            slots_[current_].got = list ? Got::list : Got::other;
        } else if (!capturing_) {
            spoil_list();
        }
        if (!paths_.empty()) {
            paths_.open(object, depth_);
        }
        ++depth_;
        return !capturing_ || (object ? writer_.start_object() : writer_.start_array());
    }

    bool close(bool object) {
        --depth_;
        if (!paths_.empty()) {
            paths_.close(depth_);
        }
        if (!capturing_) {
            return true;
        }
        return (object ? writer_.end_object() : writer_.end_array()) && maybe_end_capture();
    }

    void collect_rest(std::string_view text) {
        RestCollector collector(writer_, [this](std::string_view name) {
            const auto [field, choice] = find(name);
            return field == kNone || choice != slots_[field].choice ||
                   std::find(drifted_.begin(), drifted_.end(), field) != drifted_.end();
        });
        if (const auto status = json::parse_json(text, collector); !status.ok()) {
            problems_.push_back({"", std::string(error_kind(status.code()))});
            return;
        }
        slots_[schema_->rest].got = Got::json;
        slots_[schema_->rest].text.assign(writer_.view());
    }

    void problem(const Field& field, std::string_view kind) { problems_.push_back({field.name, std::string(kind)}); }

    void check(const Field& field, Slot& slot, std::size_t index) {
        if (slot.got == Got::absent) {
            if (field.required) {
                problem(field, "missing");
                return;
            }
            slot = defaults_[index].got == Got::absent ? Slot{} : defaults_[index];
            if (slot.got == Got::absent) {
                slot.got = Got::null;
                return;
            }
        }
        if (slot.got == Got::null) {
            if (!field.nullable) {
                problem(field, "null");
            }
            return;
        }
        if (const auto kind = check_slot(field, slot); !kind.empty()) {
            problem(field, kind);
        }
    }

    void check_rules() {
        for (const auto& rule : schema_->rules) {
            const auto& slot = slots_[rule.field];
            const auto& when = slots_[rule.when_field];
            if (when.got == Got::string && contains(rule.when_values, when.text)) {
                if (slot.got != Got::string || !contains(rule.then_values, slot.text)) {
                    problems_.push_back({schema_->fields[rule.field].name, "rule:" + rule.name});
                }
            } else if (rule.else_null && slot.got != Got::null) {
                problems_.push_back({schema_->fields[rule.field].name, "rule:" + rule.name});
            }
        }
    }

    void append(Columns& out) {
        for (std::size_t i = 0; i < slots_.size(); ++i) {
            auto& slot = slots_[i];
            auto& column = out.columns[i];
            if (slot.got == Got::null) {
                column.append_null();
                continue;
            }
            column.valid.push_back(1);
            switch (column.type) {
                case Type::float64:
                    column.reals.push_back(slot.real);
                    break;
                case Type::string_list:
                    for (std::size_t n = 0; n < slot.count; ++n) {
                        column.bytes.append(slot.items[n]);
                        column.item_offsets.push_back(static_cast<Offset>(column.bytes.size()));
                    }
                    column.offsets.push_back(static_cast<Offset>(column.item_offsets.size() - 1));
                    break;
                case Type::string:
                case Type::date:
                case Type::json:
                    column.bytes.append(slot.text);
                    column.offsets.push_back(static_cast<Offset>(column.bytes.size()));
                    break;
                default:
                    column.numbers.push_back(slot.number);
            }
        }
        ++out.rows;
    }

    std::shared_ptr<const Schema> schema_;
    std::vector<Slot> slots_;
    std::vector<Slot> defaults_;
    MemberPaths paths_;
    std::vector<Problem> problems_;
    std::vector<std::size_t> drifted_;
    std::string file_;
    json::CanonicalWriter writer_;
    std::size_t depth_ = 0;
    std::size_t level_ = 1;  // the depth of the members that may be current_
    std::size_t current_ = kNone;
    std::size_t expected_ = 0;
    bool unknown_ = false;
    bool is_object_ = false;
    bool capturing_ = false;
};

RecordReader::RecordReader(std::shared_ptr<const Schema> schema) : impl_(std::make_unique<Impl>(std::move(schema))) {}
RecordReader::~RecordReader() = default;
RecordReader::RecordReader(RecordReader&&) noexcept = default;

const std::vector<Problem>& RecordReader::read(std::string_view json_text, Columns* out) {
    return impl_->read(json_text, out);
}

void RecordReader::begin_file(std::string_view key) {
    impl_->begin_file(key);
}

bool RecordReader::was_object() const {
    return impl_->was_object();
}

std::uint32_t RecordReader::drifted() const {
    return impl_->drifted();
}

}  // namespace headgate::schema
