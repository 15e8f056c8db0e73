#include "headgate/base/status.hpp"

#include <array>
#include <cerrno>
#include <system_error>

namespace headgate {
namespace {

constexpr std::array<std::string_view, static_cast<std::size_t>(ErrorCode::last_) + 1> kKinds = {
    "ok",
    "internal",
    "invalid_input",
    "invalid_json",
    "duplicate_key",
    "nesting_too_deep",
    "number_out_of_range",
    "invalid_unicode",
    "invalid_record",
    "invalid_schema",
    "stale_lease",
    "payload_mismatch",
    "not_found",
    "already_exists",
    "version_conflict",
    "permission_denied",
    "disk_full",
    "io_error",
    "timeout",
    "connection_failed",
    "http_status",
    "malformed_response",
    "circuit_open",
    "all_sources_failed",
    "busy",
    "corrupt_data",
    "unsupported_version",
    "unsupported_scheme",
    "unsupported_storage",
    "config",
    "interrupted",
    "forked",
    "unavailable",
    "address_in_use",
    "not_built",
    "stage_failed",
    "counts_differ",
    "fault_injected",
    "backend_full",
    "read_only",
    "message_too_large",
};

}  // namespace

std::string_view error_kind(ErrorCode code) noexcept {
    const auto index = static_cast<std::size_t>(code);
    return index < kKinds.size() ? kKinds[index] : kKinds[1];
}

std::vector<std::string_view> all_error_kinds() {
    return {kKinds.begin() + 1, kKinds.end()};
}

Status status_from_errno(int error, std::string_view what) {
    ErrorCode code = ErrorCode::io_error;
    switch (error) {
        case ENOENT:
        case ENOTDIR:
            code = ErrorCode::not_found;
            break;
        case EACCES:
        case EPERM:
        case EROFS:
            code = ErrorCode::permission_denied;
            break;
        case ENOSPC:
        case EDQUOT:
            code = ErrorCode::disk_full;
            break;
        case EEXIST:
            code = ErrorCode::already_exists;
            break;
        default:
            break;
    }
    // generic_category().message is thread-safe where strerror is not.
    return {code, std::string(what) + ": " + std::generic_category().message(error)};
}

}  // namespace headgate
