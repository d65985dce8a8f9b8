import { Environment, Interpreter, Template } from "@huggingface/jinja";

/**
 * Jinja with what Transformers offers to chat templates, and with Python's meaning of `strip`: the engine's own ignores
 * the characters it is given and takes JavaScript's view of white space.
 */

const STRIP = "strip of text";

/** @throws {Error} when the source cannot be parsed */
export function parseTemplate(source: string): Template {
  const template = new Template(source);
  useOwnStrip(template.parsed);
  return template;
}

/**
 * @param now what `strftime_now` reads
 * @throws {Error} when the template fails or calls `raise_exception`
 */
export function runTemplate(template: Template, variables: Readonly<Record<string, unknown>>, now: Date): string {
  let steps = 0;
  const work = (amount: number): void => {
    steps += amount;
    if (steps > MAX_STEPS) throw new Error("it does not come to an end");
  };
  const environment = new Environment();
  for (const [name, value] of Object.entries({ ...globalsAt(now, work), ...variables })) environment.set(name, value);
  const interpreter = new Interpreter(environment);
  const evaluate = interpreter.evaluate.bind(interpreter);
  interpreter.evaluate = (node, scope) => {
    work(1);
    const value = evaluate(node, scope);
    if (typeof value.value === "string" && value.value.length > MAX_TEXT) throw new Error("its text grows without an end");
    return value;
  };
  return (interpreter.run(template.parsed) as { value: string }).value;
}

/** Expressions that a template may evaluate: some hundred times what a long conversation takes. */
const MAX_STEPS = 10_000_000;

/** Characters of a text within a template. */
const MAX_TEXT = 1 << 28;

/** Any node of the syntax tree; the engine goes by `type` alone. */
interface SyntaxNode {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** Replaces `text.strip(chars)`, `lstrip`, `rstrip` and `text | trim` throughout a tree by calls of our own function. */
function useOwnStrip(tree: object): void {
  for (const [key, child] of Object.entries(tree)) {
    if (typeof child !== "object" || child === null) continue;
    useOwnStrip(child);
    const replacement = stripCall(child as SyntaxNode);
    if (replacement) (tree as Record<string, unknown>)[key] = replacement;
  }
}

const SIDES: Readonly<Record<string, string>> = { strip: "both", lstrip: "left", rstrip: "right" };

function stripCall(node: SyntaxNode): SyntaxNode | null {
  const call = (side: string, text: unknown, args: readonly unknown[]): SyntaxNode => ({
    type: "CallExpression",
    callee: { type: "Identifier", value: STRIP },
    args: [{ type: "StringLiteral", value: side }, text, ...args],
  });
  if (node.type === "CallExpression") {
    const callee = node.callee as SyntaxNode;
    if (callee.type !== "MemberExpression" || callee.computed) return null;
    const name = (callee.property as SyntaxNode).value as string;
    return Object.hasOwn(SIDES, name) ? call(SIDES[name]!, callee.object, node.args as unknown[]) : null;
  }
  if (node.type === "FilterExpression") {
    const filter = node.filter as SyntaxNode;
    if (filter.type === "Identifier" && filter.value === "trim") return call("both", node.operand, []);
  }
  return null;
}

/** What Python's `str.isspace` holds to be white space. */
const WHITE_SPACE =
  "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000";

function strip(side: string, text: unknown, characters: unknown = WHITE_SPACE): string {
  if (text === undefined) return "";
  if (typeof text !== "string") throw new Error("only a text can be stripped");
  const set = new Set(typeof characters === "string" ? characters : WHITE_SPACE);
  const units = Array.from(text);
  let [from, to] = [0, units.length];
  if (side !== "right") while (from < to && set.has(units[from]!)) from++;
  if (side !== "left") while (to > from && set.has(units[to - 1]!)) to--;
  return units.slice(from, to).join("");
}

/** @param work counts what a call does as steps of the template */
function globalsAt(now: Date, work: (amount: number) => void): Record<string, unknown> {
  return {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    raise_exception(message: unknown) {
      throw new Error(String(message));
    },
    range(first: number, second?: number, step = 1): number[] {
      const [start, stop] = second === undefined ? [0, first] : [first, second];
      const count = Math.max(0, Math.ceil((stop - start) / step));
      if (!(count <= MAX_RANGE)) throw new Error(`range() of ${count} numbers is too long`);
      work(LOOP_STEPS * count);
      return Array.from({ length: count }, (_, i) => start + i * step);
    },
    strftime_now: (format: string) => strftime(now, format),
    [STRIP]: strip,
  };
}

/** Far above any conversation's needs; a template cannot fill the memory. */
const MAX_RANGE = 100_000;

/** What a turn of a loop costs, which makes an environment of its own. */
const LOOP_STEPS = 10;

const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** C's strftime in the C locale: the conversions that chat templates use. */
function strftime(date: Date, format: string): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const fields: Record<string, string> = {
    Y: String(date.getFullYear()),
    y: two(date.getFullYear() % 100),
    m: two(date.getMonth() + 1),
    d: two(date.getDate()),
    e: String(date.getDate()).padStart(2),
    B: MONTHS[date.getMonth()]!,
    b: MONTHS[date.getMonth()]!.slice(0, 3),
    A: DAYS[date.getDay()]!,
    a: DAYS[date.getDay()]!.slice(0, 3),
    H: two(date.getHours()),
    I: two(date.getHours() % 12 || 12),
    M: two(date.getMinutes()),
    S: two(date.getSeconds()),
    p: date.getHours() < 12 ? "AM" : "PM",
    "%": "%",
  };
  return format.replace(/%(.)/g, (whole, key: string) => fields[key] ?? whole);
}
