import { Add } from "../../ops/add.ts";
import { Affine } from "../../ops/affine.ts";
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

/** h = x + s first(norm(x)), y = h + s second(norm(h)), with s = `residualScale`. */
export function preNorm({ builder, scope, config }: BlockParts, first: Branch, second: Branch): string {
  const { hiddenSize, residualScale: alpha } = config;
  const branch = ({ norm, add }: Branch, x: string) => {
    const added = add(rmsNorm(scope, config, x, norm, hiddenSize));
    return alpha === 1 ? added : builder.value(Affine, [added], { alpha, beta: 0 }, `${norm}.branch`);
  };
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
