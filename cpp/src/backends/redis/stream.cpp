#include "stream.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

namespace headgate::backends {
namespace {

constexpr int kSliceMs = 50;  // how often a wait checks its deadline and the interrupt
constexpr std::size_t kTlsBlock = 16 * 1024;

Status spent(const Patience& patience) {
    if (patience.interrupt && patience.interrupt()) {
        return {ErrorCode::interrupted, "interrupted while waiting for Redis"};
    }
    const SystemClock clock;
    return patience.deadline.left_us(clock) <= 0 ? Status(ErrorCode::unavailable, "Redis did not answer in time")
                                                 : Status();
}

Status broken(const std::string& why) {
    return {ErrorCode::unavailable, "the connection to Redis broke: " + why};
}

class Socket {
public:
    explicit Socket(int fd) : fd_(fd) {}
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;
    ~Socket() { close(fd_); }

    int fd() const { return fd_; }

    Status connect(const addrinfo& address, const Patience& patience) {
        fcntl(fd_, F_SETFL, O_NONBLOCK);
        if (::connect(fd_, address.ai_addr, address.ai_addrlen) != 0) {
            if (errno != EINPROGRESS) {
                return {ErrorCode::unavailable, std::generic_category().message(errno)};
            }
            pollfd waiting{fd_, POLLOUT, 0};
            while (poll(&waiting, 1, kSliceMs) <= 0) {
                HG_RETURN_IF_ERROR(spent(patience));
            }
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error != 0) {
                return {ErrorCode::unavailable, std::generic_category().message(error)};
            }
        }
        // From here on reads block, with a short timeout. A read takes one system call then instead of two.
        fcntl(fd_, F_SETFL, 0);
        const timeval slice{0, kSliceMs * 1000};
        const int on = 1;
        setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof slice);
        setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof slice);
        setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(fd_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        return {};
    }

    Status write(std::string_view bytes, const Patience& patience) const {
        while (!bytes.empty()) {
            const auto sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent >= 0) {
                bytes.remove_prefix(static_cast<std::size_t>(sent));
            } else if (errno == EAGAIN || errno == EINTR) {
                HG_RETURN_IF_ERROR(spent(patience));
            } else {
                return broken(std::generic_category().message(errno));
            }
        }
        return {};
    }

    Result<std::size_t> read(char* into, std::size_t size, const Patience& patience) const {
        while (true) {
            const auto got = recv(fd_, into, size, 0);
            if (got > 0) {
                return static_cast<std::size_t>(got);
            }
            if (got == 0) {
                return broken("closed by the server");
            }
            if (errno != EAGAIN && errno != EINTR) {
                return broken(std::generic_category().message(errno));
            }
            HG_RETURN_IF_ERROR(spent(patience));
        }
    }

private:
    int fd_;
};

class PlainStream final : public Stream {
public:
    explicit PlainStream(std::unique_ptr<Socket> socket) : socket_(std::move(socket)) {}
    Status write(std::string_view bytes, const Patience& patience) override { return socket_->write(bytes, patience); }
    Result<std::size_t> read(char* into, std::size_t size, const Patience& patience) override {
        return socket_->read(into, size, patience);
    }

private:
    std::unique_ptr<Socket> socket_;
};

struct FreeSsl {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    void operator()(SSL* ssl) const { SSL_free(ssl); }
};

std::string openssl_error() {
    std::array<char, 256> text{};
    const auto code = ERR_get_error();
    ERR_clear_error();
    if (code == 0) {
        return "unknown TLS error";
    }
    ERR_error_string_n(code, text.data(), text.size());
    return text.data();
}

// TLS over memory buffers. OpenSSL does not touch the socket, so that our deadlines apply and SIGPIPE cannot occur.
class TlsStream final : public Stream {
public:
    explicit TlsStream(std::unique_ptr<Socket> socket) : socket_(std::move(socket)) {}

