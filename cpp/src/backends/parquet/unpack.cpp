#include <arrow/api.h>
#include <arrow/util/compression.h>

#include <algorithm>

#include "headgate/backends/parquet.hpp"

namespace headgate::backends {

checkpoint::Unpack make_unpacker() {
    return [](std::string_view /*name*/, std::string_view packed, std::size_t limit, std::string& out) -> Status {
        const auto kind = packed.starts_with("\x1F\x8B") ? arrow::Compression::GZIP : arrow::Compression::ZSTD;
        const auto run = [&]() -> arrow::Result<bool> {
            ARROW_ASSIGN_OR_RAISE(const auto codec, arrow::util::Codec::Create(kind));
            ARROW_ASSIGN_OR_RAISE(auto stream, codec->MakeDecompressor());
            std::size_t size = 0;
            out.resize(std::min(limit, std::max<std::size_t>(4096, packed.size() * 4)));
            const auto* from = reinterpret_cast<const std::uint8_t*>(packed.data());
            auto left = static_cast<std::int64_t>(packed.size());
            while (left > 0) {
                if (stream->IsFinished()) {
                    // Tapes and block devices pad files with zeros, which gzip(1) ignores too.
                    while (kind == arrow::Compression::GZIP && left > 0 && *from == 0) {
                        ++from;
                        --left;
                    }
                    if (left == 0) {
                        break;
                    }
                    ARROW_RETURN_NOT_OK(stream->Reset());  // the file has another gzip member
                }
                ARROW_ASSIGN_OR_RAISE(const auto step,
                                      stream->Decompress(left, from, static_cast<std::int64_t>(out.size() - size),
                                                         reinterpret_cast<std::uint8_t*>(out.data()) + size));
                from += step.bytes_read;
                left -= step.bytes_read;
                size += static_cast<std::size_t>(step.bytes_written);
                const bool full = size == out.size();
                if (full && size >= limit && (left > 0 || !stream->IsFinished())) {
                    return false;
                }
                if (full || step.need_more_output) {
                    out.resize(std::min(limit, out.size() * 2));
                } else if (step.bytes_read == 0 && step.bytes_written == 0) {
                    return arrow::Status::IOError("no progress");
                }
            }
            // The decoder may still contain the last bytes of a block.
            while (!stream->IsFinished()) {
                if (size == out.size()) {
                    if (size >= limit) {
                        return false;
                    }
                    out.resize(std::min(limit, out.size() * 2));
                }
                ARROW_ASSIGN_OR_RAISE(const auto step,
                                      stream->Decompress(0, from, static_cast<std::int64_t>(out.size() - size),
                                                         reinterpret_cast<std::uint8_t*>(out.data()) + size));
                if (step.bytes_written == 0) {
                    return arrow::Status::IOError("truncated");
                }
                size += static_cast<std::size_t>(step.bytes_written);
            }
            out.resize(size);
            return true;
        };
        const auto done = run();
        if (!done.ok()) {
            return {ErrorCode::invalid_record, "cannot be unpacked"};
        }
        return *done ? Status() : Status(ErrorCode::message_too_large, "unpacks to more than the limit");
    };
}

}  // namespace headgate::backends
