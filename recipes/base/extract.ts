/**
 * Makes `kjv.txt.gz` from the file `bible.data` of Debian's package `bible-kjv-text`: one verse per line, an empty line
 * between chapters, no verse numbers.
 *
 *     bun recipes/base/extract.ts bible.data
 *
 * The file starts with 84 bytes of title, then big-endian u32: the size of an unpacked window, the number of windows,
 * their offsets and the end. Each window is a stream of `compress` (LZW, 16 bits) without its three magic bytes; gzip
 * unpacks it.
 */
import { gzipSync } from "node:zlib";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const COUNT_OFFSET = 0x58;
const COMPRESS_MAGIC = Uint8Array.of(0x1f, 0x9d, 0x90);

function unpack(data: Buffer): string {
  if (data.subarray(0, 4).toString("latin1") !== "EC02") throw new Error("this is not a bible.data file");
  const windows = data.readUInt32BE(COUNT_OFFSET);
  const offset = (i: number) => data.readUInt32BE(COUNT_OFFSET + 4 + 4 * i);
  let text = "";
  for (let i = 0; i < windows; i++) {
    const stdin = Buffer.concat([COMPRESS_MAGIC, data.subarray(offset(i), offset(i + 1))]);
    const { success, stdout } = Bun.spawnSync(["gzip", "-dc"], { stdin });
    if (!success) throw new Error(`gzip cannot unpack window ${i} of ${windows}`);
    text += stdout.toString("latin1");
  }
  return text;
}

/** Lines are `Ge1:2 And the earth...`: book, chapter, verse. The first is a title. */
export function plainText(text: string): string {
  const chapters: string[] = [];
  let current = "";
  for (const line of text.split("\n")) {
    const match = /^(\d?[A-Za-z]+\d+):\d+ (.*)$/.exec(line);
    if (!match) continue;
    const [, chapter, verse] = match;
    if (chapter !== current) chapters.push("");
    current = chapter!;
    chapters[chapters.length - 1] += `${verse!.replace(/\s+/g, " ").trim()}\n`;
  }
  return chapters.join("\n");
}

if (import.meta.main) {
  const [path] = process.argv.slice(2);
  if (!path) throw new Error("usage: bun extract.ts bible.data");
  const text = plainText(unpack(readFileSync(path)));
  writeFileSync(join(import.meta.dir, "kjv.txt.gz"), gzipSync(text, { level: 9 }));
  console.log(`${text.length} characters`);
}
