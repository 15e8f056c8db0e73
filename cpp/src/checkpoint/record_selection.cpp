#include "record_selection.hpp"

#include <set>

#include "growth.hpp"
#include "headgate/checkpoint/records.hpp"

namespace headgate::checkpoint {

// Records of this content, or of a leading part of it, are where they were. What the first releases have rejected says
// nothing of the content: it counts where nothing else of the file was taken.
void RecordSelection::retry(const RejectedRecords::Records& records, const Entry& found, std::string_view content) {
    content_ = content;
    std::set<std::uint64_t> wanted;
    for (const auto& record : records) {
        wanted.insert(record.content.value_or(found.content));
    }
    std::map<std::uint64_t, std::size_t> part_ends{{found.content, begin_}};
    find_taken_part(content, [&](std::uint64_t part, std::size_t end) {
        if (wanted.contains(part)) {
            part_ends.emplace(part, end);
        }
        return false;
    });
    const bool nothing_taken = (found.flags & Entry::kRejected) != 0;
    for (const auto& record : records) {
        const auto part = part_ends.find(record.content.value_or(found.content));
        if (record.content ? part != part_ends.end() : nothing_taken) {
            again_.insert_or_assign(begin_of_text(content, record.offset), Rejected{record.offset, part->second});
        }
    }
    all_ = nothing_taken && !again_.empty();
}

std::vector<std::uint64_t> RecordSelection::again() const {
    std::vector<std::uint64_t> out;
    for (const auto& [begin, rejected] : again_) {
        out.push_back(rejected.offset);
    }
    return out;
}

const RecordSelection::Rejected* RecordSelection::find(std::uint64_t offset) const {
    if (again_.empty()) {
        return nullptr;
    }
    const auto found = again_.find(begin_of_text(content_, offset));
    return found == again_.end() ? nullptr : &found->second;
}

}  // namespace headgate::checkpoint
