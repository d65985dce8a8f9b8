import { TemplateError } from "../errors.ts";
import { percentFormat } from "./format.ts";
import { reserve } from "./items.ts";
import { ITEM_BYTES, spend } from "../meter.ts";
import { repeat } from "./text.ts";
import { Float, int, intOf, isList, numberOf, Tuple, typeName, Undefined, type Value, View } from "./values.ts";

/** Python's arithmetic, on numbers of both kinds, texts and lists. */

export type BinaryOperator = "+" | "-" | "*" | "/" | "//" | "%" | "**";

export function unary(operator: "-" | "+", value: Value): Value {
  if (value instanceof Undefined) value.fail();
  if (value instanceof Float) return new Float(operator === "-" ? -value.value : value.value);
  const number = intOf(value);
  if (number === null) throw new TemplateError(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  return operator === "-" ? int(-number) : number;
}

export function binary(operator: BinaryOperator, left: Value, right: Value): Value {
  if (typeof left === "string" && operator === "%") return percentFormat(left, right);
  for (const value of [left, right]) if (value instanceof Undefined) value.fail();
  const [x, y] = [numberOf(left), numberOf(right)];
  if (x !== null && y !== null) {
    return left instanceof Float || right instanceof Float
      ? floatArithmetic(operator, Number(x), Number(y))
      : intArithmetic(operator, x, y);
  }
  if (operator === "+") {
    if (typeof left === "string" && typeof right === "string") {
      // The longer part is shared with the sum.
      spend(Math.min(left.length, right.length) + ITEM_BYTES);
      return left + right;
    }
    if (isList(left) && isList(right)) return joined(left, right);
    if (left instanceof Tuple && right instanceof Tuple) return new Tuple(joined(left.items, right.items));
    if (typeof left === "string") throw new TemplateError(`can only concatenate str (not "${typeName(right)}") to str`);
  }
  if (operator === "*") {
    const [count, value] = intOf(left) === null ? [intOf(right), left] : [intOf(left), right];
    if (count !== null && typeof value === "string") return repeat(value, Number(count));
    if (count !== null && isList(value)) return repeated(value, Number(count));
    if (count !== null && value instanceof Tuple) return new Tuple(repeated(value.items, Number(count)));
  }
  if (operator === "-" && left instanceof View && right instanceof View)
    throw new TemplateError("sets of keys cannot be subtracted in a chat template");
  throw new TemplateError(`unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`);
}

function joined(left: readonly Value[], right: readonly Value[]): readonly Value[] {
  reserve(left.length + right.length);
  return left.concat(right);
}

function repeated(items: readonly Value[], count: number): readonly Value[] {
  if (count <= 0 || items.length === 0) return [];
  reserve(items.length * count);
  return Array.from({ length: items.length * count }, (_, i) => items[i % items.length]!);
}

/** Bits of an integer; Python has no limit but time. */
const MAX_BITS = 1 << 16;

function intArithmetic(operator: BinaryOperator, x: number | bigint, y: number | bigint): Value {
  if ((operator === "/" || operator === "//" || operator === "%") && Number(y) === 0)
    throw new TemplateError(operator === "/" ? "division by zero" : "integer division or modulo by zero");
  if (typeof x === "number" && typeof y === "number") {
    const quick = smallArithmetic(operator, x, y);
    if (quick !== null) return quick;
  }
  const [a, b] = [BigInt(x), BigInt(y)];
  switch (operator) {
    case "+":
      return int(a + b);
    case "-":
      return int(a - b);
    case "*":
      return int(bounded(a * b));
    case "/":
      return divide(a, b);
    case "//":
      return int(floorDivide(a, b));
    case "%":
      return int(a - floorDivide(a, b) * b);
    case "**": {
      if (b < 0n) return floatArithmetic("**", Number(a), Number(b));
      const bits = BigInt(a.toString(2).length) * b;
      if (bits > MAX_BITS && a * a > 1n) throw tooLarge();
      return int(a ** b);
    }
  }
}

function bounded(value: bigint): bigint {
  if (value.toString(16).length * 4 > MAX_BITS) throw tooLarge();
  return value;
}

function tooLarge(): TemplateError {
  return new TemplateError(`an integer grows beyond ${MAX_BITS} bits`);
}

/** null: the result may not be exact. */
function smallArithmetic(operator: BinaryOperator, x: number, y: number): Value | null {
  const exact = (value: number): Value | null => (Number.isSafeInteger(value) ? value + 0 : null);
  switch (operator) {
    case "+":
      return exact(x + y);
    case "-":
      return exact(x - y);
    case "*":
      return exact(x * y);
    case "/":
      return new Float(x / y);
    case "//":
      return exact((x - modulo(x, y)) / y);
    case "%":
      return exact(modulo(x, y));
    case "**":
      return null;
  }
}

/** The remainder with the divisor's sign. */
function modulo(x: number, y: number): number {
  const rest = x % y;
  return rest !== 0 && rest < 0 !== y < 0 ? rest + y : rest;
}

function floorDivide(a: bigint, b: bigint): bigint {
  const quotient = a / b;
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient;
}

/** The float nearest to a / b. */
function divide(a: bigint, b: bigint): Float {
  const value = Number(a) / Number(b);
  if (Math.abs(Number(a)) < 2 ** 53 && Math.abs(Number(b)) < 2 ** 53) return new Float(value);
  // A quotient of 66 bits or more, its last one set where there is a rest, rounds as the exact one does.
  const [n, d] = [a < 0n ? -a : a, b < 0n ? -b : b];
  const shift = BigInt(Math.max(0, 66 + d.toString(2).length - n.toString(2).length));
  let quotient = (n << shift) / d;
  if ((n << shift) % d !== 0n) quotient |= 1n;
  const result = scaled(quotient, -Number(shift));
  if (!Number.isFinite(result)) throw new TemplateError("integer division result too large for a float");
  return new Float(a < 0n !== b < 0n ? -result : result);
}

function scaled(value: bigint, power: number): number {
  // In two factors, so that neither leaves the range of floats.
  const half = Math.trunc(power / 2);
  return Number(value) * 2 ** half * 2 ** (power - half);
}

function floatArithmetic(operator: BinaryOperator, x: number, y: number): Value {
  if (y === 0 && (operator === "/" || operator === "//" || operator === "%"))
    throw new TemplateError(
      operator === "/" ? "float division by zero" : operator === "%" ? "float modulo" : "float floor division by zero",
    );
  switch (operator) {
    case "+":
      return new Float(x + y);
    case "-":
      return new Float(x - y);
    case "*":
      return new Float(x * y);
    case "/":
      return new Float(x / y);
    case "//": {
      const rest = floatModulo(x, y);
      const quotient = (x - rest) / y;
      const floor = Math.floor(quotient);
      return new Float(
        quotient === 0 ? (x / y < 0 || Object.is(x / y, -0) ? -0 : 0) : quotient - floor > 0.5 ? floor + 1 : floor,
      );
    }
    case "%":
      return new Float(floatModulo(x, y));
    case "**":
      if (x === 0 && y < 0) throw new TemplateError("0.0 cannot be raised to a negative power");
      if (x < 0 && !Number.isInteger(y)) throw new TemplateError("a power of a negative number with a fraction is complex");
      if (!Number.isFinite(x ** y) && Number.isFinite(x) && Number.isFinite(y))
        throw new TemplateError("Numerical result out of range");
      // 1 to any power is 1 in Python, NaN in JavaScript.
      return new Float(x === 1 || (x === -1 && !Number.isFinite(y)) ? 1 : x ** y);
  }
}

function floatModulo(x: number, y: number): number {
  const rest = x % y;
  if (rest === 0) return y < 0 ? -0 : 0;
  return rest < 0 !== y < 0 ? rest + y : rest;
}
