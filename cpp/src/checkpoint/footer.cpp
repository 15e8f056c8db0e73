#include "footer.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "headgate/checkpoint/checkpoint.hpp"

namespace headgate::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr int kFooterFormat = 1;
constexpr std::size_t kLongestName = 255;                        // as file systems have it
constexpr std::int64_t kMostRows = std::int64_t{1} << 53;        // exact in JSON, and sums of them fit
constexpr std::int64_t kFarthestTimeUs = std::int64_t{1} << 61;  // differences of two such times fit

// Of a file inside the table's own folder: no path, nothing hidden, and nothing that a terminal would act on.
bool is_plain_name(std::string_view name) {
    return !name.empty() && name.size() <= kLongestName && name.front() != '.' &&
           std::none_of(name.begin(), name.end(),
                        [](char c) { return c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

// What is wrong with a footer that is JSON.
struct Unsound {
    std::string what;
};

std::int64_t whole_number(const Json& json, const char* name, std::int64_t lowest, std::int64_t highest) {
    const auto& value = json.at(name);
    const bool fits =
        value.is_number_integer() && (!value.is_number_unsigned() || value.get<std::uint64_t>() <= INT64_MAX);
    const auto found = fits ? value.get<std::int64_t>() : 0;
    if (!fits || found < lowest || found > highest) {
        throw Unsound{std::string("its '") + name + "' is no whole number from " + std::to_string(lowest) + " to " +
                      std::to_string(highest)};
    }
    return found;
}

// Names are opened, and files that have none of them are removed: a name that leads out of the folder is never used.
std::vector<std::string> part_names(const Json& json, const char* kind) {
    auto out = json.at(kind).get<std::vector<std::string>>();
    for (const auto& name : out) {
        if (!is_plain_name(name)) {
            throw Unsound{std::string("its '") + kind + "' name " +
                          Json(name.substr(0, kLongestName)).dump(-1, ' ', true, Json::error_handler_t::replace) +
                          ", which is not the plain name of a file"};
        }
    }
    return out;
}

}  // namespace

Result<Footer> parse_footer(const Metadata& metadata, const std::string& target) {
    const auto found = metadata.find(kFooterKey);
    if (found == metadata.end()) {
        return Status(ErrorCode::corrupt_data, target + " is not a headgate checkpoint");
    }
    try {
        const auto json = Json::parse(found->second);
        if (const auto format = whole_number(json, "format", 1, INT64_MAX); format > kFooterFormat) {
            return Status(ErrorCode::unsupported_version,
                          target + " was written by a newer headgate (footer format " + std::to_string(format) + ")");
        }
        Footer out;
        out.schema = json.at("schema").get<std::string>();
        out.plan = json.value("plan", "");
        out.types = json.value("types", std::map<std::string, std::string>{});
        out.sources = json.value("sources", std::vector<std::string>{});
        out.version = whole_number(json, "version", 0, kMostRows);
        out.write_id = json.at("write_id").get<std::string>();
        out.segments = part_names(json, "segments");
        out.rejects = part_names(json, "rejects");
        out.rows = whole_number(json, "rows", 0, kMostRows);
        out.has_last = json.contains("last_timestamp_us");
        out.last_timestamp_us =
            out.has_last ? whole_number(json, "last_timestamp_us", INT64_MIN, INT64_MAX) : INT64_MIN;
        out.has_sums = json.contains("superseded") && json.contains("skipped");
        out.superseded = json.contains("superseded") ? whole_number(json, "superseded", -kMostRows, kMostRows) : 0;
        out.skipped = json.contains("skipped") ? whole_number(json, "skipped", -kMostRows, kMostRows) : 0;
        if (json.contains("last_full_listing_us")) {
            out.last_full_listing_us = whole_number(json, "last_full_listing_us", -kFarthestTimeUs, kFarthestTimeUs);
        }
        return out;
    } catch (const Unsound& error) {
        return Status(ErrorCode::corrupt_data, "the footer of " + target + " cannot be read: " + error.what);
    } catch (const Json::exception&) {
        return Status(ErrorCode::corrupt_data, "the footer of " + target + " cannot be read");
    }
}

Status check_footer(const std::string& footer, const std::string& target) {
    const auto parsed = parse_footer({{kFooterKey, footer}}, target);
    return parsed.ok() ? Status() : parsed.status();
}

Status check_schema(const Footer& footer, const std::string& schema, const std::string& target) {
    return footer.schema == schema ? Status()
                                   : Status(ErrorCode::invalid_input, target + " holds records of schema '" +
                                                                          footer.schema + "', not '" + schema + "'");
}

Status check_source(const Footer& footer, const std::string& source, const std::string& target) {
    const auto& known = footer.sources;
    if (source.empty() || known.empty() || std::find(known.begin(), known.end(), source) != known.end()) {
        return {};
    }
    return {
        ErrorCode::invalid_input,
        target + " is fed from " + known.back() + ", not from " + source +
            ": files are known by their path in the source, so that those of another one would be taken for them or "
            "taken again; other_source=True (--other-source) allows it"};
}

std::string render_footer(const Footer& footer) {
    Json out{{"format", kFooterFormat},     {"schema", footer.schema},
             {"version", footer.version},   {"write_id", footer.write_id},
             {"segments", footer.segments}, {"rejects", footer.rejects},
             {"rows", footer.rows},         {"last_full_listing_us", footer.last_full_listing_us}};
    if (footer.last_timestamp_us != INT64_MIN) {
        out["last_timestamp_us"] = footer.last_timestamp_us;
    }
    if (footer.has_sums) {
        out["superseded"] = footer.superseded;
        out["skipped"] = footer.skipped;
    }
    if (!footer.sources.empty()) {
        out["sources"] = footer.sources;
    }
    if (!footer.types.empty()) {
        out["types"] = footer.types;
    }
    if (!footer.plan.empty()) {
        out["plan"] = footer.plan;
    }
    return out.dump();
}

std::vector<std::string> Footer::parts() const {
    auto out = segments;
    out.insert(out.end(), rejects.begin(), rejects.end());
    return out;
}

}  // namespace headgate::checkpoint
