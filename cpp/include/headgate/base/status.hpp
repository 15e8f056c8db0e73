// Errors as values. Core code returns Status or Result<T>; nothing throws across a module boundary, prints, or aborts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace headgate {

// Append-only: the names (error_kind) are public, stable, and mirrored by headgate.errors.Kind; a test holds them
// equal.
enum class ErrorCode : std::uint8_t {
    ok = 0,
    internal,             // a bug in headgate
    invalid_input,        // an argument is not what the function takes
    invalid_json,         // the text is not RFC 8259 JSON
    duplicate_key,        // an object names one key twice
    nesting_too_deep,     // deeper than the limit
    number_out_of_range,  // an integer beyond 2^53 - 1, or a double that overflows
    invalid_unicode,      // malformed UTF-8 or a lone surrogate
    invalid_record,       // a record breaks its schema
    invalid_schema,       // a schema or pattern uses what cannot be compiled
    stale_lease,          // the claim's owner was overtaken
    payload_mismatch,     // one idempotency key, two different payloads
    not_found,            // no such object, row or file
    already_exists,       // a conditional create found something there
    version_conflict,     // a conditional write lost a race
    permission_denied,    // the system refused access
    disk_full,            // no space left where we write
    io_error,             // any other failed read or write
    timeout,              // the deadline passed
    connection_failed,    // no connection, or it broke
    http_status,          // an answer with a status of 3xx, 4xx or 5xx
    malformed_response,   // an answer that is not of the expected shape
    circuit_open,         // the breaker did not let the call through
    all_sources_failed,   // every source of a failover failed
    busy,                 // a lock was not to be had in time
    corrupt_data,         // stored bytes fail their own checks
    unsupported_version,  // stored bytes come from a newer headgate
    unsupported_scheme,   // a backend URL nobody here handles
    unsupported_storage,  // a file system that cannot hold our guarantees
    config,               // the configuration is wrong
    interrupted,          // Ctrl-C or a stop request
    forked,               // an object was used in a child of fork() that its parent had used
    unavailable,          // a backend cannot be reached
    address_in_use,       // a port is taken
    not_built,            // the native extension is missing or does not fit
    stage_failed,         // a workflow stage failed after its retries
    counts_differ,        // a run's counts do not add up
    fault_injected,       // raised by a fault point in a test
    backend_full,         // a backend has no room for another key (Redis: maxmemory reached)
    read_only,            // a backend takes no writes now (Redis: a replica)
    message_too_large,    // a message beyond the size limit
    last_ = message_too_large,
};

std::string_view error_kind(ErrorCode code) noexcept;
std::vector<std::string_view> all_error_kinds();

// Ok, or an error code with a message for people: one sentence without a full stop, which names no secret or personal
// id.
class [[nodiscard]] Status {
public:
    Status() = default;
    Status(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

    bool ok() const noexcept { return code_ == ErrorCode::ok; }
    ErrorCode code() const noexcept { return code_; }
    const std::string& message() const noexcept { return message_; }

private:
    ErrorCode code_ = ErrorCode::ok;
    std::string message_;
};

// A value, or the Status of a failure. value() may be called only if ok(), and status() only if not.
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<1>, std::move(value)) {}
    Result(Status status) : state_(std::in_place_index<0>, std::move(status)) {}

    bool ok() const noexcept { return state_.index() == 1; }
    const Status& status() const { return std::get<0>(state_); }
    T& value() { return std::get<1>(state_); }
    const T& value() const { return std::get<1>(state_); }

private:
    std::variant<Status, T> state_;
};

// Makes a Status of the errno of a failed system call. The message is "<what>: <strerror>"; the code is the one that a
// caller can act on (not_found, permission_denied, disk_full ...), or io_error.
Status status_from_errno(int error, std::string_view what);

}  // namespace headgate

// HG_RETURN_IF_ERROR(expression): returns the expression's Status from the enclosing function unless it is ok.
// HG_ASSIGN(variable, expression): the same for a Result; if it is ok, its value initialises or is assigned to
// `variable`.
#define HG_CONCAT_(a, b) a##b
#define HG_CONCAT(a, b) HG_CONCAT_(a, b)
#define HG_RETURN_IF_ERROR(expr)                          \
    do {                                                  \
        if (auto hg_status_ = (expr); !hg_status_.ok()) { \
            return hg_status_;                            \
        }                                                 \
    } while (false)
#define HG_ASSIGN_(tmp, lhs, expr) \
    auto tmp = (expr);             \
    if (!tmp.ok()) {               \
        return tmp.status();       \
    }                              \
    lhs = std::move(tmp.value())
#define HG_ASSIGN(lhs, expr) HG_ASSIGN_(HG_CONCAT(hg_result_, __LINE__), lhs, expr)
