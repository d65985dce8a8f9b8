import { afterEach, describe, expect, test } from "bun:test";
import { closeSync, openSync, readdirSync, readlinkSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ptr } from "bun:ffi";
import { type Executor } from "../../src/runtime/executor.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { openOffloadFile } from "../../src/store/file.ts";
import { openStore, type Store, storeAlignment, type StoreOptions } from "../../src/store/store.ts";
import { openMirroredStore } from "../../src/store/mirrored.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";

const folder = temporaryFolder();
const stores: Store[] = [];
const executors: Executor[] = [];
afterEach(() => stores.splice(0).forEach((store) => store.close()));
afterEach(() => executors.splice(0).forEach((executor) => executor.close()));

function open(executor: Executor, options: Partial<StoreOptions> = {}): Store {
  const store = openStore(executor, { folder, freeMemory: () => 2 ** 30, ...options });
  stores.push(store);
  return store;
}

/** An address that a store accepts, of `bytes` bytes. */
function reserve(executor: Executor, bytes: number): number {
  const alignment = storeAlignment(executor);
  return Math.ceil(executor.reserve(bytes + alignment) / alignment) * alignment;
}

/** Bytes without a period that a misplaced piece could hide in (Knuth's multiplicative hash of the index). */
function mixedBytes(bytes: number, seed: number): Uint8Array {
  const data = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) data[i] = Math.imul(i + 7919 * seed, 2654435761) >>> 21;
  return data;
}

const EXECUTORS: [string, () => Promise<Executor> | Executor][] = [
  ["wasm, a file", () => createWasmExecutor({ threads: 1 })],
  ["ONNX Runtime on the CPU, a file", () => createOrtExecutor({ threads: 1 })],
  ["ONNX Runtime as with a device, host memory", () => createOrtExecutor({ threads: 1, copies: true })],
];

describe.each(EXECUTORS)("%s", (_, make) => {
  test("what is copied comes back to the bit, in any order, and places are used again", async () => {
    const executor = await make();
    executors.push(executor);
    const store = open(executor);
    const sizes = [4096, 3 * 4096, 40 * 4096, 2 ** 23 + 8192];
    const items = sizes.map((bytes, i) => ({ bytes, data: mixedBytes(bytes, i), address: reserve(executor, bytes) }));
    const target = reserve(executor, Math.max(...sizes));
    for (let round = 0; round < 2; round++) {
      const copies = items.map(({ bytes, data, address }, i) => {
        executor.write(address, data);
        return store.copy(address, bytes, store.reserve(`item ${i}`, bytes), Infinity);
      });
      for (const i of [2, 0, 3, 1]) {
        const { bytes, data } = items[i]!;
        // Not waited for: a fetch waits for its copy by itself.
        store.wait("in", store.fetch(target, bytes, store.reserve(`item ${i}`, bytes), copies[i]!));
        expect(Buffer.compare(executor.read(target, bytes), data)).toBe(0);
      }
      items.forEach(({ data }) => data.reverse());
    }
    const all = 2 * sizes.reduce((sum, bytes) => sum + bytes, 0);
    expect(store.counts()).toMatchObject({ out: all, in: all });
    expect(store.counts().busyOut).toBeGreaterThan(0);
    expect(store.counts().busyIn).toBeGreaterThan(0);
  });

  test("600 small moves, more than the queue holds, with a bound on what is in flight", async () => {
    const executor = await make();
    executors.push(executor);
    const store = open(executor);
    const data = mixedBytes(4096, 9);
    const [from, to] = [reserve(executor, 4096), reserve(executor, 4096)];
    executor.write(from, data);
    const places = Array.from({ length: 600 }, (_, i) => store.reserve(`item ${i}`, 4096));
    const copies = places.map((place) => store.copy(from, 4096, place, 10 * 4096));
    places.forEach((place, i) => store.fetch(to, 4096, place, copies[i]!));
    store.finish();
    expect(Buffer.compare(executor.read(to, 4096), data)).toBe(0);
  });
});

