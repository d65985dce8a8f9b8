import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import * as fs from "node:fs";
import { join } from "node:path";
import { type FileIo, fileIo } from "../../../src/base/files/files.ts";
import { tryLock } from "../../../src/base/files/flock.ts";
import { UNUSED_MS } from "../../../src/base/files/last-used.ts";
import { changed, openFile } from "../../../src/base/files/open-file.ts";
import { openWeightCache, type WeightCacheProgress } from "../../../src/load/stored/cache.ts";
import { layoutOf } from "../../../src/load/stored/layout.ts";
import { storedWeights, type StoredWeights, type StoredWeightsOptions } from "../../../src/load/stored/stored-weights.ts";
import { tensorsOf } from "../../../src/load/stored/tensors.ts";
import type { WeightStorage } from "../../../src/load/weights.ts";
import { filesIn, fullDisk, rejection, temporaryFolder } from "../../hf/temp.ts";
import { openCheckpoint, readAll, writeCheckpoint } from "../../support/checkpoint.ts";
import { fuzz, INPUTS, mutateBytes } from "../../support/fuzz.ts";
import { some } from "../../support/slow.ts";

setDefaultTimeout(60_000);

const root = temporaryFolder();
const model = writeCheckpoint(join(root, "model"), "bf16", 200_000);
const NF4: WeightStorage = { quantize: "nf4", quantizeEmbedding: true };
const EMBEDDING = "model.embed_tokens.weight";

const checkpoint = openCheckpoint(model, NF4);
const expected = await checkpoint.inMemory();

let count = 0;
const newFolder = () => join(root, `cache-${count++}`);

/** Weights that are closed behind each test. */
const opened: StoredWeights[] = [];
afterEach(() => opened.splice(0).forEach(({ close }) => close()));

interface Opened {
  readonly weights: StoredWeights;
  readonly notes: readonly string[];
  readonly progress: readonly WeightCacheProgress[];
}

async function open(folder: string, options: StoredWeightsOptions = {}, { source, groups } = checkpoint): Promise<Opened> {
  const notes: string[] = [];
  const progress: WeightCacheProgress[] = [];
  const weights = await storedWeights(source, groups, {
    folder,
    onNote: (note) => notes.push(note),
    onProgress: (report) => progress.push(report),
    ...options,
  });
  opened.push(weights);
  return { weights, notes, progress };
}

/** Opens what must be whole and right. */
async function openRight(folder: string, options?: StoredWeightsOptions): Promise<Opened> {
  const result = await open(folder, options);
  expect(readAll(result.weights)).toEqual(expected);
  expect(filesIn(folder).filter((name) => !name.endsWith(".used")).length).toBe(1);
  return result;
}

const fileOf = ({ weights }: Opened) => weights.cache!.file.path;

/** A whole file in a folder of its own; nobody has it open. */
async function wholeFile(): Promise<{ folder: string; path: string }> {
  const folder = newFolder();
  const path = fileOf(await open(folder));
  opened.splice(0).forEach(({ close }) => close());
  return { folder, path };
}

/** Where the table of checksums begins. */
const endOfHeader = (bytes: Buffer) => 8 * Math.ceil((bytes.indexOf("}]]}") + 4) / 8);

function startProcess(folder: string, bytes = Infinity) {
  return Bun.spawn([process.execPath, join(import.meta.dir, "making-process.ts"), model, folder, String(bytes)], {
    stdout: "pipe",
    stderr: "inherit",
  });
}

async function resultOf(child: ReturnType<typeof startProcess>): Promise<{ made: boolean; notes: string[] }> {
  return JSON.parse(await new Response(child.stdout).text()) as { made: boolean; notes: string[] };
}

