import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BASE, chats, writeBase } from "../test/support/box.ts";
import { startServerProcess } from "../test/support/server-kills.ts";

/**
 * Runs OpenAI's client for Python against a server with a home (bench/openai_client.py says what it does).
 *
 *     bun bench/openai-client.ts venv/bin/python
 */
const [python] = process.argv.slice(2);
if (python === undefined) throw new Error("usage: bun bench/openai-client.ts PYTHON, one that has the package openai");
const folder = mkdtempSync(join(tmpdir(), "remat-openai-client-"));
try {
  const data = join(folder, "chats.jsonl");
  writeFileSync(data, chats());
  const { box, child } = await startServerProcess(join(folder, "home"), writeBase(folder));
  const script = join(import.meta.dir, "openai_client.py");
  const client = Bun.spawn([python, script, box.server.url, data, BASE], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  });
  process.exitCode = await client.exited;
  child.kill("SIGTERM");
  await child.exited;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
