#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>

#include "headgate/backends/curl.hpp"
#include "support.hpp"

namespace headgate::backends {
namespace {

// A listener on loopback that answers each connection with fixed bytes, or with nothing at all.
class Listener {
public:
    explicit Listener(std::string reply) : reply_(std::move(reply)), socket_(socket(AF_INET, SOCK_STREAM, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        EXPECT_EQ(listen(socket_, 16), 0);
        socklen_t size = sizeof address;
        getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size);
        port_ = ntohs(address.sin_port);
        if (!reply_.empty()) {
            thread_ = std::thread([this] { serve(); });
        }
    }
    ~Listener() {
        shutdown(socket_, SHUT_RDWR);
        if (thread_.joinable()) {
            thread_.join();
        }
        close(socket_);
    }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;
    int served() const { return served_; }
    std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/"; }

private:
    void serve() {
        while (true) {
            const int peer = accept(socket_, nullptr, nullptr);
            if (peer < 0) {
                return;
            }
            ++served_;
            char buffer[4096];
            if (read(peer, buffer, sizeof buffer) > 0) {
                EXPECT_EQ(write(peer, reply_.data(), reply_.size()), static_cast<ssize_t>(reply_.size()));
            }
            close(peer);
        }
    }
    std::string reply_;
    int socket_;
    int port_ = 0;
    std::atomic<int> served_{0};
    std::thread thread_;
};

class Curl : public testing::Test {
protected:
    std::shared_ptr<SystemClock> clock = std::make_shared<SystemClock>();
    std::shared_ptr<net::HttpTransport> transport = make_curl_transport({}, clock);
    std::vector<net::HttpResponse> get(const std::vector<std::string>& urls, std::int64_t us,
                                       const Interrupt& interrupt = {}) {
        std::vector<net::HttpRequest> requests;
        for (const auto& url : urls) {
            requests.push_back({"GET", url, {{"X-Test", "1"}}, ""});
        }
        return transport->perform(requests, Deadline::after(*clock, us), 2, interrupt);
    }
};

TEST_F(Curl, AnswersInTheOrderOfTheRequests) {
    Listener listener("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b \r\nConnection: close\r\n\r\n[]");
    const auto out = get({listener.url(), "http://127.0.0.1:1/", listener.url(), listener.url()}, 5'000'000);
    ASSERT_EQ(out.size(), 4U);
    EXPECT_TRUE(out[0].error.ok()) << out[0].error.message();
    EXPECT_EQ(out[0].status, 200);
    EXPECT_EQ(out[0].body, "[]");
    EXPECT_EQ(out[1].error.code(), ErrorCode::connection_failed);
    EXPECT_EQ(out[3].body, "[]");
    bool found = false;
    for (const auto& [name, value] : out[0].headers) {
        found = found || (name == "x-a" && value == "b");
    }
    EXPECT_TRUE(found);
}

TEST_F(Curl, CutsACallAtItsDeadline) {
    Listener silent("");
    const auto started = clock->mono_us();
    const auto out = get({silent.url(), silent.url(), silent.url()}, 300'000);
    for (const auto& response : out) {
        EXPECT_EQ(response.error.code(), ErrorCode::timeout);
    }
    EXPECT_LT(clock->mono_us() - started, 2'000'000);
}

TEST_F(Curl, EndsWhenInterrupted) {
    Listener silent("");
    const auto out = get({silent.url()}, 60'000'000, [] { return true; });
    EXPECT_EQ(out[0].error.code(), ErrorCode::interrupted);
}

TEST_F(Curl, ACutBodyIsAFailureNotAnAnswer) {
    Listener listener("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[1, 2");
    const auto out = get({listener.url()}, 5'000'000);
    EXPECT_EQ(out[0].error.code(), ErrorCode::connection_failed);
}

TEST_F(Curl, RefusesOtherProtocolsAndTooLargeBodies) {
    EXPECT_EQ(get({"file:///etc/passwd"}, 1'000'000)[0].error.code(), ErrorCode::invalid_input);
    CurlOptions small;
    small.max_body = 10;
    transport = make_curl_transport(small, clock);
    Listener listener("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n[12345678901234567890");
    EXPECT_EQ(get({listener.url()}, 5'000'000)[0].error.code(), ErrorCode::malformed_response);
}

TEST_F(Curl, FollowsRedirectsWithinItsOriginOnly) {
    CurlOptions options;
    options.max_redirects = 3;
    transport = make_curl_transport(options, clock);
    Listener loop("HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    auto out = get({loop.url()}, 5'000'000);
    EXPECT_EQ(out[0].status, 302);  // after three
    EXPECT_EQ(loop.served(), 4);
    Listener other("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]");
    Listener leaves("HTTP/1.1 302 Found\r\nLocation: " + other.url() +
                    "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    out = get({leaves.url()}, 5'000'000);
    EXPECT_EQ(out[0].status, 302);
    EXPECT_EQ(other.served(), 0);  // the token in our headers stays at home
}

TEST_F(Curl, CallsOfTwoThreadsGoOnSideBySide) {
    Listener silent("");
    Listener quick("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]");
    std::atomic<bool> over{false};
    std::thread hanging([&] { get({silent.url()}, 60'000'000, [&] { return over.load(); }); });
    EXPECT_EQ(get({quick.url()}, 5'000'000)[0].body, "[]");
    over = true;
    hanging.join();
}

TEST_F(Curl, SaysSoAfterFork) {
    const auto child = fork();
    if (child == 0) {
        _exit(get({"http://127.0.0.1:1/"}, 1'000'000)[0].error.code() == ErrorCode::forked ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace headgate::backends
