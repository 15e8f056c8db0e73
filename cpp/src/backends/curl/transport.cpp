#include <curl/curl.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <mutex>

#include "headgate/backends/curl.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/text.hpp"

namespace headgate::backends {
namespace {

constexpr int kPollMs = 50;       // how soon a Ctrl-C is seen
constexpr int kRetryPollMs = 10;  // how soon a flow is asked again that had nothing for now

struct SlistFree {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct EasyFree {
    void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct MultiFree {
    void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};

struct Transfer {
    std::unique_ptr<CURL, EasyFree> easy;
    std::unique_ptr<curl_slist, SlistFree> headers;
    net::HttpResponse* response = nullptr;
    std::size_t max_body = 0;
    bool too_large = false;
    bool done = false;
    int redirects_left = 0;
    std::int64_t started_us = 0;
    FileDescriptor upload;
    // Of a flow only: what the transfer owns and its number.
    net::HttpRequest own_request;
    net::HttpResponse own_response;
    std::uint64_t number = 0;
};

std::size_t on_upload(char* to, std::size_t size, std::size_t count, void* user) {
    const auto read = ::read(static_cast<Transfer*>(user)->upload.get(), to, size * count);
    return read < 0 ? CURL_READFUNC_ABORT : static_cast<std::size_t>(read);
}

// A connection that was found stale sends its request again: the file starts over.
int on_seek(void* user, curl_off_t offset, int origin) {
    return ::lseek(static_cast<Transfer*>(user)->upload.get(), offset, origin) < 0 ? CURL_SEEKFUNC_FAIL
                                                                                   : CURL_SEEKFUNC_OK;
}

std::size_t on_body(char* data, std::size_t size, std::size_t count, void* user) {
    auto& transfer = *static_cast<Transfer*>(user);
    const auto bytes = size * count;
    if (transfer.response->body.size() + bytes > transfer.max_body) {
        transfer.too_large = true;
        return 0;
    }
    transfer.response->body.append(data, bytes);
    return bytes;
}

std::size_t on_header(char* data, std::size_t size, std::size_t count, void* user) {
    auto& transfer = *static_cast<Transfer*>(user);
    const std::string_view line(data, size * count);
    const auto colon = line.find(':');
    if (colon != std::string_view::npos) {
        std::string name(line.substr(0, colon));
        std::transform(name.begin(), name.end(), name.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        transfer.response->headers.emplace_back(std::move(name), trim_blanks(line.substr(colon + 1)));
    }
    return size * count;
}

// Scheme, host and port, the port named even where it is the scheme's own; empty for what is no URL.
std::string origin_of(const char* url) {
    const std::unique_ptr<CURLU, decltype(&curl_url_cleanup)> parts(curl_url(), curl_url_cleanup);
    std::string out;
    if (curl_url_set(parts.get(), CURLUPART_URL, url, 0) != CURLUE_OK) {
        return out;
    }
    for (const auto part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
        char* text = nullptr;
        if (curl_url_get(parts.get(), part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) {
            return {};
        }
        out += std::string(text) + ' ';
        curl_free(text);
    }
    return out;
}

Status to_status(CURLcode code, bool too_large) {
    if (too_large) {
        return {ErrorCode::malformed_response, "the body is larger than the limit"};
    }
    switch (code) {
        case CURLE_OK:
            return {};
        case CURLE_OPERATION_TIMEDOUT:
            return {ErrorCode::timeout, "no complete answer before the deadline"};
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_ISSUER_ERROR:
        case CURLE_SSL_INVALIDCERTSTATUS:
            return {ErrorCode::permission_denied, "the server's TLS certificate is not valid for it"};
        case CURLE_URL_MALFORMAT:
        case CURLE_UNSUPPORTED_PROTOCOL:
            return {ErrorCode::invalid_input, "not an http(s) URL"};
        default:
            // The library's text for the code names no URL and no header.
            return {ErrorCode::connection_failed, curl_easy_strerror(code)};
    }
}

// What one call of perform() or run() works with; its connections stay open for the next call.
class Lane {
public:
    Lane(const CurlOptions& options, const Clock& clock, std::atomic<std::int64_t>& abandoned)
        : options_(options), clock_(&clock), abandoned_(abandoned), multi_(curl_multi_init()) {
        curl_multi_setopt(multi_.get(), CURLMOPT_MAXCONNECTS, options_.max_idle_connections);
        curl_multi_setopt(multi_.get(), CURLMOPT_MAX_HOST_CONNECTIONS, options_.max_per_host);
    }

    std::vector<net::HttpResponse> perform(const std::vector<net::HttpRequest>& requests, Deadline deadline,
                                           std::size_t concurrency, const Interrupt& interrupt) {
        std::vector<net::HttpResponse> responses(requests.size());
        std::vector<Transfer> transfers(requests.size());
        std::size_t next = 0;
        std::size_t running = 0;
        while (next < requests.size() || running > 0) {
            while (next < requests.size() && running < std::max<std::size_t>(1, concurrency)) {
                start(requests[next], transfers[next], responses[next], deadline);
                ++next;
                ++running;
            }
            int active = 0;
            curl_multi_perform(multi_.get(), &active);
            running -= collect(transfers);
            const bool late = deadline.left_us(*clock_) <= 0;
            if (late || (interrupt && interrupt())) {
                cut(transfers, late ? Status(ErrorCode::timeout, "no complete answer before the deadline")
                                    : Status(ErrorCode::interrupted, "interrupted"));
                for (; next < requests.size(); ++next) {
                    responses[next].error = late ? Status(ErrorCode::timeout, "not sent before the deadline")
                                                 : Status(ErrorCode::interrupted, "interrupted");
                }
                break;
            }
            if (running > 0 && active > 0) {
                const auto left_ms = deadline.left_us(*clock_) / 1000 + 1;
                curl_multi_poll(multi_.get(), nullptr, 0, static_cast<int>(std::min<std::int64_t>(kPollMs, left_ms)),
                                nullptr);
            }
        }
        return responses;
    }

    void run(net::HttpFlow& flow, std::int64_t timeout_us, std::size_t concurrency, const Interrupt& interrupt) {
        std::vector<Transfer> transfers(std::max<std::size_t>(1, concurrency));
        std::vector<Transfer*> idle;
        idle.reserve(transfers.size());
        for (auto& transfer : transfers) {
            idle.push_back(&transfer);
        }
        bool more = true;
        while (true) {
            bool wait = false;
            while (more && !idle.empty()) {
                auto& transfer = *idle.back();
                transfer.own_request = {};
                const auto next = flow.next(transfer.own_request, transfer.number);
                if (next != net::HttpFlow::Step::request) {
                    more = next == net::HttpFlow::Step::later;
                    wait = true;
                    break;
                }
                idle.pop_back();
                transfer.own_response = {};
                start(transfer.own_request, transfer, transfer.own_response, Deadline::after(*clock_, timeout_us));
            }
            if (idle.size() == transfers.size() && !more) {
                return;
            }
            int active = 0;
            curl_multi_perform(multi_.get(), &active);
            if (collect_flow(flow, idle) == 0) {
                curl_multi_poll(multi_.get(), nullptr, 0, wait && more ? kRetryPollMs : kPollMs, nullptr);
            }
            if (interrupt && interrupt()) {
                for (auto& transfer : transfers) {
                    if (std::find(idle.begin(), idle.end(), &transfer) == idle.end()) {
                        finish(transfer, {ErrorCode::interrupted, "interrupted"});
                        flow.answered(transfer.number, std::move(transfer.own_response));
                    }
                }
                return;
            }
        }
    }

private:
    std::size_t collect_flow(net::HttpFlow& flow, std::vector<Transfer*>& idle) {
        std::size_t finished = 0;
        int left = 0;
        while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
            if (message->msg != CURLMSG_DONE) {
                continue;
            }
            const auto code = message->data.result;
            Transfer* transfer = nullptr;
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
            if (code == CURLE_OK && follow(*transfer)) {
                continue;
            }
            finish(*transfer, to_status(code, transfer->too_large));
            ++finished;
            idle.push_back(transfer);
            flow.answered(transfer->number, std::move(transfer->own_response));
        }
        return finished;
    }

    // Sends a redirected GET again, to the same scheme, host and port only: its headers may hold a token.
    bool follow(Transfer& transfer) {
        char* target = nullptr;
        curl_easy_getinfo(transfer.easy.get(), CURLINFO_REDIRECT_URL, &target);
        if (target == nullptr || transfer.redirects_left <= 0) {
            return false;
        }
        char* from = nullptr;
        curl_easy_getinfo(transfer.easy.get(), CURLINFO_EFFECTIVE_URL, &from);
        const std::string to(target);
        if (from == nullptr || origin_of(from).empty() || origin_of(from) != origin_of(to.c_str())) {
            return false;
        }
        --transfer.redirects_left;
        transfer.response->headers.clear();
        transfer.response->body.clear();
        curl_multi_remove_handle(multi_.get(), transfer.easy.get());
        curl_easy_setopt(transfer.easy.get(), CURLOPT_URL, to.c_str());
        curl_multi_add_handle(multi_.get(), transfer.easy.get());
        return true;
    }

    void start(const net::HttpRequest& request, Transfer& transfer, net::HttpResponse& response, Deadline deadline) {
        if (transfer.easy) {
            curl_easy_reset(transfer.easy.get());
        } else {
            transfer.easy.reset(curl_easy_init());
        }
        transfer.done = false;
        transfer.too_large = false;
        transfer.response = &response;
        transfer.max_body = options_.max_body;
        transfer.redirects_left = request.method == "GET" ? options_.max_redirects : 0;
        transfer.started_us = clock_->mono_us();
        CURL* easy = transfer.easy.get();
        curl_slist* headers = nullptr;
        for (const auto& [name, value] : request.headers) {
            headers = curl_slist_append(headers, (name + ": " + value).c_str());
        }
        if (!request.body.empty() &&
            std::none_of(request.headers.begin(), request.headers.end(), [](const auto& header) {
                return header.first == "content-type" || header.first == "Content-Type";
            })) {
            // libcurl would say that it is a form.
            headers = curl_slist_append(headers, "Content-Type: application/octet-stream");
        }
        transfer.headers.reset(headers);
        const auto left_ms = deadline.left_us(*clock_) / 1000;
        curl_easy_setopt(easy, CURLOPT_URL, request.url.c_str());
        curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);  // a key with ".." in it is a name, not a way
        curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(easy, CURLOPT_USERAGENT, options_.user_agent.c_str());
        curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);  // do not join a hanging resolver thread
        if (options_.decode) {
            curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "");
        }
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(std::clamp<std::int64_t>(left_ms, 1, 86'400'000)));
        if (options_.connect_timeout_us > 0) {
            curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                             static_cast<long>(std::max<std::int64_t>(1, options_.connect_timeout_us / 1000)));
        }
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
        curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
        curl_easy_setopt(easy, CURLOPT_HEADERDATA, &transfer);
        curl_easy_setopt(easy, CURLOPT_PRIVATE, &transfer);
        if (!options_.ca_file.empty()) {
            curl_easy_setopt(easy, CURLOPT_CAINFO, options_.ca_file.c_str());
        }
        if (!request.body_file.empty()) {
            transfer.upload = FileDescriptor(::open(request.body_file.c_str(), O_RDONLY | O_CLOEXEC));
            struct stat info {};
            if (transfer.upload.ok()) {
                ::fstat(transfer.upload.get(), &info);
            }
            curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
            curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
            curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_upload);
            curl_easy_setopt(easy, CURLOPT_READDATA, &transfer);
            curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
            curl_easy_setopt(easy, CURLOPT_SEEKDATA, &transfer);
            curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(info.st_size));
        } else if (request.method != "GET") {
            curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
            curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
            curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, request.body.data());
        }
        curl_multi_add_handle(multi_.get(), easy);
    }

    void finish(Transfer& transfer, Status status) {
        curl_off_t looked_up = 0;
        curl_off_t connected = 0;
        curl_easy_getinfo(transfer.easy.get(), CURLINFO_NAMELOOKUP_TIME_T, &looked_up);
        curl_easy_getinfo(transfer.easy.get(), CURLINFO_CONNECT_TIME_T, &connected);
        const bool cut = status.code() == ErrorCode::timeout || status.code() == ErrorCode::interrupted;
        if (cut && looked_up == 0 && connected == 0) {
            abandoned_.fetch_add(1, std::memory_order_relaxed);
        }
        if (status.code() == ErrorCode::invalid_input && connected > 0) {
            status = Status(ErrorCode::malformed_response, "the answer is not HTTP");
        }
        transfer.done = true;
        transfer.response->error = std::move(status);
        transfer.response->elapsed_us = clock_->mono_us() - transfer.started_us;
        curl_easy_getinfo(transfer.easy.get(), CURLINFO_RESPONSE_CODE, &transfer.response->status);
        curl_multi_remove_handle(multi_.get(), transfer.easy.get());
    }

    std::size_t collect(std::vector<Transfer>& transfers) {
        std::size_t finished = 0;
        int left = 0;
        while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
            if (message->msg != CURLMSG_DONE) {
                continue;
            }
            const auto code = message->data.result;
            Transfer* transfer = nullptr;
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
            if (transfer >= transfers.data() && transfer < transfers.data() + transfers.size()) {
                if (code == CURLE_OK && follow(*transfer)) {
                    continue;
                }
                finish(*transfer, to_status(code, transfer->too_large));
                ++finished;
            }
        }
        return finished;
    }

    void cut(std::vector<Transfer>& transfers, const Status& status) {
        for (auto& transfer : transfers) {
            if (transfer.easy && !transfer.done) {
                finish(transfer, status);
                transfer.response->body.clear();
            }
        }
    }

    const CurlOptions& options_;
    const Clock* clock_;
    std::atomic<std::int64_t>& abandoned_;
    std::unique_ptr<CURLM, MultiFree> multi_;
};

