import { TemplateError } from "../errors.ts";
import type { Token, TokenType } from "./lexer.ts";
import type { BinaryOperator } from "../values/arithmetic.ts";
import type { Comparison } from "../values/compare.ts";
import { type Arguments, type Body, type Bound, CONSTANTS, type Expression, type Statement } from "./tree.ts";

/** Levels of brackets, operators and tags; Python's own parser ends before. */
const MAX_DEPTH = 200;

/** Reads tokens from left to right; a method per kind of expression, the loosest binding first. */
export class Parser {
  /** Loops around the current tag, up to the next macro or the like; `break` needs one. */
  loops = 0;
  /** Loops around the current tag; `loop` is no target in one. */
  inFor = 0;
  readonly blocks = new Set<string>();
  private at = 0;
  private depth = 0;

  /** @param statements reads a tag from its name on, and the tags that belong to it, up to the last one's `%}` */
  constructor(
    private readonly tokens: readonly Token[],
    private readonly statements: (parser: Parser) => Statement[],
  ) {}

  get token(): Token {
    return this.tokens[this.at]!;
  }

  /** Statements up to a tag that begins with one of `ends`, which is the current token then; without `ends` up to the end. */
  body(ends: readonly string[]): Body {
    const begin = this.token.line;
    return this.nested(() => {
      const statements: Body[number][] = [];
      for (;;) {
        const { type, value, line } = this.token;
        if (type === "end") {
          if (ends.length === 0) return statements;
          throw new TemplateError(`expected {% ${ends.join(" %} or {% ")} %} before the end`, begin);
        }
        this.at++;
        if (type === "data") statements.push({ type: "text", text: value, line });
        else if (type === "print") {
          statements.push({ type: "print", value: this.tuple(), line });
          this.expect("print end");
        } else {
          if (this.token.type === "name" && ends.includes(this.token.value)) return statements;
          statements.push(...this.statements(this));
          this.expect("tag end");
        }
      }
    });
  }

  /** The body of a tag from its `%}` on, the tag at its end included. */
  blockBody(end: string): Body {
    const body = this.bodyUntil([end]);
    this.next();
    return body;
  }

  bodyUntil(ends: readonly string[]): Body {
    this.skip("operator", ":");
    this.expect("tag end");
    return this.body(ends);
  }

  next(): Token {
    const token = this.token;
    if (token.type !== "end") this.at++;
    return token;
  }

  is(type: TokenType, value?: string, ahead = 0): boolean {
    const token = this.tokens[Math.min(this.at + ahead, this.tokens.length - 1)]!;
    return token.type === type && (value === undefined || token.value === value);
  }

  isOperator(...operators: readonly string[]): boolean {
    return this.token.type === "operator" && operators.includes(this.token.value);
  }

  skip(type: TokenType, value: string): boolean {
    if (!this.is(type, value)) return false;
    this.at++;
    return true;
  }

  expect(type: TokenType, value?: string): Token {
    if (!this.is(type, value)) this.fail(`expected ${value === undefined ? type : `'${value}'`}, got ${this.shown()}`);
    return this.next();
  }

  fail(message: string): never {
    throw new TemplateError(message, this.token.line);
  }

  shown(): string {
    const { type, value } = this.token;
    if (type === "end") return "the end of the template";
    return type === "name" || type === "operator" || type === "integer" || type === "float" ? `'${value}'` : type;
  }

  expression(): Expression {
    return this.nested(() => {
      let value = this.or();
      while (this.skip("name", "if")) {
        const test = this.or();
        const no = this.skip("name", "else") ? this.expression() : null;
        value = { type: "choice", test, yes: value, no };
      }
      return value;
    });
  }

  /** One expression or several with commas between. */
  tuple(options: { readonly choices?: boolean; readonly inBrackets?: boolean; readonly end?: string } = {}): Expression {
    const { choices = true, inBrackets = false, end } = options;
    const isEnd = () =>
      this.is("print end") || this.is("tag end") || this.isOperator(")") || (end !== undefined && this.is("name", end));
    const items: Expression[] = [];
    let isTuple = false;
    while (!isEnd()) {
      items.push(choices ? this.expression() : this.or());
      if (!this.skip("operator", ",")) break;
      isTuple = true;
    }
    if (!isTuple && items.length > 0) return items[0]!;
    if (!isTuple && !inBrackets) this.fail(`expected an expression, got ${this.shown()}`);
    return { type: "tuple", items };
  }

