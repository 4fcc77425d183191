#include "model/vocabulary_json.h"

#include <set>

#include "core/error.h"
#include "core/stand_in.h"
#include "model/tokenizer_files.h"

namespace voronoi::model {
namespace {

using core::FormatError;
using core::Json;

constexpr std::size_t kMostLevels = 100;

class Reader : public nlohmann::json_sax<Json> {
 public:
  Reader(const std::string& file, bool whole, VocabularyJson& out) : file_(file), whole_(whole), out_(out) {}

  bool null() override { return value(nullptr); }
  bool boolean(bool v) override { return value(v); }
  bool number_integer(number_integer_t v) override { return value(v); }
  bool number_float(number_float_t v, const string_t&) override { return value(v); }
  bool binary(binary_t&) override { return value(nullptr); }
  bool number_unsigned(number_unsigned_t v) override {
    if (state_ != State::vocabulary) return value(v);
    out_.vocabulary.emplace_back(std::move(key_), v);
    return true;
  }
  bool string(string_t& v) override {
    if (state_ == State::merges) {
      const auto [left, right] = split_merge(v, file_, merge_name());
      out_.merges.emplace_back(left, right);
      return true;
    }
    if (state_ == State::pair) {
      pair_.push_back(std::move(v));
      return true;
    }
    return value(std::move(v));
  }
  bool start_object(std::size_t) override {
    if (state_ != State::rest) refuse();
    if (whole_ ? stack_.empty() : at_model("vocab"))
      state_ = State::vocabulary;
    else
      open(Json::object());
    return true;
  }
  bool end_object() override {
    if (state_ == State::vocabulary)
      state_ = State::rest;
    else
      close();
    return true;
  }
  bool start_array(std::size_t) override {
    if (state_ == State::vocabulary || state_ == State::pair) refuse();
    if (state_ == State::merges) {
      state_ = State::pair;
      pair_.clear();
    } else if (!whole_ && at_model("merges")) {
      state_ = State::merges;
    } else {
      open(Json::array());
    }
    return true;
  }
  bool end_array() override {
    if (state_ == State::pair) {
      if (pair_.size() != 2) throw FormatError(file_, merge_name() + " is not a pair of tokens");
      out_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
      state_ = State::merges;
    } else if (state_ == State::merges) {
      state_ = State::rest;
    } else {
      close();
    }
    return true;
  }
  bool key(string_t& name) override {
    key_ = std::move(name);
    if (state_ == State::vocabulary) return true;
    if (!keys_.back().insert(key_).second) throw FormatError(file_, "JSON: key \"" + key_ + "\" stands twice");
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    throw FormatError(file_, position, std::string("not valid JSON: ") + error.what());
  }

 private:
  enum class State { rest, vocabulary, merges, pair };

  std::string merge_name() const { return "merge " + std::to_string(out_.merges.size()); }
  [[noreturn]] void refuse() const {
    if (state_ == State::vocabulary)
      throw FormatError(file_, "the id of the token \"" + key_ + "\" is not a whole number from 0");
    throw FormatError(file_, merge_name() + " is neither \"left right\" nor a pair of tokens");
  }
  /// The value about to come is model.<name>.
  bool at_model(std::string_view name) const {
    return stack_.size() == 2 && stack_[0]->is_object() && names_[1] == "model" && key_ == name;
  }

  bool value(Json v) {
    if (state_ != State::rest) refuse();
    put(std::move(v));
    return true;
  }
  Json* put(Json v) {
    if (stack_.empty()) {
      out_.rest = std::move(v);
      return &out_.rest;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    return &(parent[key_] = std::move(v));
  }
  void open(Json v) {
    if (stack_.size() == kMostLevels)
      throw FormatError(file_, "JSON is nested deeper than " + std::to_string(kMostLevels) + " levels");
    const bool in_object = !stack_.empty() && stack_.back()->is_object();
    std::string name = in_object ? key_ : std::string();
    Json* const at = put(std::move(v));
    stack_.push_back(at);
    names_.push_back(std::move(name));
    keys_.emplace_back();
    key_.clear();
  }
  void close() {
    stack_.pop_back();
    names_.pop_back();
    keys_.pop_back();
  }

  const std::string& file_;
  bool whole_;
  VocabularyJson& out_;
  State state_ = State::rest;
  std::string key_;
  std::vector<std::string> pair_;
  // Open containers from the outermost in: where they are, under which name, and their keys so far.
  std::vector<Json*> stack_;
  std::vector<std::string> names_;
  std::vector<std::set<std::string>> keys_;
};

VocabularyJson parse(std::string_view text, const std::string& file, bool whole) {
  core::refuse_stand_in(text, file);
  if (text.starts_with("\xEF\xBB\xBF"))
    throw FormatError(file, 0, "not valid JSON: begins with a byte order mark; save it as UTF-8 without one");
  VocabularyJson out;
  Reader reader(file, whole, out);
  Json::sax_parse(text, &reader);
  return out;
}

}  // namespace

VocabularyJson parse_tokenizer_json(std::string_view text, const std::string& file) { return parse(text, file, false); }
VocabularyJson parse_vocab_json(std::string_view text, const std::string& file) { return parse(text, file, true); }

}  // namespace voronoi::model
