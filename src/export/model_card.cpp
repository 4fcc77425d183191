#include "export/model_card.h"

#include <fmt/format.h>

#include <filesystem>
#include <regex>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/printable.h"
#include "model/weights.h"

namespace voronoi::exporting {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxCardBytes = std::size_t{1} << 24;
constexpr std::size_t kMaxValueBytes = 200;

/// A scalar as YAML and JSON both read it.
std::string quoted(const std::string& text) {
  return core::Json(core::printable(text, kMaxValueBytes)).dump(-1, ' ', true);
}

std::string stripped(std::string text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\"'"), end = text.find_last_not_of(" \t\r\"'");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

/// What a source's card says of its license and languages: `key: value` and `key:` with `- value` below it. Other
/// front matter is its own.
struct SourceCard {
  std::vector<std::pair<std::string, std::string>> license;  ///< license, license_name, license_link
  std::vector<std::string> languages;
};

SourceCard read_source_card(const fs::path& file) {
  SourceCard card;
  if (!fs::is_regular_file(file) || fs::file_size(file) > kMaxCardBytes) return card;
  std::istringstream lines(core::read_text_file(file, kMaxCardBytes));
  std::string line, key;
  if (!std::getline(lines, line) || stripped(line) != "---") return card;
  while (std::getline(lines, line) && stripped(line) != "---") {
    if (line.starts_with("- ") || line.starts_with("  - ")) {
      if (key == "language") card.languages.push_back(stripped(line.substr(line.find('-') + 1)));
      continue;
    }
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || line.starts_with(' ')) continue;
    key = line.substr(0, colon);
    const std::string value = stripped(line.substr(colon + 1));
    if (value.empty() || value.front() == '[' || value.front() == '{') continue;
    if (key == "license" || key == "license_name" || key == "license_link") card.license.emplace_back(key, value);
    if (key == "language") card.languages.push_back(value);
  }
  return card;
}

/// "Org/Name" as hubs call the original, or empty: config.json's _name_or_path, or a path in a hub's cache
/// (models--Org--Name).
std::string hub_name(const fs::path& model) {
  static const std::regex name(R"([A-Za-z0-9][\w.\-]*/[\w.\-]+)"), cached(R"(models--([\w.\-]+?)--([\w.\-]+))");
  for (const fs::path& part : model) {
    const std::string text = part.string();
    if (std::smatch match; std::regex_match(text, match, cached)) return match[1].str() + "/" + match[2].str();
  }
  const fs::path config = model / "config.json";
  if (!fs::is_regular_file(config)) return "";
  const core::Json json = core::parse_json(core::read_text_file(config, model::kMaxConfigBytes), config.string());
  const auto found = json.find("_name_or_path");
  if (found == json.end() || !found->is_string()) return "";
  const auto text = found->get<std::string>();
  return text.size() <= kMaxValueBytes && std::regex_match(text, name) ? text : "";
}

/// For people: the hub's name, or the directory's or file's own.
std::string display_name(const fs::path& model, const std::string& hub) {
  if (!hub.empty()) return hub.substr(hub.find('/') + 1);
  fs::path path = model.lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return core::printable(path.extension() == ".gguf" ? path.stem().string() : path.filename().string(), kMaxValueBytes);
}

bool of_vectors(const CardFacts& facts) { return facts.layout->name() == "vptq"; }

std::string front_matter(const CardFacts& facts, const std::string& hub, const std::string& name,
                         const SourceCard& source) {
  std::string text = "---\nlibrary_name: transformers\npipeline_tag: text-generation\n";
  if (!hub.empty()) text += fmt::format("base_model: {}\nbase_model_relation: quantized\n", quoted(hub));
  for (const auto& [key, value] : source.license) text += fmt::format("{}: {}\n", key, quoted(value));
  if (!source.languages.empty()) text += "language:\n";
  for (const std::string& language : source.languages) text += fmt::format("- {}\n", quoted(language));
  text += fmt::format("tags:\n- {}\n- quantized\n{}- {}-bit\n", facts.layout->name(),
                      of_vectors(facts) ? "- vector-quantization\n" : "", static_cast<int>(facts.true_bits + 0.5));
  if (!facts.figures.empty()) {
    text += fmt::format("model-index:\n- name: {}\n  results:\n", quoted(name + " " + facts.method));
    for (const CardFigure& figure : facts.figures)
      text += fmt::format(
          "  - task:\n      type: text-generation\n    dataset:\n      name: {0}\n      type: {0}\n    metrics:\n"
          "    - type: {1}\n      value: {2:.6g}\n",
          quoted(figure.task), quoted(figure.metric), figure.value);
  }
  return text + "---\n\n";
}

/// A name within a Markdown sentence or table.
std::string plain(const std::string& text) {
  std::string out;
  for (const char c : core::printable(text)) {
    if (std::string_view("\\`*_[]<>|#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string model_card(const CardFacts& facts) {
  const fs::path model(facts.model);
  const bool directory = fs::is_directory(model);
  const std::string hub = directory ? hub_name(model) : "", name = display_name(model, hub);
  const SourceCard source = directory ? read_source_card(model / "README.md") : SourceCard{};
  std::string text = front_matter(facts, hub, name, source);
  text += fmt::format("# {}, {:.2f} bits a weight\n\n", plain(name), facts.true_bits);
  text += fmt::format(
      "{} with its {} linears compressed {}, method `{}`, in {}{}. "
      "Embeddings, norms and head are as they were, in 16 bits.\n\n",
      hub.empty() ? plain(name) : fmt::format("[{0}](https://huggingface.co/{0})", hub), facts.linears,
      of_vectors(facts) ? "by vector quantization" : "to integers", facts.method, facts.layout->title(),
      of_vectors(facts) ? fmt::format(" (profile {})", profile_name(facts.profile)) : "");
  text += fmt::format("| | |\n|---|---:|\n| true bits a weight | {:.4f} |\n| nominal bits a weight | {:.4f} |\n\n",
                      facts.true_bits, facts.nominal_bits);
  text +=
      "True bits count everything that is stored for the linears: codes with their padding, codebooks, scales, zeros, "
      "biases, column order, outliers. Nominal bits count codes alone.\n\n";
  if (!facts.figures.empty()) {
    text += "## Figures\n\n| task | metric | value | unquantized | protocol |\n|---|---|---:|---:|---|\n";
    for (const CardFigure& figure : facts.figures)
      text += fmt::format("| {} | {} | {:.6g} | {} | {} |\n", plain(figure.task), plain(figure.metric), figure.value,
                          figure.reference ? fmt::format("{:.6g}", *figure.reference) : "-", plain(figure.protocol));
    text += "\n";
  }
  text += fmt::format("## Loading\n\n```sh\npip install transformers accelerate {}\n```\n\n```python\n",
                      facts.layout->packages());
  text +=
      "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
      "path = \"PATH OR NAME OF THIS DIRECTORY\"\n"
      "tokenizer = AutoTokenizer.from_pretrained(path)\n"
      "model = AutoModelForCausalLM.from_pretrained(path, device_map=\"auto\")\n"
      "inputs = tokenizer(\"The capital of France is\", return_tensors=\"pt\").to(model.device)\n"
      "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))\n```\n\n"
      "`voronoi generate --model DIR --prompt TEXT` and `voronoi eval` read it too; `voronoi verify DIR` checks every "
      "file "
      "against `voronoi_export.json`.\n";
  return text;
}

}  // namespace voronoi::exporting