  or(): Expression {
    let left = this.and();
    while (this.skip("name", "or")) left = { type: "logical", operator: "or", left, right: this.and() };
    return left;
  }

  private and(): Expression {
    let left = this.not();
    while (this.skip("name", "and")) left = { type: "logical", operator: "and", left, right: this.not() };
    return left;
  }

  private not(): Expression {
    if (!this.skip("name", "not")) return this.compare();
    return this.nested(() => ({ type: "unary", operator: "not", operand: this.not() }));
  }

  private compare(): Expression {
    const first = this.sum();
    const rest: [Comparison, Expression][] = [];
    for (;;) {
      if (this.isOperator("==", "!=", "<", "<=", ">", ">=")) rest.push([this.next().value as Comparison, this.sum()]);
      else if (this.skip("name", "in")) rest.push(["in", this.sum()]);
      else if (this.is("name", "not") && this.is("name", "in", 1)) {
        this.at += 2;
        rest.push(["not in", this.sum()]);
      } else break;
    }
    return rest.length === 0 ? first : { type: "compare", first, rest };
  }

  private sum(): Expression {
    return this.binary(["+", "-"], () => this.concat());
  }

  private concat(): Expression {
    const items = [this.product()];
    while (this.skip("operator", "~")) items.push(this.product());
    return items.length === 1 ? items[0]! : { type: "concat", items };
  }

  private product(): Expression {
    return this.binary(["*", "/", "//", "%"], () => this.binary(["**"], () => this.unary(true)));
  }

  private binary(operators: readonly BinaryOperator[], operand: () => Expression): Expression {
    let left = operand();
    while (this.isOperator(...operators))
      left = { type: "binary", operator: this.next().value as BinaryOperator, left, right: operand() };
    return left;
  }

  unary(filters: boolean): Expression {
    let value: Expression;
    if (this.isOperator("-", "+")) {
      const operator = this.next().value as "-" | "+";
      value = { type: "unary", operator, operand: this.nested(() => this.unary(false)) };
    } else value = this.primary();
    value = this.postfix(value);
    for (; filters;) {
      if (this.isOperator("|")) value = this.filters(value)!;
      else if (this.is("name", "is")) value = this.test(value);
      else if (this.isOperator("(")) value = { type: "call", callee: value, args: this.args() };
      else break;
    }
    return value;
  }

  private primary(): Expression {
    const { type, value } = this.token;
    if (type === "name") {
      this.next();
      const constant = CONSTANTS.get(value);
      return constant === undefined ? { type: "name", name: value } : { type: "constant", value: constant };
    }
    if (type === "integer" || type === "float") {
      this.next();
      return { type, text: value };
    }
    if (type === "string") {
      let text = "";
      while (this.is("string")) text += this.next().value;
      return { type: "constant", value: text };
    }
    if (this.skip("operator", "(")) {
      const inner = this.tuple({ inBrackets: true });
      this.expect("operator", ")");
      return inner;
    }
    if (this.skip("operator", "[")) return { type: "list", items: this.items("]", () => this.expression()) };
    if (this.skip("operator", "{")) {
      const pair = (): readonly [Expression, Expression] => {
        const key = this.expression();
        this.expect("operator", ":");
        return [key, this.expression()];
      };
      return { type: "dict", items: this.items("}", pair) };
    }
    return this.fail(`expected an expression, got ${this.shown()}`);
  }

  /** Items with commas between, and maybe one behind the last. */
  private items<Item>(close: string, item: () => Item): Item[] {
    const items: Item[] = [];
    while (!this.skip("operator", close)) {
      if (items.length > 0) {
        this.expect("operator", ",");
        if (this.skip("operator", close)) break;
      }
      items.push(item());
    }
    return items;
  }

  private postfix(value: Expression): Expression {
    let object = value;
    for (;;) {
      if (this.skip("operator", ".")) {
        if (this.is("integer")) object = { type: "item", object, key: { type: "integer", text: this.next().value } };
        else object = { type: "attribute", object, name: this.expect("name").value };
      } else if (this.skip("operator", "[")) object = this.subscript(object);
      else if (this.isOperator("(")) object = { type: "call", callee: object, args: this.args() };
      else return object;
    }
  }

