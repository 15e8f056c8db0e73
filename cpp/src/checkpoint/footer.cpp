#include "footer.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace headgate::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr int kFooterFormat = 1;

}  // namespace

Result<Footer> parse_footer(const Metadata& metadata, const std::string& target) {
    const auto found = metadata.find(kFooterKey);
    if (found == metadata.end()) {
        return Status(ErrorCode::corrupt_data, target + " is not a headgate checkpoint");
    }
    try {
        const auto json = Json::parse(found->second);
        if (json.at("format").get<int>() > kFooterFormat) {
            return Status(ErrorCode::unsupported_version,
                          target + " was written by a newer headgate (footer format " + json.at("format").dump() + ")");
        }
        Footer out;
        out.schema = json.at("schema").get<std::string>();
        out.plan = json.value("plan", "");
        out.types = json.value("types", std::map<std::string, std::string>{});
        out.sources = json.value("sources", std::vector<std::string>{});
        out.version = json.at("version").get<std::int64_t>();
        out.write_id = json.at("write_id").get<std::string>();
        out.segments = json.at("segments").get<std::vector<std::string>>();
        out.rejects = json.at("rejects").get<std::vector<std::string>>();
        out.rows = json.at("rows").get<std::int64_t>();
        out.has_last = json.contains("last_timestamp_us");
        out.last_timestamp_us = json.value("last_timestamp_us", INT64_MIN);
        out.has_sums = json.contains("superseded") && json.contains("skipped");
        out.superseded = json.value("superseded", std::int64_t{0});
        out.skipped = json.value("skipped", std::int64_t{0});
        out.last_full_listing_us = json.value("last_full_listing_us", std::int64_t{0});
        return out;
    } catch (const Json::exception&) {
        return Status(ErrorCode::corrupt_data, "the footer of " + target + " cannot be read");
    }
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
