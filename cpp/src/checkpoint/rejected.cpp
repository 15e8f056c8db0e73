#include "rejected.hpp"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

namespace headgate::checkpoint {
namespace {

using Json = nlohmann::json;

bool fits(const Json& problems, std::string_view rule) {
    return rule.empty() || std::any_of(problems.begin(), problems.end(), [rule](const Json& problem) {
               const auto field = problem.at("field").get<std::string>();
               const auto kind = problem.at("kind").get<std::string>();
               return rule == kind || rule == field || rule == (field.empty() ? "record" : field) + ": " + kind;
           });
}

// Reads the member `content` of a line: 16 hexadecimal digits, of which the first two are the first byte.
std::optional<std::uint64_t> content_in(const Json& line) {
    const auto text = line.value("content", "");
    std::uint64_t out = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, 16);
    return error == std::errc{} && text.size() == 16 ? std::optional(__builtin_bswap64(out)) : std::nullopt;
}

}  // namespace

Status RejectedRecords::read(Target& target, const std::vector<std::string>& names, std::string_view rule) {
    for (const auto& name : names) {
        HG_ASSIGN(const auto text, target.read_part(name));
        try {
            for (std::size_t begin = 0; begin < text.size();) {
                const auto end = std::min(text.find('\n', begin), text.size());
                const auto line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                              text.begin() + static_cast<std::ptrdiff_t>(end));
                begin = end + 1;
                const Record record{line.at("offset").get<std::uint64_t>(), content_in(line)};
                auto& records = records_[digest_key(line.at("key").get<std::string>())];
                std::erase_if(records, [&](const Record& other) {
                    return other.offset == record.offset && other.content == record.content;
                });
                if (const auto& problems = line.at("problems"); !problems.empty() && fits(problems, rule)) {
                    records.push_back(record);
                }
            }
        } catch (const Json::exception&) {
            return {ErrorCode::corrupt_data, "a reject segment of " + target.name() + " cannot be read: " + name};
        }
    }
    std::erase_if(records_, [](const auto& entry) { return entry.second.empty(); });
    return {};
}

const RejectedRecords::Records* RejectedRecords::find(const KeyDigest& key) const {
    const auto found = records_.find(key);
    return found == records_.end() ? nullptr : &found->second;
}

}  // namespace headgate::checkpoint
