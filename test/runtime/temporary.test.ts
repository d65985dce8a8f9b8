import { expect, test } from "bun:test";
import { join } from "node:path";

/**
 * ONNX Runtime has one arena per process, and what other tests of this process still hold in it would count: the tests of
 * `test/support/temporary-memory.ts` run in a process of their own.
 */
test("temporary memory, measured in a process of its own, is what programs take in any order", async () => {
  const file = join(import.meta.dir, "../support/temporary-memory.ts");
  const child = Bun.spawn([process.execPath, "test", "--timeout", "120000", file], {
    cwd: join(import.meta.dir, "../.."),
    stdout: "ignore",
    stderr: "pipe",
  });
  const said = await Bun.readableStreamToText(child.stderr);
  expect(said).toContain(" 4 pass\n 0 fail\n");
  expect(await child.exited).toBe(0);
});
