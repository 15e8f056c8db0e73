#include "headgate/checkpoint/refused.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "headgate/base/limit.hpp"
#include "headgate/base/text.hpp"
#include "keys.hpp"
#include "reading.hpp"

namespace headgate::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kHeldBytes = limit(4U << 20U, 64);

// A temporary file that is unlinked at once, so that it is removed however the process ends.
Result<FileDescriptor> nameless_file(const std::string& folder) {
    auto path = folder + "/refused-XXXXXX";
    FileDescriptor file(::mkostemp(path.data(), O_CLOEXEC));
    if (!file.ok()) {
        return status_from_errno(errno, "cannot create a file in " + folder);
    }
    ::unlink(path.c_str());
    return file;
}

}  // namespace

Status Refused::add(std::string_view key, std::uint64_t offset, const std::vector<schema::Problem>& problems,
                    const std::function<Result<std::string>()>& folder, std::optional<std::uint64_t> content) {
    Json line{{"key", key}, {"offset", offset}, {"problems", Json::array()}};
    if (content) {
        std::array<std::uint8_t, sizeof *content> bytes{};
        std::memcpy(bytes.data(), &*content, bytes.size());
        line["content"] = to_hex(bytes.data(), bytes.size());
    }
    for (const auto& problem : problems) {
        line["problems"].push_back({{"field", problem.field}, {"kind", problem.kind}});
    }
    held_ += line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    ++size_;
    if (held_.size() < kHeldBytes) {
        return {};
    }
    if (!file_.ok()) {
        HG_ASSIGN(const auto where, folder());
        HG_ASSIGN(file_, nameless_file(where));
    }
    HG_RETURN_IF_ERROR(write_at(file_, in_file_, held_, "refused records"));
    in_file_ += held_.size();
    held_.clear();
    return {};
}

Result<std::string> Refused::bytes_at(std::uint64_t at, std::size_t bytes) const {
    if (at >= in_file_) {
        const auto from = std::min<std::uint64_t>(at - in_file_, held_.size());
        return held_.substr(from, bytes);
    }
    std::string out(std::min<std::uint64_t>(bytes, in_file_ - at), '\0');
    for (std::size_t got = 0; got < out.size();) {
        const auto read = ::pread(file_.get(), out.data() + got, out.size() - got, static_cast<off_t>(at + got));
        if (read < 0 && errno == EINTR) {
            continue;
        }
        if (read <= 0) {
            return status_from_errno(read < 0 ? errno : EIO, "cannot read back refused records");
        }
        got += static_cast<std::size_t>(read);
    }
    return out;
}

Result<std::string> Refused::lines(std::uint64_t& at, std::size_t bytes) const {
    for (;; bytes *= 2) {
        HG_ASSIGN(auto out, bytes_at(at, bytes));
        const auto end = out.rfind('\n');
        if (out.empty() || end != std::string::npos) {
            out.resize(out.empty() ? 0 : end + 1);
            at += out.size();
            return out;
        }
    }
}

Result<std::vector<Reject>> Refused::read(std::uint64_t& at, std::size_t bytes) const {
    HG_ASSIGN(const auto text, lines(at, bytes));
    std::vector<Reject> out;
    for (std::size_t begin = 0; begin < text.size();) {
        const auto end = text.find('\n', begin);
        const auto line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                      text.begin() + static_cast<std::ptrdiff_t>(end));
        const auto key = line.at("key").get<std::string>();
        const auto digest = digest_key(key);
        auto& reject = out.emplace_back();
        reject.name = schema_->shown_name(key);
        reject.digest = to_hex(digest.data(), digest.size()).substr(0, 12);
        reject.offset = line.at("offset").get<std::uint64_t>();
        for (const auto& problem : line.at("problems")) {
            reject.problems.push_back({problem.at("field").get<std::string>(), problem.at("kind").get<std::string>()});
        }
        begin = end + 1;
    }
    return out;
}

}  // namespace headgate::checkpoint
