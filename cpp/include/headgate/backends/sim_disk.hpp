// A disk in memory for simulations: what was not synced may be lost, and any operation may be a process's last.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/status.hpp"

namespace headgate::backends {

// Single-threaded by design: the simulation's scheduler decides who runs. A path may begin with "owner@": the file is
// that of the rest, and the handle belongs to the simulated process `owner`.
class SimDisk {
public:
    explicit SimDisk(std::uint64_t seed);
    ~SimDisk();
    SimDisk(const SimDisk&) = delete;
    SimDisk& operator=(const SimDisk&) = delete;

    // The name of a SQLite VFS on this disk, for DatabaseOptions::vfs.
    const std::string& vfs() const { return vfs_name_; }

    // The owner's n-th changing operation from now (a write, sync, truncation, deletion, rename) does not happen, nor
    // does anything that it asks for later, until `revive`.
    void stop_after(const std::string& owner, std::int64_t operations);
    bool stopped(const std::string& owner) const;
    // The process is gone: its handles are dead, its locks free; what it wrote is still in the system's cache.
    void kill(const std::string& owner);
    // The owner may open files again.
    void revive(const std::string& owner);
    // Everybody is gone. What was not synced is there, torn or lost, as the seed decides.
    void lose_power();

    // Plain files, in the steps that a durable write takes.
    Status write(const std::string& path, const std::string& data);
    Status sync(const std::string& path);
    Status rename(const std::string& from, const std::string& to);
    Status sync_folder(const std::string& owner);
    Status remove(const std::string& path);
    Result<std::string> read(const std::string& path) const;
    std::vector<std::string> list(const std::string& prefix) const;

    std::int64_t operations() const { return operations_; }

    // For the VFS.
    struct Change {
        bool truncate = false;
        std::size_t offset = 0;  // of a write, or the new size
        std::string data = {};
    };
    struct File {
        std::string durable;
        std::string current;
        std::vector<Change> unsynced;
        bool entry_durable = false;  // its name survives a loss of power
    };
    struct Locks {
        std::map<const void*, int> levels;                    // handle -> SQLITE_LOCK_*
        std::map<const void*, std::vector<int>> wal;          // handle -> per slot: 0, 1 shared, 2 exclusive
        std::vector<std::unique_ptr<std::string>> segments;   // the WAL index
        std::vector<std::unique_ptr<std::string>> abandoned;  // what dead connections may still point to
    };
    struct Owner {
        std::int64_t left = -1;  // changing operations before it stops; -1: never
        bool stopped = false;
        std::uint64_t generation = 0;  // handles of an earlier one are dead
    };

    static std::pair<std::string, std::string> split(const std::string& path);  // (owner, name)
    bool allows(const std::string& owner, std::uint64_t generation);            // counts a changing operation
    bool alive(const std::string& owner, std::uint64_t generation) const;
    Owner& owner(const std::string& name) { return owners_[name]; }
    std::map<std::string, std::shared_ptr<File>>& files() { return files_; }
    Locks& locks(const std::string& name) { return locks_[name]; }
    void change(File& file, Change change);
    // Names reach the disk in order, with the next sync of any file, as on ext4 and xfs (their journals are ordered).
    // Without that not even SQLite keeps its promise: the deletion of a rollback journal is not synced by itself.
    void sync_content(File& file);

private:
    static void apply(std::string& content, const Change& change);
    void settle(File& file);
    void sync_names();

    SeededRandom random_;
    std::string vfs_name_;
    std::shared_ptr<void> vfs_;
    std::map<std::string, std::shared_ptr<File>> files_;
    std::map<std::string, std::shared_ptr<File>> removed_;  // deleted or replaced, the folder not synced since
    std::map<std::string, Locks> locks_;
    std::map<std::string, Owner> owners_;
    std::int64_t operations_ = 0;
};

}  // namespace headgate::backends
