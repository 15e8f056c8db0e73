#include "headgate/schema/schema.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "headgate/base/text.hpp"
#include "slot.hpp"

namespace headgate::schema {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::string_view, 9> kTypes = {"string",    "int32", "int64",       "float64", "bool",
                                                    "timestamp", "date",  "string_list", "json"};
constexpr std::array<std::string_view, 3> kBlanks = {"keep", "trim", "refuse"};
constexpr int kPlanFormat = 1;

Status bad_plan(const std::string& what) {
    return {ErrorCode::invalid_schema, "schema plan: " + what};
}

Status parse_field(const Json& plan, Field& field) {
    field.name = plan.at("name").get<std::string>();
    for (const auto& member : plan.value("keys", Json::array({field.name}))) {
        if (member.is_array()) {
            field.paths.push_back({field.keys.size(), member.get<std::vector<std::string>>()});
            if (field.paths.back().members.size() < 2) {
                return bad_plan("field '" + field.name + "' has a path of less than two members");
            }
        }
        field.keys.push_back(member.is_array() ? std::string(kNested) : member.get<std::string>());
    }
    if (field.keys.empty()) {
        return bad_plan("field '" + field.name + "' has no member of a record");
    }
    field.key = field.keys.front();
    field.keys.erase(field.keys.begin());
    const auto type = std::find(kTypes.begin(), kTypes.end(), plan.at("type").get<std::string>());
    const auto blanks = std::find(kBlanks.begin(), kBlanks.end(), plan.value("blanks", "keep"));
    if (type == kTypes.end() || blanks == kBlanks.end()) {
        return bad_plan("field '" + field.name + "' has an unknown type or blanks rule");
    }
    field.type = static_cast<Type>(type - kTypes.begin());
    field.blanks = static_cast<Blanks>(blanks - kBlanks.begin());
    const auto time = time_form(plan.value("time", "iso"));
    if (!time || (*time != TimeForm::iso && field.type != Type::timestamp)) {
        return bad_plan("field '" + field.name + "' has an unknown form of times, or is no timestamp");
    }
    field.time = *time;
    field.required = plan.value("required", true);
    field.nullable = plan.value("nullable", false);
    field.digits = plan.value("digits", false);
    if (plan.contains("zoned")) {
        field.zoned = plan.at("zoned").get<bool>();
    }
    field.min_length = plan.value("min_length", std::size_t{0});
    field.max_length = plan.value("max_length", SIZE_MAX);
    if (plan.contains("default")) {
        field.default_json = plan.at("default").dump();
    }
    if (plan.contains("minimum")) {
        field.minimum = plan.at("minimum").get<double>();
    }
    if (plan.contains("maximum")) {
        field.maximum = plan.at("maximum").get<double>();
    }
    if (plan.contains("pattern")) {
        HG_ASSIGN(field.pattern, Pattern::compile(plan.at("pattern").get<std::string>()));
    }
    if (plan.contains("values")) {
        field.values = plan.at("values").get<std::vector<std::string>>();
    }
    if (field.default_json) {
        Slot slot;
        parse_default(*field.default_json, field.type, slot);
        if (const auto kind = slot.got == Got::null ? "" : check_slot(field, slot); !kind.empty()) {
            return bad_plan("field '" + field.name + "': its own default is refused (" + std::string(kind) + ")");
        }
    }
    return {};
}

Status parse_rule(const Json& plan, const Schema& schema, Rule& rule) {
    rule.name = plan.at("name").get<std::string>();
    rule.when_field = schema.index_of(plan.at("when").at("field").get<std::string>());
    rule.when_values = plan.at("when").at("in").get<std::vector<std::string>>();
    rule.field = schema.index_of(plan.at("field").get<std::string>());
    rule.then_values = plan.at("in").get<std::vector<std::string>>();
    rule.else_null = plan.value("else_null", false);
    if (rule.when_field == SIZE_MAX || rule.field == SIZE_MAX) {
        return bad_plan("rule '" + rule.name + "' names a field that does not exist");
    }
    return {};
}

// No member is of two fields, and none that is a field has another one inside.
Status check_members(const Schema& schema) {
    std::set<std::vector<std::string>> members;
    const auto refused = [](const Field& field) {
        return bad_plan("field '" + field.name + "' shares a member of a record with another one");
    };
    const auto count = std::min(schema.fields.size(), schema.file_column);  // which is the last one, and no member
    for (std::size_t i = 0; i < count; ++i) {
        const auto& field = schema.fields[i];
        bool once = field.key == kNested || members.insert({field.key}).second;
        for (const auto& other : field.keys) {
            once = (other == kNested || members.insert({other}).second) && once;
        }
        for (const auto& path : field.paths) {
            once = members.insert(path.members).second && once;
        }
        if (!once) {
            return refused(field);
        }
    }
    for (std::size_t i = 0; i < count; ++i) {
        for (auto path : schema.fields[i].paths) {
            for (path.members.pop_back(); !path.members.empty(); path.members.pop_back()) {
                if (members.contains(path.members)) {
                    return refused(schema.fields[i]);
                }
            }
        }
    }
    return {};
}

Status parse_plan(const Json& plan, Schema& schema) {
    if (plan.at("format").get<int>() != kPlanFormat) {
        return {ErrorCode::unsupported_version, "schema plan: format " + plan.at("format").dump() +
                                                    ", this headgate reads " + std::to_string(kPlanFormat)};
    }
    schema.name = plan.at("name").get<std::string>();
    const auto extra = plan.value("extra", "forbid");
    schema.forbid_unknown = extra == "forbid";
    schema.lenient = plan.value("lenient", false);
    schema.sort_by = plan.value("sort_by", "");
    schema.records = plan.value("records", std::vector<std::string>{});
    for (const auto& entry : plan.at("fields")) {
        HG_RETURN_IF_ERROR(parse_field(entry, schema.fields.emplace_back()));
        schema.fields.back().exact = schema.lenient;  // `_rest` has them to the last digit
    }
    if (!schema.fields.empty() && plan.at("fields").back().value("source", "") == "file_name") {
        schema.file_column = schema.fields.size() - 1;
        if (schema.fields.back().type != Type::string) {
            return bad_plan("the column of file names is of text");
        }
    }
    HG_RETURN_IF_ERROR(check_members(schema));
    if (extra == "rest") {
        if (schema.index_of("_rest") != SIZE_MAX) {
            return bad_plan("the column _rest is for unknown fields");
        }
        Field rest;
        rest.name = rest.key = "_rest";
        rest.type = Type::json;
        rest.required = false;
        rest.nullable = true;
        schema.rest = schema.fields.size();
        schema.fields.push_back(std::move(rest));
    }
    for (const auto& entry : plan.value("rules", Json::array())) {
        HG_RETURN_IF_ERROR(parse_rule(entry, schema, schema.rules.emplace_back()));
    }
    for (const auto& entry : plan.value("file_names", Json::array())) {
        HG_ASSIGN(auto pattern, Pattern::compile(entry.get<std::string>()));
        schema.file_names.push_back(std::move(pattern));
    }
    if (!schema.file_names.empty()) {
        schema.any_file_name = Pattern::any_of(schema.file_names);
    }
    schema.private_groups = plan.value("private_groups", std::vector<std::string>{});
    schema.listing_prefixes = plan.value("listing_prefixes", std::vector<std::string>{});
    const auto sort = schema.sort_column();
    if (!schema.sort_by.empty() && (sort == SIZE_MAX || schema.fields[sort].type != Type::timestamp)) {
        return bad_plan("sort_by must name a timestamp field");
    }
    return schema.fields.empty() ? bad_plan("no fields") : Status();
}

}  // namespace

