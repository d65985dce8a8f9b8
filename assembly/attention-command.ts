/** The commands of the two attention families, by opcode. */
import { selfAttention } from "./attention";
import { attentionGrad } from "./attention-grad";
import { nativeAttentionGrad } from "./attention-grad-native";
import { attentionSinks, attentionSinksGrad } from "./attention-sinks";
import { nativeAttention } from "./attention-native";
import { cachedAttention } from "./cached-attention";
import { Opcode } from "./opcodes";

export function attentionCommand(opcode: u32): void {
  switch (opcode) {
    case Opcode.AttentionGrad: attentionGrad(); break;
    case Opcode.AttentionSinks: attentionSinks(); break;
    case Opcode.AttentionSinksGrad: attentionSinksGrad(); break;
    case Opcode.CachedAttention: cachedAttention(); break;
    default: selfAttention();
  }
}

export function nativeAttentionCommand(opcode: u32): void {
  if (opcode == Opcode.NativeAttentionGrad) nativeAttentionGrad();
  else nativeAttention();
}
