// Runs an effect once per event: claim LEDGER.DB '{"some": "event"}' prints "acquired" the first time and "done"
// afterwards.
#include <cstdio>
#include <memory>

#include "headgate/backends/sqlite.hpp"
#include "headgate/hash/identity.hpp"

int main(int count, char** arguments) {
    if (count != 3) {
        return std::fputs("expected: claim LEDGER.DB JSON\n", stderr), 2;
    }
    const auto id = headgate::hash::event_id(arguments[2]);
    auto database = headgate::backends::Database::open(arguments[1], {});
    if (!id.ok() || !database.ok()) {
        return std::fprintf(stderr, "%s\n", (id.ok() ? database.status() : id.status()).message().c_str()), 1;
    }
    const auto ledger = headgate::backends::make_sqlite_ledger(
        database.value(), {}, std::make_shared<headgate::SystemClock>(), std::make_shared<headgate::SystemRandom>());
    const auto claims = ledger->claim({{.key = id.value()}});
    if (!claims.ok()) {
        return std::fprintf(stderr, "%s\n", claims.status().message().c_str()), 1;
    }
    const auto status = claims.value().front().status;
    std::puts(std::string(headgate::ledger::claim_status_name(status)).c_str());
    if (status != headgate::ledger::ClaimStatus::acquired) {
        return 0;
    }
    return ledger->complete(claims.value(), {""}).ok() ? 0 : 1;  // the effect itself comes before this
}
