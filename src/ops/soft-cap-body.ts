import type { BodyBuilder } from "./types.ts";

/** z = cap tanh(x / cap) and its derivative 1 - tanh(x / cap)^2, in standard operators; without a cap x, and null for 1. */
export function softCapBody(body: BodyBuilder, x: string, cap?: number): { capped: string; slope: string | null } {
  if (cap === undefined) return { capped: x, slope: null };
  const factor = body.scalar(Math.fround(cap));
  const t = body.op("Tanh", [body.op("Div", [x, factor])]);
  return { capped: body.op("Mul", [t, factor]), slope: body.op("Sub", [body.scalar(1), body.op("Mul", [t, t])]) };
}
