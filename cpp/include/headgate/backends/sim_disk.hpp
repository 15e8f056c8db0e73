// A disk in memory, for the simulation. Content that was not synced may be lost, and a process may be stopped before
// any of its operations.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/status.hpp"

namespace headgate::backends {

// For one thread: the scheduler of the simulation decides which simulated process runs. A path may begin with "owner@".
// The rest is then the name of the file, and the handle belongs to the simulated process `owner`.
class SimDisk {
public:
    explicit SimDisk(std::uint64_t seed);
    ~SimDisk();
    SimDisk(const SimDisk&) = delete;
    SimDisk& operator=(const SimDisk&) = delete;

    // The name of a SQLite VFS on this disk, for DatabaseOptions::vfs.
    const std::string& vfs() const { return vfs_name_; }

    // Stops the process `owner` before its changing operation number `operations`, counted from now. A changing
    // operation is a write, sync, truncation, deletion or rename. That one fails, and so does everything after it until
    // revive().
    void stop_after(const std::string& owner, std::int64_t operations);
    bool stopped(const std::string& owner) const;
    // Ends the process `owner`. Its handles fail and its locks are free. What it wrote and did not sync is kept, as an
    // operating system keeps it in its cache.
    void kill(const std::string& owner);
    // Lets `owner` open files again.
    void revive(const std::string& owner);
    // Ends all processes, as a loss of power does. Each write that was not synced is kept, torn or lost, as the random
    // numbers of the seed decide.
    void lose_power();

    // Operations on plain files, one for each step of a durable write.
    Status write(const std::string& path, const std::string& data);
    Status sync(const std::string& path);
    Status rename(const std::string& from, const std::string& to);
    Status sync_folder(const std::string& owner);
    Status remove(const std::string& path);
    Result<std::string> read(const std::string& path) const;
    std::vector<std::string> list(const std::string& prefix) const;

    std::int64_t operations() const { return operations_; }

    // The rest is for the SQLite VFS on this disk.
    struct Change {
        bool truncate = false;
        std::size_t offset = 0;  // where the write begins, or the new size
        std::string data = {};
    };
    struct File {
        std::string durable;
        std::string current;
        std::vector<Change> unsynced;
        bool entry_durable = false;  // the name of the file survives a loss of power
    };
    struct Locks {
        std::map<const void*, int> levels;                   // handle -> SQLITE_LOCK_*
        std::map<const void*, std::vector<int>> wal;         // handle -> per slot: 0, 1 shared, 2 exclusive
        std::vector<std::unique_ptr<std::string>> segments;  // the WAL index
        std::vector<std::unique_ptr<std::string>>
            abandoned;  // memory to which connections of ended processes may still point
    };
    struct Owner {
        std::int64_t left = -1;  // changing operations before it stops; -1: never
        bool stopped = false;
        std::uint64_t generation = 0;  // raised when the process ends; handles with an earlier number fail
    };

    static std::pair<std::string, std::string> split(const std::string& path);  // (owner, name)
    bool allows(const std::string& owner, std::uint64_t generation);            // and counts the operation
    bool alive(const std::string& owner, std::uint64_t generation) const;
    Owner& owner(const std::string& name) { return owners_[name]; }
    std::map<std::string, std::shared_ptr<File>>& files() { return files_; }
    Locks& locks(const std::string& name) { return locks_[name]; }
    void change(File& file, Change change);
    // Makes the content of a file durable, and with it all earlier changes of names, as ext4 and xfs do with their
    // ordered journals. SQLite relies on that: it does not sync the deletion of a rollback journal.
    void sync_content(File& file);

private:
    static void apply(std::string& content, const Change& change);
    void settle(File& file);
    void sync_names();

    SeededRandom random_;
    std::string vfs_name_;
    std::shared_ptr<void> vfs_;
    std::map<std::string, std::shared_ptr<File>> files_;
    std::map<std::string, std::shared_ptr<File>> removed_;  // deleted or replaced, and not yet durable
    std::map<std::string, Locks> locks_;
    std::map<std::string, Owner> owners_;
    std::int64_t operations_ = 0;
};

}  // namespace headgate::backends
