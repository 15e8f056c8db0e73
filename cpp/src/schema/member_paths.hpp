// Members of nested objects that fields are read from: `user.type` in {"user": {"type": "x"}}.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "headgate/schema/schema.hpp"

namespace headgate::schema {

// A field, and which of the members that may hold it (0 is the first choice).
struct Place {
    std::size_t field = SIZE_MAX;
    std::size_t choice = 0;
};

// Follows the reading of one document. The reader says which members and objects begin; this says which of them lead
// to a field.
class MemberPaths {
public:
    struct Node {
        std::vector<std::pair<std::string, std::unique_ptr<Node>>> members;
        Place place;  // of a leaf
        Node* find(std::string_view name) const {
            for (const auto& [known, node] : members) {
                if (known == name) {
                    return node.get();
                }
            }
            return nullptr;
        }
    };

    explicit MemberPaths(const std::vector<Field>& fields) {
        for (std::size_t i = 0; i < fields.size(); ++i) {
            for (const auto& path : fields[i].paths) {
                auto* node = &root_;
                for (const auto& name : path.members) {
                    auto* next = node->find(name);
                    node = next != nullptr ? next : node->members.emplace_back(name, new_node()).second.get();
                }
                node->place = {i, path.choice};
            }
        }
    }

    bool empty() const { return root_.members.empty(); }

    void begin() {
        way_.clear();
        next_ = nullptr;
        heads_.clear();
    }
    // A container begins inside `depth` others.
    void open(bool is_object, std::size_t depth) {
        if (depth == 0 && is_object) {
            way_.push_back(&root_);
        } else if (is_object && next_ != nullptr && way_.size() == depth) {
            way_.push_back(next_);
        }
        next_ = nullptr;
    }
    // A container ends that was inside `depth` others.
    void close(std::size_t depth) {
        if (way_.size() > depth) {
            way_.pop_back();
        }
        next_ = nullptr;
    }
    // A member of the innermost of `depth` containers: the node that it leads to, or null.
    const Node* member(std::string_view name, std::size_t depth) {
        const auto* node = way_.size() == depth ? way_.back()->find(name) : nullptr;
        if (node != nullptr && depth == 1) {
            heads_.push_back(node);
        }
        next_ = node != nullptr && !node->members.empty() ? node : nullptr;
        return node;
    }
    bool is_on_way(std::size_t depth) const { return way_.size() == depth; }
    bool any_head() const { return !heads_.empty(); }

    // Whether every first member that was seen led to a field: `is_chosen` says whether a place is where the field's
    // value is from.
    template <class IsChosen>
    bool all_heads_lead(const IsChosen& is_chosen) const {
        for (const auto* head : heads_) {
            if (!leads(*head, is_chosen)) {
                return false;
            }
        }
        return true;
    }

private:
    static std::unique_ptr<Node> new_node() { return std::make_unique<Node>(); }

    template <class IsChosen>
    static bool leads(const Node& node, const IsChosen& is_chosen) {
        if (node.members.empty()) {
            return is_chosen(node.place);
        }
        for (const auto& [name, inner] : node.members) {
            if (leads(*inner, is_chosen)) {
                return true;
            }
        }
        return false;
    }

    Node root_;
    std::vector<const Node*> way_;  // of the open objects that lead to a field, the document first
    const Node* next_ = nullptr;    // of the member whose value comes next, if it is no leaf
    std::vector<const Node*> heads_;
};

}  // namespace headgate::schema
