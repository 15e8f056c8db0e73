#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "headgate/base/text.hpp"
#include "headgate/json/reader.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::schema {
namespace {

enum class Got : std::uint8_t { absent, null, string, integer, real, boolean, list, json, other };

struct Slot {
    Got got = Got::absent;
    bool boolean = false;
    std::string text;                // string, number token, or canonical JSON
    std::vector<std::string> items;  // list of strings
    std::size_t count = 0;           // items in use
    std::int64_t number = 0;         // checked value of an integer or timestamp
    double real = 0;
};

bool contains(const std::vector<std::string>& values, std::string_view value) {
    return std::find(values.begin(), values.end(), value) != values.end();
}

}  // namespace

namespace {

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

}  // namespace

// The handler of one document: top-level members go into slots, deeper values of `json` fields into a CanonicalWriter.
class RecordReader::Impl {
public:
    explicit Impl(std::shared_ptr<const Schema> schema)
        : schema_(std::move(schema)),
          slots_(schema_->fields.size()),
          // What an inferred schema keeps as JSON, it keeps exactly.
          writer_(schema_->rest == SIZE_MAX ? json::BigIntegers::refuse : json::BigIntegers::exact) {
        for (const auto& field : schema_->fields) {
            Slot fallback;
            if (field.default_json) {
                parse_default(*field.default_json, fallback);
            }
            defaults_.push_back(std::move(fallback));
        }
    }

