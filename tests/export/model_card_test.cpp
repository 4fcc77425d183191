#include "export/model_card.h"

#include <gmock/gmock.h>

#include "support/temporary.h"

namespace voronoi::exporting {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

/// An original with a card and a config of its own.
class Original {
 public:
  explicit Original(const std::string& card, const std::string& config = "{}", const std::string& name = "Small-1B") {
    folder_ = temporary_.path() / name;
    std::filesystem::create_directories(folder_);
    test::write_bytes(folder_ / "README.md", card);
    test::write_bytes(folder_ / "config.json", config);
    facts.model = folder_.string();
    facts.method = "vptq";
    facts.layout = find_layout("vptq");
    facts.true_bits = 2.0775;
    facts.nominal_bits = 2;
    facts.linears = 210;
  }
  CardFacts facts;

 private:
  test::TemporaryFolder temporary_;
  std::filesystem::path folder_;
};

TEST(ModelCard, HasWhatHubsRead) {
  Original original("---\nlicense: apache-2.0\nlanguage:\n- en\n- 'fr'\ntags:\n- other\n---\n# Small\nlicense: none\n",
                    R"({"_name_or_path": "Org/Small-1B"})");
  const std::string card = model_card(original.facts);
  EXPECT_THAT(
      card, StartsWith("---\nlibrary_name: transformers\npipeline_tag: text-generation\nbase_model: \"Org/Small-1B\"\n"
                       "base_model_relation: quantized\nlicense: \"apache-2.0\"\nlanguage:\n- \"en\"\n- \"fr\"\n"
                       "tags:\n- vptq\n- quantized\n- vector-quantization\n- 2-bit\n---\n\n# Small-1B, 2.08 bits"));
  EXPECT_THAT(card, AllOf(HasSubstr("| true bits a weight | 2.0775 |"), HasSubstr("from_pretrained"),
                          Not(HasSubstr("other")), Not(HasSubstr("Figures"))));
}

TEST(ModelCard, FiguresStandInTableAndFrontMatter) {
  Original original("");
  original.facts.figures = {{"wiki|test", "perplexity", "context 2048", 24.5, 20.5},
                            {"piqa", "acc", "limit 100", 0.625, std::nullopt}};
  const std::string card = model_card(original.facts);
  EXPECT_THAT(card, AllOf(HasSubstr("| wiki\\|test | perplexity | 24.5 | 20.5 | context 2048 |"),
                          HasSubstr("| piqa | acc | 0.625 | - | limit 100 |"), HasSubstr("model-index:\n"),
                          HasSubstr("    - type: \"acc\"\n      value: 0.625\n")));
}

TEST(ModelCard, OfIntegersSaysSo) {
  Original original("");
  original.facts.layout = find_layout("compressed-tensors");
  original.facts.method = "gptq";
  const std::string card = model_card(original.facts);
  EXPECT_THAT(card, AllOf(HasSubstr("tags:\n- compressed-tensors\n- quantized\n- 2-bit\n"), Not(HasSubstr("vector")),
                          HasSubstr("compressed to integers, method `gptq`, in compressed-tensors."),
                          HasSubstr("pip install transformers accelerate compressed-tensors\n")));
}

TEST(ModelCard, TellsNoPath) {
  for (const char* name : {"/home/me/models/x", "./x", "x", "../x/y", "a/b/c"}) {
    Original original("", std::string(R"({"_name_or_path": ")") + name + "\"}");
    const std::string card = model_card(original.facts);
    EXPECT_THAT(card,
                AllOf(Not(HasSubstr("base_model")), Not(HasSubstr(original.facts.model)), HasSubstr("# Small-1B")));
  }
  Original cached("", "{}", "models--Org--Small/snapshots/0123");
  EXPECT_THAT(model_card(cached.facts), AllOf(HasSubstr("base_model: \"Org/Small\""), HasSubstr("# Small, ")));
  Original file("");
  file.facts.model = "/nowhere/Small.Q4.gguf";
  EXPECT_THAT(model_card(file.facts), HasSubstr("# Small.Q4, "));
}

TEST(ModelCard, AHostileCardStaysText) {
  Original original("---\nlicense: mit\"\\n---\nlanguage: \x01<script>\nlicense_link: {a: b}\n", "{}", "a`b|c");
  const std::string card = model_card(original.facts);
  EXPECT_THAT(card, AllOf(HasSubstr("license: \"mit\\\"\\\\n---\"\n"), HasSubstr("- \"\\\\x01<script>\"\n"),
                          Not(HasSubstr("license_link")), HasSubstr("# a\\`b\\|c")));
}

}  // namespace
}  // namespace voronoi::exporting
