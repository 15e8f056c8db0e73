#include "headgate/schema/schema.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

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
    const auto type = std::find(kTypes.begin(), kTypes.end(), plan.at("type").get<std::string>());
    const auto blanks = std::find(kBlanks.begin(), kBlanks.end(), plan.value("blanks", "keep"));
    if (type == kTypes.end() || blanks == kBlanks.end()) {
        return bad_plan("field '" + field.name + "' has an unknown type or blanks rule");
    }
    field.type = static_cast<Type>(type - kTypes.begin());
    field.blanks = static_cast<Blanks>(blanks - kBlanks.begin());
    field.required = plan.value("required", true);
    field.nullable = plan.value("nullable", false);
    field.digits = plan.value("digits", false);
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

Status parse_plan(const Json& plan, Schema& schema) {
    if (plan.at("format").get<int>() != kPlanFormat) {
        return {ErrorCode::unsupported_version, "schema plan: format " + plan.at("format").dump() +
                                                    ", this headgate reads " + std::to_string(kPlanFormat)};
    }
    schema.name = plan.at("name").get<std::string>();
    schema.forbid_unknown = plan.value("extra", "forbid") == "forbid";
    schema.sort_by = plan.value("sort_by", "");
    for (const auto& entry : plan.at("fields")) {
        HG_RETURN_IF_ERROR(parse_field(entry, schema.fields.emplace_back()));
    }
    for (const auto& entry : plan.value("rules", Json::array())) {
        HG_RETURN_IF_ERROR(parse_rule(entry, schema, schema.rules.emplace_back()));
    }
    for (const auto& entry : plan.value("file_names", Json::array())) {
        HG_ASSIGN(auto pattern, Pattern::compile(entry.get<std::string>()));
        schema.file_names.push_back(std::move(pattern));
    }
    schema.private_groups = plan.value("private_groups", std::vector<std::string>{});
    const auto sort = schema.index_of(schema.sort_by);
    if (!schema.sort_by.empty() && (sort == SIZE_MAX || schema.fields[sort].type != Type::timestamp)) {
        return bad_plan("sort_by must name a timestamp field");
    }
    return schema.fields.empty() ? bad_plan("no fields") : Status();
}

}  // namespace

std::string_view type_name(Type type) noexcept {
    return kTypes[static_cast<std::size_t>(type)];
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

bool Schema::accepts_name(std::string_view file_name) const {
    return file_names.empty() || std::any_of(file_names.begin(), file_names.end(),
                                             [&](const Pattern& pattern) { return pattern.matches(file_name); });
}

std::string Schema::redact_name(std::string_view file_name) const {
    std::string out(file_name);
    for (const auto& pattern : file_names) {
        std::vector<Pattern::Group> groups;
        if (!pattern.matches(file_name, &groups)) {
            continue;
        }
        std::reverse(groups.begin(), groups.end());  // from the right, so that positions stay valid
        for (const auto& group : groups) {
            if (std::find(private_groups.begin(), private_groups.end(), group.name) != private_groups.end() &&
                group.end > group.begin) {
                out.replace(group.begin, group.end - group.begin, "****");
            }
        }
        return out;
    }
    return private_groups.empty() ? out : "****";
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
            offsets.push_back(bytes.size());
            break;
        case Type::string_list:
            offsets.push_back(item_offsets.size() - 1);
            break;
        default:
            numbers.push_back(0);
    }
}

std::string_view Column::text(std::size_t row) const {
    return std::string_view(bytes).substr(offsets[row], offsets[row + 1] - offsets[row]);
}

void Column::append_from(const Column& other, std::size_t row) {
    if (other.valid[row] == 0) {
        append_null();
        return;
    }
    valid.push_back(1);
    switch (type) {
        case Type::float64:
            reals.push_back(other.reals[row]);
            break;
        case Type::string:
        case Type::date:
        case Type::json:
            bytes.append(other.text(row));
            offsets.push_back(bytes.size());
            break;
        case Type::string_list:
            for (auto item = other.offsets[row]; item < other.offsets[row + 1]; ++item) {
                bytes.append(other.bytes, other.item_offsets[item],
                             other.item_offsets[item + 1] - other.item_offsets[item]);
                item_offsets.push_back(bytes.size());
            }
            offsets.push_back(item_offsets.size() - 1);
            break;
        default:
            numbers.push_back(other.numbers[row]);
    }
}

Columns Columns::like(const Schema& schema) {
    Columns out;
    for (const auto& field : schema.fields) {
        out.columns.emplace_back().type = field.type;
    }
    return out;
}

void Columns::append_all(const Columns& other) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
        auto& to = columns[c];
        const auto& from = other.columns[c];
        const auto byte_shift = to.bytes.size();
        const auto item_shift = to.item_offsets.size() - 1;
        to.valid.insert(to.valid.end(), from.valid.begin(), from.valid.end());
        to.numbers.insert(to.numbers.end(), from.numbers.begin(), from.numbers.end());
        to.reals.insert(to.reals.end(), from.reals.begin(), from.reals.end());
        to.bytes.append(from.bytes);
        const auto shift = to.type == Type::string_list ? item_shift : byte_shift;
        for (std::size_t i = 1; i < from.offsets.size(); ++i) {
            to.offsets.push_back(from.offsets[i] + shift);
        }
        for (std::size_t i = 1; i < from.item_offsets.size(); ++i) {
            to.item_offsets.push_back(from.item_offsets[i] + byte_shift);
        }
    }
    rows += other.rows;
}

}  // namespace headgate::schema