std::string_view type_name(Type type) noexcept {
    return kTypes[static_cast<std::size_t>(type)];
}

bool is_wider(Type from, Type to) noexcept {
    return (from == Type::int32 && (to == Type::int64 || to == Type::float64)) ||
           (from == Type::int64 && to == Type::float64);
}

Result<std::shared_ptr<const Schema>> Schema::parse(std::string_view plan_json) {
    auto schema = std::make_shared<Schema>();
    try {
        HG_RETURN_IF_ERROR(parse_plan(Json::parse(plan_json), *schema));
    } catch (const Json::exception& error) {
        return bad_plan(error.what());
    }
    return std::shared_ptr<const Schema>(std::move(schema));
}

std::size_t Schema::index_of(std::string_view field) const {
    for (std::size_t i = 0; i < fields.size(); ++i) {
        if (fields[i].name == field) {
            return i;
        }
    }
    return SIZE_MAX;
}

std::string_view without_packing(std::string_view name) {
    for (const std::string_view ending : {".gz", ".zst"}) {
        if (name.ends_with(ending)) {
            return name.substr(0, name.size() - ending.size());
        }
    }
    return name;
}

namespace {

// "rej-7-0123456789ab.jsonl", "seg-7-0123456789ab-1@20240115.hgl": kind, version, write id, and so on.
bool is_segment(std::string_view name) {
    const bool rejects = name.starts_with("rej-") && name.ends_with(".jsonl");
    const bool entries = name.starts_with("seg-") && name.ends_with(".hgl");
    if (!rejects && !entries) {
        return false;
    }
    const auto version = name.substr(4);
    const auto digits = version.find_first_not_of("0123456789");
    if (digits == 0 || digits == std::string_view::npos || version[digits] != '-') {
        return false;
    }
    const auto id = version.substr(digits + 1);
    return id.find_first_not_of("0123456789abcdef") == 12;
}

}  // namespace

