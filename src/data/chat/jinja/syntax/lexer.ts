import { TemplateError } from "../errors.ts";
import { SPACE, strip } from "../values/strings.ts";

/**
 * Tokens of a template, by the rules of Jinja 3.1 (https://jinja.palletsprojects.com/en/stable/templates/) with the
 * settings of Transformers' chat templates: `trim_blocks` and `lstrip_blocks` on, one line break at the end dropped,
 * no line statements.
 */
export interface Token {
  readonly type: TokenType;
  /** The text of data, a name, an operator or a string; a number as it is written, without `_`. */
  readonly value: string;
  /** From 1. */
  readonly line: number;
}

export type TokenType =
  "data" | "print" | "print end" | "tag" | "tag end" | "name" | "string" | "integer" | "float" | "operator" | "end";

const sticky = (source: string, flags = ""): RegExp => new RegExp(source, `y${flags}`);

const OPEN = /\{[%{#]/g;
const RAW = sticky(`\\{%[-+]?${SPACE}*raw${SPACE}*(?:-%\\}${SPACE}*|%\\})`);
const RAW_END = new RegExp(`\\{%([-+]?)${SPACE}*endraw${SPACE}*(?:\\+%\\}|-%\\}${SPACE}*|%\\}\\n?)`, "g");
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${SPACE}*|#\\}\\n?`, "g");
const TAG_END = sticky(`\\+%\\}|-%\\}${SPACE}*|%\\}\\n?`);
const PRINT_END = sticky(`-\\}\\}${SPACE}*|\\}\\}`);
const BLANK = sticky(`${SPACE}+`);
const ONLY_SPACE = new RegExp(`^${SPACE}+$`);

const DIGITS = "(?:\\d+_)*\\d+";
const FLOAT = sticky(`(?<!\\.)${DIGITS}(?:(?:\\.${DIGITS})?e[+-]?${DIGITS}|\\.${DIGITS})`, "i");
const INTEGER = sticky("0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\\da-f])+|[1-9](?:_?\\d)*|0(?:_?0)*", "i");
/** Most names; where another character than these follows, `WORD` reads all. */
const ASCII_WORD = sticky("[A-Za-z_][A-Za-z_0-9]*");
const LAST_BLANK = 0x20;
const LAST_ASCII = 0x7f;
const WORD = sticky("[\\p{L}\\p{M}\\p{N}\\p{Pc}]+", "u");
const IDENTIFIER = /^[\p{XID_Start}_]\p{XID_Continue}*$/u;
const STRING = sticky("'[^'\\\\]*(?:\\\\[^][^'\\\\]*)*'|\"[^\"\\\\]*(?:\\\\[^][^\"\\\\]*)*\"");
const OPERATOR = sticky("\\*\\*|//|==|!=|>=|<=|[-+/*%~[\\](){}><=.:|,;]");

const CLOSES: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

/** @throws {TemplateError} a tag, text or bracket without its end, a character that nothing begins with */
export function tokenize(template: string): Token[] {
  const source = template.replace(/\r\n?/g, "\n").replace(/\n$/, "");
  const tokens: Token[] = [];
  let at = 0;
  let line = 1;
  /** The line break that ends the line; -1: none does. */
  let lineEnd = source.indexOf("\n");
  /** Behind a tag that took its line break along, a line begins. */
  let lineBegins = true;

  const push = (type: TokenType, value: string): void => void tokens.push({ type, value, line });
  /** Moves on to `end`. */
  const advance = (end: number): void => {
    for (; lineEnd >= 0 && lineEnd < end; lineEnd = source.indexOf("\n", lineEnd + 1)) line++;
    lineBegins = source[end - 1] === "\n";
    at = end;
  };
  const match = (pattern: RegExp): string | null => {
    pattern.lastIndex = at;
    return pattern.exec(source)?.[0] ?? null;
  };
  /** Text up to a tag, without the space that the tag takes away. */
  const data = (end: number, sign: string | undefined, isPrint: boolean): void => {
    let text = source.slice(at, end);
    if (sign === "-") text = strip(text, null, "right");
    else if (sign !== "+" && !isPrint) {
      const lineStart = text.lastIndexOf("\n") + 1;
      if ((lineStart > 0 || lineBegins) && ONLY_SPACE.test(text.slice(lineStart))) text = text.slice(0, lineStart);
    }
    if (text !== "") push("data", text);
    advance(end);
  };
  const signAt = (index: number): string | undefined => (/[-+]/.test(source[index] ?? "") ? source[index] : undefined);

  const inside = (kind: "print" | "tag"): void => {
    const begin = line;
    push(kind, "");
    advance(at + 2 + (signAt(at + 2) === undefined ? 0 : 1));
    const open: string[] = [];
    for (;;) {
      const mayEnd = open.length === 0 && "-+%}".includes(source[at] ?? " ");
      const end = mayEnd ? match(kind === "tag" ? TAG_END : PRINT_END) : null;
      if (end !== null) {
        push(`${kind} end`, "");
        advance(at + end.length);
        return;
      }
      if (at >= source.length) throw new TemplateError(`the ${kind === "tag" ? "tag {%" : "expression {{"} is not closed`, begin);
      const code = source.charCodeAt(at);
      const blank = code <= LAST_BLANK || code > LAST_ASCII ? match(BLANK) : null;
      if (blank !== null) {
        advance(at + blank.length);
        continue;
      }
      const [type, text] = word();
      if (type === "operator") {
        if (text in CLOSES) open.push(CLOSES[text]!);
        else if (/[)\]}]/.test(text)) {
          const expected = open.pop();
          if (expected !== text)
            throw new TemplateError(`unexpected '${text}'${expected === undefined ? "" : `, expected '${expected}'`}`, line);
        }
      }
      push(
        type,
        type === "string"
          ? unescape(text.slice(1, -1), line)
          : type === "operator" || type === "name"
            ? text
            : text.replaceAll("_", ""),
      );
      advance(at + text.length);
    }
  };
  const word = (): [TokenType, string] => {
    const kinds = WORDS.get(source[at]!) ?? NAME;
    for (const [type, pattern] of kinds) {
      const text = match(pattern);
      if (text === null) continue;
      if (type !== "name" || source.charCodeAt(at + text.length) <= LAST_ASCII) return [type, text];
      const whole = match(WORD)!;
      if (!IDENTIFIER.test(whole)) throw new TemplateError(`${whole} is not a name`, line);
      return [type, whole];
    }
    throw new TemplateError(`unexpected character ${JSON.stringify(String.fromCodePoint(source.codePointAt(at)!))}`, line);
  };

  while (at < source.length) {
    OPEN.lastIndex = at;
    const start = OPEN.exec(source)?.index ?? -1;
    if (start < 0) {
      push("data", source.slice(at));
      advance(source.length);
      break;
    }
    const kind = source[start + 1]!;
    data(start, signAt(start + 2), kind === "{");
    const raw = kind === "%" ? match(RAW) : null;
    if (raw !== null) {
      const begin = line;
      advance(at + raw.length);
      RAW_END.lastIndex = at;
      const end = RAW_END.exec(source);
      if (!end) throw new TemplateError("the tag {% raw %} is not closed", begin);
      data(end.index, end[1], false);
      advance(at + end[0].length);
    } else if (kind === "#") {
      COMMENT_END.lastIndex = at + 2;
      const end = COMMENT_END.exec(source);
      if (!end) throw new TemplateError("the comment {# is not closed", line);
      advance(end.index + end[0].length);
    } else inside(kind === "%" ? "tag" : "print");
  }
  push("end", "");
  return tokens;
}