describe("making", () => {
  test.each(some([300_000, 595_000, 100, 575_000], 2))(
    "a process that is killed after %p bytes is gone on with",
    async (bytes) => {
      const folder = newFolder();
      const child = startProcess(folder, bytes);
      await child.exited;
      expect(child.signalCode).toBe("SIGKILL");
      expect(filesIn(folder).map((name) => name.replace(/^[0-9a-f]{64}/, "KEY"))).toEqual(["KEY.weights.part"]);
      const { notes, progress, weights } = await openRight(folder);
      expect(weights.cache!.made).toBe(true);
      const { resumed } = progress[0]!;
      // The embedding comes first, whole or not.
      const first = 8195 * 64 + 8195 * 4;
      expect(resumed >= first).toBe(bytes > first + 8192);
      expect(resumed).toBeLessThan(bytes);
      expect(notes.map((note) => note.replace(/^[\d.]+ KiB of [\d.]+ KiB/, "N of N"))).toEqual(
        resumed > 0 ? [`N of N in ${fileOf({ notes, progress, weights })}.part are there already`] : [],
      );
      expect(progress.at(-1)).toMatchObject({ stage: "making", bytes: progress[0]!.size });
    },
  );

  test("a draft is believed as far as its checksums hold", async () => {
    const folder = newFolder();
    await rejection(open(folder, { io: fullDisk(595_000) }));
    const draft = join(folder, filesIn(folder)[0]!);
    const bytes = fs.readFileSync(draft);
    bytes.fill(0, 8192 + 1000, 8192 + 1100);
    fs.writeFileSync(draft, bytes);
    const { progress } = await openRight(folder);
    expect(progress[0]!.resumed).toBeLessThan(100_000);
    expect(progress[0]!.resumed).toBeGreaterThan(0);
  });

  test("a draft stays when its checking is stopped", async () => {
    const folder = newFolder();
    await rejection(open(folder, { io: fullDisk(595_000) }));
    let heard = 0;
    const { signal } = new AbortController();
    // Passes at first, and leaves the checking no time until it is asked again.
    signal.throwIfAborted = () => {
      if (heard++ > 0) throw new Error("stopped");
      Bun.sleepSync(60);
    };
    await expect(open(folder, { signal })).rejects.toThrow("stopped");
    const { progress } = await openRight(folder);
    expect(progress[0]!.resumed).toBeGreaterThan(550_000);
  });

  test("a draft of something else, or one cut short, is begun anew", async () => {
    const { folder, path } = await wholeFile();
    for (const bytes of [new Uint8Array(100_000).fill(7), fs.readFileSync(path).subarray(0, 3000), new Uint8Array()]) {
      fs.rmSync(path, { force: true });
      fs.writeFileSync(`${path}.part`, bytes);
      expect((await openRight(folder)).progress[0]!.resumed).toBe(0);
    }
  });

  test("of two processes one makes the file, the other waits or finds it", async () => {
    const folder = newFolder();
    const results = await Promise.all([startProcess(folder), startProcess(folder)].map(resultOf));
    expect(results.map(({ made }) => made).sort()).toEqual([false, true]);
    expect((await openRight(folder)).weights.cache!.made).toBe(false);
  });

  test("one that waits says so, hears its signal, and goes on when the other is gone", async () => {
    const { folder, path } = await wholeFile();
    fs.renameSync(path, `${path}.part`);
    const fd = fs.openSync(`${path}.part`, "r+");
    expect(tryLock(fd, path)).toBe(true);
    const stop = new AbortController();
    const notes: string[] = [];
    const onProgress = ({ stage }: WeightCacheProgress) => stage === "waiting" && stop.abort(new Error("enough"));
    const waiting = open(folder, { signal: stop.signal, onNote: (note) => notes.push(note), onProgress });
    await expect(waiting).rejects.toThrow("enough");
    expect(notes).toEqual([`another process makes ${path}, which is waited for`]);
    const { weights } = await open(folder, { onProgress: ({ stage }) => stage === "waiting" && fs.closeSync(fd) });
    expect(readAll(weights)).toEqual(expected);
  });

  test("an abort leaves what is done, and the next one goes on", async () => {
    const folder = newFolder();
    const stop = new AbortController();
    let written = 0;
    // Time for the signal to be heard passes while it writes.
    const io: FileIo = {
      ...fileIo,
      writeSync(fd, bytes, offset, length, position) {
        Bun.sleepSync(10);
        written += length;
        if (written > 580_000) stop.abort(new Error("stopped"));
        return fileIo.writeSync(fd, bytes, offset, length, position);
      },
    };
    await expect(open(folder, { io, signal: stop.signal })).rejects.toThrow("stopped");
    expect(filesIn(folder).length).toBe(1);
    expect((await openRight(folder)).progress[0]!.resumed).toBeGreaterThan(500_000);
    // Heard before anything is made.
    await expect(open(newFolder(), { signal: AbortSignal.abort(new Error("before")) })).rejects.toThrow("before");
  });

  test("a checkpoint that changes while it is read is named, and nothing of it stays", async () => {
    const copy = join(root, "changing");
    fs.cpSync(model, copy, { recursive: true });
    const { source, groups } = openCheckpoint(copy, NF4);
    const { path } = source.tensors.get("model.layers.1.mlp.down_proj.weight")!;
    const folder = newFolder();
    const io: FileIo = {
      ...fileIo,
      writeSync(fd, bytes, offset, length, position) {
        fs.appendFileSync(path, "x");
        return fileIo.writeSync(fd, bytes, offset, length, position);
      },
    };
    expect(await rejection(storedWeights(source, groups, { folder, io }))).toBe(
      `${path} was written to while it was in use; put it back as it was (a file of a cache is made anew), and start again`,
    );
    expect(filesIn(folder)).toEqual([]);
    expect(await rejection(storedWeights(source, groups, { folder }))).toStartWith(`${path} was written to`);
    source.close();
  });
});