bool is_checkpoint_file(std::string_view key) {
    const auto name = base_name(key);
    for (std::size_t begin = 0; begin + name.size() < key.size();) {
        const auto end = key.find('/', begin);
        const auto folder = key.substr(begin, end - begin);
        if (folder == "_delta_log" || folder == "_headgate.ledger" ||
            (folder.ends_with(".ledger") && is_segment(name))) {
            return true;
        }
        begin = end + 1;
    }
    return false;
}

bool is_json_name(std::string_view name) {
    const auto file_name = without_packing(base_name(name));
    static constexpr std::array<std::string_view, 7> kEndings = {".json",      ".jsonl",  ".ndjson", ".geojson",
                                                                 ".jsonlines", ".ldjson", ".log"};
    return std::any_of(kEndings.begin(), kEndings.end(),
                       [&](auto ending) { return ends_with_ignoring_case(file_name, ending); });
}

bool Schema::accepts_name(std::string_view key) const {
    if (is_checkpoint_file(key)) {
        return false;
    }
    const auto file_name = without_packing(base_name(key));
    return any_file_name ? any_file_name->matches(file_name) : is_json_name(file_name);
}

std::string Schema::shown_name(std::string_view key) const {
    const auto packed = base_name(key);
    const auto file_name = without_packing(packed);
    const auto packing = packed.substr(file_name.size());
    std::string out(file_name);
    for (const auto& pattern : file_names) {
        std::vector<Pattern::Group> groups;
        if (!pattern.matches(file_name, groups)) {
            continue;
        }
        std::reverse(groups.begin(), groups.end());  // from the right, so that positions stay valid
        for (const auto& group : groups) {
            if (std::find(private_groups.begin(), private_groups.end(), group.name) != private_groups.end() &&
                group.end > group.begin) {
                out.replace(group.begin, group.end - group.begin, "****");
            }
        }
        return printable(out.append(packing));
    }
    return printable((private_groups.empty() ? out : "****").append(packing));
}

std::string Schema::day_of_name(std::string_view key) const {
    static constexpr std::size_t kDay = 8;
    const auto file_name = without_packing(base_name(key));
    for (const auto& pattern : file_names) {
        std::vector<Pattern::Group> groups;
        if (!pattern.matches(file_name, groups)) {
            continue;
        }
        for (const auto& group : groups) {
            if (group.name == "stamp" && group.end - group.begin >= kDay) {
                return std::string(file_name.substr(group.begin, kDay));
            }
        }
    }
    return {};
}

void Column::append_null() {
    valid.push_back(0);
    switch (type) {
        case Type::float64:
            reals.push_back(0);
            break;
        case Type::string:
        case Type::date:
        case Type::json:
            offsets.push_back(static_cast<Offset>(bytes.size()));
            break;
        case Type::string_list:
            offsets.push_back(static_cast<Offset>(item_offsets.size() - 1));
            break;
        default:
            numbers.push_back(type == Type::timestamp ? kNoTime : 0);
    }
}

