#include "transfer.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "decode.hpp"
#include "headgate/base/text.hpp"

namespace headgate::backends {
namespace {

bool names_header(const net::HttpRequest& request, std::string_view wanted) {
    return std::any_of(request.headers.begin(), request.headers.end(), [wanted](const auto& header) {
        return std::equal(header.first.begin(), header.first.end(), wanted.begin(), wanted.end(),
                          [](unsigned char a, unsigned char b) { return std::tolower(a) == b; });
    });
}

std::size_t on_upload(char* to, std::size_t size, std::size_t count, void* user) {
    const auto read = ::read(static_cast<Transfer*>(user)->upload.get(), to, size * count);
    return read < 0 ? CURL_READFUNC_ABORT : static_cast<std::size_t>(read);
}

// If a kept connection turns out to be closed, libcurl sends the request again, and the file has to start from its
// beginning.
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

// Collects the headers of the final response. Those of interim responses (1xx) are dropped, and trailers are not
// headers (RFC 9110, section 6.5.1).
std::size_t on_header(char* data, std::size_t size, std::size_t count, void* user) {
    auto& transfer = *static_cast<Transfer*>(user);
    auto& headers = transfer.response->headers;
    const std::string_view line(data, size * count);
    if (line.starts_with("HTTP/")) {
        headers.clear();
        transfer.head_complete = false;
    } else if (trim_blanks(line).empty()) {
        transfer.head_complete = true;
    } else if (transfer.head_complete) {
        return size * count;
    } else if (line.front() == ' ' || line.front() == '\t') {
        // A folded line continues the header before it (RFC 9112, section 5.2).
        if (!headers.empty()) {
            headers.back().second += ' ';
            headers.back().second += trim_blanks(line);
        }
    } else if (const auto colon = line.find(':'); colon != std::string_view::npos) {
        std::string name(trim_blanks(line.substr(0, colon)));
        std::transform(name.begin(), name.end(), name.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        headers.emplace_back(std::move(name), trim_blanks(line.substr(colon + 1)));
    }
    return size * count;
}

}  // namespace

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
            // libcurl's text for an error code contains no URL and no header.
            return {ErrorCode::connection_failed, curl_easy_strerror(code)};
    }
}

void prepare(Transfer& transfer, const net::HttpRequest& request, net::HttpResponse& response,
             const CurlOptions& options, std::int64_t started_us, std::int64_t left_ms) {
    if (transfer.easy) {
        curl_easy_reset(transfer.easy.get());
    } else {
        transfer.easy.reset(curl_easy_init());
    }
    transfer.done = false;
    transfer.too_large = false;
    transfer.head_complete = false;
    transfer.response = &response;
    transfer.max_body = options.max_body;
    transfer.redirects_left = request.method == "GET" || request.method == "HEAD" ? options.max_redirects : 0;
    transfer.started_us = started_us;
    CURL* easy = transfer.easy.get();
    curl_slist* headers = nullptr;
    for (const auto& [name, value] : request.headers) {
        // To libcurl, "Name:" means to omit the header, and "Name;" a header without a value.
        const bool blank = trim_blanks(value).empty();
        headers = curl_slist_append(headers, (blank ? name + ";" : name + ": " + value).c_str());
    }
    if (!request.body.empty() && !names_header(request, "content-type")) {
        // Otherwise libcurl would add the content type of a form.
        headers = curl_slist_append(headers, "Content-Type: application/octet-stream");
    }
    if (options.decode && !names_header(request, "accept-encoding")) {
        headers = curl_slist_append(headers, (std::string("Accept-Encoding: ") + kAcceptedCodings).c_str());
    }
    transfer.headers.reset(headers);
    curl_easy_setopt(easy, CURLOPT_URL, request.url.c_str());
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);  // ".." in the key of an object is part of its name
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, options.user_agent.c_str());
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);  // do not join a hanging resolver thread
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(std::clamp<std::int64_t>(left_ms, 1, 86'400'000)));
    if (options.connect_timeout_us > 0) {
        curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                         static_cast<long>(std::max<std::int64_t>(1, options.connect_timeout_us / 1000)));
    }
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);  // a proxy's answer to CONNECT is not the server's
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, &transfer);
    if (!options.ca_file.empty()) {
        curl_easy_setopt(easy, CURLOPT_CAINFO, options.ca_file.c_str());
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
    } else if (request.method == "HEAD" && request.body.empty()) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);  // otherwise libcurl would wait for a body of Content-Length bytes
    } else if (request.method != "GET" || !request.body.empty()) {
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
        curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, request.body.data());
    }
}

}  // namespace headgate::backends
