// Chat templates beside what jinja2 makes of them (tests/support/chat_goldens.py), and what they may not do.
#include "model/chat_template.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "model/corpus.h"
#include "model/jinja/lexer.h"
#include "model/model_files.h"

namespace voronoi::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

core::Json conversation(const char* content = "Hi") {
  return {{"messages", {{{"role", "user"}, {"content", content}}}}};
}

/// The text, or the refusal behind "refused: ".
std::string made_of(const std::string& source, const core::Json& document = conversation()) {
  try {
    return ChatTemplate(source, "t.jinja", {{"bos_token", "<s>"}, {"eos_token", "</s>"}})
        .render(document, "d.jsonl: line 1");
  } catch (const core::FormatError& error) {
    return std::string("refused: ") + error.what();
  }
}

TEST(ChatTemplate, RendersAsJinjaDoes) {
  const core::Json golden = core::read_json_file(VORONOI_CHAT_GOLDENS);
  std::size_t n_texts = 0, n_refused = 0;
  for (const core::Json& wanted : golden.at("cases")) {
    const auto name = wanted.at("template").get<std::string>(), which = wanted.at("conversation").get<std::string>();
    const std::string made =
        made_of(golden.at("templates").at(name).get<std::string>(), golden.at("conversations").at(which));
    if (wanted.contains("text")) {
      EXPECT_EQ(made, wanted.at("text").get<std::string>()) << name << " of " << which;
      ++n_texts;
    } else if (wanted.contains("refusal")) {
      EXPECT_THAT(made,
                  AllOf(StartsWith("refused: d.jsonl: line 1"), HasSubstr(wanted.at("refusal").get<std::string>())))
          << name << " of " << which;
      ++n_refused;
    } else {
      EXPECT_THAT(made, AllOf(StartsWith("refused: d.jsonl: line 1"), HasSubstr("t.jinja: chat template, line ")))
          << name << " of " << which;
    }
  }
  EXPECT_EQ(n_texts, 46U);
  EXPECT_EQ(n_refused, 2U);
}

TEST(ChatTemplate, PartsOfAContentAreOneText) {
  const std::string all = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}";
  const core::Json parts{{"messages",
                          {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "a"}}, "b"}}},
                           {{"role", "assistant"}, {"content", nullptr}}}}};
  EXPECT_EQ(made_of(all, parts), "[user: ab][assistant: None]");
  const auto with = [&](core::Json content) {
    return made_of(all, {{"messages", {{{"role", "user"}, {"content", std::move(content)}}}}});
  };
  EXPECT_THAT(with({{{"type", "image_url"}, {"image_url", "x"}}}),
              HasSubstr("line 1, message 1: has a part without a \"text\""));
  EXPECT_THAT(with(3), HasSubstr("neither a string nor a list of parts"));
  EXPECT_THAT(made_of(all, {{"messages", core::Json::array()}}), HasSubstr("has no message"));
  EXPECT_THAT(made_of(all, {{"messages", {{{"content", "x"}}}}}), HasSubstr("is no object with a \"role\""));
}

TEST(ChatTemplate, WhatIsNotUnderstoodIsRefusedByLineAndConstruct) {
  for (const auto& [source, message] : std::initializer_list<std::pair<const char*, const char*>>{
           {"a\n{% include 'x' %}", "line 2: the tag {% include %} is not supported"},
           {"{{ x | shuffle }}", "line 1: the filter 'shuffle' is not supported"},
           {"{% if x is odder %}{% endif %}", "the test 'odder' is not supported"},
           {"{{ lipsum() }}", "'lipsum' is called, and is no function"},
           {"{{ messages.append(1) }}", "the method 'append' would change a list"},
           {"{{ 'a'.encode() }}", "is called, and is no function"},
           {"{% for x in messages recursive %}{% endfor %}", "a recursive loop is not supported"},
           {"{{ f(*messages) }}", "'*' before an argument"},
           {"{% for x in messages %}", "the template ends before {% endfor %}"},
           {"{% if x %}", "the template ends before {% endif %}"},
           {"{{ 'a' ", "{{ has no end"},
           {"{{ (1 }}", "'}' closes nothing that is open"},
           {"{# x", "a comment has no end"},
           {"{% raw %}x", "{% raw %} has no {% endraw %}"},
           {"{{ 'x }}", "a string has no end"},
           {"{{ 1 2 }}", "goes on with '2'"},
           {"{% break %}", "{% break %} stands in no loop"},
           {"{% set none = 1 %}", "'none' is assigned to"},
           {"{{ x.y }}", "'x', which is undefined, is used"},
           {"{{ 'a' + 1 }}", "'+' of a string and an integer"},
           {"{{ 1 // 0 }}", "a division by zero"},
           {"{{ 9223372036854775807 + 1 }}", "a number beyond 64 bits"},
           {"{% set x.y = 1 %}", "which is no namespace"},
           {"{% for a, b in [[1]] %}{% endfor %}", "1 values for 2 names"},
           {"{{ {1: 2} }}", "a dict whose key is an integer"}})
    EXPECT_THAT(made_of(source), HasSubstr(message)) << source;
}

