import { Add } from "../../ops/add.ts";
import { Affine } from "../../ops/affine.ts";
import type { BlockParts } from "./layer.ts";
import { norm } from "./norm.ts";

/** One of a block's two branches, attention or MLP. */
export interface Branch {
  /** Name of the norm in front of it; null: it takes what comes as it is. */
  readonly norm: string | null;
  /** Name of the norm behind it; absent: there is none. */
  readonly after?: string | null;
  /** Adds the nodes that take the normed [tokens, hiddenSize]; returns what is added to the block's input. */
  add(x: string): string;
}

/** h = x + s first(x), y = h + s second(h), with s = `residualScale`, and each branch between its norms. */
export function residual(parts: BlockParts, first: Branch, second: Branch): string {
  const { builder } = parts;
  const h = builder.value(Add, ["x", scaled(parts, branch(parts, first, "x"), "first")], {}, "h");
  return builder.value(Add, [h, scaled(parts, branch(parts, second, h), "second")], {}, "y");
}

/** y = (x + first(n)) + second(n), n = norm(x): both branches take the block's input, by one norm or by one for each. */
export function parallel(
  parts: BlockParts,
  norms: string | readonly [first: string, second: string],
  first: Branch["add"],
  second: Branch["add"],
): string {
  const { builder } = parts;
  const [one, other] = typeof norms === "string" ? [normed(parts, "x", norms)] : norms.map((name) => normed(parts, "x", name));
  const h = builder.value(Add, ["x", first(one!)], {}, "h");
  return builder.value(Add, [h, second(other ?? one!)], {}, "y");
}

function branch(parts: BlockParts, { norm: before, after = null, add }: Branch, x: string): string {
  return normed(parts, add(normed(parts, x, before)), after);
}

function normed({ scope, config }: BlockParts, x: string, name: string | null): string {
  return name === null ? x : norm(scope, config, x, name, config.hiddenSize);
}

function scaled({ builder, config }: BlockParts, added: string, name: string): string {
  const { residualScale: alpha } = config;
  return alpha === 1 ? added : builder.value(Affine, [added], { alpha, beta: 0 }, `${name}.scaled`);
}
