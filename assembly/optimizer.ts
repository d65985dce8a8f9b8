/** The optimizers' commands, and AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101), as PyTorch computes it. */
import { int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";
import { Opcode } from "./opcodes";
import { adamW8bitCommand } from "./optimizer-8bit";
import {
  adafactorColumnsCommand, adafactorRowsCommand, adafactorShareCommand, adafactorSquaresCommand, adafactorStepCommand,
} from "./optimizer-factored";
import { adamCorrection4, adamRate4, complement4, decay4, hyper4, lerp4, step4 } from "./optimizer-lanes";
import { lionCommand, muonMomentumCommand, muonStepCommand, sgdCommand, unitNormCommand } from "./optimizer-momentum";

/** Elements that are handed out as one: a cache line. */
const UNIT: i32 = 16;

/**
 * hyper = [lr, beta1, beta2, epsilon, weight decay, 1 - beta1^t, 1 - beta2^t, gradient scale]. With g = grad * scale:
 *
 *     m' = beta1 m + (1 - beta1) g
 *     v' = beta2 v + (1 - beta2) g^2
 *     p' = p (1 - lr decay) - lr / (1 - beta1^t) m' / (sqrt(v') / sqrt(1 - beta2^t) + epsilon)
 *
 * Outputs may be the inputs.
 */
function adamw(p: usize, grad: usize, m: usize, v: usize, hyper: usize, newP: usize, newM: usize, newV: usize, n: i32): void {
  const keepM = hyper4(hyper, 4);
  const takeM = complement4(hyper, 4);
  const keepV = hyper4(hyper, 8);
  const takeV = complement4(hyper, 8);
  const epsilon = hyper4(hyper, 12);
  const decay = decay4(hyper, 16);
  const rate = adamRate4(hyper);
  const correction = adamCorrection4(hyper);
  const scale = hyper4(hyper, 28);
  for (let i = n >> 2; i > 0; i--) {
    const g = f32x4.mul(v128.load(grad), scale);
    const first = lerp4(v128.load(m), keepM, g, takeM);
    const second = lerp4(v128.load(v), keepV, f32x4.mul(g, g), takeV);
    const updated = step4(v128.load(p), first, second, decay, rate, correction, epsilon);
    v128.store(newP, updated);
    v128.store(newM, first);
    v128.store(newV, second);
    p += 16;
    grad += 16;
    m += 16;
    v += 16;
    newP += 16;
    newM += 16;
    newV += 16;
  }
  const rest = n & 3;
  if (rest) {
    const g = f32x4.mul(loadSome(grad, rest), scale);
    const first = lerp4(loadSome(m, rest), keepM, g, takeM);
    const second = lerp4(loadSome(v, rest), keepV, f32x4.mul(g, g), takeV);
    const updated = step4(loadSome(p, rest), first, second, decay, rate, correction, epsilon);
    storeSome(newP, updated, rest);
    storeSome(newM, first, rest);
    storeSome(newV, second, rest);
  }
}

/** Command AdamW: p, grad, m, v [n], hyper [8], p', m', v' [n]; n. */
function adamWCommand(): void {
  const start = partStart(int(0), UNIT);
  const n = partEnd(int(0), UNIT) - start;
  if (n <= 0) return;
  const at = (<usize>start) << 2;
  adamw(
    pointer(0) + at, pointer(1) + at, pointer(2) + at, pointer(3) + at, pointer(4),
    pointer(5) + at, pointer(6) + at, pointer(7) + at,
    n,
  );
}

export function optimizerCommand(opcode: u32): void {
  switch (opcode) {
    case Opcode.AdamW: adamWCommand(); break;
    case Opcode.AdamW8bit: adamW8bitCommand(); break;
    case Opcode.Lion: lionCommand(); break;
    case Opcode.Sgd: sgdCommand(); break;
    case Opcode.MuonMomentum: muonMomentumCommand(); break;
    case Opcode.UnitNorm: unitNormCommand(); break;
    case Opcode.MuonStep: muonStepCommand(); break;
    case Opcode.AdafactorRows: adafactorRowsCommand(); break;
    case Opcode.AdafactorShare: adafactorShareCommand(); break;
    case Opcode.AdafactorColumns: adafactorColumnsCommand(); break;
    case Opcode.AdafactorSquares: adafactorSquaresCommand(); break;
    case Opcode.AdafactorStep: adafactorStepCommand(); break;
    default: unreachable();
  }
}
