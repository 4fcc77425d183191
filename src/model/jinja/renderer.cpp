#include "model/jinja/renderer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <memory>
#include <optional>

#include "core/error.h"
#include "model/jinja/lexer.h"
#include "model/jinja/operations.h"

namespace voronoi::model::jinja {
namespace {

constexpr int kMostDepth = 400;               // of expressions and statements within each other, through macros
constexpr std::int64_t kMostRange = 100'000;  // as in Jinja's sandbox

using Scope = std::vector<std::pair<std::string, Value>>;

/// How a body is left.
enum class Flow { on, leave, next };

/// The same day for every rendering, so that a run's texts stay what they are.
std::tm fixed_day() {
  std::tm day{};
  day.tm_year = 124;
  day.tm_mon = 6;
  day.tm_mday = 26;
  day.tm_wday = 5;
  day.tm_yday = 207;
  return day;
}

class Renderer {
 public:
  Renderer(const Syntax& syntax, const std::string& file, const Scope& variables, const Limits& limits)
      : syntax_(syntax), file_(file), scopes_(2), budget_(limits) {
    scopes_.front() = variables;
    for (const auto& [name, function] :
         {std::pair("range", Function::range), std::pair("namespace", Function::make_namespace),
          std::pair("dict", Function::dict), std::pair("raise_exception", Function::raise_exception),
          std::pair("strftime_now", Function::strftime_now)})
      scopes_.front().emplace_back(name, Value(Value::Content(function)));
  }

  std::string run() {
    std::string out;
    out_ = &out;
    try {
      body(syntax_.body);
    } catch (const Fault& fault) {
      fail_at(file_, line_, fault.message());
    }
    return out;
  }

 private:
  using Kind = Expression::Kind;

  // Scopes: [0] what the template is given, [1] its own, from base_ on those of the macro and loops at work.

  const Value* look_up(const std::string& name) const {
    const auto in = [&](const Scope& scope) -> const Value* {
      const auto found = std::find_if(scope.begin(), scope.end(), [&](const auto& held) { return held.first == name; });
      return found == scope.end() ? nullptr : &found->second;
    };
    for (std::size_t i = scopes_.size(); i > base_; --i)
      if (const Value* found = in(scopes_[i - 1])) return found;
    for (const std::size_t i : {std::size_t{1}, std::size_t{0}})
      if (const Value* found = in(scopes_[i])) return found;
    return nullptr;
  }

  void put(const std::string& name, Value value) {
    Scope& scope = scopes_.back();
    const auto found = std::find_if(scope.begin(), scope.end(), [&](const auto& held) { return held.first == name; });
    if (found == scope.end())
      scope.emplace_back(name, std::move(value));
    else
      found->second = std::move(value);
  }

  void assign(const Target& target, const Value& value) {
    if (!target.attribute.empty()) {
      const Value* held = look_up(target.names.front());
      if (held == nullptr || held->as<Namespace*>() == nullptr)
        throw Fault("an attribute of '" + target.names.front() + "' is set, which is no namespace");
      return set_attribute(**held->as<Namespace*>(), target.attribute, value);
    }
    if (!target.tuple) return put(target.names.front(), value);
    const std::vector<Value> parts = elements(value);
    if (parts.size() != target.names.size())
      throw Fault(fmt::format("{} values for {} names", parts.size(), target.names.size()));
    for (std::size_t i = 0; i < parts.size(); ++i) put(target.names[i], parts[i]);
  }

  static void set_attribute(Namespace& space, const std::string& name, const Value& value) {
    for (auto& [attribute, held] : space.attributes)
      if (attribute == name) {
        held = value;
        return;
      }
    space.attributes.emplace_back(name, value);
  }

  void print(const std::string& text) {
    budget_.grow(text.size());
    if (out_->size() + text.size() > kMostRenderedBytes)
      throw Fault(fmt::format("renders more than {} bytes", kMostRenderedBytes));
    *out_ += text;
  }

  Flow body(const Body& statements) {
    for (const Statement& statement : statements)
      if (const Flow flow = run_statement(statement); flow != Flow::on) return flow;
    return Flow::on;
  }