describe("the file", () => {
  const wasm = async () => {
    const executor = await createWasmExecutor({ threads: 1 });
    executors.push(executor);
    return executor;
  };

  test("has no name while it is in use, and is gone with its descriptor", async () => {
    const executor = await wasm();
    const store = open(executor);
    const address = reserve(executor, 2 ** 20);
    store.wait("out", store.copy(address, 2 ** 20, store.reserve("item", 2 ** 20), Infinity));
    expect(readdirSync(folder)).toEqual([]);
    const { fd } = openOffloadFile(folder);
    if (process.platform === "linux") expect(readlinkSync(`/proc/self/fd/${fd}`)).toContain("(deleted)");
    closeSync(fd);
    expect(readdirSync(folder)).toEqual([]);
  });

  test("a folder that is none, or a file, is refused in one sentence", async () => {
    const executor = await wasm();
    expect(userError(() => open(executor, { folder: join(folder, "nowhere") }))).toMatch(
      /cannot write to the offload folder .*nowhere: no such file or folder/,
    );
    const file = join(folder, "file");
    writeFileSync(file, "x");
    expect(userError(() => open(executor, { folder: file }))).toMatch(/cannot write to the offload folder .*file: /);
  });

  test("more than the disk has free is refused before anything is written", async () => {
    const { bavail, bsize } = statfsSync(folder);
    const store = open(await wasm());
    expect(userError(() => store.reserve("item", bavail * bsize + 2 ** 34))).toMatch(
      /--offload needs at least \d+ MiB in .*, where \d+ MiB are free; free some space or give another folder/,
    );
    expect(store.counts().out).toBe(0);
  });

  const opened = (path: string, flags: string) => () => ({ fd: openSync(path, flags), isDirect: false, isInMemory: false });

  test("a disk that is full says so where the copy is waited for, and at everything behind it", async () => {
    const executor = await wasm();
    const store = open(executor, { open: opened("/dev/full", "r+") });
    const address = reserve(executor, 4096);
    const place = store.reserve("item", 4096);
    const copy = store.copy(address, 4096, place, Infinity);
    const full = /cannot write the offload file in .*: the disk is full; free some space or choose another folder/;
    expect(userError(() => store.wait("out", copy))).toMatch(full);
    expect(userError(() => store.finish())).toMatch(full);
    // A fetch of what was never copied brings nothing, and nobody waits for ever.
    store.fetch(address, 4096, place, copy);
    expect(userError(() => store.finish())).toMatch(full);
  });

  test("a file that ends too early is an error of reading", async () => {
    const executor = await wasm();
    const path = join(folder, "short");
    writeFileSync(path, new Uint8Array(100));
    const store = open(executor, { open: opened(path, "r") });
    const fetch = store.fetch(reserve(executor, 4096), 4096, 0, 0);
    expect(userError(() => store.wait("in", fetch))).toMatch(/cannot read the offload file in .*: the file ends too early/);
  });

  test("a file system in memory, and one without direct access, are told", async () => {
    const executor = await wasm();
    const path = join(folder, "plain");
    writeFileSync(path, "");
    const notice = (isDirect: boolean, isInMemory: boolean) =>
      open(executor, { open: () => ({ fd: openSync(path, "r+"), isDirect, isInMemory }) }).notice;
    expect(notice(true, false)).toBeNull();
    expect(notice(false, false)).toMatch(/has no direct access/);
    expect(notice(true, true)).toMatch(/saves nothing in .*, which is on a file system in memory/);
  });
});

test("host memory: more than is free is refused", () => {
  const executor = createOrtExecutor({ threads: 1, copies: true });
  executors.push(executor);
  const store = open(executor, { freeMemory: () => 1000 });
  expect(store.description).toBe("host memory");
  expect(userError(() => store.reserve("item", 4096))).toMatch(/--offload: host memory is exhausted: cannot take 4096 bytes/);
});

test("host memory of a device that one thread alone may use: more than is free is refused, and moves are counted when they are made", () => {
  const moves: string[] = [];
  const note =
    (what: string) =>
    (...values: readonly number[]) =>
      void moves.push([what, ...values.slice(0, 2)].join(" "));
  const mirror = {
    publish: note("publish"),
    take: note("take"),
    forget: note("forget"),
    load: note("load"),
    copyOut: note("out"),
    copyIn: note("in"),
  };
  const store = openMirroredStore({ mirror, wait: note("wait") }, { freeMemory: () => 5000 });
  expect(userError(() => store.reserve("item", 5001))).toBe("--offload: host memory is exhausted: cannot take 5001 bytes");
  const place = store.reserve("item", 4096);
  expect(store.reserve("item", 4000)).toBe(place);
  const ticket = store.copy(64, 4096, place, 0);
  store.wait("in", store.fetch(128, 4096, place, ticket));
  expect(moves).toEqual(["wait", "out 64 4096", "in 128 4096"]);
  expect(store.counts()).toMatchObject({ out: 4096, in: 4096 });
  store.close();
});

test("host memory: pinned where the executor has it, else the process's own; the same bytes come back", () => {
  const executor = createOrtExecutor({ threads: 1, copies: true });
  executors.push(executor);
  const BYTES = 4096;
  const pinned = new Uint8Array(2 * BYTES);
  const asked: number[] = [];
  // There is room for one item.
  const pin = (bytes: number) => (asked.push(bytes) === 1 ? ptr(pinned) : null);
  const store = open({ ...executor, card: { memory: () => null, pin } }, {});
  const address = executor.reserve(BYTES);
  for (const [name, first] of [
    ["one", 1],
    ["two", 2],
  ] as const) {
    const data = Uint8Array.from({ length: BYTES }, (_, i) => first + i);
    executor.write(address, data);
    const place = store.reserve(name, BYTES);
    expect(place === ptr(pinned)).toBe(name === "one");
    store.wait("out", store.copy(address, BYTES, place, Infinity));
    executor.zero(address, BYTES);
    store.wait("in", store.fetch(address, BYTES, place, 0));
    expect(executor.read(address, BYTES)).toEqual(data);
    if (name === "one") expect(pinned.subarray(0, BYTES)).toEqual(data);
  }
  expect(asked).toEqual([BYTES, BYTES]);
});