describe("a whole file", () => {
  test("is verified once by a process, whose reading of it is over by then", async () => {
    const { folder, path } = await wholeFile();
    expect((await openRight(folder)).weights.cache!.made).toBe(false);
    // Written with the time of its last write put back: only checksums tell, and they are looked at when the file is another one.
    const bytes = fs.readFileSync(path);
    fs.rmSync(path);
    fs.writeFileSync(path, bytes);
    expect((await openRight(folder)).notes).toEqual([]);
  });

  const faults: Readonly<Record<string, readonly [damage: (bytes: Buffer) => Uint8Array, fault: string]>> = {
    "one bit in a part": [
      (bytes) => {
        bytes[bytes.length - 1] = 77;
        return bytes;
      },
      "model.norm.weight does not have its checksum",
    ],
    "a header of another kind": [
      (bytes) => {
        bytes[8] = 2;
        return bytes;
      },
      "its header is another one",
    ],
    "a checksum": [
      (bytes) => {
        bytes.writeUInt32LE(5, endOfHeader(bytes));
        return bytes;
      },
      `${EMBEDDING} does not have its checksum`,
    ],
    "a cut": [(bytes) => bytes.subarray(0, -1), "it has "],
    "nothing in it": [() => new Uint8Array(), "it has 0 bytes, expected "],
    "another program's content": [() => Buffer.from("something else"), "it has 14 bytes, expected "],
  };
  test.each(some(Object.keys(faults), 4))("with %s is made anew, with a note", async (name) => {
    const { folder, path } = await wholeFile();
    const [damage, fault] = faults[name]!;
    fs.writeFileSync(path, damage(fs.readFileSync(path)));
    const { notes, weights } = await openRight(folder);
    expect(notes).toEqual([expect.stringContaining(`${path} is damaged (${fault}`)]);
    expect(weights.cache!.made).toBe(true);
  });

  test("with any changes in its header and checksums gives the right weights or is made anew", async () => {
    // Norms alone, which are made in no time, and of them the last one is read.
    const { source, groups } = checkpoint;
    const norms = groups.map((params) => params.filter(({ name }) => name.includes("norm")));
    const files = source.files.map(({ path }) => openFile(path));
    const tensors = tensorsOf(
      source,
      norms,
      files.map(({ path }) => path),
    );
    const layout = layoutOf("content", norms, tensors)!;
    const last = layout.parts.get("model.norm.weight")!;
    const folder = newFolder();
    const io: FileIo = { ...fileIo, fsyncSync() {} };
    const openNorms = async () => {
      const { file, made } = await openWeightCache({ layout, tensors, files }, { folder, io });
      const bytes = new Uint8Array(last.bytes);
      fs.readSync(file.fd, bytes, 0, last.bytes, last.offset);
      fs.closeSync(file.fd);
      if (!Buffer.from(bytes).equals(expected.get(last.name)!)) throw new Error("other bytes");
      return { path: file.path, made };
    };
    const { path } = await openNorms();
    const seed = fs.readFileSync(path);
    const end = layout.header.length + 8 * layout.parts.size;
    const other = fs.readFileSync((await wholeFile()).path).subarray(0, 8192);
    let made = 0;
    await fuzz(
      "files of converted weights",
      (random) => Buffer.concat([mutateBytes(random, seed.subarray(0, end), [seed.subarray(0, end), other]), seed.subarray(end)]),
      async (bytes) => {
        fs.rmSync(path);
        fs.writeFileSync(path, bytes);
        if ((await openNorms()).made) made++;
      },
    );
    for (const { fd } of files) fs.closeSync(fd);
    expect(made).toBeGreaterThan(0.9 * INPUTS);
  });

  test("that is a folder is an error that names it", async () => {
    const { folder, path } = await wholeFile();
    fs.rmSync(path);
    fs.mkdirSync(path);
    const message = await rejection(open(folder));
    expect(message).toContain(path);
    expect(message).toContain("--no-weight-cache");
  });

  test.each(["cut", "overwritten"])(
    "that is %s while it is open is named; one that is removed or renamed is as it was",
    async (how) => {
      const { folder, path } = await wholeFile();
      const { weights } = await open(folder);
      for (const file of weights.files) expect(changed(file)).toBeNull();
      fs.renameSync(path, `${path}.other`);
      fs.chmodSync(`${path}.other`, 0o600);
      expect(changed(weights.cache!.file)).toBeNull();
      if (how === "cut") fs.truncateSync(`${path}.other`, 5000);
      else {
        const fd = fs.openSync(`${path}.other`, "r+");
        fs.writeSync(fd, Uint8Array.of(1), 0, 1, 6000);
        fs.closeSync(fd);
      }
      const { size } = weights.cache!.file;
      expect(changed(weights.cache!.file)!.message).toStartWith(
        `${path} ${how === "cut" ? `was cut from ${size} to 5000 bytes` : "was written to"} while it was in use`,
      );
      fs.rmSync(`${path}.other`);
      if (how === "cut") expect(() => readAll(weights)).toThrow("is truncated");
    },
  );
});

