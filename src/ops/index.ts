import type { Node } from "../graph/types.ts";
import { AdafactorColumns, AdafactorRows, AdafactorSquares, AdafactorStep } from "./adafactor.ts";
import { AdaptedRows } from "./adapted-rows.ts";
import { AdamW } from "./adamw.ts";
import { AdamW8bit } from "./adamw-8bit.ts";
import { Add } from "./add.ts";
import { Affine } from "./affine.ts";
import { Attention, AttentionGrad } from "./attention.ts";
import { AttentionSinksGrad } from "./attention-sinks.ts";
import { CachedAttention } from "./cached-attention.ts";
import { CachedConv } from "./cached-conv.ts";
import { CachedGatedDelta } from "./cached-gated-delta.ts";
import { Cast } from "./cast.ts";
import { CausalConv, CausalConvGrad } from "./causal-conv.ts";
import { ColumnSum } from "./column-sum.ts";
import { Dequantize } from "./dequantize.ts";
import { PhiloxDropout } from "./dropout.ts";
import { EmbeddingGrad } from "./embedding-grad.ts";
import { ExpertMlp, ExpertMlpGrad } from "./expert-mlp.ts";
import { GatedDelta, GatedDeltaGrad } from "./gated-delta.ts";
import { Gather } from "./gather.ts";
import { Gelu, GeluGrad } from "./gelu.ts";
import { Gemm } from "./gemm.ts";
import { Identity } from "./identity.ts";
import { LayerNormalization, LayerNormGrad } from "./layer-norm.ts";
import { LinearCrossEntropy, LinearCrossEntropyGrad } from "./linear-cross-entropy.ts";
import { Lion } from "./lion.ts";
import { Mul } from "./mul.ts";
import { MuonMomentum, MuonStep, UnitNorm } from "./muon.ts";
import { Relu, ReluGrad } from "./relu.ts";
import { Reshape } from "./reshape.ts";
import { RMSNormalization, RMSNormGrad } from "./rms-norm.ts";
import { RollingConv } from "./rolling-conv.ts";
import { Rope } from "./rope.ts";
import { Sgd } from "./sgd.ts";
import { RouteTokens, RouteTokensGrad } from "./route-tokens.ts";
import { RowNorm } from "./row-norm.ts";
import { ColumnDot, ScaleColumns } from "./scale-columns.ts";
import { RowDot, ScaleRows } from "./scale-rows.ts";
import { Silu, SiluGrad } from "./silu.ts";
import { SoftCap } from "./soft-cap.ts";
import { JoinColumns, SplitColumns } from "./split-columns.ts";
import { SumSquares } from "./sum-squares.ts";
import { SwiGLU, SwiGLUGrad } from "./swiglu.ts";
import { Tanh } from "./tanh.ts";
import { TokenCrossEntropy } from "./token-cross-entropy.ts";
import type { OpDef } from "./types.ts";

/** Every operator. An operator is one file in this folder, its kernels in assembly/, and a test. */
export const OPS = {
  AdafactorColumns,
  AdafactorRows,
  AdafactorSquares,
  AdafactorStep,
  AdaptedRows,
  AdamW,
  AdamW8bit,
  Add,
  Affine,
  Attention,
  AttentionGrad,
  AttentionSinksGrad,
  CachedAttention,
  CachedConv,
  CachedGatedDelta,
  Cast,
  CausalConv,
  CausalConvGrad,
  ColumnDot,
  ColumnSum,
  Dequantize,
  EmbeddingGrad,
  ExpertMlp,
  ExpertMlpGrad,
  GatedDelta,
  GatedDeltaGrad,
  Gather,
  Gelu,
  GeluGrad,
  Gemm,
  Identity,
  JoinColumns,
  LayerNormalization,
  LayerNormGrad,
  LinearCrossEntropy,
  LinearCrossEntropyGrad,
  Lion,
  Mul,
  MuonMomentum,
  MuonStep,
  PhiloxDropout,
  Relu,
  ReluGrad,
  Reshape,
  RMSNormalization,
  RMSNormGrad,
  RollingConv,
  Rope,
  RouteTokens,
  RouteTokensGrad,
  Sgd,
  RowNorm,
  ScaleColumns,
  ScaleRows,
  RowDot,
  Silu,
  SiluGrad,
  SoftCap,
  SplitColumns,
  SumSquares,
  SwiGLU,
  SwiGLUGrad,
  Tanh,
  TokenCrossEntropy,
  UnitNorm,
} satisfies Record<string, OpDef<any>>;

export type OpName = keyof typeof OPS;

/** Definition of a node's operator. */
export function opOf(node: Pick<Node, "op">): OpDef {
  if (!Object.hasOwn(OPS, node.op)) throw new Error(`no operator named ${node.op}; ${Object.keys(OPS).join(", ")} exist`);
  return OPS[node.op as OpName] as OpDef<any>;
}
