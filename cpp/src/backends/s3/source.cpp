// The source of a checkpoint on S3: lists a bucket, and reads many small objects with many requests in flight.
#include <algorithm>
#include <deque>

#include "client.hpp"
#include "headgate/base/text.hpp"

namespace headgate::backends {
namespace {

using namespace s3;
using checkpoint::Fetched;
using checkpoint::Object;
using checkpoint::ReadOutcome;
using checkpoint::Wanted;

// Responses are delivered in order. For each request in flight this many may wait in memory for an earlier one.
constexpr std::size_t kHeldPerRequest = 4;

// Makes a tag of 64 bits of an ETag, which is an opaque text, with the hash FNV-1a (Fowler, Noll, Vo).
std::uint64_t tag_of(std::string_view etag) {
    std::uint64_t out = 0xCBF29CE484222325ULL;
    for (const char c : etag) {
        if (c != '"') {
            out = (out ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
        }
    }
    return out;
}

std::string url_decode(std::string_view text) {
    std::string out;
    const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; };
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && i + 2 < text.size()) {
            out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
            i += 2;
        } else {
            out += text[i] == '+' ? ' ' : text[i];
        }
    }
    return out;
}

class S3Fetcher final : public checkpoint::Fetcher, net::HttpFlow {
public:
    explicit S3Fetcher(std::shared_ptr<Shared> shared) : client_(std::move(shared)), empty_hash_(sha256_hex("")) {}

    void run(const Next& next, const Got& got, const Interrupt& stop) override {
        next_ = &next;
        got_ = &got;
        more_ = true;
        slots_.clear();
        first_ = 0;
        client_.transport().run(*this, client_.options().timeout_us, client_.options().in_flight, stop);
    }

private:
    struct Slot {
        std::size_t index = 0;
        std::string key;
        int attempt = 1;
        // True while it waits for the time of its next attempt.
        bool waits = false;
        std::int64_t due_us = 0;
        bool done = false;
        net::HttpResponse response;
        Outcome outcome;
    };

    HttpFlow::Step next(net::HttpRequest& request, std::uint64_t& number) override {
        if (waiting_ > 0) {
            const auto now = client_.clock().mono_us();
            for (std::size_t i = 0; i < slots_.size(); ++i) {
                if (slots_[i].waits && slots_[i].due_us <= now) {
                    slots_[i].waits = false;
                    --waiting_;
                    return start(first_ + i, request, number);
                }
            }
        }
        if (more_ && slots_.size() < client_.options().in_flight * kHeldPerRequest) {
            Wanted wanted;
            const auto coming = (*next_)(wanted);
            if (coming == Coming::file) {
                auto& slot = slots_.emplace_back();
                slot.index = wanted.index;
                slot.key = client_.options().prefix + std::string(wanted.key);
                return start(first_ + slots_.size() - 1, request, number);
            }
            more_ = coming == Coming::later;
        }
        // Requests in flight may still have to be sent again.
        return more_ || !slots_.empty() ? HttpFlow::Step::later : HttpFlow::Step::none;
    }

    HttpFlow::Step start(std::size_t at, net::HttpRequest& request, std::uint64_t& number) {
        auto& slot = slots_[at - first_];
        auto built = client_.build({"GET", slot.key, {}, {}, "", ""}, empty_hash_);
        if (!built.ok()) {
            slot.outcome = {built.status(), "", false};
            slot.done = true;
            deliver();
            return HttpFlow::Step::later;
        }
        request = std::move(built.value());
        number = at;
        return HttpFlow::Step::request;
    }

    void answered(std::uint64_t number, net::HttpResponse&& response) override {
        auto& slot = slots_[number - first_];
        slot.response = std::move(response);
        slot.outcome = client_.judge(slot.response);
        if (slot.outcome.transient && slot.attempt < client_.options().attempts) {
            slot.due_us = client_.clock().mono_us() + client_.back_off_us(slot.attempt++);
            slot.waits = true;
            ++waiting_;
            return;
        }
        slot.done = true;
        deliver();
    }

    // Delivers complete responses, in the order of the list.
    void deliver() {
        while (!slots_.empty() && slots_.front().done) {
            const auto& slot = slots_.front();
            Fetched fetched;
            fetched.index = slot.index;
            fetched.error = slot.outcome.status;
            if (slot.outcome.status.ok()) {
                fetched.outcome = ReadOutcome::read;
                fetched.bytes = slot.response.body;
                fetched.tag = tag_of(slot.response.header("etag"));
            } else if (slot.outcome.code == "InvalidObjectState") {
                fetched.outcome = ReadOutcome::archived;
            } else if (slot.outcome.status.code() == ErrorCode::not_found && slot.outcome.code != "NoSuchBucket") {
                fetched.outcome = ReadOutcome::vanished;
            } else if (slot.outcome.status.code() == ErrorCode::permission_denied) {
                fetched.outcome = ReadOutcome::refused;
            }
            (*got_)(fetched);
            slots_.pop_front();
            ++first_;
        }
    }

