#include "evolution.hpp"

#include "footer.hpp"
#include "headgate/checkpoint/checkpoint.hpp"

#include <algorithm>
#include <vector>

namespace headgate::checkpoint {
namespace {

using schema::Type;

constexpr std::size_t kMostNamed = 5;  // how many columns an error names

bool is_text(Type type) {
    return type == Type::string || type == Type::date || type == Type::json;
}

std::string listed(const std::vector<std::string>& sentences) {
    std::string out;
    for (std::size_t i = 0; i < std::min(sentences.size(), kMostNamed); ++i) {
        out += (i == 0 ? "" : "; ") + sentences[i];
    }
    if (sentences.size() > kMostNamed) {
        out += "; and " + std::to_string(sentences.size() - kMostNamed) + " more columns differ";
    }
    return out;
}

}  // namespace

std::map<std::string, std::string> column_types(const schema::Schema& schema) {
    std::map<std::string, std::string> out;
    for (const auto& field : schema.fields) {
        out[field.name] = type_name(field.type);
    }
    return out;
}

Result<Evolution> compare_columns(const StoredTable& stored, const std::map<std::string, std::string>& types,
                                  const schema::Schema& schema, bool may_evolve, const std::string& target) {
    std::vector<std::string> refused;
    std::vector<std::string> possible;
    auto out = Evolution::none;
    const auto evolve = [&](Evolution how, std::string what) {
        out = std::max(out, how);
        possible.push_back(std::move(what));
    };
    for (const auto& column : stored.columns) {
        const auto at = schema.index_of(column.name);
        const auto name = "column '" + column.name + "' ";
        if (at == SIZE_MAX) {
            refused.push_back(name + "of the table is missing in the schema");
            continue;
        }
        const auto wanted = schema.fields[at].type;
        const auto remembered = types.find(column.name);
        const bool text = column.type && is_text(*column.type);
        const auto said = text && remembered != types.end() ? remembered->second : column.shown;
        const auto differs =
            name + "is " + said + " in the table and " + std::string(type_name(wanted)) + " in the schema";
        if (text && is_text(wanted)) {
            // JSON text has quotes around strings, and plain text does not, so one cannot be read as the other.
            const bool was_json = remembered == types.end() ? wanted == Type::json : said == type_name(Type::json);
            if (was_json != (wanted == Type::json)) {
                refused.push_back(differs);
            }
        } else if (column.type != wanted) {
            if (column.type && schema::is_wider(*column.type, wanted)) {
                evolve(Evolution::widens, differs);
            } else {
                refused.push_back(differs);
            }
        }
    }
    std::size_t place = 0;
    for (const auto& field : schema.fields) {
        const auto found = std::find_if(stored.columns.begin(), stored.columns.end(),
                                        [&](const auto& column) { return column.name == field.name; });
        if (found == stored.columns.end()) {
            if (field.nullable) {
                evolve(Evolution::adds, "column '" + field.name + "' is new");
            } else {
                refused.push_back("column '" + field.name +
                                  "' is new and cannot be null, but the rows of the table have no value for it");
            }
        } else if (static_cast<std::size_t>(found - stored.columns.begin()) != place++ && possible.empty()) {
            evolve(Evolution::reorders, "column '" + field.name + "' has another place");
        }
    }
    if (!stored.sorted_by.empty() && stored.sorted_by != schema.sort_by) {
        refused.push_back("its rows are sorted by '" + stored.sorted_by + "', not by '" + schema.sort_by + "'");
    }
    const auto complaint = target + " does not have the columns of schema '" + schema.name + "': ";
    if (!refused.empty()) {
        return Status(ErrorCode::corrupt_data, complaint + listed(refused));
    }
    if (out != Evolution::none && !may_evolve) {
        return Status(ErrorCode::corrupt_data,
                      complaint + listed(possible) + "; evolve=True (--evolve) changes the table to fit");
    }
    return out;
}

Status check_columns(const TableFile& files, const std::string& footer_file, const schema::Schema& schema,
                     const std::string& target) {
    HG_ASSIGN(const auto metadata, files.metadata(footer_file));
    HG_ASSIGN(const auto footer, parse_footer(metadata, target));
    HG_RETURN_IF_ERROR(check_schema(footer, schema.name, target));
    HG_ASSIGN(const auto stored, files.stored(footer_file));
    if (stored) {
        HG_ASSIGN(const auto same, compare_columns(*stored, footer.types, schema, false, target));
        static_cast<void>(same);  // since the table may not change, this is `none`
    }
    return {};
}

}  // namespace headgate::checkpoint
