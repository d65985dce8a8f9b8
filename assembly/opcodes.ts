/**
 * Kernel commands: the numbers that TypeScript writes into a command buffer and the interpreter reads.
 * This file is compiled by both AssemblyScript and TypeScript, so it holds nothing but this enumeration.
 * The high nibble of the low byte is the family (one file in this folder); see `command.ts` for the encoding.
 */
export enum Opcode {
  // matrix products (gemm.ts, adapted-rows.ts)
  Gemm = 0x00,
  AdaptedRows = 0x01,

  // attention (attention.ts, attention-sinks.ts)
  Attention = 0x10,
  AttentionGrad = 0x11,
  AttentionSinks = 0x12,
  AttentionSinksGrad = 0x13,
  CachedAttention = 0x18,

  // elementwise (elementwise.ts)
  Add = 0x20,
  Mul = 0x21,
  Fill = 0x22,
  Copy = 0x23,
  CastHalf = 0x24,
  Affine = 0x25,
  CopyBlock = 0x26,

  // activations (activation.ts)
  SwiGLU = 0x30,
  SwiGLUGrad = 0x31,
  Gelu = 0x32,
  GeluGrad = 0x33,
  SoftCap = 0x34,
  Relu = 0x35,

  // normalisation (norm.ts, layer-norm.ts)
  RMSNorm = 0x40,
  RMSNormGrad = 0x41,
  LayerNorm = 0x48,
  LayerNormGrad = 0x49,

  // rotary positions (rope.ts)
  Rope = 0x50,

  // experts with biases and limits (experts-clamped.ts)
  ExpertClamped = 0x51,
  ExpertClampedGrad = 0x52,
  ExpertAddBias = 0x53,
  ExpertBiasDot = 0x54,
  ExpertBiasGrad = 0x55,

  // low-rank updates of experts (expert-parts.ts)
  TakeExpert = 0x56,
  PutExpert = 0x57,

  // mixtures of experts (experts.ts)
  RouteTokens = 0x58,
  RouteTokensGrad = 0x59,
  SortTokens = 0x5a,
  ExpertRows = 0x5b,
  ExpertSum = 0x5c,
  ExpertGate = 0x5d,
  ExpertGateGrad = 0x5e,
  SkipExpert = 0x5f,

  // embedding (embedding.ts)
  Gather = 0x60,
  EmbeddingGrad = 0x61,

  // reductions (reduce.ts)
  ColumnSum = 0x70,
  SumSquares = 0x71,
  Sum = 0x72,

  // softmax + cross entropy on a chunk of logits, rows with a label (cross-entropy.ts)
  CrossEntropy = 0x80,
  LabelledRows = 0x81,
  GatherRows = 0x82,
  ScatterRows = 0x83,
  ClearRows = 0x84,
  LossSum = 0x85,
  Hits = 0x86,
  HitSum = 0x87,

  // dropout (dropout.ts)
  Dropout = 0x90,

  // optimizers (optimizer.ts, optimizer-8bit.ts, optimizer-factored.ts, optimizer-momentum.ts)
  AdamW = 0xa0,
  AdamW8bit = 0xa1,
  Lion = 0xa2,
  Sgd = 0xa3,
  MuonMomentum = 0xa4,
  UnitNorm = 0xa5,
  MuonStep = 0xa6,
  AdafactorRows = 0xa7,
  AdafactorShare = 0xa8,
  AdafactorColumns = 0xa9,
  AdafactorSquares = 0xaa,
  AdafactorStep = 0xab,

  // attention by a native library (attention-native.ts)
  NativeAttention = 0xb0,
  NativeAttentionGrad = 0xb1,

  // linear layer and cross entropy by a native library (head-native.ts)
  NativeLogits = 0xc0,
  NativeLogitsEnd = 0xc1,
  NativeLogitsGrad = 0xc2,
  NativeLogitsSum = 0xc3,

  // quantised matrices (quantise.ts)
  Dequantize = 0xd0,

  // magnitudes of adapted matrices (magnitude.ts)
  RowNorm = 0xe0,
  ScaleColumns = 0xe1,
  ColumnDot = 0xe2,

  // factors of rows (scale-rows.ts)
  ScaleRows = 0xe8,
  RowDot = 0xe9,

  // convolution along a text (convolution.ts)
  CausalConv = 0xf0,
  CausalConvGrad = 0xf1,
  CachedConv = 0xf2,
  RollingConv = 0xf3,

  // gated delta rule (gated-delta.ts)
  GatedDelta = 0xf8,
  GatedDeltaGrad = 0xf9,
  CachedGatedDelta = 0xfa,
}
