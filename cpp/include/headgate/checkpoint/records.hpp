// Where the records of a file begin and end. The kind of a file is told by its bytes, not by its name.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "headgate/checkpoint/ports.hpp"

namespace headgate::checkpoint {

// Gets the records of one file, in their order.
class RecordSink {
public:
    virtual ~RecordSink() = default;
    // Takes `text` if it is one JSON document with an object at the top, and says whether it is. Otherwise nothing is
    // taken. `offset` is where it begins in the unpacked file, in bytes.
    virtual bool take_object(std::string_view text, std::uint64_t offset) = 0;
    // Takes `text` as one record, whatever it is.
    virtual void take(std::string_view text, std::uint64_t offset) = 0;
    // Something that should hold records does not; `kind` is a problem's (schema.hpp).
    virtual void refuse(std::uint64_t offset, std::string_view kind) = 0;
    // What comes between the two are parts of one document, which ends at `end`.
    virtual void begin_document(std::uint64_t end) = 0;
    virtual void end_document() = 0;
};

// Splits the content of a file into records. A file is
// - one document: an object is a record, the elements of an array are records;
// - JSON Lines: such a document on every line. Blank lines are skipped; a bad line does not harm the others;
// - such documents one after the other, with or without blanks between them (also RFC 7464).
// A UTF-8 byte order mark is skipped. A document that ends too early, or that something else follows, is one bad
// record. Of a file whose first line is torn, the others are read if most of them are whole objects.
//
// `path` names the array that holds the records inside each document, member by member; empty: the documents are the
// records. On its way the path goes through every element of an array. A document without it is refused as `records`.
void split_records(std::string_view key, std::string_view content, std::span<const std::string> path, RecordSink& sink);

// Whether a file's name is one of a file of lines (JSON Lines, logs), and whether a file is one, to which lines may be
// added: its first line is a whole value and another follows, or most lines are whole objects. What its bytes do not
// tell, as of one line alone, its name does.
bool names_lines(std::string_view key);
bool holds_lines(std::string_view key, std::string_view content);

// Where `content` has its first character at or after `offset` that is neither blank nor a byte order mark, and where
// `text` ends without the blanks behind it.
std::size_t begin_of_text(std::string_view content, std::size_t offset);
std::size_t end_of_text(std::string_view text);
// Whether `text` is one object, as far as its brackets and strings tell.
bool is_whole_object(std::string_view text);

// The content of a file, unpacked as often as its bytes say that it is packed (an object on S3 may be packed by its
// name and by its Content-Encoding).
Status unpacked(std::string_view key, std::string_view bytes, std::size_t limit, const Unpack& unpack,
                std::string& buffer, std::string_view& out);
}  // namespace headgate::checkpoint
