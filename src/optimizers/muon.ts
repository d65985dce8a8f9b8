import type { GraphBuilder } from "../graph/builder.ts";
import { ALL_TABLES } from "../models/families/index.ts";
import { Gemm } from "../ops/gemm.ts";
import { MuonMomentum, MuonStep, UnitNorm } from "../ops/muon.ts";
import { SumSquares } from "../ops/sum-squares.ts";
import type { ParamInfo } from "../runtime/resident.ts";
import { ADAMW_DEFAULTS, adamWRule } from "./adamw.ts";
import type { Hyperparameters } from "./hyperparameters.ts";
import { defineOptimizer, isMatrix, type UpdateRule } from "./optimizer.ts";

/** The coefficients and the number of the Newton-Schulz iterations, and the least norm that is divided by: torch.optim.Muon's. */
const [A, B, C] = [3.4445, -4.775, 2.0315];
const ITERATIONS = 5;
const LEAST_NORM = 1e-7;

/**
 * Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) as torch.optim.Muon computes it, but in f32 throughout where
 * PyTorch iterates in bf16: a matrix moves along its momentum with all singular values brought near 1. 4 bytes for each
 * element of a matrix. Vectors (norms, biases, DoRA's lengths), embeddings (their adapters too) and heads are
 * AdamW's; all other matrices of adapters are Muon's. The learning
 * rate is one for all: on the bundled example 3 times AdamW's reaches the same loss in 30 steps, AdamW's own a higher one.
 */
export const muon = defineOptimizer({
  learningRate: 5e-4,
  defaults: { ...ADAMW_DEFAULTS, momentum: 0.95, nesterov: true, adjustLr: "match-rms-adamw" },
  rules(settings) {
    const matrices = muonRule(settings);
    const rest = adamWRule(settings);
    return (param) => (isHidden(param) ? matrices : rest);
  },
});

/**
 * Tells whether a parameter is a matrix between activations, and no table of the vocabulary: neither an embedding or a head, nor
 * `embed_tokens.lora_embedding_A`, whose columns are looked up as an embedding's rows are; nor the filters of a convolution [channels, 1, width].
 */
function isHidden(param: ParamInfo): boolean {
  const module =
    param.name
      .replace(/\.modules_to_save(\.default)?/, "")
      .split(".")
      .at(-2) ?? "";
  return isMatrix(param) && param.type.shape.length === 2 && !ALL_TABLES.has(module);
}

type MuonSettings = Pick<Hyperparameters, "momentum" | "nesterov" | "adjustLr">;

function muonRule({ momentum, nesterov, adjustLr }: MuonSettings): UpdateRule {
  return {
    name: "muon",
    slots: [{ name: "momentum", dtype: "f32", per: "element", start: 0 }],
    reach: "matrix",
    hyperSize: 5,
    hyper: ({ learningRate, weightDecay, gradientScale }) => [
      learningRate,
      momentum,
      weightDecay,
      gradientScale,
      nesterov ? momentum : 1,
    ],
    update(builder) {
      const [rows, columns] = builder.type("param").shape as [number, number];
      const [direction, next] = builder.node(MuonMomentum, ["gradient", "momentum", "hyper"], {}, "direction");
      const { value, scale } = orthogonalise(builder, direction!);
      const factor = adjustLr === "original" ? Math.sqrt(Math.max(1, rows / columns)) : 0.2 * Math.sqrt(Math.max(rows, columns));
      const param = builder.value(MuonStep, ["param", value, "hyper"], { scale: factor * scale }, "next");
      return { param, momentum: next! };
    },
  };
}

/**
 * Adds the Newton-Schulz iteration X <- a X + (b G + c G^2) X with G = X X^T (of a tall matrix: of its transpose), from X over its
 * norm. The result is `scale` times `value`: with X = s Y, three products do an iteration, and nothing is scaled on its own:
 *
 *     H = b s^2 Y Y^T (= b G);  U = H + c / b^2 H H (= b G + c G^2);  Y <- Y + 1 / a U Y;  s <- a s
 */
function orthogonalise(builder: GraphBuilder, x: string): { value: string; scale: number } {
  const [rows, columns] = builder.type(x).shape as [number, number];
  const isTall = rows > columns;
  const gemm = (inputs: readonly string[], alpha: number, hint: string, transA = 0, transB = 0) =>
    builder.value(Gemm, inputs, { alpha, beta: 1, transA, transB }, hint);
  let value = builder.value(UnitNorm, [x, builder.value(SumSquares, [x], {}, "squares")], { epsilon: LEAST_NORM }, "unit");
  let scale = 1;
  for (let i = 0; i < ITERATIONS; i++) {
    const gram = gemm([value, value], B * scale * scale, "gram", Number(isTall), Number(!isTall));
    const factor = gemm([gram, gram, gram], C / (B * B), "factor");
    value = isTall ? gemm([value, factor, value], 1 / A, "y") : gemm([factor, value, value], 1 / A, "y");
    scale *= A;
  }
  return { value, scale };
}
