import { describe, expect, test } from "bun:test";
import {
  type Assembler,
  at,
  createAssembler,
  R10,
  R11,
  R12,
  R13,
  R14,
  R15,
  R8,
  R9,
  RAX,
  RBP,
  RBX,
  RCX,
  RDI,
  RDX,
  RSI,
} from "../../../src/wasm/machine-code/assembler.ts";
import GOLDEN from "../../golden/assembler/instructions.json";

/** The instructions of test/golden/assembler/instructions.s, by what a line there says. */
const INSTRUCTIONS: Readonly<Record<keyof typeof GOLDEN, (a: Assembler) => void>> = {
  "vdpbf16ps zmm0, zmm28, zmm29": (a) => a.vector("vdpbf16ps", 0, 28, 29),
  "vdpbf16ps zmm27, zmm29, dword ptr [rax+52]{1to16}": (a) => a.vectorOfOne("vdpbf16ps", 27, 29, at(RAX, 52)),
  "vdpbf16ps zmm13, zmm28, dword ptr [rax]{1to16}": (a) => a.vectorOfOne("vdpbf16ps", 13, 28, at(RAX)),
  "vdpbf16ps zmm9, zmm1, dword ptr [r8+1024]{1to16}": (a) => a.vectorOfOne("vdpbf16ps", 9, 1, at(R8, 1024)),
  "vcvtne2ps2bf16 zmm15, zmm17, zmm16": (a) => a.vector("vcvtne2ps2bf16", 15, 17, 16),
  "vcvtne2ps2bf16 zmm2, zmm1, zmm0": (a) => a.vector("vcvtne2ps2bf16", 2, 1, 0),
  "vmulps zmm16, zmm16, zmm18": (a) => a.vector("vmulps", 16, 16, 18),
  "vpxord zmm31, zmm31, zmm31": (a) => a.vector("vpxord", 31, 31, 31),
  "vpord zmm2, zmm1, zmm0": (a) => a.vector("vpord", 2, 1, 0),
  "vpermw zmm2, zmm4, zmm2": (a) => a.vector("vpermw", 2, 4, 2),
  "vpunpckldq zmm16, zmm0, zmm1": (a) => a.vector("vpunpckldq", 16, 0, 1),
  "vpunpckhdq zmm17, zmm14, zmm15": (a) => a.vector("vpunpckhdq", 17, 14, 15),
  "vpunpcklqdq zmm0, zmm16, zmm18": (a) => a.vector("vpunpcklqdq", 0, 16, 18),
  "vpunpckhqdq zmm15, zmm29, zmm31": (a) => a.vector("vpunpckhqdq", 15, 29, 31),
  "vshufi32x4 zmm16, zmm0, zmm4, 0x88": (a) => a.shuffleBlocks(16, 0, 4, 0x88),
  "vshufi32x4 zmm31, zmm11, zmm15, 0xdd": (a) => a.shuffleBlocks(31, 11, 15, 0xdd),
  "vpslld zmm1, zmm1, 16": (a) => a.shiftLeft(1, 1, 16),
  "vpslld zmm17, zmm30, 16": (a) => a.shiftLeft(17, 30, 16),
  "vmovups zmm28, zmmword ptr [rdx]": (a) => a.load("vmovups", 28, at(RDX)),
  "vmovups zmm29, zmmword ptr [rdx+64]": (a) => a.load("vmovups", 29, at(RDX, 64)),
  "vmovups zmm16{k1}{z}, zmmword ptr [rax]": (a) => a.load("vmovups", 16, at(RAX), 1),
  "vmovups zmm17{k2}{z}, zmmword ptr [r8+64]": (a) => a.load("vmovups", 17, at(R8, 64), 2),
  "vmovups zmm3, zmmword ptr [rsi+8]": (a) => a.load("vmovups", 3, at(RSI, 8)),
  "vmovups zmm3, zmmword ptr [rsi-8192]": (a) => a.load("vmovups", 3, at(RSI, -8192)),
  "vmovups zmm3, zmmword ptr [r9+8192]": (a) => a.load("vmovups", 3, at(R9, 8192)),
  "vmovdqu16 zmm7{k1}{z}, zmmword ptr [rax]": (a) => a.load("vmovdqu16", 7, at(RAX), 1),
  "vpmovzxwd zmm1{k1}{z}, ymmword ptr [r8]": (a) => a.load("vpmovzxwd", 1, at(R8), 1),
  "vpmovzxwd zmm0, ymmword ptr [rcx+32]": (a) => a.load("vpmovzxwd", 0, at(RCX, 32)),
  "vbroadcastss zmm18, dword ptr [rdi+28]": (a) => a.load("vbroadcastss", 18, at(RDI, 28)),
  "vbroadcastss zmm27, dword ptr [r10+52]": (a) => a.load("vbroadcastss", 27, at(R10, 52)),
  "vmovups zmmword ptr [r10], zmm5": (a) => a.store(at(R10), 5),
  "vmovups zmmword ptr [rdx+64]{k2}, zmm27": (a) => a.store(at(RDX, 64), 27, 2),
  "vmovups zmmword ptr [rdx]{k1}, zmm0": (a) => a.store(at(RDX), 0, 1),
  "kmovd k1, eax": (a) => a.maskFrom(1, RAX),
  "kmovd k4, ecx": (a) => a.maskFrom(4, RCX),
  "kmovd k2, r9d": (a) => a.maskFrom(2, R9),
  "kmovd k1, k3": (a) => a.copyMask(1, 3),
  "kmovd k2, k4": (a) => a.copyMask(2, 4),
  vzeroupper: (a) => a.vzeroupper(),
  "mov rax, r8": (a) => a.move(RAX, R8),
  "mov r8, rsi": (a) => a.move(R8, RSI),
  "mov rsi, rax": (a) => a.move(RSI, RAX),
  "mov eax, dword ptr [rdi+16]": (a) => a.load32(RAX, at(RDI, 16)),
  "mov r8d, dword ptr [rdi]": (a) => a.load32(R8, at(RDI)),
  "mov ecx, dword ptr [r9+4]": (a) => a.load32(RCX, at(R9, 4)),
  "mov eax, dword ptr [rdi+1000]": (a) => a.load32(RAX, at(RDI, 1000)),
  "mov eax, 0xffffffff": (a) => a.set(RAX, -1),
  "mov r9d, 7": (a) => a.set(R9, 7),
  "add r8, rsi": (a) => a.add(R8, RSI),
  "add rsi, rdx": (a) => a.add(RSI, RDX),
  "add rax, 64": (a) => a.addConstant(RAX, 64),
  "add rdx, 128": (a) => a.addConstant(RDX, 128),
  "add r9, -1": (a) => a.addConstant(R9, -1),
  "cmp rcx, 1": (a) => a.compare(RCX, 1),
  "cmp r9, 1000": (a) => a.compare(R9, 1000),
  "cmove rax, rsi": (a) => a.moveIf("equal", RAX, RSI),
  "cmovg rax, rsi": (a) => a.moveIf("greater", RAX, RSI),
  "cmovne r8, rcx": (a) => a.moveIf("notEqual", R8, RCX),
  ret: (a) => a.return(),
  "vaddps zmm0, zmm0, zmm2": (a) => a.vector("vaddps", 0, 0, 2),
  "vaddps zmm1{k2}, zmm1, zmmword ptr [rbx+64]": (a) => a.vectorMasked("vaddps", 1, 1, at(RBX, 64), 2),
  "ldtilecfg [rdi+128]": (a) => a.configureTiles(at(RDI, 128)),
  "tilezero tmm3": (a) => a.zeroTile(3),
  "tileloadd tmm5, [rbx+rbp*1+64]": (a) => a.loadTile(5, at(RBX, 64), RBP),
  "tileloadd tmm6, [rdx+r12*1+2048]": (a) => a.loadTile(6, at(RDX, 2048), R12),
  "tilestored [rax+r12*1+64], tmm1": (a) => a.storeTile(at(RAX, 64), R12, 1),
  "tdpbf16ps tmm3, tmm5, tmm7": (a) => a.multiplyTiles(3, 5, 7),
  tilerelease: (a) => a.releaseTiles(),
  "push rbx": (a) => a.push(RBX),
  "pop r12": (a) => a.pop(R12),
  "mov r13d, dword ptr [rdi+36]": (a) => a.load32(R13, at(RDI, 36)),
  "add rbx, rbp": (a) => a.add(RBX, RBP),
  "add rdx, r13": (a) => a.add(RDX, R13),
  "cmp r13, 1": (a) => a.compare(R13, 1),
  "vpermps zmm20, zmm18, zmm16": (a) => a.vector("vpermps", 20, 18, 16),
  "vfmadd231ps zmm4, zmm20, zmmword ptr [rcx+448]": (a) => a.vector("vfmadd231ps", 4, 20, at(RCX, 448)),
  "vfmadd231ps zmm7, zmm20, zmmword ptr [r12+64]": (a) => a.vector("vfmadd231ps", 7, 20, at(R12, 64)),
  "vfmadd231ps zmm5, zmm20, zmmword ptr [r13]": (a) => a.vector("vfmadd231ps", 5, 20, at(R13)),
  "vpmovsxbd zmm18, xmmword ptr [rax+48]": (a) => a.load("vpmovsxbd", 18, at(RAX, 48)),
  "vcvtdq2ps zmm20, zmm18": (a) => a.toFloats(20, 18),
  "vpsrld zmm19, zmm18, 28": (a) => a.shiftRight(19, 18, 28),
  "vpshufd zmm21, zmm0, 0x4e": (a) => a.shuffleLanes(21, 0, 0x4e),
  "vbroadcastss zmm17{k1}, dword ptr [rdx+4]": (a) => a.loadInto("vbroadcastss", 17, at(RDX, 4), 1),
  "push r14": (a) => a.push(R14),
  "prefetcht1 [rax]": (a) => a.prefetch(at(RAX), 2),
  "prefetcht1 [r13]": (a) => a.prefetch(at(R13), 2),
  "prefetcht1 [r12+64]": (a) => a.prefetch(at(R12, 64), 2),
  "prefetcht1 [rbx+4096]": (a) => a.prefetch(at(RBX, 4096), 2),
  "prefetcht0 [r11+128]": (a) => a.prefetch(at(R11, 128), 1),
  "push r15": (a) => a.push(R15),
  "pop r15": (a) => a.pop(R15),
  "add rax, r15": (a) => a.add(RAX, R15),
  "mov r15d, dword ptr [rdi+4]": (a) => a.load32(R15, at(RDI, 4)),
  "vsubps zmm6, zmm13, zmm17": (a) => a.vector("vsubps", 6, 13, 17),
  "vdivps zmm20, zmm25, zmm3": (a) => a.vector("vdivps", 20, 25, 3),
  "vminps zmm2, zmm27, zmm2": (a) => a.vector("vminps", 2, 27, 2),
  "vmaxps zmm0, zmm1, zmm0": (a) => a.vector("vmaxps", 0, 1, 0),
  "vpandd zmm1, zmm0, zmm4": (a) => a.vector("vpandd", 1, 0, 4),
  "vpandnd zmm3, zmm26, zmm0": (a) => a.vector("vpandnd", 3, 26, 0),
  "vaddps zmm1, zmm1, dword ptr [rdi+128]{1to16}": (a) => a.vectorOfOne("vaddps", 1, 1, at(RDI, 128)),
  "vmulps zmm2{k3}{z}, zmm2, zmm13": (a) => a.vectorKept("vmulps", 2, 2, 13, 3),
  "vcmplt_oqps k4, zmm0, zmm20": (a) => a.compareVectors(4, 0, 20, "less"),
  "vcmpnlt_uqps k2, zmm17, zmm28": (a) => a.compareVectors(2, 17, 28, "notLess"),
  "vblendmps zmm6{k4}, zmm5, zmm24": (a) => a.blend(6, 5, 24, 4),
  "vcvtneps2bf16 ymm1, zmm2": (a) => a.narrow(1, 2),
  "vmovdqu16 zmmword ptr [r13]{k1}, zmm1": (a) => a.storeHalves(at(R13), 1, 1),
  "vmovdqu16 zmmword ptr [rdx+64]{k2}, zmm19": (a) => a.storeHalves(at(RDX, 64), 19, 2),
  "sub rcx, rbp": (a) => a.subtract(RCX, RBP),
  "sub r9, rax": (a) => a.subtract(R9, RAX),
  "vpdpbusd zmm0, zmm28, dword ptr [rax+52]{1to16}": (a) => a.vectorOfOne("vpdpbusd", 0, 28, at(RAX, 52)),
  "vpdpbusd zmm16, zmm17, zmm15": (a) => a.vector("vpdpbusd", 16, 17, 15),
  "vpmaxud zmm31, zmm16, zmm18": (a) => a.vector("vpmaxud", 31, 16, 18),
  "vpsubd zmm16, zmm18, zmm16": (a) => a.vector("vpsubd", 16, 18, 16),
  "vpackssdw zmm16, zmm16, zmm17": (a) => a.vector("vpackssdw", 16, 16, 17),
  "vpacksswb zmm15, zmm16, zmm18": (a) => a.vector("vpacksswb", 15, 16, 18),
  "vcvtps2dq zmm19, zmm19": (a) => a.toIntegers(19, 19),
  "vpxord zmm7, zmm16, zmmword ptr [rax]": (a) => a.vector("vpxord", 7, 16, at(RAX)),
  "vpabsb zmm17, zmm3": (a) => a.absoluteBytes(17, 3),
  "kmovd ecx, k2": (a) => a.maskTo(RCX, 2),
  "kmovd r9d, k5": (a) => a.maskTo(R9, 5),
  "mov dword ptr [rdi+52], ecx": (a) => a.store32(at(RDI, 52), RCX),
  "mov dword ptr [r10+1152], r9d": (a) => a.store32(at(R10, 1152), R9),
};

const made = (write: (a: Assembler) => void): string => {
  const assembler = createAssembler();
  write(assembler);
  return Buffer.from(assembler.finish()).toString("hex");
};

describe("the assembler makes the bytes that GNU as makes", () => {
  for (const [line, write] of Object.entries(INSTRUCTIONS)) {
    test(line, () => expect(made(write)).toBe(GOLDEN[line as keyof typeof GOLDEN]));
  }

  test("jumps go to their labels, forwards and backwards, from behind themselves", () => {
    const code = made((a) => {
      const [start, end] = [a.label(), a.label()];
      a.place(start);
      a.jumpIf("equal", end);
      a.jump(start);
      a.place(end);
      a.jumpIf("greater", start);
    });
    // je +5, jmp -11, jg -17
    expect(code).toBe("0f8405000000e9f5ffffff0f8fefffffff");
    expect(() => made((a) => a.jump(a.label()))).toThrow("no place");
  });
});
