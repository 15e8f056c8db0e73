// Runs a fuzz target over a corpus and over mutations of it that are the same every time: what no build without
// libFuzzer may leave untried. usage: headgate_replay TARGET MUTATIONS FILE_OR_FOLDER...
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/file.hpp"

#define HEADGATE_TARGETS(each) \
    each(json) each(record) each(pattern) each(segment) each(footer) each(plan) each(reject) each(result) each(backup)

#define HEADGATE_DECLARE(name) extern "C" int fuzz_##name(const std::uint8_t*, std::size_t);
HEADGATE_TARGETS(HEADGATE_DECLARE)

namespace {

using Target = int (*)(const std::uint8_t*, std::size_t);

std::vector<std::string> read_corpus(const std::vector<std::string>& places) {
    namespace fs = std::filesystem;
    std::vector<std::string> paths;
    for (const auto& place : places) {
        if (fs::is_directory(place)) {
            for (const auto& entry : fs::directory_iterator(place)) {
                paths.push_back(entry.path());
            }
        } else {
            paths.push_back(place);
        }
    }
    std::sort(paths.begin(), paths.end());
    std::vector<std::string> out;
    for (const auto& path : paths) {
        auto bytes = headgate::read_file(path);
        if (!bytes.ok()) {
            std::fprintf(stderr, "%s\n", bytes.status().message().c_str());
            std::exit(2);
        }
        out.push_back(std::move(bytes.value()));
    }
    return out;
}

// A few bytes changed, cut off, put in, said twice, or taken from another input.
std::string mutated(const std::vector<std::string>& corpus, headgate::SeededRandom& random) {
    const auto below = [&random](std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random.next() % n); };
    auto out = corpus[below(corpus.size())];
    for (auto left = 1 + below(4); left > 0; --left) {
        const auto at = below(out.size() + 1);
        const auto length = below(std::min<std::size_t>(out.size() - at, 16) + 1);
        switch (below(6)) {
            case 0:
                out.resize(at);
                break;
            case 1:
                out.erase(at, length);
                break;
            case 2:
                out.insert(at, out.substr(at, length));
                break;
            case 3: {
                const auto& other = corpus[below(corpus.size())];
                out.insert(at, other, below(other.size() + 1), 1 + below(32));
                break;
            }
            case 4:
                out.insert(at, 1, "0123456789{}[]\",:-./\\\0\xff"[below(23)]);
                break;
            default:
                if (at < out.size()) {
                    out[at] = static_cast<char>(random.next());
                }
        }
    }
    return out;
}

}  // namespace

int main(int argc, char** argv) {
#define HEADGATE_ENTRY(name) {#name, &fuzz_##name},
    const std::map<std::string, Target> targets = {HEADGATE_TARGETS(HEADGATE_ENTRY)};
    if (argc < 4 || !targets.contains(argv[1])) {
        std::fprintf(stderr, "usage: %s TARGET MUTATIONS FILE_OR_FOLDER...\n", argv[0]);
        return 2;
    }
    const auto run = [target = targets.at(argv[1])](const std::string& bytes) {
        target(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    };
    const auto corpus = read_corpus({argv + 3, argv + argc});
    if (corpus.empty()) {
        std::fprintf(stderr, "the corpus of %s is empty\n", argv[1]);
        return 2;
    }
    for (const auto& bytes : corpus) {
        run(bytes);
    }
    headgate::SeededRandom random(22);
    for (auto left = std::strtol(argv[2], nullptr, 10); left > 0; --left) {
        run(mutated(corpus, random));
    }
    return 0;
}
