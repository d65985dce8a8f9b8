import { Add } from "../../ops/add.ts";
import type { BlockParts } from "./layer.ts";
import { rmsNorm } from "./norm.ts";

/** One of a block's two branches, attention or MLP. */
export interface Branch {
  /** Name of the norm in front of it. */
  readonly norm: string;
  /** Adds the nodes that take the normed [tokens, hiddenSize]; returns what is added to the block's input. */
  add(x: string): string;
}

export interface NormedBranch extends Branch {
  /** Name of the norm behind it. */
  readonly after: string;
}

/** h = x + first(norm(x)), y = h + second(norm(h)). */
export function preNorm({ builder, scope, config }: BlockParts, first: Branch, second: Branch): string {
  const branch = ({ norm, add }: Branch, x: string) => add(rmsNorm(scope, config, x, norm, config.hiddenSize));
  const h = builder.value(Add, ["x", branch(first, "x")], {}, "h");
  return builder.value(Add, [h, branch(second, h)], {}, "y");
}

/** h = x + norm(first(norm(x))), y = h + norm(second(norm(h))). */
export function normedBranches(parts: BlockParts, first: NormedBranch, second: NormedBranch): string {
  const normed = ({ norm, add, after }: NormedBranch): Branch => ({
    norm,
    add: (x) => rmsNorm(parts.scope, parts.config, add(x), after, parts.config.hiddenSize),
  });
  return preNorm(parts, normed(first), normed(second));
}
