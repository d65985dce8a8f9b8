/**
 * Writes instructions.json: the bytes that GNU as makes of each line of instructions.s, one instruction a line.
 *
 *     bun test/golden/assembler/make.ts          (needs binutils, 2.40 or later)
 */
import { readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folder = import.meta.dir;
const lines = readFileSync(join(folder, "instructions.s"), "utf8").trim().split("\n");
const [source, object, code] = ["s", "o", "bin"].map((end) => join(tmpdir(), `instructions-${process.pid}.${end}`)) as [
  string,
  string,
  string,
];

function run(...command: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString()}`);
}

const made: Record<string, string> = {};
for (const line of lines) {
  writeFileSync(source, `.intel_syntax noprefix\n${line}\n`);
  run("as", "--64", "-o", object, source);
  run("objcopy", "-O", "binary", "--only-section=.text", object, code);
  made[line] = readFileSync(code).toString("hex");
}
writeFileSync(join(folder, "instructions.json"), `${JSON.stringify(made, null, 2)}\n`);
