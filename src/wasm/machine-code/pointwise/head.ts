/** The two passes over the logits of the head, with the operations of assembly/head-native.ts. */
import {
  type Assembler,
  at,
  type Mask,
  R10,
  R11,
  R12,
  R13,
  R14,
  R8,
  R9,
  RAX,
  RBP,
  RBX,
  RCX,
  RDI,
  RDX,
  RSI,
} from "../assembler.ts";
import { loadAddress } from "../kernels.ts";
import { EXPONENTIALS, LANES, SCALED, SUM_RUN } from "../layout.ts";
import { exponential, loadNumbers, number } from "./exponential.ts";

/** Of each column of x the maximum, exp(x - maximum), and the sum of these, of which SUM_RUN rows are summed by themselves. */
export function exponentials(a: Assembler, to: "f32" | "bf16"): void {
  const [column, columns, stride, most, sum] = [R8, R9, R10, R11, RBX] as const;
  // Within a column: the place, rows that are left, and those of a run; where bf16 goes, and from one row to the next.
  const [place, rows, run, kept, target, keptStride] = [RAX, RCX, RDX, R12, R13, R14] as const;
  const [top, value, e, total, sums] = [0, 1, 2, 3, 4];
  const [lanes, isKept]: [Mask, Mask] = [1, 2];
  const pushed = [RBX, RBP, R12, R13, R14];
  for (const register of pushed) a.push(register);
  loadAddress(a, column, EXPONENTIALS.x, RSI);
  loadAddress(a, most, EXPONENTIALS.most, RSI);
  loadAddress(a, sum, EXPONENTIALS.sum, RSI);
  a.load32(columns, at(RDI, EXPONENTIALS.columns));
  a.load32(stride, at(RDI, EXPONENTIALS.stride));
  if (to === "bf16") {
    loadAddress(a, kept, EXPONENTIALS.kept, RSI);
    a.load32(keptStride, at(RDI, EXPONENTIALS.keptStride));
  }
  loadNumbers(a);
  a.set(RAX, 2 ** LANES - 1);
  a.maskFrom(lanes, RAX);
  const [loop, whole, maximum, found] = [a.label(), a.label(), a.label(), a.label()];
  const [nextRun, isWhole, inner] = [a.label(), a.label(), a.label()];
  a.place(loop);
  a.compare(columns, LANES);
  a.jumpIf("greater", whole);
  a.load32(RAX, at(RDI, EXPONENTIALS.mask));
  a.maskFrom(lanes, RAX);
  a.place(whole);

  a.move(place, column);
  a.load32(rows, at(RDI, EXPONENTIALS.rows));
  a.load("vmovups", top, at(place), lanes);
  a.place(maximum);
  a.addConstant(rows, -1);
  a.jumpIf("equal", found);
  a.add(place, stride);
  a.load("vmovups", value, at(place), lanes);
  // Of two numbers of which one is NaN the second is taken: what was there.
  a.vector("vmaxps", top, value, top);
  a.jump(maximum);
  a.place(found);
  a.store(at(most), top, lanes);

  a.move(place, column);
  if (to === "bf16") a.move(target, kept);
  a.load32(rows, at(RDI, EXPONENTIALS.rows));
  a.vector("vpxord", sums, sums, sums);
  a.place(nextRun);
  a.vector("vpxord", total, total, total);
  a.set(run, SUM_RUN);
  a.compare(rows, SUM_RUN);
  a.jumpIf("greater", isWhole);
  a.move(run, rows);
  a.place(isWhole);
  a.move(RBP, run);
  a.place(inner);
  a.load("vmovups", value, at(place), lanes);
  a.vector("vsubps", value, value, top);
  a.compareVectors(isKept, value, number("least"), "notLess");
  a.vector("vminps", value, number("most"), value);
  exponential(a, e, value, isKept);
  if (to === "f32") a.store(at(place), e, lanes);
  else {
    a.narrow(value, e);
    a.storeHalves(at(target), value, lanes);
    a.add(target, keptStride);
  }
  a.vector("vaddps", total, total, e);
  a.add(place, stride);
  a.addConstant(run, -1);
  a.jumpIf("notEqual", inner);
  a.vector("vaddps", sums, sums, total);
  a.subtract(rows, RBP);
  a.jumpIf("notEqual", nextRun);
  a.store(at(sum), sums, lanes);
  a.addConstant(column, 4 * LANES);
  if (to === "bf16") a.addConstant(kept, 2 * LANES);
  a.addConstant(most, 4 * LANES);
  a.addConstant(sum, 4 * LANES);
  a.addConstant(columns, -LANES);
  a.jumpIf("greater", loop);
  for (const register of pushed.toReversed()) a.pop(register);
  a.vzeroupper();
  a.return();
}

/** x times each column's scale, times a factor: 0 where the first product is negligible. */
export function scaled(a: Assembler, from: "f32" | "bf16"): void {
  const [source, x, scales, rows] = [R8, R9, R10, R11] as const;
  const [columns, scale] = [RCX, RDX] as const;
  const [value, size, factor, least, absolute] = [0, 1, 2, 3, 4];
  const [lanes, isKept, last, all]: [Mask, Mask, Mask, Mask] = [1, 2, 3, 4];
  loadAddress(a, source, SCALED.from, RSI);
  loadAddress(a, x, SCALED.x, RSI);
  loadAddress(a, scales, SCALED.scales, RSI);
  a.load32(rows, at(RDI, SCALED.rows));
  a.load("vbroadcastss", factor, at(RDI, SCALED.factor));
  a.load("vbroadcastss", least, at(RDI, SCALED.least));
  a.load("vbroadcastss", absolute, at(RDI, SCALED.absolute));
  a.load32(RAX, at(RDI, SCALED.mask));
  a.maskFrom(last, RAX);
  a.set(RAX, -1);
  a.maskFrom(all, RAX);
  const [loop, inner, whole] = [a.label(), a.label(), a.label()];
  a.place(loop);
  a.load32(columns, at(RDI, SCALED.steps));
  a.move(scale, scales);
  a.copyMask(lanes, all);
  // The bytes of the last vector are as many as there are lanes in it.
  a.place(inner);
  a.compare(columns, 1);
  a.jumpIf("notEqual", whole);
  a.copyMask(lanes, last);
  a.place(whole);
  if (from === "f32") a.load("vmovups", value, at(source), lanes);
  else {
    a.load("vpmovzxwd", value, at(source), lanes);
    a.shiftLeft(value, value, 16);
  }
  a.load("vmovups", size, at(scale), lanes);
  a.vector("vmulps", value, value, size);
  a.vector("vpandd", size, value, absolute);
  a.compareVectors(isKept, size, least, "notLess");
  a.vectorKept("vmulps", value, value, factor, isKept);
  a.store(at(x), value, lanes);
  a.addConstant(source, (from === "f32" ? 4 : 2) * LANES);
  a.addConstant(x, 4 * LANES);
  a.addConstant(scale, 4 * LANES);
  a.addConstant(columns, -1);
  a.jumpIf("notEqual", inner);
  a.load32(RAX, at(RDI, SCALED.excess));
  a.subtract(x, RAX);
  if (from === "bf16") a.load32(RAX, at(RDI, SCALED.excessHalves));
  a.subtract(source, RAX);
  a.addConstant(rows, -1);
  a.jumpIf("notEqual", loop);
  a.vzeroupper();
  a.return();
}
