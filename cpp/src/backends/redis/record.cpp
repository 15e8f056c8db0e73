#include "record.hpp"

#include <array>
#include <charconv>
#include <vector>

#include "headgate/backends/redis.hpp"

namespace headgate::backends {
namespace {

// The beginning of every script: it reads the fields of a record, and where its texts begin.
#define HG_LUA_PARSE                                                                            \
    "local function fields(v) "                                                                 \
    "local s, u, n, t, p, e, at = string.match(v, '^(%a) (%d+) (%d+) (%x+) (%d+) (%d+)\\n()') " \
    "return s, u, n, t, tonumber(p), tonumber(e), at end\n"                                     \
    "local v = redis.call('GET', KEYS[1])\n"

// Claims one key. ARGV: token, until, now, payload, time to live in ms. It returns the record as it is afterwards; the
// caller has acquired the key if the token in it is its own. Repeating the script with the same token is harmless,
// which matters if the first response was lost.
constexpr std::string_view kClaim = HG_LUA_PARSE R"lua(local attempts, err = 0, ''
if v then
  local s, u, n, t, p, e, at = fields(v)
  if not s then return redis.error_reply('ERR not a headgate record') end
  local payload = string.sub(v, at, at + p - 1)
  if t == ARGV[1] and s == 'o' then return v end
  if payload ~= '' and ARGV[4] ~= '' and payload ~= ARGV[4] then return v end
  if s == 'd' or (s == 'o' and tonumber(u) > tonumber(ARGV[3])) then return v end
  attempts, err = tonumber(n), string.sub(v, at + p, at + p + e - 1)
end
local record = string.format('o %s %d %s %d %d\n', ARGV[2], attempts + 1, ARGV[1], #ARGV[4], #err) .. ARGV[4] .. err
redis.call('SET', KEYS[1], record, 'PX', ARGV[5])
return record)lua";

// Claims one key, or two of which the second is the form of the key before an upgrade, and takes a fencing token.
// ARGV: token, until, now, payload, time to live in ms, the key of the counter or ''. It returns {the deciding record,
// the record of the second key, the fencing token}. Both keys are written only if both are free; otherwise a different
// payload decides before done, and done before in progress.
constexpr std::string_view kClaimMore = R"lua(local token, till, now, payload, ttl, counter = unpack(ARGV)
local found, rank, pick = {}, 0, nil
for i, key in ipairs(KEYS) do
  local v, attempts, err, state = redis.call('GET', key), 0, '', 0
  if v then
    local s, u, n, t, p, e, at = string.match(v, '^(%a) (%d+) (%d+) (%x+) (%d+) (%d+)\n()')
    if not s then return redis.error_reply('ERR not a headgate record') end
    local kept = string.sub(v, at, at + p - 1)
    attempts, err = tonumber(n), string.sub(v, at + p, at + p + e - 1)
    if t == token and s == 'o' then state = 0
    elseif kept ~= '' and payload ~= '' and kept ~= payload then state = 3
    elseif s == 'd' then state = 2
    elseif s == 'o' and tonumber(u) > tonumber(now) then state = 1
    else v = false end
  end
  if state > rank then rank, pick = state, v end
  found[i] = {v, attempts, err}
end
if rank > 0 then return {pick, '', 0} end
for i, key in ipairs(KEYS) do
  local v, attempts, err = unpack(found[i])
  if not v then
    v = string.format('o %s %d %s %d %d\n', till, attempts + 1, token, #payload, #err) .. payload .. err
    redis.call('SET', key, v, 'PX', ttl)
  end
  found[i] = v
end
local number = 0
if counter ~= '' then number = redis.call('INCR', counter) end
return {found[1], found[2] or '', number})lua";

// Completes a claim. ARGV: token, result, time to live in ms. It returns 1 if this owner has completed it, now or
// before.
constexpr std::string_view kComplete = HG_LUA_PARSE R"lua(if not v then return 0 end
local s, u, n, t, p, e, at = fields(v)
if t ~= ARGV[1] or s == 'r' then return 0 end
if s == 'd' then return 1 end
local head = string.format('d %s %s %s %d %d\n', u, n, t, p, e)
redis.call('SET', KEYS[1], head .. string.sub(v, at, at + p + e - 1) .. ARGV[2], 'PX', ARGV[3])
return 1)lua";

// Releases a claim. ARGV: token, error, and 0 if the attempt is not counted. The token is kept, so that releasing again
// is harmless.
constexpr std::string_view kRelease = HG_LUA_PARSE R"lua(if not v then return 0 end
local s, u, n, t, p, e, at = fields(v)
if t ~= ARGV[1] or s == 'd' then return 0 end
local err, count = ARGV[2], tonumber(n)
if ARGV[3] == '0' then
  if s == 'o' then count = count - 1 end
  if err == '' then err = string.sub(v, at + p, at + p + e - 1) end
end
local head = string.format('r 0 %d %s %d %d\n', count, t, p, #err)
redis.call('SET', KEYS[1], head .. string.sub(v, at, at + p - 1) .. err, 'KEEPTTL')
return 1)lua";

// Renews a lease. ARGV: token, until, time to live in ms.
constexpr std::string_view kRenew = HG_LUA_PARSE R"lua(if not v then return 0 end
local s, u, n, t, p, e, at = fields(v)
if t ~= ARGV[1] or s ~= 'o' then return 0 end
local head = string.format('o %s %s %s %d %d\n', ARGV[2], n, t, p, e)
redis.call('SET', KEYS[1], head .. string.sub(v, at), 'PX', ARGV[3])
return 1)lua";

