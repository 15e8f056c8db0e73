#include "headgate/backends/sim_disk.hpp"

#include <algorithm>

namespace headgate::backends {
namespace {

constexpr std::size_t kSector = 512;  // a write may be torn at the boundaries of sectors only

Status gone() {
    return {ErrorCode::io_error, "the simulated process has stopped"};
}

}  // namespace

std::pair<std::string, std::string> SimDisk::split(const std::string& path) {
    const auto at = path.find('@');
    return at == std::string::npos ? std::pair{std::string(), path}
                                   : std::pair{path.substr(0, at), path.substr(at + 1)};
}

void SimDisk::stop_after(const std::string& owner, std::int64_t operations) {
    owners_[owner].left = operations;
}

bool SimDisk::stopped(const std::string& owner) const {
    const auto found = owners_.find(owner);
    return found != owners_.end() && found->second.stopped;
}

void SimDisk::kill(const std::string& owner) {
    auto& state = owners_[owner];
    state.stopped = true;
    ++state.generation;
}

void SimDisk::revive(const std::string& owner) {
    auto& state = owners_[owner];
    state.stopped = false;
    state.left = -1;
    ++state.generation;
}

bool SimDisk::alive(const std::string& owner, std::uint64_t generation) const {
    const auto found = owners_.find(owner);
    return found != owners_.end() && !found->second.stopped && found->second.generation == generation;
}

bool SimDisk::allows(const std::string& owner, std::uint64_t generation) {
    auto& state = owners_[owner];
    if (state.stopped || state.generation != generation) {
        return false;
    }
    if (state.left == 0) {
        kill(owner);
        return false;
    }
    if (state.left > 0) {
        --state.left;
    }
    ++operations_;
    return true;
}

void SimDisk::apply(std::string& content, const Change& change) {
    if (change.truncate) {
        content.resize(change.offset);
        return;
    }
    if (content.size() < change.offset + change.data.size()) {
        content.resize(change.offset + change.data.size());
    }
    content.replace(change.offset, change.data.size(), change.data);
}

void SimDisk::change(File& file, Change change) {
    apply(file.current, change);
    file.unsynced.push_back(std::move(change));
}

// Decides for each change that was not synced whether it is kept, lost, or kept in part. A real drive may write them in
// any order.
void SimDisk::settle(File& file) {
    std::string content = file.durable;
    for (auto& change : file.unsynced) {
        const auto fate = random_.next() % 4;
        if (fate == 0) {
            continue;
        }
        if (fate == 1 && !change.truncate && change.data.size() > kSector) {
            const auto sectors = change.data.size() / kSector;
            change.data.resize(kSector * (random_.next() % sectors));
        }
        apply(content, change);
    }
    file.durable = content;
    file.current = std::move(content);
    file.unsynced.clear();
}

void SimDisk::lose_power() {
    for (auto& [name, state] : owners_) {
        state.stopped = true;
        ++state.generation;
    }
    for (auto& [name, locks] : locks_) {
        locks.levels.clear();
        locks.wal.clear();
    }
    for (auto& [name, file] : removed_) {
        // The folder was not synced, so the old name may still be there.
        if (file->entry_durable && random_.next() % 2 == 0) {
            files_[name] = file;
        }
    }
    removed_.clear();
    for (auto entry = files_.begin(); entry != files_.end();) {
        if (!entry->second->entry_durable && random_.next() % 2 == 0) {
            entry = files_.erase(entry);
            continue;
        }
        settle(*entry->second);
        entry->second->entry_durable = true;
        ++entry;
    }
}

void SimDisk::sync_names() {
    removed_.clear();
    for (auto& [name, file] : files_) {
        file->entry_durable = true;
    }
}

void SimDisk::sync_content(File& file) {
    file.durable = file.current;
    file.unsynced.clear();
    sync_names();
}

Status SimDisk::write(const std::string& path, const std::string& data) {
    const auto [who, name] = split(path);
    if (!allows(who, owners_[who].generation)) {
        return gone();
    }
    auto& file = files_[name];
    if (!file) {
        file = std::make_shared<File>();
    }
    change(*file, {true, 0, {}});
    change(*file, {false, 0, data});
    return {};
}

Status SimDisk::sync(const std::string& path) {
    const auto [who, name] = split(path);
    if (!allows(who, owners_[who].generation)) {
        return gone();
    }
    if (const auto found = files_.find(name); found != files_.end()) {
        sync_content(*found->second);
    }
    return {};
}

Status SimDisk::rename(const std::string& from, const std::string& to) {
    const auto [who, name] = split(from);
    if (!allows(who, owners_[who].generation)) {
        return gone();
    }
    const auto found = files_.find(name);
    if (found == files_.end()) {
        return {ErrorCode::not_found, "there is no file to rename"};
    }
    const auto target = split(to).second;
    if (const auto old = files_.find(target); old != files_.end()) {
        removed_[target] = old->second;
    }
    auto file = found->second;
    file->entry_durable = false;
    files_.erase(found);
    files_[target] = std::move(file);
    return {};
}

Status SimDisk::sync_folder(const std::string& who) {
    if (!allows(who, owners_[who].generation)) {
        return gone();
    }
    sync_names();
    return {};
}

Status SimDisk::remove(const std::string& path) {
    const auto [who, name] = split(path);
    if (!allows(who, owners_[who].generation)) {
        return gone();
    }
    if (const auto found = files_.find(name); found != files_.end()) {
        removed_[name] = found->second;
        files_.erase(found);
    }
    return {};
}

Result<std::string> SimDisk::read(const std::string& path) const {
    const auto found = files_.find(split(path).second);
    if (found == files_.end()) {
        return Status(ErrorCode::not_found, "there is no such object");
    }
    return found->second->current;
}

std::vector<std::string> SimDisk::list(const std::string& prefix) const {
    std::vector<std::string> names;
    for (auto entry = files_.lower_bound(prefix); entry != files_.end() && entry->first.starts_with(prefix); ++entry) {
        names.push_back(entry->first);
    }
    return names;
}

}  // namespace headgate::backends
