#include "core/stand_in.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "core/error.h"

namespace voronoi::core {

void refuse_pointer(std::string_view bytes, std::string_view file) {
  if (bytes.starts_with("version https://git-lfs.github.com/spec/"))
    throw FormatError(file,
                      "is a git-lfs pointer, not the file that it stands for; run `git lfs pull` in its folder, or "
                      "download the file itself");
}

void refuse_stand_in(std::string_view bytes, std::string_view file) {
  refuse_pointer(bytes, file);
  std::string begin(bytes.substr(0, std::string_view("<!doctype html").size()));
  std::transform(begin.begin(), begin.end(), begin.begin(), [](unsigned char c) { return std::tolower(c); });
  if (begin.starts_with("<!doctype html") || begin.starts_with("<html"))
    throw FormatError(file,
                      "is a web page, as a download that was refused leaves it; download it again, logged in where the "
                      "model asks for that");
}

}  // namespace voronoi::core
