#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "headgate/backends/file.hpp"
#include "headgate/base/file.hpp"

namespace headgate::backends {
namespace {

namespace fs = std::filesystem;

class FileStore final : public store::ObjectStore {
public:
    explicit FileStore(std::string folder) : folder_(std::move(folder)) {}

    Status put(const std::string& key, std::string_view bytes, store::PutMode mode) override {
        HG_RETURN_IF_ERROR(store::check_key(key));
        const auto path = folder_ + "/" + key;
        const auto parent = parent_folder(path);
        struct stat info {};
        if (::stat(parent.c_str(), &info) != 0) {
            HG_RETURN_IF_ERROR(make_folders(parent));
        }
        return write_file_durably(path, bytes, mode == store::PutMode::if_absent);
    }

    Result<std::string> get(const std::string& key) const override {
        HG_RETURN_IF_ERROR(store::check_key(key));
        return read_file(folder_ + "/" + key);
    }

    Result<bool> exists(const std::string& key) const override {
        HG_RETURN_IF_ERROR(store::check_key(key));
        struct stat info {};
        if (::stat((folder_ + "/" + key).c_str(), &info) == 0) {
            return S_ISREG(info.st_mode);
        }
        auto status = status_from_errno(errno, "cannot look up an object in " + folder_);
        if (status.code() == ErrorCode::not_found) {
            return false;
        }
        return status;
    }

    Result<std::vector<std::string>> list(const std::string& prefix) const override {
        std::vector<std::string> keys;
        std::error_code error;
        for (fs::recursive_directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
            if (!it->is_regular_file(error) || it->path().filename().string().starts_with(".tmp-")) {
                continue;
            }
            auto key = it->path().string().substr(folder_.size() + 1);
            if (key.starts_with(prefix)) {
                keys.push_back(std::move(key));
            }
        }
        if (error) {
            return status_from_errno(error.value(), "cannot list " + folder_);
        }
        std::sort(keys.begin(), keys.end());
        return keys;
    }

    Status remove(const std::string& key) override {
        HG_RETURN_IF_ERROR(store::check_key(key));
        if (::unlink((folder_ + "/" + key).c_str()) != 0 && errno != ENOENT) {
            return status_from_errno(errno, "cannot remove an object in " + folder_);
        }
        return {};
    }

private:
    std::string folder_;
};

}  // namespace

Result<std::shared_ptr<store::ObjectStore>> make_file_store(const std::string& folder) {
    HG_RETURN_IF_ERROR(make_folders(folder));
    if (::access(folder.c_str(), R_OK | W_OK | X_OK) != 0) {
        return status_from_errno(errno, "cannot use folder " + folder);
    }
    return std::shared_ptr<store::ObjectStore>(std::make_shared<FileStore>(folder));
}

}  // namespace headgate::backends