  /// In a scope of its own, its text apart.
  std::string captured(const Body& statements) {
    std::string text;
    std::string* const before = std::exchange(out_, &text);
    scopes_.emplace_back();
    body(statements);
    scopes_.pop_back();
    out_ = before;
    return text;
  }

  Value through(const std::vector<ExpressionPtr>& filters, Value value) {
    for (const ExpressionPtr& filter : filters) value = filtered(filter->text, value, arguments_of(*filter), budget_);
    return value;
  }

  /// Held while something is at work that may hold something like itself.
  class Level {
   public:
    explicit Level(int& depth) : depth_(depth) {
      if (++depth_ > kMostDepth) throw Fault(fmt::format("nests more than {} deep", kMostDepth));
    }
    ~Level() { --depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    int& depth_;
  };

  Flow run_statement(const Statement& statement) {
    const Level level(depth_);
    line_ = statement.line;
    budget_.spend();
    switch (statement.kind) {
      case Statement::Kind::data:
        print(statement.text);
        break;
      case Statement::Kind::print:
        print(to_text(evaluate(*statement.value)));
        break;
      case Statement::Kind::branch:
        for (const auto& [test, then] : statement.branches)
          if (!test || truth(evaluate(*test))) return body(then);
        break;
      case Statement::Kind::loop:
        loop(statement);
        break;
      case Statement::Kind::set:
        assign(statement.target, evaluate(*statement.value));
        break;
      case Statement::Kind::set_block:
        assign(statement.target, through(statement.filters, Value::text(captured(statement.bodies.front()))));
        break;
      case Statement::Kind::filter_block:
        print(to_text(through(statement.filters, Value::text(captured(statement.bodies.front())))));
        break;
      case Statement::Kind::with:
      case Statement::Kind::group: {
        scopes_.emplace_back();
        for (const auto& [target, value] : statement.sets) assign(target, evaluate(*value));
        const Flow flow = body(statement.bodies.front());
        scopes_.pop_back();
        return flow;
      }
      case Statement::Kind::leave:
        return Flow::leave;
      case Statement::Kind::next:
        return Flow::next;
      case Statement::Kind::macro:
        put(statement.text, Value(Value::Content(Macro{statement.macro})));
        break;
    }
    return Flow::on;
  }

  void loop(const Statement& statement) {
    std::vector<Value> items = elements(evaluate(*statement.value));
    if (statement.test) {
      std::vector<Value> chosen;
      for (const Value& item : items) {
        budget_.spend();
        scopes_.emplace_back();
        assign(statement.target, item);
        if (truth(evaluate(*statement.test))) chosen.push_back(item);
        scopes_.pop_back();
      }
      items = std::move(chosen);
    }
    if (items.empty()) {
      body(statement.bodies[1]);
      return;
    }
    const Value all = Value::list(std::move(items));
    const auto list = *all.as<std::shared_ptr<const List>>();
    ++loops_;
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      budget_.spend();
      scopes_.emplace_back();
      assign(statement.target, list->items[i]);
      put("loop",
          Value(Value::Content(std::make_shared<const Loop>(Loop{list, static_cast<std::int64_t>(i), loops_ - 1}))));
      const Flow flow = body(statement.bodies[0]);
      scopes_.pop_back();
      if (flow == Flow::leave) break;
    }
    --loops_;
  }