type Kinds = readonly (readonly [TokenType, RegExp])[];

/** The kinds that a word may be of, by its first character. */
const WORDS: ReadonlyMap<string, Kinds> = new Map([
  ...Array.from("0123456789", (digit): [string, Kinds] => [
    digit,
    [
      ["float", FLOAT],
      ["integer", INTEGER],
    ],
  ]),
  ...Array.from("'\"", (quote): [string, Kinds] => [quote, [["string", STRING]]]),
  ...Array.from("-+/*%~[](){}><=!.:|,;", (sign): [string, Kinds] => [sign, [["operator", OPERATOR]]]),
]);
const NAME: Kinds = [
  ["name", ASCII_WORD],
  ["name", WORD],
];

const ESCAPES: Readonly<Record<string, string>> = {
  "\n": "",
  "\\": "\\",
  "'": "'",
  '"': '"',
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};

const ESCAPE = /\\(?:([0-7]{1,3})|x([0-9a-fA-F]{0,2})|u([0-9a-fA-F]{0,4})|U([0-9a-fA-F]{0,8})|([^]))/g;

/** Python's escapes; a backslash before anything else stays. */
function unescape(text: string, line: number): string {
  return text.replace(ESCAPE, (whole, octal?: string, x?: string, u?: string, long?: string, other?: string) => {
    if (other !== undefined) return ESCAPES[other] ?? whole;
    const digits = octal ?? x ?? u ?? long ?? "";
    const code = parseInt(digits, octal === undefined ? 16 : 8);
    const isWhole = octal !== undefined || digits.length === (x !== undefined ? 2 : u !== undefined ? 4 : 8);
    if (!isWhole || code > 0x10ffff) throw new TemplateError(`the escape ${whole} is not a character`, line);
    return String.fromCodePoint(code);
  });
}
