// What a file of text is, told by its content: text at all, and which; JSON documents in lines or in one array.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "core/json.h"

namespace voronoi::model {

/// Throws FormatError naming the file and the command that converts it when the bytes, packed or not, are those of a
/// format that holds texts but is none, or a git-lfs pointer.
void refuse_containers(std::string_view bytes, const std::string& path);

/// Throws FormatError, with the remedy, for UTF-16, UTF-32 and whatever has more than 1 in 1000 bytes (and more than
/// 10) that are no UTF-8. Fewer are warned of. `text`: without a byte order mark.
void require_utf8(std::string_view text, const std::string& path);

/// Without the byte order mark of UTF-8.
std::string_view without_mark(std::string_view bytes);

/// Whether the text is JSON documents, as they stand in lines (of the first is asked) or in one array. Throws
/// FormatError for JSON that holds no documents: naming it is better than calibrating on its braces. Text that merely
/// begins like JSON is text, unless `path` ends as JSON's names do.
bool holds_documents(std::string_view text, const std::string& path);

/// What becomes of documents: of a text, and of a conversation (an object with "messages" and neither "text" nor
/// "content"), which is told where it stands. conversation: null where there is no chat template to read it by.
struct DocumentTaker {
  std::function<void(const std::string& text)> text;
  std::function<void(const core::Json& document, const std::string& place)> conversation;
};

/// Takes every line that is not blank, or every element of the array that `text` is. Throws FormatError naming file and
/// line or element.
void for_each_document(std::string_view text, const std::string& path, const DocumentTaker& taker);

}  // namespace voronoi::model
