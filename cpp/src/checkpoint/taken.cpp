#include "taken.hpp"

#include <mutex>


namespace headgate::checkpoint {

std::string LedgerView::partition_of_part(const std::string& name) {
    const auto at = name.find('@');
    return at == std::string::npos ? "" : name.substr(at + 1, name.rfind('.') - at - 1);
}

std::string LedgerView::partition_of(std::string_view key) const {
    return options_.partitioned ? options_.schema->day_of_name(key) : "";
}

Status LedgerView::open(const std::vector<std::string>& segments, bool in_background) {
    empty_ = segments.empty();
    for (const auto& name : segments) {
        waiting_[partition_of_part(name)].push_back(name);
    }
    if (options_.partitioned) {
        return {};
    }
    if (!in_background) {
        return load("");
    }
    loading_ = std::async(std::launch::async, [this] { return load(""); }).share();
    return {};
}

Status LedgerView::reach(std::string_view key) {
    return options_.partitioned && !waiting_.empty() ? load(partition_of(key)) : Status();
}

Status LedgerView::load(const std::string& partition) {
    const auto found = waiting_.find(partition);
    if (found == waiting_.end()) {
        return {};
    }
    Taken taken;
    for (const auto& name : found->second) {
        HG_ASSIGN(const auto bytes, target_.read_part(name));
        HG_ASSIGN(auto entries, read_segment(bytes, name));
        taken.merge(std::move(entries));
    }
    taken.index();
    waiting_.erase(found);
    const std::unique_lock lock(mutex_);
    taken_.emplace(partition, std::move(taken));
    return {};
}

void LedgerView::expect(const KeyDigest& digest) const {
    if (!options_.partitioned && !taken_.empty()) {
        taken_.begin()->second.expect(digest);
    }
}

const Entry* LedgerView::find(std::string_view key, const KeyDigest& digest) const {
    if (empty_) {
        return nullptr;
    }
    const auto partition = partition_of(key);
    std::shared_lock lock(mutex_, std::defer_lock);
    if (options_.partitioned) {
        lock.lock();
    }
    const auto found = taken_.find(partition);
    return found == taken_.end() ? nullptr : found->second.find(digest);
}

}  // namespace headgate::checkpoint