  Value evaluate(const Expression& e) {
    const Level level(depth_);
    budget_.spend();
    line_ = e.line;
    switch (e.kind) {
      case Kind::literal:
        return e.value;
      case Kind::name: {
        const Value* found = look_up(e.text);
        return found == nullptr ? Value::undefined(e.text) : *found;
      }
      case Kind::list:
      case Kind::tuple:
        return Value::list(all_of(e.parts, 0), e.kind == Kind::tuple);
      case Kind::dict:
        return dict(e);
      case Kind::attribute:
        return attribute_of(evaluate(*e.parts[0]), e.text);
      case Kind::item: {
        const Value of = evaluate(*e.parts[0]);
        return item_of(of, evaluate(*e.parts[1]));
      }
      case Kind::slice: {
        const Value of = evaluate(*e.parts[0]);
        std::array<Value, 3> bounds;
        for (std::size_t i = 0; i < 3; ++i)
          if (e.parts[i + 1]) bounds[i] = evaluate(*e.parts[i + 1]);
        return slice_of(of, bounds[0], bounds[1], bounds[2], budget_);
      }
      case Kind::call:
        return call(e);
      case Kind::filter: {
        const Value input = evaluate(*e.parts[0]);
        return filtered(e.text, input, arguments_of(e), budget_);
      }
      case Kind::test: {
        const Value input = evaluate(*e.parts[0]);
        return Value::boolean(passes(e.text, input, arguments_of(e), budget_));
      }
      case Kind::unary: {
        const Value of = evaluate(*e.parts[0]);
        if (e.text == "not") return Value::boolean(!truth(of));
        return e.text == "-" ? negative(of) : of;
      }
      case Kind::binary:
        return binary(e);
      case Kind::compare:
        return comparison(e);
      case Kind::concat: {
        std::string text;
        for (const ExpressionPtr& part : e.parts) {
          text += to_text(evaluate(*part));
          budget_.grow(text.size());
        }
        return Value::text(std::move(text));
      }
      case Kind::choice:
        if (truth(evaluate(*e.parts[1]))) return evaluate(*e.parts[0]);
        return e.parts[2] ? evaluate(*e.parts[2]) : Value::undefined("");
    }
    throw core::InternalError("kind of an expression");
  }

  std::vector<Value> all_of(const std::vector<ExpressionPtr>& parts, std::size_t from) {
    std::vector<Value> values;
    for (std::size_t i = from; i < parts.size(); ++i) values.push_back(evaluate(*parts[i]));
    return values;
  }

  Arguments arguments_of(const Expression& e) {
    Arguments arguments{all_of(e.parts, 1), {}};
    for (const auto& [name, value] : e.named) arguments.named.emplace_back(name, evaluate(*value));
    return arguments;
  }

  Value dict(const Expression& e) {
    Scope items;
    for (std::size_t i = 0; i < e.parts.size(); i += 2) {
      const Value key = evaluate(*e.parts[i]);
      if (key.string() == nullptr) throw Fault("a dict whose key is " + kind_of(key) + " is not supported");
      set_item(items, *key.string(), evaluate(*e.parts[i + 1]));
    }
    return Value::dict(std::move(items));
  }

  static void set_item(Scope& items, const std::string& key, Value value) {
    const auto found = std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first == key; });
    if (found == items.end())
      items.emplace_back(key, std::move(value));
    else
      found->second = std::move(value);
  }

  Value binary(const Expression& e) {
    Value left = evaluate(*e.parts[0]);
    if (e.text == "and") return truth(left) ? evaluate(*e.parts[1]) : left;
    if (e.text == "or") return truth(left) ? left : evaluate(*e.parts[1]);
    return arithmetic(e.text, left, evaluate(*e.parts[1]), budget_);
  }

