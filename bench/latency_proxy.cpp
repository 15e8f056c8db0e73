// A TCP proxy that holds every answer back for a while: `latency_proxy LISTEN_PORT TARGET_PORT MILLISECONDS`, loopback
// only. One thread and few system calls: it shares its two cores with what it delays.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace {

using Time = std::chrono::steady_clock::time_point;

// Either side of a connection; both are closed together.
struct Pair {
    int client = -1;
    int server = -1;
    bool open = true;
    ~Pair() {
        ::close(client);
        ::close(server);
    }
};

struct Side {
    std::shared_ptr<Pair> pair;
    bool of_server = false;
};

struct Answer {
    Time due;
    std::shared_ptr<Pair> pair;
    std::string bytes;  // empty: the server has closed
};

sockaddr_in loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

void at_once(int socket) {
    const int on = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

bool send_all(int socket, const char* data, std::size_t size) {
    while (size > 0) {
        const auto sent = ::send(socket, data, size, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        data += sent;
        size -= static_cast<std::size_t>(sent);
    }
    return true;
}

class Proxy {
public:
    Proxy(int port, int target, int milliseconds) : target_(target), delay_(milliseconds) {
        const auto address = loopback(port);
        const int on = 1;
        ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
            ::listen(listener_, SOMAXCONN) != 0) {
            std::perror("listen");
            std::exit(1);
        }
        watch(listener_, sides_.size());
        sides_.emplace_back();  // the listener's place
    }

    [[noreturn]] void run() {
        std::array<epoll_event, 512> events{};
        while (true) {
            const int count = ::epoll_wait(epoll_, events.data(), events.size(), wait_ms());
            for (int i = 0; i < count; ++i) {
                const auto place = events[static_cast<std::size_t>(i)].data.u64;
                if (place == 0) {
                    accept();
                } else if (sides_[place].pair) {
                    read(place);
                }
            }
            for (const auto now = std::chrono::steady_clock::now(); !held_.empty() && held_.front().due <= now;) {
                auto& answer = held_.front();
                if (answer.bytes.empty() || !send_all(answer.pair->client, answer.bytes.data(), answer.bytes.size())) {
                    ::shutdown(answer.pair->client, SHUT_RDWR);
                }
                held_.pop_front();
            }
        }
    }

private:
    int wait_ms() const {
        if (held_.empty()) {
            return -1;
        }
        const auto left = held_.front().due - std::chrono::steady_clock::now();
        return static_cast<int>(
            std::max<std::int64_t>(0, std::chrono::duration_cast<std::chrono::microseconds>(left).count() / 1000 + 1));
    }

    void watch(int socket, std::size_t place) const {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = place;
        ::epoll_ctl(epoll_, EPOLL_CTL_ADD, socket, &event);
    }

    void accept() {
        auto pair = std::make_shared<Pair>();
        pair->client = ::accept(listener_, nullptr, nullptr);
        pair->server = ::socket(AF_INET, SOCK_STREAM, 0);
        const auto address = loopback(target_);
        if (::connect(pair->server, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
            return;
        }
        for (const bool of_server : {false, true}) {
            const int socket = of_server ? pair->server : pair->client;
            at_once(socket);
            watch(socket, sides_.size());
            sides_.push_back({pair, of_server});
        }
    }

    void read(std::size_t place) {
        const auto side = sides_[place];
        const int from = side.of_server ? side.pair->server : side.pair->client;
        const auto size = ::recv(from, buffer_.data(), buffer_.size(), 0);
        const std::string_view bytes(buffer_.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
        if (bytes.empty()) {
            ::epoll_ctl(epoll_, EPOLL_CTL_DEL, from, nullptr);
            sides_[place].pair.reset();
        }
        if (side.of_server) {
            held_.push_back({std::chrono::steady_clock::now() + delay_, side.pair, std::string(bytes)});
        } else if (bytes.empty() || !send_all(side.pair->server, bytes.data(), bytes.size())) {
            ::shutdown(side.pair->server, SHUT_RDWR);
        }
    }

    int target_;
    std::chrono::milliseconds delay_;
    int listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    int epoll_ = ::epoll_create1(0);
    std::vector<Side> sides_;  // by the number that epoll knows
    std::deque<Answer> held_;  // in the order in which they are due
    std::array<char, 256 * 1024> buffer_{};
};

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "usage: latency_proxy LISTEN_PORT TARGET_PORT MILLISECONDS\n");
        return 2;
    }
    std::make_unique<Proxy>(std::atoi(arguments[1]), std::atoi(arguments[2]), std::atoi(arguments[3]))->run();
}
