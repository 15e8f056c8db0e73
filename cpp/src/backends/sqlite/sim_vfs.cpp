// The SQLite VFS of a SimDisk: files, locks, and the shared memory of the WAL index, all in the memory of this process.
#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>

#include "headgate/backends/sim_disk.hpp"

namespace headgate::backends {
namespace {

constexpr int kWalSlots = 8;

struct SimFile {
    sqlite3_file base;
    SimDisk* disk;
    std::shared_ptr<SimDisk::File>* file;
    std::string* name;
    std::string* owner;
    std::uint64_t generation;
    int flags;
};

SimFile& sim(sqlite3_file* file) {
    return *reinterpret_cast<SimFile*>(file);
}

bool dead(const SimFile& f) {
    return !f.disk->alive(*f.owner, f.generation);
}

bool is_dead(const SimDisk& disk, const void* handle) {
    const auto& f = *static_cast<const SimFile*>(handle);
    return !disk.alive(*f.owner, f.generation);
}

// Releases the locks of processes that have ended, as a kernel does.
template <class Map>
void forget_dead(const SimDisk& disk, Map& map) {
    std::erase_if(map, [&](const auto& entry) { return is_dead(disk, entry.first); });
}

int x_close(sqlite3_file* file) {
    auto& f = sim(file);
    auto& locks = f.disk->locks(*f.name);
    locks.levels.erase(&f);
    locks.wal.erase(&f);
    const bool remove = (f.flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
    if (remove) {
        f.disk->files().erase(*f.name);
    }
    delete f.file;
    delete f.name;
    delete f.owner;
    return SQLITE_OK;
}

int x_read(sqlite3_file* file, void* into, int size, sqlite3_int64 offset) {
    auto& f = sim(file);
    if (dead(f)) {
        return SQLITE_IOERR_READ;
    }
    const auto& content = (*f.file)->current;
    const auto begin = std::min(content.size(), static_cast<std::size_t>(offset));
    const auto count = std::min(content.size() - begin, static_cast<std::size_t>(size));
    std::memcpy(into, content.data() + begin, count);
    if (count < static_cast<std::size_t>(size)) {
        std::memset(static_cast<char*>(into) + count, 0, static_cast<std::size_t>(size) - count);
        return SQLITE_IOERR_SHORT_READ;
    }
    return SQLITE_OK;
}

int x_write(sqlite3_file* file, const void* data, int size, sqlite3_int64 offset) {
    auto& f = sim(file);
    if (!f.disk->allows(*f.owner, f.generation)) {
        return SQLITE_IOERR_WRITE;
    }
    f.disk->change(**f.file, {false, static_cast<std::size_t>(offset),
                              std::string(static_cast<const char*>(data), static_cast<std::size_t>(size))});
    return SQLITE_OK;
}

int x_truncate(sqlite3_file* file, sqlite3_int64 size) {
    auto& f = sim(file);
    if (!f.disk->allows(*f.owner, f.generation)) {
        return SQLITE_IOERR_TRUNCATE;
    }
    f.disk->change(**f.file, {true, static_cast<std::size_t>(size), {}});
    return SQLITE_OK;
}

int x_sync(sqlite3_file* file, int) {
    auto& f = sim(file);
    if (!f.disk->allows(*f.owner, f.generation)) {
        return SQLITE_IOERR_FSYNC;
    }
    f.disk->sync_content(**f.file);
    return SQLITE_OK;
}

int x_size(sqlite3_file* file, sqlite3_int64* size) {
    auto& f = sim(file);
    if (dead(f)) {
        return SQLITE_IOERR_FSTAT;
    }
    *size = static_cast<sqlite3_int64>((*f.file)->current.size());
    return SQLITE_OK;
}

int x_lock(sqlite3_file* file, int level) {
    auto& f = sim(file);
    if (dead(f)) {
        return SQLITE_IOERR_LOCK;
    }
    auto& levels = f.disk->locks(*f.name).levels;
    forget_dead(*f.disk, levels);
    int highest = SQLITE_LOCK_NONE;
    for (const auto& [handle, held] : levels) {
        if (handle != &f) {
            highest = std::max(highest, held);
        }
    }
    const bool refused = (level == SQLITE_LOCK_SHARED && highest >= SQLITE_LOCK_PENDING) ||
                         (level == SQLITE_LOCK_RESERVED && highest >= SQLITE_LOCK_RESERVED) ||
                         (level == SQLITE_LOCK_EXCLUSIVE && highest >= SQLITE_LOCK_SHARED);
    if (refused) {
        return SQLITE_BUSY;
    }
    levels[&f] = std::max(levels[&f], level);
    return SQLITE_OK;
}

int x_unlock(sqlite3_file* file, int level) {
    auto& f = sim(file);
    auto& levels = f.disk->locks(*f.name).levels;
    if (level == SQLITE_LOCK_NONE) {
        levels.erase(&f);
    } else {
        levels[&f] = level;
    }
    return SQLITE_OK;
}

int x_check_reserved(sqlite3_file* file, int* out) {
    auto& f = sim(file);
    auto& levels = f.disk->locks(*f.name).levels;
    forget_dead(*f.disk, levels);
    *out = std::any_of(levels.begin(), levels.end(),
                       [](const auto& entry) { return entry.second >= SQLITE_LOCK_RESERVED; })
               ? 1
               : 0;
    return SQLITE_OK;
}

int x_control(sqlite3_file*, int, void*) {
    return SQLITE_NOTFOUND;
}

int x_sector(sqlite3_file*) {
    return 512;
}

int x_device(sqlite3_file*) {
    return 0;  // the disk promises nothing: writes may be torn and reordered
}

int x_shm_map(sqlite3_file* file, int index, int size, int extend, void volatile** out) {
    auto& f = sim(file);
    *out = nullptr;
    if (dead(f)) {
        return SQLITE_IOERR_SHMMAP;
    }
    auto& locks = f.disk->locks(*f.name);
    forget_dead(*f.disk, locks.wal);
    auto& segments = locks.segments;
    if (locks.wal.empty()) {
        // The first connection rebuilds the index from the log, as after a crash. The old memory is kept, because
        // connections of ended processes may still point to it.
        std::move(segments.begin(), segments.end(), std::back_inserter(locks.abandoned));
        segments.clear();
    }
    locks.wal[&f].resize(kWalSlots);
    if (static_cast<std::size_t>(index) >= segments.size()) {
        if (extend == 0) {
            return SQLITE_OK;
        }
        while (segments.size() <= static_cast<std::size_t>(index)) {
            segments.push_back(std::make_unique<std::string>(static_cast<std::size_t>(size), '\0'));
        }
    }
    *out = segments[static_cast<std::size_t>(index)]->data();
    return SQLITE_OK;
}

int x_shm_lock(sqlite3_file* file, int offset, int count, int flags) {
    auto& f = sim(file);
    auto& wal = f.disk->locks(*f.name).wal;
    forget_dead(*f.disk, wal);
    auto& mine = wal[&f];
    mine.resize(kWalSlots);
    const bool unlock = (flags & SQLITE_SHM_UNLOCK) != 0;
    if (dead(f) && !unlock) {
        return SQLITE_IOERR_SHMLOCK;
    }
    const int wanted = unlock ? 0 : ((flags & SQLITE_SHM_EXCLUSIVE) != 0 ? 2 : 1);
    for (int slot = offset; slot < offset + count && !unlock; ++slot) {
        for (const auto& [handle, held] : wal) {
            const int other = handle == &f ? 0 : held[static_cast<std::size_t>(slot)];
            if (other == 2 || (other == 1 && wanted == 2)) {
                return SQLITE_BUSY;
            }
        }
    }
    std::fill(mine.begin() + offset, mine.begin() + offset + count, wanted);
    return SQLITE_OK;
}

void x_shm_barrier(sqlite3_file*) {}

int x_shm_unmap(sqlite3_file* file, int remove) {
    auto& f = sim(file);
    auto& locks = f.disk->locks(*f.name);
    locks.wal.erase(&f);
    forget_dead(*f.disk, locks.wal);
    static_cast<void>(remove);  // the next connection clears it
    return SQLITE_OK;
}

constexpr sqlite3_io_methods kMethods = {
    2,          x_close,       x_read,           x_write,   x_truncate, x_sync,   x_size,
    x_lock,     x_unlock,      x_check_reserved, x_control, x_sector,   x_device, x_shm_map,
    x_shm_lock, x_shm_barrier, x_shm_unmap,      nullptr,   nullptr,
};

int x_open(sqlite3_vfs* vfs, sqlite3_filename path, sqlite3_file* file, int flags, int* out_flags) {
    static std::atomic<int> temporary{0};
    auto& disk = *static_cast<SimDisk*>(vfs->pAppData);
    auto& f = sim(file);
    f.base.pMethods = nullptr;
    const auto full = path != nullptr ? std::string(path) : "@temporary-" + std::to_string(temporary++);
    const auto [owner, name] = SimDisk::split(full);
    auto& state = disk.owner(owner);
    if (state.stopped) {
        return SQLITE_CANTOPEN;
    }
    auto& found = disk.files()[name];
    if (!found) {
        if ((flags & SQLITE_OPEN_CREATE) == 0) {
            disk.files().erase(name);
            return SQLITE_CANTOPEN;
        }
        found = std::make_shared<SimDisk::File>();
    }
    f.disk = &disk;
    f.file = new std::shared_ptr<SimDisk::File>(found);
    f.name = new std::string(name);
    f.owner = new std::string(owner);
    f.generation = state.generation;
    f.flags = flags;
    f.base.pMethods = &kMethods;
    if (out_flags != nullptr) {
        *out_flags = flags;
    }
    return SQLITE_OK;
}

int x_delete(sqlite3_vfs* vfs, const char* path, int) {
    auto& disk = *static_cast<SimDisk*>(vfs->pAppData);
    return disk.remove(path).ok() ? SQLITE_OK : SQLITE_IOERR_DELETE;
}

int x_access(sqlite3_vfs* vfs, const char* path, int, int* out) {
    auto& disk = *static_cast<SimDisk*>(vfs->pAppData);
    *out = disk.files().contains(SimDisk::split(path).second) ? 1 : 0;
    return SQLITE_OK;
}

int x_full_path(sqlite3_vfs*, const char* path, int size, char* out) {
    sqlite3_snprintf(size, out, "%s", path);
    return SQLITE_OK;
}

int x_randomness(sqlite3_vfs* vfs, int size, char* out) {
    static_cast<void>(vfs);
    std::memset(out, 7, static_cast<std::size_t>(size));  // the same bytes in every run
    return size;
}

int x_sleep(sqlite3_vfs*, int microseconds) {
    return microseconds;  // the simulation has its own time
}

int x_time(sqlite3_vfs*, sqlite3_int64* out) {
    *out = 212'000'000'000'000;  // a fixed Julian day, in milliseconds
    return SQLITE_OK;
}

int x_last_error(sqlite3_vfs*, int, char*) {
    return 0;
}

}  // namespace

SimDisk::SimDisk(std::uint64_t seed) : random_(seed) {
    static std::atomic<int> count{0};
    vfs_name_ = "headgate-sim-" + std::to_string(count++);
    auto vfs = std::make_shared<sqlite3_vfs>();
    std::memset(vfs.get(), 0, sizeof(sqlite3_vfs));
    vfs->iVersion = 2;
    vfs->szOsFile = sizeof(SimFile);
    vfs->mxPathname = 512;
    vfs->zName = vfs_name_.c_str();
    vfs->pAppData = this;
    vfs->xOpen = x_open;
    vfs->xDelete = x_delete;
    vfs->xAccess = x_access;
    vfs->xFullPathname = x_full_path;
    vfs->xRandomness = x_randomness;
    vfs->xSleep = x_sleep;
    vfs->xGetLastError = x_last_error;
    vfs->xCurrentTimeInt64 = x_time;
    sqlite3_vfs_register(vfs.get(), 0);
    vfs_ = vfs;
}

SimDisk::~SimDisk() {
    sqlite3_vfs_unregister(static_cast<sqlite3_vfs*>(vfs_.get()));
}

}  // namespace headgate::backends
