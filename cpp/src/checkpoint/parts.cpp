#include "parts.hpp"

#include <algorithm>
#include <utility>

#include "headgate/base/limit.hpp"
#include "taken.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kMostSegments = limit(32, 3);  // of one partition; more are merged into one
constexpr std::size_t kRejectBytesPerPart = limit(8U << 20U, 50);

}  // namespace

NewParts::~NewParts() {
    for (const auto& name : written_) {
        // Where the first cannot be reached any more, thousands would each be tried again and again.
        if (const auto status = target_.remove_part(name); !status.ok() && status.code() != ErrorCode::not_found) {
            return;
        }
    }
}

void NewParts::add(const std::string& partition, const Entry& entry) {
    auto& entries = entries_[partition];
    if (entries.empty()) {
        entries.reserve(std::min(expected_, most_entries_));
    }
    entries.add(entry);
    ++held_;
}

Status NewParts::write_if_full() {
    return held_ >= most_entries_ ? write_entries() : Status();
}

// "seg-7-0123456789ab.hgl", then "seg-7-0123456789ab-1.hgl" and so on.
std::string NewParts::part_name(const char* kind, std::size_t n, const std::string& ending) const {
    std::string out = kind;
    out += std::to_string(version_);
    out += '-';
    out += id_;
    if (n > 0) {
        out += '-';
        out += std::to_string(n);
    }
    return out += ending;
}

Status NewParts::write_part(std::string name, std::string_view bytes, std::vector<std::string>& named) {
    written_.push_back(name);  // before it is: an answer may be lost
    named.push_back(std::move(name));
    return target_.write_part(named.back(), bytes);
}

Status NewParts::write_entries() {
    for (auto& [partition, entries] : entries_) {
        const auto ending = partition.empty() ? ".hgl" : "@" + partition + ".hgl";
        HG_RETURN_IF_ERROR(write_part(part_name("seg-", numbered_++, ending), entries.seal(), segments_));
    }
    entries_.clear();
    held_ = 0;
    return {};
}

// What was refused is read back rather than written meanwhile: a run that commits nothing leaves none behind.
Status NewParts::write(const std::vector<const Refused*>& rejects) {
    HG_RETURN_IF_ERROR(write_entries());
    for (const auto* refused : rejects) {
        for (std::uint64_t at = 0;;) {
            HG_ASSIGN(const auto lines, refused->lines(at, kRejectBytesPerPart));
            if (lines.empty()) {
                break;
            }
            HG_RETURN_IF_ERROR(write_part(part_name("rej-", rejects_.size(), ".jsonl"), lines, rejects_));
        }
    }
    return {};
}

void NewParts::name_in(Footer& next) const {
    next.segments.insert(next.segments.end(), segments_.begin(), segments_.end());
    next.rejects.insert(next.rejects.end(), rejects_.begin(), rejects_.end());
}

Status NewParts::compact(Footer& next) {
    std::map<std::string, std::vector<std::string>> parts;
    for (const auto* names : {&next.segments, &segments_}) {
        for (const auto& name : *names) {
            parts[LedgerView::partition_of_part(name)].push_back(name);
        }
    }
    for (auto& [partition, entries] : entries_) {
        const auto& names = parts[partition];
        if (names.size() < kMostSegments) {
            continue;
        }
        Taken all;
        for (const auto& name : names) {
            HG_ASSIGN(const auto bytes, target_.read_part(name));
            HG_ASSIGN(auto older, read_segment(bytes, name));
            all.merge(std::move(older));
        }
        all.merge(entries.entries());
        if (all.size() > most_merged_) {
            continue;  // one segment of them could not be read back
        }
        for (const auto& name : names) {
            std::erase(next.segments, name);
            std::erase(segments_, name);
        }
        entries = NewSegment(all.entries());
    }
    return {};
}

}  // namespace headgate::checkpoint