// Calls of several threads go on side by side, each in a lane; lanes are kept for their connections, the last used
// first.
class CurlTransport final : public net::HttpTransport {
public:
    CurlTransport(CurlOptions options, std::shared_ptr<Clock> clock)
        : options_(std::move(options)), clock_(std::move(clock)), generation_(fork_generation()) {
        static std::once_flag once;
        std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    }

    std::vector<net::HttpResponse> perform(const std::vector<net::HttpRequest>& requests, Deadline deadline,
                                           std::size_t concurrency, const Interrupt& interrupt) override {
        if (fork_generation() != generation_) {
            std::vector<net::HttpResponse> responses(requests.size());
            for (auto& response : responses) {
                response.error = {ErrorCode::forked,
                                  "an HTTP client was used after fork(); make a new one in the child"};
            }
            return responses;
        }
        auto lane = take();
        auto responses = lane->perform(requests, deadline, concurrency, interrupt);
        give_back(std::move(lane));
        return responses;
    }

    void run(net::HttpFlow& flow, std::int64_t timeout_us, std::size_t concurrency,
             const Interrupt& interrupt) override {
        auto lane = take();
        lane->run(flow, timeout_us, concurrency, interrupt);
        give_back(std::move(lane));
    }

    std::int64_t abandoned_lookups() const override { return abandoned_.load(std::memory_order_relaxed); }

private:
    std::unique_ptr<Lane> take() {
        {
            const std::lock_guard lock(mutex_);
            if (!lanes_.empty()) {
                auto lane = std::move(lanes_.back());
                lanes_.pop_back();
                return lane;
            }
        }
        return std::make_unique<Lane>(options_, *clock_, abandoned_);
    }

    void give_back(std::unique_ptr<Lane> lane) {
        const std::lock_guard lock(mutex_);
        lanes_.push_back(std::move(lane));
    }

    CurlOptions options_;
    std::shared_ptr<Clock> clock_;
    unsigned generation_;
    std::atomic<std::int64_t> abandoned_{0};
    std::mutex mutex_;
    std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace

std::shared_ptr<net::HttpTransport> make_curl_transport(CurlOptions options, std::shared_ptr<Clock> clock) {
    return std::make_shared<CurlTransport>(std::move(options), std::move(clock));
}

}  // namespace headgate::backends
