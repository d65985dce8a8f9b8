import type { AttrValue, Graph } from "./types.ts";

/**
 * Hashes all that a graph computes and how it is bound: nodes with operators, value names and attributes, inputs, outputs and the types
 * of all values. Two graphs of one hash are the same program; the graph's own name is not hashed.
 * @returns SHA-256, in hexadecimal digits
 */
export function graphHash({ inputs, outputs, nodes, types }: Graph): string {
  const content = {
    inputs: inputs.map(({ name, role, carries }) => [name, role, ...(carries === undefined ? [] : [carries])]),
    outputs: outputs.map(({ name, role, updates = null, carries }) => [
      name,
      role,
      updates,
      ...(carries === undefined ? [] : [carries]),
    ]),
    nodes: nodes.map(({ op, inputs, outputs, attrs }) => [op, inputs, outputs, sorted(Object.entries(attrs)).map(exact)]),
    types: sorted([...types].map(([name, { dtype, shape }]) => [name, [dtype, ...shape]] as const)),
  };
  return new Bun.CryptoHasher("sha256").update(JSON.stringify(content)).digest("hex");
}

const sorted = <T>(entries: readonly (readonly [string, T])[]) => entries.toSorted(([a], [b]) => (a < b ? -1 : Number(a > b)));

/** JSON has one text for 0 and -0, and for all numbers that are not finite; an attribute may be any of them. */
function exact([name, value]: readonly [string, AttrValue]): unknown {
  const text = (number: number) => (Object.is(number, -0) ? "-0" : String(number));
  if (typeof value === "string") return [name, "text", value];
  return typeof value === "number" ? [name, "number", text(value)] : [name, "list", value.map(text)];
}