  Value comparison(const Expression& e) {
    Value left = evaluate(*e.parts[0]);
    for (std::size_t i = 0; i < e.operators.size(); ++i) {
      Value right = evaluate(*e.parts[i + 1]);
      const auto bytes = right.string() != nullptr ? std::ssize(*right.string()) : std::int64_t{0};
      budget_.spend(bytes / 1024);
      if (!compare(e.operators[i], left, right)) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  Value call(const Expression& e) {
    const Value callee = evaluate(*e.parts[0]);
    const Arguments arguments = arguments_of(e);
    line_ = e.line;
    if (const Method* method = callee.as<Method>()) return call_method(*method->self, method->name, arguments, budget_);
    if (const Macro* macro = callee.as<Macro>()) return call_macro(syntax_.macros[macro->number], arguments);
    if (const Function* function = callee.as<Function>()) return call_function(*function, arguments);
    const std::string& name = e.parts[0]->text;
    throw Fault(name.empty() ? kind_of(callee) + " is called"
                             : "'" + name + "' is called, and is no function that is supported");
  }

  Value call_function(Function function, const Arguments& arguments) {
    switch (function) {
      case Function::range:
        return range(arguments);
      case Function::make_namespace:
        return make_namespace(arguments);
      case Function::dict: {
        Scope items;
        if (arguments.values.size() > 1 || (!arguments.values.empty() && arguments.values.front().map() == nullptr))
          throw Fault("dict() of what is no dict is not supported");
        if (!arguments.values.empty()) items = arguments.values.front().map()->items;
        for (const auto& [name, value] : arguments.named) set_item(items, name, value);
        return Value::dict(std::move(items));
      }
      case Function::raise_exception:
        throw Refusal(arguments.values.empty() ? "" : to_text(arguments.values.front()));
      case Function::strftime_now: {
        const std::tm day = fixed_day();
        std::array<char, 256> text{};
        const std::string format = arguments.text(0, "format");
        if (format.size() > 64) throw Fault("a format of strftime_now that is longer than 64");
        const std::size_t n = std::strftime(text.data(), text.size(), format.c_str(), &day);
        return Value::text(std::string(text.data(), n));
      }
    }
    throw core::InternalError("function of a template");
  }

  Value range(const Arguments& arguments) {
    arguments.only(3);
    if (arguments.values.empty()) throw Fault("range() without a number");
    const bool one = arguments.values.size() == 1;
    const std::int64_t first = one ? 0 : arguments.whole(0, "", 0), last = arguments.whole(one ? 0 : 1, "", 0),
                       step = arguments.whole(2, "", 1);
    if (step == 0) throw Fault("range() of step 0");
    std::vector<Value> items;
    for (std::int64_t i = first; step > 0 ? i < last : i > last;) {
      if (std::ssize(items) >= kMostRange) throw Fault(fmt::format("range() of more than {} numbers", kMostRange));
      budget_.spend();
      items.push_back(Value::integer(i));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return Value::list(std::move(items));
  }

  Value make_namespace(const Arguments& arguments) {
    spaces_.push_back(std::make_unique<Namespace>());
    Namespace& made = *spaces_.back();
    for (const Value& given : arguments.values) {
      if (given.map() == nullptr) throw Fault("namespace() of what is no dict");
      for (const auto& [name, value] : given.map()->items) set_attribute(made, name, value);
    }
    for (const auto& [name, value] : arguments.named) set_attribute(made, name, value);
    return Value(Value::Content(&made));
  }

  Value call_macro(const MacroSyntax& macro, const Arguments& arguments) {
    if (arguments.values.size() > macro.parameters.size())
      throw Fault("the macro '" + macro.name + "' is given more arguments than it has");
    for (const auto& named : arguments.named)
      if (std::none_of(macro.parameters.begin(), macro.parameters.end(),
                       [&](const auto& p) { return p.first == named.first; }))
        throw Fault("the macro '" + macro.name + "' has no parameter '" + named.first + "'");
    const std::size_t base = std::exchange(base_, scopes_.size());
    scopes_.emplace_back();
    for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
      const auto& [name, otherwise] = macro.parameters[i];
      const Value* given = arguments.find(i, name);
      put(name, given != nullptr ? *given : otherwise ? evaluate(*otherwise) : Value::undefined(name));
    }
    std::string text;
    std::string* const before = std::exchange(out_, &text);
    body(macro.body);
    out_ = before;
    scopes_.pop_back();
    base_ = base;
    return Value::text(std::move(text));
  }

  const Syntax& syntax_;
  const std::string& file_;
  std::vector<Scope> scopes_;
  std::size_t base_ = 1;
  std::vector<std::unique_ptr<Namespace>> spaces_;
  std::string* out_ = nullptr;
  Budget budget_;
  std::int64_t line_ = 1;
  int loops_ = 0, depth_ = 0;
};

}  // namespace

std::string render(const Syntax& syntax, const std::string& file,
                   const std::vector<std::pair<std::string, Value>>& variables, const Limits& limits) {
  return Renderer(syntax, file, variables, limits).run();
}

}  // namespace voronoi::model::jinja
