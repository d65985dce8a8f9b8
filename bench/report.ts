import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import { formatBytes } from "../src/base/bytes.ts";

export const BENCHMARKS = join(import.meta.dir, "../docs/benchmarks.md");

/** Day, processor, cores and memory. */
export function machine(): string {
  const models = [...new Set(cpus().map(({ model }) => model.trim()))].join(" + ");
  return `${new Date().toISOString().slice(0, 10)}, ${models}, ${cpus().length} cores, ${formatBytes(totalmem())}`;
}

/** Returns the versions of Bun and ONNX Runtime. */
export function ownVersions(): Record<string, string> {
  const path = Bun.resolveSync("onnxruntime-node/package.json", import.meta.dir);
  return { Bun: Bun.version, "ONNX Runtime": (JSON.parse(readFileSync(path, "utf8")) as { version: string }).version };
}

export function versionsText(versions: Readonly<Record<string, string>>): string {
  return Object.entries(versions)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");
}

/** Tells whether a page exists and has the marks of a section. */
export function hasSection(page: string, name: string): boolean {
  return existsSync(page) && readFileSync(page, "utf8").includes(`<!-- ${name} -->`);
}

/** Replaces what stands between the marks `<!-- NAME -->` and `<!-- /NAME -->` of a page. */
export function writeSection(page: string, name: string, lines: readonly string[]): void {
  const text = readFileSync(page, "utf8");
  const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [start, end] = [text.indexOf(open), text.indexOf(close)];
  if (start < 0 || end < start) throw new Error(`${page}: expected the marks ${open} and ${close}`);
  writeFileSync(page, `${text.slice(0, start + open.length)}\n\n${lines.join("\n")}\n\n${text.slice(end)}`);
}

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return (sorted[Math.floor((sorted.length - 1) / 2)]! + sorted[Math.ceil((sorted.length - 1) / 2)]!) / 2;
}
