// Finds the end of a run of plain characters in a JSON string. It looks at sixteen bytes at a time on processors with
// SSE2, which every x86-64 has, and at eight elsewhere.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace headgate::json::detail {

static_assert(std::endian::native == std::endian::little, "the first byte of a word is its lowest");

inline constexpr std::uint64_t kOnes = 0x0101010101010101ULL;
inline constexpr std::uint64_t kHigh = 0x8080808080808080ULL;

// Returns a word with the high bit set in each byte that is '"', '\\' or a control character. A borrow may also mark
// the byte after such a one by mistake, so only the lowest mark can be relied on.
inline std::uint64_t escaped_bytes(std::uint64_t word) noexcept {
    const auto zero_byte = [](std::uint64_t w) { return (w - kOnes) & ~w & kHigh; };
    const auto control = (word - kOnes * 0x20U) & ~word & kHigh;
    return zero_byte(word ^ (kOnes * 0x22U)) | zero_byte(word ^ (kOnes * 0x5CU)) | control;
}

// Returns the first position, beginning with `at`, of a byte that is '"', '\\', a control character, or, if `ascii`,
// not ASCII; or the size of `text` if there is none.
template <bool ascii>
std::size_t run_end(std::string_view text, std::size_t at) noexcept {
#if defined(__SSE2__)
    const auto quote = _mm_set1_epi8('"');
    const auto backslash = _mm_set1_epi8('\\');
    const auto blank = _mm_set1_epi8(' ');
    const auto flip = _mm_set1_epi8(-128);
    for (; at + 16 <= text.size(); at += 16) {
        const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text.data() + at));
        const auto escaped = _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash));
        // Signed comparison: bytes that are not ASCII are negative and thus below the blank, as control characters are.
        // With their high bit flipped the bytes compare as unsigned numbers, so that only control characters are below.
        const auto low = ascii ? _mm_cmpgt_epi8(blank, bytes)
                               : _mm_cmpgt_epi8(_mm_xor_si128(blank, flip), _mm_xor_si128(bytes, flip));
        if (const auto marks = static_cast<unsigned>(_mm_movemask_epi8(_mm_or_si128(escaped, low))); marks != 0) {
            return at + static_cast<std::size_t>(std::countr_zero(marks));
        }
    }
#endif
    for (; at + 8 <= text.size(); at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, text.data() + at, 8);
        if (const auto marks = escaped_bytes(word) | (ascii ? word & kHigh : 0); marks != 0) {
            return at + static_cast<std::size_t>(std::countr_zero(marks)) / 8;
        }
    }
    for (; at < text.size(); ++at) {
        const auto c = static_cast<unsigned char>(text[at]);
        if (c < 0x20 || c == '"' || c == '\\' || (ascii && c >= 0x80)) {
            return at;
        }
    }
    return at;
}

}  // namespace headgate::json::detail
