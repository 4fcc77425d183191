#include "core/json.h"

#include <set>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace voronoi::core {
namespace {

/// First pass: structure only. nlohmann's parser is iterative, but destroying a deep value recurses, so depth is bounded
/// before any value is built; duplicate keys are found here because a built object no longer shows them.
class StructureCheck : public nlohmann::json_sax<Json> {
 public:
  StructureCheck(std::string_view file, int max_depth) : file_(file), max_depth_(max_depth) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return enter();
  }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) throw FormatError(file_, "JSON: key \"" + name + "\" stands twice");
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    throw FormatError(file_, position, std::string("not valid JSON: ") + error.what());
  }

 private:
  bool enter() {
    if (++depth_ > max_depth_)
      throw FormatError(file_, "JSON is nested deeper than " + std::to_string(max_depth_) + " levels");
    return true;
  }
  std::string_view file_;
  int max_depth_;
  int depth_ = 0;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view file, int max_depth) {
  if (text.starts_with("\xEF\xBB\xBF")) throw FormatError(file, 0, "not valid JSON: begins with a byte order mark");
  StructureCheck check(file, max_depth);
  Json::sax_parse(text, &check);
  return Json::parse(text);
}

Json read_json_file(const std::string& path, int max_depth) {
  return parse_json(read_text_file(path, std::size_t{1} << 31), path, max_depth);
}

}  // namespace voronoi::core
