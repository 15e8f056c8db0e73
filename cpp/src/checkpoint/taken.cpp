#include "taken.hpp"

#include "headgate/base/text.hpp"

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
        const auto& partition = *partitions_.insert(partition_of_part(name)).first;
        waiting_[partition].push_back(name);
        if (!partition.empty()) {
            lengths_.insert(partition.size());
            firsts_.set(static_cast<unsigned char>(partition.front()));
        }
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

std::vector<std::string_view> LedgerView::others_of(std::string_view key) const {
    std::vector<std::string_view> out;
    const auto name = base_name(key);
    for (const auto length : lengths_) {
        for (std::size_t at = 0; at + length <= name.size(); ++at) {
            if (!firsts_.test(static_cast<unsigned char>(name[at]))) {
                continue;
            }
            if (const auto found = partitions_.find(name.substr(at, length)); found != partitions_.end()) {
                out.push_back(*found);
            }
        }
    }
    if (const auto found = partitions_.find(std::string_view()); found != partitions_.end()) {
        out.push_back(*found);
    }
    return out;
}

Status LedgerView::reach(std::string_view key) {
    if (!options_.partitioned || waiting_.empty()) {
        return {};
    }
    HG_RETURN_IF_ERROR(load(partition_of(key)));
    for (const auto& partition : others_of(key)) {
        HG_RETURN_IF_ERROR(load(partition));
    }
    return {};
}

Status LedgerView::load(std::string_view partition) {
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
    const WriterLock lock(mutex_);
    const auto& loaded = taken_.emplace(partition, std::move(taken)).first->second;
    undivided_ = options_.partitioned ? nullptr : &loaded;
    return {};
}

void LedgerView::each(const std::function<void(const std::string&, const Entry&)>& look) const {
    const ReaderLock lock(mutex_);
    for (const auto& [partition, taken] : taken_) {
        for (const auto& entry : taken.entries()) {
            look(partition, entry);
        }
    }
}

void LedgerView::forget() {
    const WriterLock lock(mutex_);
    undivided_ = nullptr;
    taken_.clear();
}

void LedgerView::expect(const KeyDigest& digest) const {
    if (undivided_ != nullptr) {
        undivided_->expect(digest);
    }
}

const Entry* LedgerView::find_in(std::string_view partition, const KeyDigest& digest) const {
    const auto loaded = taken_.find(partition);
    return loaded == taken_.end() ? nullptr : loaded->second.find(digest);
}

const Entry* LedgerView::find(std::string_view key, const KeyDigest& digest) const {
    if (empty_) {
        return nullptr;
    }
    if (!options_.partitioned) {
        return undivided_ == nullptr ? nullptr : undivided_->find(digest);
    }
    const auto partition = partition_of(key);
    const ReaderLock lock(mutex_);
    if (const auto* found = find_in(partition, digest); found != nullptr) {
        return found;
    }
    for (const auto& other : others_of(key)) {
        if (const auto* found = find_in(other, digest); found != nullptr) {
            return found;
        }
    }
    return nullptr;
}

}  // namespace headgate::checkpoint
