#include <unistd.h>

#include <cerrno>

#include "headgate/backends/file.hpp"

namespace headgate::backends {
namespace {

bool is_temporary(const std::string& key) {
    const auto slash = key.rfind('/');
    return key.compare(slash == std::string::npos ? 0 : slash + 1, 5, ".tmp-") == 0;
}

class FileStore final : public store::ObjectStore {
public:
    FileStore(std::string folder, std::shared_ptr<FileSystem> files)
        : folder_(std::move(folder)), files_(std::move(files)) {}

    Status put(const std::string& key, std::string_view bytes, store::PutMode mode) override {
        HG_RETURN_IF_ERROR(store::check_key(key));
        const auto path = folder_ + "/" + key;
        if (const auto parent = parent_folder(path); !files_->info(parent).ok()) {
            HG_RETURN_IF_ERROR(files_->make_folders(parent));
        }
        return write_file_durably(*files_, path, bytes, mode == store::PutMode::if_absent);
    }

    Result<std::string> get(const std::string& key) const override {
        HG_RETURN_IF_ERROR(store::check_key(key));
        return files_->read(folder_ + "/" + key);
    }

    Result<bool> exists(const std::string& key) const override {
        HG_RETURN_IF_ERROR(store::check_key(key));
        const auto found = files_->info(folder_ + "/" + key);
        if (found.ok()) {
            return !found.value().folder;
        }
        return found.status().code() == ErrorCode::not_found ? Result<bool>(false) : Result<bool>(found.status());
    }

    Result<std::vector<std::string>> list(const std::string& prefix) const override {
        HG_ASSIGN(auto keys, files_->walk(folder_));
        std::erase_if(keys, [&](const auto& key) { return is_temporary(key) || !key.starts_with(prefix); });
        return keys;
    }

    Status remove(const std::string& key) override {
        HG_RETURN_IF_ERROR(store::check_key(key));
        auto status = files_->remove(folder_ + "/" + key);
        return status.code() == ErrorCode::not_found ? Status() : status;
    }

private:
    std::string folder_;
    std::shared_ptr<FileSystem> files_;
};

}  // namespace

Result<std::shared_ptr<store::ObjectStore>> make_file_store(const std::string& folder,
                                                            std::shared_ptr<FileSystem> files) {
    if (!files) {
        files = real_files();
        HG_RETURN_IF_ERROR(files->make_folders(folder));
        if (::access(folder.c_str(), R_OK | W_OK | X_OK) != 0) {
            return status_from_errno(errno, "cannot use folder " + folder);
        }
    }
    return std::shared_ptr<store::ObjectStore>(std::make_shared<FileStore>(folder, std::move(files)));
}

}  // namespace headgate::backends