constexpr std::size_t kSlots = 16'384;

}  // namespace

Status not_a_record() {
    return {ErrorCode::corrupt_data, "a ledger key in Redis holds something that is not a headgate record"};
}

std::string_view redis_script(std::string_view name) {
    if (name == "claim") {
        return kClaim;
    }
    if (name == "claim_more") {
        return kClaimMore;
    }
    if (name == "complete") {
        return kComplete;
    }
    return name == "release" ? kRelease : kRenew;
}

std::string redis_fence_key(std::string_view stored_key) {
    // By the Redis cluster specification, only the text in the first pair of braces is hashed, if there is any.
    const auto slot_of = [](std::string_view text) {
        const auto open = text.find('{');
        const auto close = open == std::string_view::npos ? open : text.find('}', open);
        if (close != std::string_view::npos && close > open + 1) {
            text = text.substr(open + 1, close - open - 1);
        }
        unsigned crc = 0;  // CRC-16/XMODEM
        for (const unsigned char byte : text) {
            crc ^= static_cast<unsigned>(byte) << 8U;
            for (int bit = 0; bit < 8; ++bit) {
                crc = ((crc & 0x8000U) != 0 ? (crc << 1U) ^ 0x1021U : crc << 1U) & 0xFFFFU;
            }
        }
        return crc % kSlots;
    };
    // The smallest number whose slot is the wanted one, so that all clients find the same counter.
    static const auto* const numbers = [&] {
        auto* const table = new std::vector<std::uint32_t>(kSlots, UINT32_MAX);
        std::size_t left = kSlots;
        for (std::uint32_t number = 0; left > 0; ++number) {
            auto& entry = (*table)[slot_of(std::to_string(number))];
            if (entry == UINT32_MAX) {
                entry = number;
                --left;
            }
        }
        return table;
    }();
    return "headgate:fence:v1:{" + std::to_string((*numbers)[slot_of(stored_key)]) + "}";
}

void new_record(std::string& into, std::string_view token, std::int64_t until_us, std::string_view payload) {
    std::array<char, 24> digits{};
    const auto number = [&](auto value) {
        const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
        into.append(digits.data(), static_cast<std::size_t>(end - digits.data()));
    };
    into.assign("o ");
    number(until_us);
    into.append(" 1 ").append(token).append(" ");
    number(payload.size());
    into.append(" 0\n").append(payload);
}

Result<RedisRecord> parse_record(std::string_view text) {
    RedisRecord record;
    const auto line = text.substr(0, text.find('\n'));
    std::array<std::string_view, 6> words;
    std::size_t count = 0;
    for (std::size_t at = 0; at <= line.size() && count < words.size(); ++count) {
        const auto end = std::min(line.find(' ', at), line.size());
        words[count] = line.substr(at, end - at);
        at = end + 1;
    }
    const auto number = [](std::string_view word, auto& into) {
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), into);
        return error == std::errc{} && end == word.data() + word.size();
    };
    std::size_t payload = 0;
    std::size_t error = 0;
    if (count != 6 || line.size() == text.size() || words[0].size() != 1 ||
        std::string_view("ord").find(words[0][0]) == std::string_view::npos || !number(words[1], record.until_us) ||
        !number(words[2], record.attempts) || !number(words[4], payload) || !number(words[5], error)) {
        return not_a_record();
    }
    const auto body = text.substr(line.size() + 1);
    if (payload > body.size() || error > body.size() - payload) {
        return not_a_record();
    }
    record.state = static_cast<RedisRecord::State>(words[0][0]);
    record.token = words[3];
    record.payload = body.substr(0, payload);
    record.error = body.substr(payload, error);
    record.result = body.substr(payload + error);
    return record;
}

}  // namespace headgate::backends