    Status handshake(const RedisOptions& options, const Patience& patience) {
        context_.reset(SSL_CTX_new(TLS_client_method()));
        SSL_CTX_set_min_proto_version(context_.get(), TLS1_2_VERSION);
        if (options.verify) {
            SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
            const bool known = options.ca_file.empty() ? SSL_CTX_set_default_verify_paths(context_.get()) == 1
                                                       : SSL_CTX_load_verify_locations(
                                                             context_.get(), options.ca_file.c_str(), nullptr) == 1;
            if (!known) {
                ERR_clear_error();
                return {ErrorCode::config, "the CA file for Redis cannot be read: " + options.ca_file};
            }
        }
        ssl_.reset(SSL_new(context_.get()));
        in_ = BIO_new(BIO_s_mem());
        out_ = BIO_new(BIO_s_mem());
        SSL_set_bio(ssl_.get(), in_, out_);  // ssl_ owns them now
        SSL_set_connect_state(ssl_.get());
        const bool is_address = inet_address(options.host);
        if (!is_address) {
            SSL_set_tlsext_host_name(ssl_.get(), options.host.c_str());
        }
        if (options.verify) {
            auto* parameters = SSL_get0_param(ssl_.get());
            if (is_address) {
                X509_VERIFY_PARAM_set1_ip_asc(parameters, options.host.c_str());
            } else {
                X509_VERIFY_PARAM_set1_host(parameters, options.host.c_str(), options.host.size());
            }
        }
        while (true) {
            const int done = SSL_do_handshake(ssl_.get());
            const int why = SSL_get_error(ssl_.get(), done);
            HG_RETURN_IF_ERROR(flush(patience));
            if (done == 1) {
                return {};
            }
            if (why != SSL_ERROR_WANT_READ) {
                const auto verified = SSL_get_verify_result(ssl_.get());
                const std::string reason =
                    verified != X509_V_OK ? X509_verify_cert_error_string(verified) : openssl_error();
                ERR_clear_error();
                return {ErrorCode::permission_denied, "TLS: " + reason};
            }
            HG_RETURN_IF_ERROR(fill(patience));
        }
    }

    Status write(std::string_view bytes, const Patience& patience) override {
        while (!bytes.empty()) {
            const auto block = std::min(bytes.size(), kTlsBlock);
            const int sent = SSL_write(ssl_.get(), bytes.data(), static_cast<int>(block));
            if (sent <= 0) {
                return broken(openssl_error());
            }
            bytes.remove_prefix(static_cast<std::size_t>(sent));
            HG_RETURN_IF_ERROR(flush(patience));
        }
        return {};
    }

    Result<std::size_t> read(char* into, std::size_t size, const Patience& patience) override {
        while (true) {
            const int got = SSL_read(ssl_.get(), into, static_cast<int>(std::min<std::size_t>(size, 1U << 30U)));
            if (got > 0) {
                return static_cast<std::size_t>(got);
            }
            if (SSL_get_error(ssl_.get(), got) != SSL_ERROR_WANT_READ) {
                return broken(openssl_error());
            }
            HG_RETURN_IF_ERROR(flush(patience));
            HG_RETURN_IF_ERROR(fill(patience));
        }
    }

private:
    static bool inet_address(const std::string& host) {
        return !host.empty() && host.find_first_not_of("0123456789.:abcdefABCDEF") == std::string::npos &&
               host.find_first_of(".:") != std::string::npos && host.find_first_of("0123456789:") == 0;
    }

    Status flush(const Patience& patience) {
        std::array<char, kTlsBlock> block{};
        while (true) {
            const int size = BIO_read(out_, block.data(), static_cast<int>(block.size()));
            if (size <= 0) {
                return {};
            }
            HG_RETURN_IF_ERROR(socket_->write({block.data(), static_cast<std::size_t>(size)}, patience));
        }
    }

    Status fill(const Patience& patience) {
        std::array<char, kTlsBlock> block{};
        HG_ASSIGN(const auto size, socket_->read(block.data(), block.size(), patience));
        BIO_write(in_, block.data(), static_cast<int>(size));
        return {};
    }

    std::unique_ptr<Socket> socket_;
    std::unique_ptr<SSL_CTX, FreeSsl> context_;
    std::unique_ptr<SSL, FreeSsl> ssl_;
    BIO* in_ = nullptr;
    BIO* out_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<Stream>> connect_stream(const RedisOptions& options, const Patience& patience) {
    const auto where = "Redis at " + options.host + ":" + std::to_string(options.port);
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int error = getaddrinfo(options.host.c_str(), std::to_string(options.port).c_str(), &hints, &found);
        error != 0) {
        return Status(ErrorCode::unavailable, where + " cannot be reached: " + gai_strerror(error));
    }
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, freeaddrinfo);
    Status why(ErrorCode::unavailable, "no address");
    for (const auto* address = found; address != nullptr; address = address->ai_next) {
        const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            why = Status(ErrorCode::unavailable, std::generic_category().message(errno));
            continue;
        }
        auto made = std::make_unique<Socket>(fd);
        why = made->connect(*address, patience);
        if (why.code() == ErrorCode::interrupted) {
            return why;
        }
        if (!why.ok()) {
            continue;
        }
        if (!options.tls) {
            return std::unique_ptr<Stream>(std::make_unique<PlainStream>(std::move(made)));
        }
        auto secure = std::make_unique<TlsStream>(std::move(made));
        if (auto status = secure->handshake(options, patience); !status.ok()) {
            return Status(status.code(), where + ": " + status.message());
        }
        return std::unique_ptr<Stream>(std::move(secure));
    }
    return Status(why.code(), where + " cannot be reached: " + why.message());
}

}  // namespace headgate::backends