  private subscript(object: Expression): Expression {
    const keys: (Expression | readonly [Bound, Bound, Bound])[] = [];
    while (!this.skip("operator", "]")) {
      if (keys.length > 0) this.expect("operator", ",");
      keys.push(this.sliceOrKey());
    }
    const isSlice = (key: (typeof keys)[number]): key is readonly [Bound, Bound, Bound] => Array.isArray(key);
    if (keys.length !== 1) {
      if (keys.some(isSlice)) this.fail("a slice stands alone in its brackets");
      return { type: "item", object, key: { type: "tuple", items: keys as Expression[] } };
    }
    const [key] = keys as [(typeof keys)[number]];
    return isSlice(key) ? { type: "slice", object, bounds: key } : { type: "item", object, key };
  }

  private sliceOrKey(): Expression | readonly [Bound, Bound, Bound] {
    const isOpen = () => this.isOperator(":", "]", ",");
    const start = this.isOperator(":") ? null : this.expression();
    if (start !== null && !this.isOperator(":")) return start;
    this.next();
    const stop = isOpen() ? null : this.expression();
    const stride = this.skip("operator", ":") && !isOpen() ? this.expression() : null;
    return [start, stop, stride];
  }

  args(): Arguments {
    const { line } = this.expect("operator", "(");
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    let list: Expression | null = null;
    let dict: Expression | null = null;
    const ensure = (isRight: boolean): void => {
      if (!isRight) throw new TemplateError("the arguments of the call are in a wrong order", line);
    };
    this.items(")", () => {
      if (this.skip("operator", "*")) {
        ensure(list === null && dict === null);
        list = this.expression();
      } else if (this.skip("operator", "**")) {
        ensure(dict === null);
        dict = this.expression();
      } else if (this.is("name") && this.is("operator", "=", 1)) {
        ensure(dict === null);
        const { value } = this.next();
        this.next();
        if (named.some(([name]) => name === value)) this.fail(`the argument ${value} is given twice`);
        named.push([value, this.expression()]);
      } else {
        ensure(list === null && dict === null && named.length === 0);
        positional.push(this.expression());
      }
    });
    return { positional, named, list, dict };
  }

  /** `| name(...)` as often as there is one; null when there is none behind null. */
  filters(operand: Expression | null, first = false): Expression | null {
    let value = operand;
    for (let isFirst = first; isFirst || this.isOperator("|"); isFirst = false) {
      if (!isFirst) this.next();
      const { line } = this.token;
      const name = this.dottedName();
      value = { type: "filter", operand: value, name, args: this.isOperator("(") ? this.args() : NO_ARGUMENTS, line };
    }
    return value;
  }

  private test(operand: Expression): Expression {
    const { line } = this.next();
    const negated = this.skip("name", "not");
    const name = this.dottedName();
    let args = NO_ARGUMENTS;
    const { type, value } = this.token;
    if (this.isOperator("(")) args = this.args();
    else if (
      (type === "name" && !["else", "or", "and"].includes(value)) ||
      ["string", "integer", "float"].includes(type) ||
      this.isOperator("[", "{")
    ) {
      if (this.is("name", "is")) this.fail("tests with 'is' cannot be chained");
      args = { ...NO_ARGUMENTS, positional: [this.postfix(this.primary())] };
    }
    const test: Expression = { type: "test", operand, name, args, line };
    return negated ? { type: "unary", operator: "not", operand: test } : test;
  }

  private dottedName(): string {
    let name = this.expect("name").value;
    while (this.skip("operator", ".")) name += `.${this.expect("name").value}`;
    return name;
  }

  /** Reads what stands within something else. */
  nested<Result>(read: () => Result): Result {
    if (++this.depth > MAX_DEPTH) this.fail(`it is nested deeper than ${MAX_DEPTH} levels`);
    try {
      return read();
    } finally {
      this.depth--;
    }
  }
}

const NO_ARGUMENTS: Arguments = { positional: [], named: [], list: null, dict: null };
