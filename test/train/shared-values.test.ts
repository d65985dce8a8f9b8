import { afterEach, expect, test } from "bun:test";
import { fstatSync } from "node:fs";
import { join } from "node:path";
import { hear } from "../../src/base/process/event-loop.ts";
import { type Freed, isFreed, type Laid, openSharedValues, type SharedValues } from "../../src/train/nodes/shared-values.ts";

interface Numbers {
  readonly values: Uint8Array<ArrayBuffer>;
}

let open: { readonly shared: SharedValues; readonly child: Bun.Subprocess } | null = null;
afterEach(async () => {
  open?.child.kill();
  await open?.child.exited;
  open?.shared.close();
  open = null;
});

test("tensors far larger than a channel holds arrive, and their answer comes back, while one process stands still", async () => {
  const listening = Promise.withResolvers<void>();
  const got: Uint8Array[] = [];
  const shared = openSharedValues((told) => child.send(told));
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../support/shared-values-child.ts")], {
    serialization: "advanced",
    stdio: ["ignore", "inherit", "inherit", ...shared.descriptors],
    ipc(message: Laid<Numbers> | Freed | string) {
      if (typeof message === "string") listening.resolve();
      else if (isFreed(message)) shared.freed(message);
      else got.push(shared.pick<Numbers>(message).values);
    },
  });
  open = { shared, child };
  await listening.promise;
  const size = 10 << 20;
  const send = (value: number) => child.send(shared.lay({ values: new Uint8Array(size).fill(value) }));
  const sizes = () => shared.descriptors.map((fd) => fstatSync(fd).size);
  send(1);
  send(5);
  // As a process that computes, it lets no message in.
  const until = performance.now() + 20_000;
  while (sizes()[1]! < 2 * size && performance.now() < until) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  expect(sizes()).toEqual([2 * size, 2 * size]);
  while (got.length < 2) await hear();
  expect(got.map(({ length, [0]: first, [size - 1]: last }) => [length, first, last])).toEqual([
    [size, 2, 2],
    [size, 6, 6],
  ]);
  // Their places are free again: the file does not grow.
  send(8);
  while (got.length < 3) await hear();
  expect(got[2]![0]).toBe(9);
  expect(sizes()).toEqual([2 * size, 2 * size]);
});
