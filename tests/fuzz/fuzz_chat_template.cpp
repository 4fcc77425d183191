// A chat template, ended by a zero byte, and a document that it renders.
#include "fuzz/fuzz.h"
#include "model/chat_template.h"

namespace voronoi::fuzz {
namespace {

/// Loops of seconds say no more than those of milliseconds.
constexpr model::jinja::Limits kLimits{10'000, std::size_t{1} << 20};

void run(std::string_view input) {
  const std::string_view source = take_text(input);
  accepts([&] {
    const model::ChatTemplate chat(source, "t.jinja", {{"bos_token", "<s>"}, {"eos_token", "</s>"}}, kLimits);
    const core::Json plain{{"messages",
                            {{{"role", "system"}, {"content", "S"}},
                             {{"role", "user"}, {"content", " q\n"}},
                             {{"role", "assistant"}, {"content", "<think>x</think>a"}}}}};
    accepts([&] { static_cast<void>(chat.render(plain, "plain")); });
    const core::Json document = core::parse_json(input, "d.jsonl: line 1");
    if (!document.is_object() || !document.contains("messages") || !document.at("messages").is_array()) return;
    static_cast<void>(chat.render(document, "d.jsonl: line 1"));
  });
}

}  // namespace
}  // namespace voronoi::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voronoi::fuzz::quiet();
  voronoi::fuzz::run(voronoi::fuzz::text_of(data, size));
  return 0;
}