TEST(ChatTemplate, WhatATemplateMayTakeIsBounded) {
  const auto repeated = [](const std::string& part, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += part;
    return out;
  };
  const std::string nested = "nests more than";
  EXPECT_THAT(made_of("{{ " + repeated("(", 5000) + "1" + repeated(")", 5000) + " }}"), HasSubstr(nested));
  EXPECT_THAT(made_of("{{ " + repeated("not ", 5000) + "1 }}"), HasSubstr(nested));
  EXPECT_THAT(made_of("{{ 1" + repeated("+1", 5000) + " }}"), HasSubstr(nested));
  EXPECT_THAT(made_of("{{ x" + repeated(".x", 5000) + " }}"), HasSubstr(nested));
  EXPECT_THAT(made_of(repeated("{% if 1 %}", 5000) + repeated("{% endif %}", 5000)), HasSubstr(nested));
  EXPECT_THAT(made_of("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}"), HasSubstr(nested));
  EXPECT_THAT(made_of("{% set ns = namespace(x=1) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}"),
              HasSubstr("values more than"));
  EXPECT_THAT(made_of("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
              HasSubstr("steps"));
  EXPECT_THAT(made_of("{{ range(100001) }}"), HasSubstr("range() of more than 100000"));
  EXPECT_THAT(made_of("{{ 'ab' * 1000000000 }}"), HasSubstr("a repetition of too much"));
  EXPECT_THAT(
      made_of("{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"),
      HasSubstr("bytes of text"));
  EXPECT_THAT(made_of(std::string(jinja::kMostTemplateBytes + 1, ' ')), HasSubstr("bytes, more than"));
}

TEST(ChatTemplate, LimitsAreThoseItIsGiven) {
  const auto made = [&](const jinja::Limits& limits) {
    try {
      return ChatTemplate("{% for i in range(3) %}ab{% endfor %}", "t", {}, limits).render(conversation(), "d");
    } catch (const core::FormatError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(made({}), "ababab");
  EXPECT_THAT(made({2, 100}), HasSubstr("more than 2 steps"));
  EXPECT_THAT(made({100, 5}), HasSubstr("more than 5 bytes of text"));
}

class TemplateFiles : public ::testing::Test {
 protected:
  /// "text", or the refusal.
  std::string rendered(const std::string& path) const {
    try {
      ModelChat chat(path);
      return load_text(conversations_, std::nullopt, &chat).content;
    } catch (const core::FormatError& error) {
      return std::string("refused: ") + error.what();
    }
  }
  std::string folder(const std::string& name) const {
    std::filesystem::create_directory(files_.path() + "/" + name);
    return files_.path() + "/" + name;
  }
  test::TemporaryFolder files_;
  const std::string conversations_ = files_.write(
      "chat.jsonl",
      "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n{\"text\": \"plain\"}\n{\"text\": \"more\"}\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n{\"messages\": [{\"role\": \"user\", \"content\": "
      "\"c\"}]}\n");
};

TEST_F(TemplateFiles, AreFoundWhereModelsHaveThem) {
  const std::string place = folder("m");
  EXPECT_THAT(rendered(place), AllOf(StartsWith("refused: " + conversations_ + ": line 1"),
                                     HasSubstr("has no chat template"), HasSubstr("chat_template.jinja")));
  const std::string all = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}";
  files_.write("m/chat_template.json", core::Json{{"chat_template", "1" + all}}.dump());
  EXPECT_EQ(rendered(place), "1aplain\n\nmore1b1c");
  files_.write(
      "m/tokenizer_config.json",
      core::Json{{"chat_template", "2" + all}, {"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}}.dump());
  EXPECT_EQ(rendered(place), "2<s>a</s>plain\n\nmore2<s>b</s>2<s>c</s>") << "no marks but those of conversations";
  EXPECT_EQ(rendered(files_.write("m/tokenizer.json", "{}")), rendered(place)) << "beside the tokenizer's file";
  const core::Json named{{{"name", "tool_use"}, {"template", "no"}}, {{"name", "default"}, {"template", "3" + all}}};
  files_.write("m/tokenizer_config.json", core::Json{{"chat_template", named}}.dump());
  EXPECT_EQ(rendered(place), "3aplain\n\nmore3b3c");
  files_.write("m/tokenizer_config.json", core::Json{{"chat_template", {named[0]}}}.dump());
  EXPECT_THAT(rendered(place), HasSubstr("has chat templates (tool_use), and none of them is called default"));
  files_.write("m/chat_template.jinja", "4" + all + "\n");
  EXPECT_EQ(rendered(place), "4aplain\n\nmore4b4c");
}

TEST_F(TemplateFiles, ConversationsNeedSomebodyWhoReadsThem) {
  EXPECT_THROW(load_text(conversations_), core::FormatError);
}

}  // namespace
}  // namespace voronoi::model