    const std::vector<Problem>& read(std::string_view text, Columns* out) {
        problems_.clear();
        for (auto& slot : slots_) {
            slot.got = Got::absent;
            slot.count = 0;
        }
        depth_ = 0;
        expected_ = 0;
        current_ = kNone;
        unknown_ = false;
        is_object_ = false;
        capturing_ = false;
        if (const auto status = json::parse_json(text, *this); !status.ok()) {
            problems_.clear();
            problems_.push_back(
                {"", status.code() == ErrorCode::invalid_json ? "json" : std::string(error_kind(status.code()))});
            return problems_;
        }
        if (!is_object_) {
            problems_.push_back({"", "type"});
            return problems_;
        }
        drifted_.clear();
        for (std::size_t i = 0; i < slots_.size(); ++i) {
            const auto before = problems_.size();
            check(schema_->fields[i], slots_[i], i);
            if (schema_->lenient && problems_.size() > before) {
                problems_.resize(before);
                slots_[i].got = Got::null;
                drifted_.push_back(i);
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

    // --- the handler's part
    bool start_object() { return open(true); }
    bool start_array() { return open(false); }
    bool end_object() { return close(true); }
    bool end_array() { return close(false); }

    bool key(std::string_view name) {
        if (depth_ > 1) {
            return !capturing_ || writer_.key(name);
        }
        current_ = find(name);
        if (current_ == kNone) {
            if (schema_->forbid_unknown) {
                problems_.push_back({"", "unknown"});  // the name is the sender's text: it may hold anything
            }
            unknown_ = true;
            return true;
        }
        if (slots_[current_].got != Got::absent) {
            problems_.push_back({schema_->fields[current_].name, "duplicate"});
        }
        if (schema_->fields[current_].type == Type::json) {
            begin_capture();
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
        if (capturing_ && depth_ > 1) {
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

    // Members mostly come in the order of the schema: look where the last one leads first.
    std::size_t find(std::string_view name) {
        const auto& fields = schema_->fields;
        const auto count = schema_->rest == SIZE_MAX ? fields.size() : schema_->rest;  // a member "_rest" is unknown
        for (std::size_t n = 0; n < count; ++n) {
            const auto i = expected_ + n < count ? expected_ + n : expected_ + n - count;
            if (fields[i].name == name) {
                expected_ = i + 1 < count ? i + 1 : 0;
                return i;
            }
        }
        return kNone;
    }

    Slot* target() { return depth_ == 1 && current_ != kNone ? &slots_[current_] : nullptr; }
    bool in_list() const { return depth_ == 2 && current_ != kNone && slots_[current_].got == Got::list; }
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
        if (depth_ == 1) {
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
        } else if (!capturing_ && depth_ == 1 && current_ != kNone) {
            const bool list = !object && schema_->fields[current_].type == Type::string_list;
            slots_[current_].got = list ? Got::list : Got::other;
        } else if (!capturing_) {
            spoil_list();
        }
        ++depth_;
        return !capturing_ || (object ? writer_.start_object() : writer_.start_array());
    }

    bool close(bool object) {
        --depth_;
        if (!capturing_) {
            return true;
        }
        return (object ? writer_.end_object() : writer_.end_array()) && maybe_end_capture();
    }

    void collect_rest(std::string_view text) {
        RestCollector collector(writer_, [this](std::string_view name) {
            const auto field = find(name);
            return field == kNone || std::find(drifted_.begin(), drifted_.end(), field) != drifted_.end();
        });
        if (const auto status = json::parse_json(text, collector); !status.ok()) {
            problems_.push_back({"", std::string(error_kind(status.code()))});
            return;
        }
        slots_[schema_->rest].got = Got::json;
        slots_[schema_->rest].text.assign(writer_.view());
    }

    void problem(const Field& field, std::string_view kind) { problems_.push_back({field.name, std::string(kind)}); }

    void parse_default(const std::string& text, Slot& slot) {
        if (text == "null") {
            slot.got = Got::null;
        } else if (text == "true" || text == "false") {
            slot.got = Got::boolean;
            slot.boolean = text == "true";
        } else if (text == "[]") {
            slot.got = Got::list;
        } else if (text.front() == '"') {
            slot.got = Got::string;
            slot.text = text.substr(1, text.size() - 2);
        } else {
            slot.got = text.find_first_of(".eE") == std::string::npos ? Got::integer : Got::real;
            slot.text = text;
        }
    }

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
        switch (field.type) {
            case Type::int32:
            case Type::int64:
                check_integer(field, slot);
                break;
            case Type::float64:
                check_real(field, slot);
                break;
            case Type::boolean:
                if (slot.got != Got::boolean) {
                    problem(field, "type");
                }
                slot.number = slot.boolean ? 1 : 0;
                break;
            case Type::string_list:
                check_list(field, slot);
                break;
            case Type::json:
                break;
            default:
                check_text(field, slot);
        }
    }

    void check_integer(const Field& field, Slot& slot) {
        std::string_view digits = slot.text;
        const bool from_text = slot.got == Got::string && field.digits;
        if (from_text) {
            digits = trim_blanks(digits);
        }
        const bool plain = !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos;
        if (slot.got != Got::integer && !(from_text && plain)) {
            problem(field, "type");
            return;
        }
        const auto error = std::from_chars(digits.data(), digits.data() + digits.size(), slot.number).ec;
        const bool fits = error == std::errc{} &&
                          (field.type == Type::int64 || (slot.number >= INT32_MIN && slot.number <= INT32_MAX));
        if (!fits || !in_range(field, static_cast<double>(slot.number))) {
            problem(field, "range");
        }
    }

    void check_real(const Field& field, Slot& slot) {
        if (slot.got != Got::integer && slot.got != Got::real) {
            problem(field, "type");
            return;
        }
        const auto error = std::from_chars(slot.text.data(), slot.text.data() + slot.text.size(), slot.real).ec;
        if (error != std::errc{} || !in_range(field, slot.real)) {
            problem(field, "range");
        }
    }

    static bool in_range(const Field& field, double value) {
        return (!field.minimum || value >= *field.minimum) && (!field.maximum || value <= *field.maximum);
    }

    bool check_string(const Field& field, std::string& text) {
        if (field.blanks != Blanks::keep) {
            const auto trimmed = trim_blanks(text);
            if (field.blanks == Blanks::refuse && trimmed.size() != text.size()) {
                problem(field, "blank");
                return false;
            }
            if (trimmed.size() != text.size()) {
                text = std::string(trimmed);
            }
        }
        if (!field.values.empty() && !contains(field.values, text)) {
            problem(field, "enum");
            return false;
        }
        if (field.pattern && !field.pattern->matches(text)) {
            problem(field, "pattern");
            return false;
        }
        return true;
    }

    void check_text(const Field& field, Slot& slot) {
        if (slot.got != Got::string) {
            problem(field, "type");
            return;
        }
        if (!check_string(field, slot.text)) {
            return;
        }
        const bool bounded = field.min_length > 0 || field.max_length != SIZE_MAX;
        const auto length = bounded ? utf8_length(slot.text) : 0;
        if (bounded && (length < field.min_length || length > field.max_length)) {
            problem(field, "length");
        } else if (field.type == Type::date && !parse_date(slot.text)) {
            problem(field, "date");
        } else if (field.type == Type::timestamp) {
            const auto parsed = parse_timestamp(slot.text);
            if (!parsed.ok()) {
                problem(field, "timestamp");
                return;
            }
            slot.number = parsed.value();
        }
    }

    void check_list(const Field& field, Slot& slot) {
        if (slot.got != Got::list) {
            problem(field, "type");
            return;
        }
        if (slot.count < field.min_length || slot.count > field.max_length) {
            problem(field, "length");
            return;
        }
        for (std::size_t i = 0; i < slot.count; ++i) {
            if (!check_string(field, slot.items[i])) {
                return;
            }
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
                        column.item_offsets.push_back(column.bytes.size());
                    }
                    column.offsets.push_back(column.item_offsets.size() - 1);
                    break;
                case Type::string:
                case Type::date:
                case Type::json:
                    column.bytes.append(slot.text);
                    column.offsets.push_back(column.bytes.size());
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
    std::vector<Problem> problems_;
    std::vector<std::size_t> drifted_;
    json::CanonicalWriter writer_;
    std::size_t depth_ = 0;
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

std::uint32_t RecordReader::drifted() const {
    return impl_->drifted();
}

}  // namespace headgate::schema
