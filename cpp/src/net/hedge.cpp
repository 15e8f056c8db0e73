#include "headgate/net/hedge.hpp"

#include <algorithm>

namespace headgate::net {
namespace {

// Sends every request once, and those without a response after `after_us` a second time. In the flow, number 2i is
// request i and number 2i + 1 its second copy.
class Hedging final : public HttpFlow {
public:
    Hedging(const Clock& clock, const std::vector<HttpRequest>& requests, std::int64_t after_us)
        : clock_(clock), requests_(requests), after_us_(after_us), entries_(requests.size()) {}

    Step next(HttpRequest& request, std::uint64_t& number) override {
        if (sent_ < requests_.size()) {
            return send(request, number, sent_++, 0);
        }
        bool waiting = false;
        for (std::size_t i = 0; i < entries_.size(); ++i) {
            const auto& entry = entries_[i];
            if (entry.answered || entry.twin_sent) {
                continue;
            }
            if (clock_.mono_us() - entry.sent_us >= after_us_) {
                entries_[i].twin_sent = true;
                return send(request, number, i, 1);
            }
            waiting = true;
        }
        return waiting ? Step::later : Step::none;
    }

    void answered(std::uint64_t number, HttpResponse&& response) override {
        auto& entry = entries_[number / 2];
        --entry.in_flight;
        if (entry.answered || response.error.code() == ErrorCode::interrupted) {
            return;
        }
        response.hedged = number % 2 == 1;
        const bool good = response.error.ok() && response.status < 500 && response.status != 429;
        entry.response = std::move(response);
        entry.has_response = true;
        if (good || entry.in_flight == 0) {
            entry.answered = true;
            ++answered_;
        }
    }

    bool complete() const { return answered_ == entries_.size(); }

    std::vector<HttpResponse> take(const Status& missing) {
        std::vector<HttpResponse> out;
        out.reserve(entries_.size());
        for (auto& entry : entries_) {
            if (!entry.has_response) {
                entry.response.error = missing;
            }
            out.push_back(std::move(entry.response));
        }
        return out;
    }

private:
    struct Entry {
        HttpResponse response;
        std::int64_t sent_us = 0;
        int in_flight = 0;
        bool twin_sent = false;
        bool has_response = false;
        bool answered = false;
    };

    Step send(HttpRequest& request, std::uint64_t& number, std::size_t index, std::uint64_t twin) {
        request = requests_[index];
        number = 2 * index + twin;
        ++entries_[index].in_flight;
        if (twin == 0) {
            entries_[index].sent_us = clock_.mono_us();
        }
        return Step::request;
    }

    const Clock& clock_;
    const std::vector<HttpRequest>& requests_;
    std::int64_t after_us_;
    std::vector<Entry> entries_;
    std::size_t sent_ = 0;
    std::size_t answered_ = 0;
};

}  // namespace

std::vector<HttpResponse> perform_hedged(HttpTransport& transport, const Clock& clock,
                                         const std::vector<HttpRequest>& requests, Deadline deadline,
                                         std::size_t concurrency, std::int64_t after_us, const Interrupt& interrupt) {
    Hedging flow(clock, requests, after_us);
    bool stopped = false;
    const Interrupt until = [&] {
        stopped = stopped || (interrupt && interrupt());
        return stopped || flow.complete() || deadline.left_us(clock) <= 0;
    };
    // Second copies are sent beside the slow requests, so twice as many may be in flight.
    transport.run(flow, std::max<std::int64_t>(1, deadline.left_us(clock)), 2 * std::max<std::size_t>(1, concurrency),
                  until);
    return flow.take(stopped ? Status(ErrorCode::interrupted, "interrupted")
                             : Status(ErrorCode::timeout, "no complete answer before the deadline"));
}

}  // namespace headgate::net