describe("room on the disk", () => {
  const limit = process.env["REMAT_WEIGHT_CACHE"];
  afterEach(() => {
    if (limit === undefined) delete process.env["REMAT_WEIGHT_CACHE"];
    else process.env["REMAT_WEIGHT_CACHE"] = limit;
  });
  const HINT = "--no-weight-cache converts weights whenever they are read, REMAT_CACHE names another folder for all caches";

  const SIZE = "604 KiB";

  test("a full disk is one message, and what stays can be gone on with", async () => {
    for (const [room, stays] of [
      [100, false],
      [400_000, false],
      [575_000, true],
    ] as const) {
      const folder = newFolder();
      const message = await rejection(open(folder, { io: fullDisk(room) }));
      expect(message).toMatch(
        new RegExp(
          `^cannot write ${folder}/[0-9a-f]{64}.weights.part: the disk is full; .*; the converted weights take ${SIZE} in all; ${HINT}$`,
        ),
      );
      expect(filesIn(folder).length).toBe(stays ? 1 : 0);
      expect((await openRight(folder)).progress[0]!.resumed > 0).toBe(stays);
    }
  });

  test("is looked for before anything is written", async () => {
    const { folder } = await wholeFile();
    process.env["REMAT_WEIGHT_CACHE"] = "500KiB";
    const message = await rejection(open(newFolder()));
    expect(message).toMatch(
      new RegExp(
        `^the converted weights take ${SIZE} in ${root}/cache-\\d+, which may hold 500 KiB \\(REMAT_WEIGHT_CACHE=500KiB\\); a larger limit is set with REMAT_WEIGHT_CACHE=1MiB; ${HINT}$`,
      ),
    );
    expect(filesIn(join(root, `cache-${count - 1}`))).toEqual([]);
    // A file that is there is used whatever the limit says.
    await openRight(folder);
    process.env["REMAT_WEIGHT_CACHE"] = "many";
    expect(await rejection(open(newFolder()))).toStartWith(
      'REMAT_WEIGHT_CACHE is "many": expected the most that converted weights may take, such as 50GiB or 25%',
    );
  });

  test("comes from files that were not used for longest, never from one that is open, and none goes in vain", async () => {
    const folder = newFolder();
    const names: string[] = [];
    const checkpoints = (["nf4", "q8"] as const).flatMap((quantize) =>
      [true, false].map((quantizeEmbedding) => openCheckpoint(model, { quantize, quantizeEmbedding })),
    );
    const make = async (i: number): Promise<StoredWeights> => {
      const { weights } = await open(folder, {}, checkpoints[i]);
      names[i] ??= weights.cache!.file.path;
      return weights;
    };
    const there = () => names.map((name) => fs.existsSync(name));
    const hourAgo = (i: number, hours: number) => {
      const time = Date.now() / 1000 - 3600 * hours;
      for (const file of [names[i]!, `${names[i]!}.used`]) fs.utimesSync(file, time, time);
    };
    for (const i of [0, 1, 2]) (await make(i)).close();
    hourAgo(0, 1);
    hourAgo(1, 3);
    hourAgo(2, 2);
    process.env["REMAT_WEIGHT_CACHE"] = "1350KiB";
    (await make(3)).close();
    expect(there()).toEqual([true, false, true, true]);
    // 608, 60, 640 and 96 KiB. Number 2 is the oldest now, and open.
    const held = await make(2);
    hourAgo(2, 9);
    process.env["REMAT_WEIGHT_CACHE"] = "800KiB";
    (await make(1)).close();
    expect(there()).toEqual([false, true, true, true]);
    // All that may go is too little.
    const message = await rejection(make(0));
    expect(message).toContain("which may hold 800 KiB (REMAT_WEIGHT_CACHE=800KiB) and ");
    expect(there()).toEqual([false, true, true, true]);
    held.close();
    (await make(0)).close();
    expect(there()[2]).toBe(false);
    // What nobody has used for a month goes by itself.
    hourAgo(3, UNUSED_MS / 3_600_000 + 1);
    fs.rmSync(names[1]!);
    delete process.env["REMAT_WEIGHT_CACHE"];
    (await make(1)).close();
    expect(there()).toEqual([true, true, false, false]);
    for (const { source } of checkpoints) source.close();
  });

  test("a folder that cannot be written to is named", async () => {
    const file = join(root, "file");
    fs.writeFileSync(file, "");
    const message = await rejection(open(join(file, "weights")));
    expect(message).toBe(`cannot create the folder ${file}/weights: a part of the path is a file, not a folder; ${HINT}`);
  });
});