std::string_view Column::text(std::size_t row) const {
    return std::string_view(bytes).substr(offsets[row], offsets[row + 1] - offsets[row]);
}

void Column::append_range(const Column& other, std::size_t begin, std::size_t end) {
    const auto from = static_cast<std::ptrdiff_t>(begin);
    const auto to = static_cast<std::ptrdiff_t>(end);
    valid.insert(valid.end(), other.valid.begin() + from, other.valid.begin() + to);
    switch (type) {
        case Type::float64:
            reals.insert(reals.end(), other.reals.begin() + from, other.reals.begin() + to);
            break;
        case Type::string:
        case Type::date:
        case Type::json: {
            const auto shift = static_cast<Offset>(bytes.size()) - other.offsets[begin];  // wraps round, and back
            bytes.append(other.bytes, other.offsets[begin], other.offsets[end] - other.offsets[begin]);
            for (auto i = begin + 1; i <= end; ++i) {
                offsets.push_back(other.offsets[i] + shift);
            }
            break;
        }
        case Type::string_list: {
            const auto first = other.offsets[begin];
            const auto last = other.offsets[end];
            const auto shift = static_cast<Offset>(item_offsets.size() - 1) - first;
            const auto byte_shift = static_cast<Offset>(bytes.size()) - other.item_offsets[first];
            bytes.append(other.bytes, other.item_offsets[first], other.item_offsets[last] - other.item_offsets[first]);
            for (auto i = first + 1; i <= last; ++i) {
                item_offsets.push_back(other.item_offsets[i] + byte_shift);
            }
            for (auto i = begin + 1; i <= end; ++i) {
                offsets.push_back(other.offsets[i] + shift);
            }
            break;
        }
        default:
            numbers.insert(numbers.end(), other.numbers.begin() + from, other.numbers.begin() + to);
    }
}

void Column::clear() {
    valid.clear();
    numbers.clear();
    reals.clear();
    bytes.clear();
    offsets.resize(1);
    item_offsets.resize(1);
}

void Column::reserve_as(const Column& other) {
    const auto roomy = [](std::size_t size) { return size + size / 8; };
    valid.reserve(other.valid.size());
    numbers.reserve(other.numbers.size());
    reals.reserve(other.reals.size());
    offsets.reserve(other.offsets.size());
    item_offsets.reserve(roomy(other.item_offsets.size()));
    bytes.reserve(roomy(other.bytes.size()));
}

std::size_t Column::memory_bytes() const {
    return valid.size() + 8 * (numbers.size() + reals.size()) +
           sizeof(Offset) * (offsets.size() + item_offsets.size()) + bytes.size();
}

Columns Columns::like(const Schema& schema) {
    Columns out;
    for (const auto& field : schema.fields) {
        out.columns.emplace_back().type = field.type;
    }
    return out;
}

void Columns::append_range(const Columns& other, std::size_t begin, std::size_t end) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
        columns[c].append_range(other.columns[c], begin, end);
    }
    rows += end - begin;
}

void Column::append_rows(std::span<const Column* const> parts, std::span<const RowAt> which) {
    if (type == Type::string_list) {
        for (const auto& at : which) {
            append_range(*parts[at.part], at.row, at.row + 1U);
        }
        return;
    }
    for (const auto& at : which) {
        valid.push_back(parts[at.part]->valid[at.row]);
    }
    switch (type) {
        case Type::float64:
            for (const auto& at : which) {
                reals.push_back(parts[at.part]->reals[at.row]);
            }
            break;
        case Type::string:
        case Type::date:
        case Type::json:
            for (const auto& at : which) {
                bytes.append(parts[at.part]->text(at.row));
                offsets.push_back(static_cast<Offset>(bytes.size()));
            }
            break;
        default:
            for (const auto& at : which) {
                numbers.push_back(parts[at.part]->numbers[at.row]);
            }
    }
}

void Columns::reserve_as(const Columns& other) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
        columns[c].reserve_as(other.columns[c]);
    }
}

void Columns::clear() {
    for (auto& column : columns) {
        column.clear();
    }
    rows = 0;
}

std::size_t Columns::memory_bytes() const {
    std::size_t out = 0;
    for (const auto& column : columns) {
        out += column.memory_bytes();
    }
    return out;
}

}  // namespace headgate::schema