    Client client_;
    std::string empty_hash_;
    const Fetcher::Next* next_ = nullptr;
    const Fetcher::Got* got_ = nullptr;
    bool more_ = true;
    std::deque<Slot> slots_;
    std::size_t first_ = 0;  // the number of slots_.front()
    std::size_t waiting_ = 0;
};

class S3Source final : public checkpoint::Source {
public:
    explicit S3Source(std::shared_ptr<Shared> shared) : shared_(std::move(shared)), client_(shared_) {}

    Status list(const checkpoint::ListOptions& options, const Interrupt& interrupt,
                const std::function<void(const Object&)>& each) override {
        const auto& prefix = shared_->options.prefix;
        // Of two prefixes the longer one is asked for, and both are held to.
        const auto& within = shared_->options.within;
        const auto& wanted = options.prefix.size() < within.size() ? within : options.prefix;
        const auto select = [&](const Object& object) {
            if (object.key.starts_with(within) && object.key.starts_with(options.prefix)) {
                each(object);
            }
        };
        std::string token;
        while (true) {
            Call call;
            call.query = {{"list-type", "2"}, {"encoding-type", "url"}, {"prefix", prefix + wanted}};
            if (!token.empty()) {
                call.query.emplace_back("continuation-token", token);
            } else if (!options.start_after.empty()) {
                call.query.emplace_back("start-after", prefix + options.start_after);
            }
            auto answer = client_.send(call, interrupt);
            if (!answer.ok()) {
                const auto& status = answer.status();
                return {status.code(), "cannot list " + name() + ": " + status.message()};
            }
            HG_ASSIGN(const auto leaves, xml_leaves(answer.value().body));
            token.clear();
            HG_RETURN_IF_ERROR(page(leaves, select, token));
            if (token.empty()) {
                return {};
            }
            if (interrupt && interrupt()) {
                return {ErrorCode::interrupted, "interrupted while listing " + name()};
            }
        }
    }

    // Listings are in the order of UTF-8 bytes (Amazon S3 User Guide, "Listing object keys programmatically").
    bool lists_in_order() const override { return true; }
    bool look_at(Object& /*object*/) override { return true; }  // a listing contains size and ETag already

    Result<std::unique_ptr<checkpoint::Fetcher>> fetcher() override {
        return std::unique_ptr<checkpoint::Fetcher>(std::make_unique<S3Fetcher>(shared_));
    }

    std::string name() const override { return "s3://" + shared_->options.bucket + "/" + shared_->options.prefix; }
    bool writes_are_atomic() const override { return true; }
    unsigned threads() const override { return shared_->options.threads; }

private:
    Status page(const std::vector<XmlText>& leaves, const std::function<void(const Object&)>& each,
                std::string& token) const {
        bool truncated = false;
        bool encoded = false;
        for (const auto& leaf : leaves) {
            truncated = truncated || (leaf.name == "IsTruncated" && leaf.text == "true");
            encoded = encoded || (leaf.name == "EncodingType" && leaf.text == "url");
            if (leaf.name == "NextContinuationToken") {
                token = leaf.text;
            }
        }
        if (truncated && token.empty()) {
            return {ErrorCode::malformed_response, "a listing of " + name() + " says it goes on, but not where"};
        }
        if (!truncated) {
            token.clear();
        }
        std::string key;
        std::string etag;
        std::string modified;
        for (const auto& leaf : leaves) {
            if (leaf.name == "Key") {
                key = encoded ? url_decode(leaf.text) : leaf.text;
            } else if (leaf.name == "ETag") {
                etag = leaf.text;
            } else if (leaf.name == "LastModified") {
                modified = leaf.text;
            } else if (leaf.name == "/Contents") {
                if (!key.ends_with('/') && key.size() > shared_->options.prefix.size()) {
                    const auto when = parse_timestamp(modified);
                    each({std::string_view(key).substr(shared_->options.prefix.size()), true, tag_of(etag),
                          when.ok() ? when.value() : 0});
                }
                key.clear();
                etag.clear();
            }
        }
        return {};
    }

    std::shared_ptr<Shared> shared_;
    Client client_;
};

}  // namespace

std::shared_ptr<checkpoint::Source> make_s3_source(S3Options options, std::shared_ptr<Clock> clock,
                                                   std::shared_ptr<Random> random) {
    return std::make_shared<S3Source>(share(std::move(options), std::move(clock), std::move(random)));
}

}  // namespace headgate::backends
