#include <algorithm>
#include <atomic>
#include <mutex>  // std::call_once

#include "decode.hpp"
#include "headgate/backends/curl.hpp"
#include "headgate/base/mutex.hpp"
#include "transfer.hpp"

namespace headgate::backends {
namespace {

constexpr int kPollMs = 50;       // how often the interrupt is asked
constexpr int kRetryPollMs = 10;  // how long a flow that has answered `later` is left alone

struct MultiFree {
    void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};

// The libcurl state of one call of perform() or run(). Its connections stay open and are used again by the next call.
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
                const auto at = next++;
                if (auto status = net::check_request(requests[at]); !status.ok()) {
                    responses[at].error = std::move(status);
                    continue;
                }
                start(requests[at], transfers[at], responses[at], deadline);
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
                transfer.own_response = {};
                if (auto status = net::check_request(transfer.own_request); !status.ok()) {
                    transfer.own_response.error = std::move(status);
                    flow.answered(transfer.number, std::move(transfer.own_response));
                    continue;
                }
                idle.pop_back();
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

    // Follows the redirect of a GET. Only to the same scheme, host and port, because the headers may contain a token.
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
        transfer.head_complete = false;
        curl_multi_remove_handle(multi_.get(), transfer.easy.get());
        curl_easy_setopt(transfer.easy.get(), CURLOPT_URL, to.c_str());
        curl_multi_add_handle(multi_.get(), transfer.easy.get());
        return true;
    }

    void start(const net::HttpRequest& request, Transfer& transfer, net::HttpResponse& response, Deadline deadline) {
        prepare(transfer, request, response, options_, clock_->mono_us(), deadline.left_us(*clock_) / 1000);
        curl_multi_add_handle(multi_.get(), transfer.easy.get());
    }

    void finish(Transfer& transfer, Status status) {
        std::string codings;
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
        if (status.ok() && options_.decode) {
            for (const auto& [name, value] : transfer.response->headers) {
                if (name == "content-encoding") {
                    codings += (codings.empty() ? "" : ",") + value;
                }
            }
            status = decode_content(codings, options_.max_body, transfer.response->body);
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

// Every call in progress has a lane of its own, so that calls of several threads do not wait for each other. Lanes are
// kept for their open connections; the one used last is used first.
class CurlTransport final : public net::HttpTransport {
public:
    CurlTransport(CurlOptions options, std::shared_ptr<Clock> clock)
        : options_(std::move(options)), clock_(std::move(clock)), generation_(fork_generation()) {
        static std::once_flag once;
        std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    }

    std::vector<net::HttpResponse> perform(const std::vector<net::HttpRequest>& requests, Deadline deadline,
                                           std::size_t concurrency, const Interrupt& interrupt) override {
        if (is_forked()) {
            std::vector<net::HttpResponse> responses(requests.size());
            for (auto& response : responses) {
                response.error = forked();
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
        if (is_forked()) {
            answer_forked(flow, interrupt);
            return;
        }
        auto lane = take();
        lane->run(flow, timeout_us, concurrency, interrupt);
        give_back(std::move(lane));
    }

    std::int64_t abandoned_lookups() const override { return abandoned_.load(std::memory_order_relaxed); }

private:
    // After fork() the connections belong to both processes. If both used one, each could get the other's responses.
    bool is_forked() const { return fork_generation() != generation_; }

    static Status forked() {
        return {ErrorCode::forked, "an HTTP client was used after fork(); make a new one in the child"};
    }

    void answer_forked(net::HttpFlow& flow, const Interrupt& interrupt) const {
        while (!(interrupt && interrupt())) {
            net::HttpRequest request;
            std::uint64_t number = 0;
            const auto step = flow.next(request, number);
            if (step == net::HttpFlow::Step::none) {
                return;
            }
            if (step == net::HttpFlow::Step::later) {
                clock_->sleep_us(kRetryPollMs * 1000);
                continue;
            }
            net::HttpResponse response;
            response.error = forked();
            flow.answered(number, std::move(response));
        }
    }

    std::unique_ptr<Lane> take() {
        {
            const MutexLock lock(mutex_);
            if (!lanes_.empty()) {
                auto lane = std::move(lanes_.back());
                lanes_.pop_back();
                return lane;
            }
        }
        return std::make_unique<Lane>(options_, *clock_, abandoned_);
    }

    void give_back(std::unique_ptr<Lane> lane) {
        const MutexLock lock(mutex_);
        lanes_.push_back(std::move(lane));
    }

    CurlOptions options_;
    std::shared_ptr<Clock> clock_;
    unsigned generation_;
    std::atomic<std::int64_t> abandoned_{0};
    Mutex mutex_;
    std::vector<std::unique_ptr<Lane>> lanes_ HG_GUARDED_BY(mutex_);
};

}  // namespace

std::shared_ptr<net::HttpTransport> make_curl_transport(CurlOptions options, std::shared_ptr<Clock> clock) {
    return std::make_shared<CurlTransport>(std::move(options), std::move(clock));
}

}  // namespace headgate::backends
