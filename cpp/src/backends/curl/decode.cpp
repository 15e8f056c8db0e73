#include "decode.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <memory>
#include <vector>

#include "headgate/base/text.hpp"

namespace headgate::backends {
namespace {

constexpr int kGzip = 16 + MAX_WBITS;
constexpr int kZlib = MAX_WBITS;
constexpr int kRaw = -MAX_WBITS;

enum class Inflated : std::uint8_t { whole, cut, broken, too_large };

// Decodes one stream at the front of `data`, appends it to `out`, and removes it from `data`.
Inflated inflate_one(int window_bits, std::size_t limit, std::string_view& data, std::string& out) {
    z_stream stream{};
    if (inflateInit2(&stream, window_bits) != Z_OK) {
        return Inflated::broken;
    }
    const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, inflateEnd);
    std::array<char, 64 * 1024> buffer{};
    // zlib's counters have 32 bits, so a large body is passed to it in pieces.
    constexpr std::size_t most = 1U << 30U;
    std::size_t given = 0;
    while (true) {
        if (stream.avail_in == 0 && given < data.size()) {
            const auto size = std::min(most, data.size() - given);
            stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data() + given));
            stream.avail_in = static_cast<uInt>(size);
            given += size;
        }
        stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
        stream.avail_out = static_cast<uInt>(buffer.size());
        const int result = inflate(&stream, Z_NO_FLUSH);
        const auto made = buffer.size() - stream.avail_out;
        if (out.size() + made > limit) {
            return Inflated::too_large;
        }
        out.append(buffer.data(), made);
        if (result == Z_STREAM_END) {
            data.remove_prefix(given - stream.avail_in);
            return Inflated::whole;
        }
        if (result == Z_BUF_ERROR || (result == Z_OK && stream.avail_in == 0 && given == data.size() && made == 0)) {
            return Inflated::cut;
        }
        if (result != Z_OK) {
            return Inflated::broken;
        }
    }
}

// Decodes one gzip member after the other. Bytes after the last one, such as padding, are ignored.
Inflated inflate_gzip(std::size_t limit, std::string_view data, std::string& out) {
    auto outcome = inflate_one(kGzip, limit, data, out);
    while (outcome == Inflated::whole && data.size() > 2 && data[0] == '\x1f' && data[1] == '\x8b') {
        outcome = inflate_one(kGzip, limit, data, out);
    }
    return outcome;
}

// The coding "deflate" is the zlib format; some servers send raw deflate data instead.
Inflated inflate_deflate(std::size_t limit, std::string_view data, std::string& out) {
    auto rest = data;
    auto outcome = inflate_one(kZlib, limit, rest, out);
    if (outcome == Inflated::broken && out.empty()) {
        outcome = inflate_one(kRaw, limit, data, out);
    }
    return outcome;
}

std::vector<std::string> split(std::string_view codings) {
    std::vector<std::string> out;
    while (!codings.empty()) {
        const auto end = std::min(codings.find(','), codings.size());
        std::string name(trim_blanks(codings.substr(0, end)));
        std::transform(name.begin(), name.end(), name.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        if (!name.empty() && name != "identity") {
            out.push_back(std::move(name));
        }
        codings.remove_prefix(std::min(codings.size(), end + 1));
    }
    return out;
}

}  // namespace

Status decode_content(std::string_view codings, std::size_t limit, std::string& body) {
    auto names = split(codings);
    // Codings are listed in the order in which they were applied, so they are undone from the last to the first.
    for (auto name = names.rbegin(); name != names.rend() && !body.empty(); ++name) {
        const bool gzip = *name == "gzip" || *name == "x-gzip";
        if (!gzip && *name != "deflate") {
            return {};
        }
        std::string out;
        switch (gzip ? inflate_gzip(limit, body, out) : inflate_deflate(limit, body, out)) {
            case Inflated::whole:
                body = std::move(out);
                break;
            case Inflated::too_large:
                return {ErrorCode::malformed_response, "the body is larger than the limit"};
            case Inflated::cut:
                return {ErrorCode::malformed_response, "the body breaks off: its compressed stream has no end"};
            case Inflated::broken:
                return {ErrorCode::malformed_response, "the body is not what its Content-Encoding says"};
        }
    }
    return {};
}

}  // namespace headgate::backends
