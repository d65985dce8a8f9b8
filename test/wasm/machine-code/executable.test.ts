import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bf16Routines, fewRowsRoutines, hasBf16, hasInt8, int8Routines } from "../../../src/wasm/machine-code/executable.ts";

/** The rights of the memory at an address of this process, as Linux writes them. */
function rightsAt(address: number): string | undefined {
  return readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .map((line) => /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line))
    .find((found) => found && parseInt(found[1]!, 16) <= address && address < parseInt(found[2]!, 16))?.[3];
}

test.skipIf(fewRowsRoutines() === null)("machine code can be read and run, and no longer be written", () => {
  const { nf4, q8 } = fewRowsRoutines()!;
  for (const address of [...nf4, ...q8]) expect(rightsAt(address)).toBe("r-xp");
  if (hasInt8()) {
    const { quantise, packCodes, packScales, multiply } = int8Routines();
    for (const address of [quantise, packCodes, packScales, ...multiply]) expect(rightsAt(address)).toBe("r-xp");
  }
  if (!hasBf16()) return;
  const { packAlong, packAcross, multiply, amx } = bf16Routines();
  const all = [
    packAlong.f32,
    packAlong.bf16,
    packAcross.f32,
    packAcross.bf16,
    ...multiply,
    ...(amx ? [amx.narrow, amx.multiply] : []),
  ];
  for (const address of all) expect(rightsAt(address)).toBe("r-xp");
});

test.skipIf(!hasBf16())("a system that allows no new code: bf16 and int8 say so, decoding and experts do without", () => {
  const script = join(import.meta.dir, "../../support/refused-code.ts");
  const { stdout } = Bun.spawnSync([process.execPath, script]);
  const lines = stdout.toString().trim().split("\n");
  if (lines[0] === "this kernel refuses nothing") return;
  expect(lines).toEqual([
    "none for few rows",
    "none for experts",
    ...["bf16", "int8"].map(
      (matmul) =>
        `UserError: --matmul ${matmul} needs memory for machine code, which this system does not allow (mprotect failed, as where SELinux forbids execmem); use --matmul auto`,
    ),
  ]);
});

test.skipIf(!hasBf16())("REMAT_BF16=avx512 leaves AMX aside", () => {
  const path = join(import.meta.dir, "../../../src/wasm/machine-code/executable.ts");
  const script = `import { bf16Kernel, bf16Routines } from ${JSON.stringify(path)}; console.log(bf16Kernel(), bf16Routines().amx)`;
  const { stdout } = Bun.spawnSync([process.execPath, "-e", script], { env: { ...process.env, REMAT_BF16: "avx512" } });
  expect(stdout.toString().trim()).toBe("avx512 null");
});
