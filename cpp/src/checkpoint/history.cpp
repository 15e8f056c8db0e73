#include "history.hpp"

#include "headgate/checkpoint/records.hpp"

namespace headgate::checkpoint {

const History::MovedLines* History::index(const std::atomic<bool>& stop) const {
    const MutexLock lock(mutex_);
    if (moved_ == nullptr) {
        if (!lists_all_ || ledger_.empty() || !selection_->wait_until_listed(stop)) {
            return nullptr;
        }
        auto moved = std::make_unique<MovedLines>();
        ledger_.each([&](const std::string& partition, const Entry& entry) {
            const bool waits = (entry.flags & (Entry::kLines | Entry::kMoved)) == Entry::kLines;
            if (waits && !selection_->has_unchanged(entry.key)) {
                moved->emplace(entry.content, std::pair(partition, entry));
            }
        });
        moved_ = std::move(moved);
    }
    return moved_.get();
}

std::optional<std::pair<std::string, Entry>> History::moved(std::uint64_t content) const {
    const MutexLock lock(mutex_);
    if (moved_ == nullptr) {
        return std::nullopt;
    }
    const auto found = moved_->find(content);
    return found == moved_->end() ? std::nullopt : std::optional(found->second);
}

Continuation History::continue_after(std::string_view key, std::string_view content, std::uint64_t whole,
                                     const Entry* found, const std::atomic<bool>& stop) const {
    Continuation out;
    const bool lines = holds_lines(key, content);
    const auto* moved = lines ? index(stop) : nullptr;
    if (moved != nullptr && moved->contains(whole)) {
        return {Continuation::Kind::moved, content.size(), whole};
    }
    const bool may_have_moved = moved != nullptr && !moved->empty();
    const bool may_go_on = found != nullptr && goes_on_after(*found);
    const auto is_own = [&](std::uint64_t part) { return may_go_on && found->content == part; };
    if (may_go_on || may_have_moved) {
        const auto taken = find_taken_part(content, [&](std::uint64_t part, std::size_t /*end*/) {
            return is_own(part) || (may_have_moved && moved->contains(part));
        });
        out.begin = taken.end;
        out.content = taken.content;
        out.kind = taken.end == 0          ? Continuation::Kind::none
                   : is_own(taken.content) ? Continuation::Kind::grown
                                           : Continuation::Kind::moved;
    }
    const bool had_lines = found != nullptr && found->rows > 0 && (found->flags & Entry::kMoved) == 0 &&
                           ((found->flags & Entry::kLines) != 0 || found->rows > 1 || names_lines(key));
    if (out.kind == Continuation::Kind::none && lines && had_lines && !take_rewritten_ && !options_.take_rewritten) {
        out.kind = Continuation::Kind::rewritten;
    }
    return out;
}

bool History::is_unsettled(const KeyDigest& key, std::uint64_t tag) const {
    const auto listed = selection_ == nullptr ? std::nullopt : selection_->tag_ahead(key);
    return listed && *listed != tag;
}

}  // namespace headgate::checkpoint
