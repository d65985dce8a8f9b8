import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { version } from "../../../package.json" with { type: "json" };
import { createRandom, type Random } from "../../../src/base/random.ts";
import {
  type Coordinator,
  type CoordinatorEvent,
  createCoordinator,
  type RoundRules,
} from "../../../src/fleet/federated/coordinator.ts";
import type { LocalTraining } from "../../../src/fleet/federated/local-training.ts";
import {
  PART_BYTES,
  PROTOCOL,
  readReply,
  type Request,
  type Transport,
  UnreachableError,
  writeRequest,
} from "../../../src/fleet/federated/messages.ts";
import { type NodeEvent, takePart } from "../../../src/fleet/federated/node.ts";
import { type Federation, federationSchema } from "../../../src/fleet/federated/settings.ts";
import { digestOf, layoutOf } from "../../../src/fleet/federated/updates/layout.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { SLOW } from "../../support/slow.ts";

const folder = temporaryFolder();
const SIZE = 500;
/** More than one part of a message in f32. */
const LARGE = PART_BYTES / 4 + 100;
const RULES: RoundRules = {
  nodes: 2,
  least: 2,
  roundMs: 3_600_000,
  weighting: "examples",
  aggregate: "average",
  outer: { learningRate: 1, momentum: 0 },
};

const layoutOfSize = (size: number) => layoutOf([{ name: "w", shape: [size] }]);

const federationOf = (more: Partial<Federation> = {}, size = SIZE): Federation =>
  federationSchema.parse({
    run: "0123456789abcdef",
    training: {},
    rounds: 3,
    localSteps: 1,
    encoding: "int8",
    privacy: null,
    model: { name: "m", hub: null, config: "c", weights: "w", tokenizer: "t" },
    layout: layoutOfSize(size).digest,
    initial: digestOf(new Float32Array(size)),
    ...more,
  });

/** Thrown where a test ends a process. */
class Killed extends Error {}

interface Box {
  readonly name: string;
  readonly target: number;
  readonly examples: number;
}

/** Told where a node is; throws where it is to die, or resolves when it may go on. */
type Meets = (where: string) => void | Promise<void>;

/** A node that goes half of the way to a target of its own in each round, and remembers how many it has made. */
function training({ target, examples }: Box, meets: Meets, size: number): LocalTraining {
  let model = new Float32Array(size);
  let steps = 0;
  return {
    layout: layoutOfSize(size),
    examples,
    read: () => model.slice(),
    write: (next) => void (model = next.slice()),
    evaluate: async () => ({ loss: (model[3]! - target) ** 2, labelled: examples, metrics: {} }),
    async learn({ position }) {
      await meets("learn");
      steps++;
      model = model.map((value, i) => value + 0.5 * (target * (1 + (i % 7)) - value));
      return { loss: 1, tokens: 5, position: { draw: position.draw + 1, count: position.count + 1 }, spent: null };
    },
    save(file) {
      writeFileSync(file, String(steps));
      void meets("save");
    },
    load: (file) => void (steps = Number(readFileSync(file, "utf8"))),
    export() {},
    close() {},
  };
}

/** A coordinator that may be killed and begun anew. */
function open(name: string, federation: Federation, rules: Partial<RoundRules> = {}, size = SIZE) {
  const events: CoordinatorEvent[] = [];
  const models: Float32Array[] = [];
  let coordinator: Coordinator | null = null;
  const start = () => {
    coordinator = createCoordinator({
      folder: join(folder, name),
      federation,
      layout: layoutOfSize(size),
      rules: { ...RULES, ...rules },
      begin: () => new Float32Array(size),
      sink: (event) => events.push(event),
      onModel: (model) => models.push(model),
      lingerMs: 3000,
    });
  };
  start();
  const ask = (request: Request, body?: Uint8Array) => readReply(coordinator!.handle(writeRequest(request, body))).head;
  return {
    events,
    models,
    size,
    ask,
    start,
    get coordinator() {
      return coordinator;
    },
    kill() {
      coordinator?.close();
      coordinator = null;
    },
    /** @param lose whether a message, or its answer, is lost */
    transport: (lose: () => boolean = () => false): Transport => ({
      async request(message) {
        await Bun.sleep(0);
        if (!coordinator || lose()) throw new UnreachableError("no answer");
        const reply = coordinator.handle(message);
        if (lose()) throw new UnreachableError("the answer is lost");
        return reply;
      },
      async close() {},
    }),
  };
}

type Opened = ReturnType<typeof open>;

async function joinBox(
  opened: Opened,
  name: string,
  box: Box,
  { meets = () => {}, lose }: { readonly meets?: Meets; readonly lose?: () => boolean } = {},
) {
  const events: NodeEvent[] = [];
  const { heldOut } = await takePart({
    transport: opened.transport(lose),
    node: box.name,
    folder: join(folder, `${name}-${box.name}`),
    open: async () => training(box, meets, opened.size),
    sink(event) {
      events.push(event);
      void meets(event.type);
    },
    patienceMs: 20_000,
    pollMs: 2,
  });
  return { events, heldOut };
}

const rounds = ({ events }: Opened) => events.filter((event) => event.type === "round");
const BOXES: readonly Box[] = [
  { name: "a", target: 1, examples: 1 },
  { name: "b", target: -1, examples: 3 },
];

describe("rounds", () => {
  test.each([
    ["examples", -0.5],
    ["equal", 0],
  ] as const)("weighted by %s, all go where the mean of what they want is", async (weighting, wanted) => {
    const opened = open(`weights-${weighting}`, federationOf({ rounds: 12, encoding: "f32" }), { weighting });
    const results = await Promise.all(BOXES.map((box) => joinBox(opened, `weights-${weighting}`, box)));
    await opened.coordinator!.done;
    opened.kill();
    const model = opened.models.at(-1)!;
    expect(Math.abs(model[0]! - wanted)).toBeLessThan(1e-3);
    expect(Math.abs(model[6]! - 7 * wanted)).toBeLessThan(7e-3);
    expect(rounds(opened).map(({ round }) => round)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
    expect(rounds(opened)[0]!.nodes.map(({ node, share }) => [node, share])).toEqual(
      weighting === "equal"
        ? [
            ["a", 0.5],
            ["b", 0.5],
          ]
        : [
            ["a", 0.25],
            ["b", 0.75],
          ],
    );
    const last = opened.events.at(-1);
    expect(last).toMatchObject({ type: "federated", nodes: { a: results[0]!.heldOut!, b: results[1]!.heldOut! } });
  });

  test("what is larger than a message goes in parts", async () => {
    const opened = open("large", federationOf({ rounds: 2, encoding: "f32" }, LARGE), {}, LARGE);
    await Promise.all(BOXES.map((box) => joinBox(opened, "large", box)));
    await opened.coordinator!.done;
    opened.kill();
    expect(opened.models.at(-1)).toEqual(Float32Array.from({ length: LARGE }, (_, i) => -0.375 * (1 + (i % 7))));
    expect(rounds(opened)[0]!.change).toBeGreaterThan(PART_BYTES);
  });

  test("a node that is away for some rounds, or for more than changes are kept, goes on with the others' model", async () => {
    const boxes = [...BOXES, { name: "c", target: 4, examples: 4 }];
    const opened = open("away", federationOf({ rounds: 16 }), { nodes: 2 });
    const until = (round: number) => ({
      meets(where: string) {
        if (where === "learn" && rounds(opened).length >= round) throw new Killed();
      },
    });
    const others = Promise.all(BOXES.map((box) => joinBox(opened, "away", box)));
    await expect(joinBox(opened, "away", boxes[2]!, until(1))).rejects.toThrow(Killed);
    while (rounds(opened).length < 3) await Bun.sleep(2);
    await expect(joinBox(opened, "away", boxes[2]!, until(4))).rejects.toThrow(Killed);
    while (rounds(opened).length < 14) await Bun.sleep(2);
    const { heldOut } = await joinBox(opened, "away", boxes[2]!);
    const results = await others;
    await opened.coordinator!.done;
    opened.kill();
    const without = rounds(opened).filter(({ nodes }) => !nodes.some(({ node }) => node === "c"));
    expect(without.length).toBeGreaterThan(8);
    // All have measured the same model, each by its own target.
    const value = opened.models.at(-1)![3]!;
    for (const [i, numbers] of [...results.map((result) => result.heldOut), heldOut].entries())
      expect(numbers!.loss).toBeCloseTo((value - boxes[i]!.target) ** 2, 6);
  });

  test("when a round's time is over it is closed with those that are there; an update that comes later does not count", async () => {
    const opened = open("late", federationOf({ rounds: 3 }), { least: 1, roundMs: 300 });
    let isFirst = true;
    const slow = joinBox(opened, "late", BOXES[1]!, {
      async meets(where) {
        if (where !== "learn" || !isFirst) return;
        isFirst = false;
        while (rounds(opened).length < 1) await Bun.sleep(2);
      },
    });
    const [, { events }] = await Promise.all([joinBox(opened, "late", BOXES[0]!), slow]);
    await opened.coordinator!.done;
    opened.kill();
    expect(rounds(opened)[0]!.nodes.map(({ node }) => node)).toEqual(["a"]);
    expect(events.find(({ type }) => type === "sent")).toEqual({ type: "sent", round: 1, counts: false });
    const numbers = rounds(opened).map(({ nodes }) => nodes.length);
    expect(events.filter((event) => event.type === "sent" && event.counts).length).toBe(
      numbers.filter((count) => count === 2).length,
    );
  });

  test("whichever process is killed at whichever instant, and whatever is lost on the way, the model is that of an undisturbed run", async () => {
    const federation = federationOf({ rounds: 8 });
    const calm = open("calm", federation);
    await Promise.all(BOXES.map((box) => joinBox(calm, "calm", box)));
    await calm.coordinator!.done;
    calm.kill();
    for (let seed = 0; seed < (SLOW ? 8 : 1); seed++) {
      const name = `killed-${seed}`;
      const random = createRandom(seed, name);
      const opened = open(name, federation);
      let isOver = false;
      let kills = 0;
      const killer = (async () => {
        while (!isOver) {
          await Bun.sleep(1 + random.below(60));
          opened.kill();
          kills++;
          await Bun.sleep(random.below(10));
          opened.start();
        }
      })();
      const run = async (box: Box, own: Random) => {
        for (;;) {
          try {
            const meets = () => {
              if (own.below(8) === 0) throw new Killed();
            };
            return await joinBox(opened, name, box, { meets, lose: () => own.below(20) === 0 });
          } catch (error) {
            if (!(error instanceof Killed)) throw error;
            kills++;
          }
        }
      };
      await Promise.all(BOXES.map((box) => run(box, createRandom(seed, box.name))));
      isOver = true;
      await killer;
      opened.kill();
      expect(opened.models.at(-1)).toEqual(calm.models.at(-1)!);
      expect(kills).toBeGreaterThan(3);
      // Nothing of earlier rounds is left but the changes that are kept.
      const files = readdirSync(join(folder, name));
      expect(files.filter((file) => file.startsWith("update-"))).toEqual([]);
      expect(files.filter((file) => file.startsWith("change-")).length).toBe(8);
    }
  });
});

describe("messages", () => {
  const opened = () => open(`messages-${names++}`, federationOf());
  let names = 0;
  const run = "0123456789abcdef";
  const report = { examples: 1, tokens: 1, loss: 1, heldOut: null, epsilon: null, seconds: 1 };

  test("other versions are refused with both named, and so is another run", () => {
    const { ask, kill } = opened();
    expect(ask({ type: "join", protocol: PROTOCOL + 1, version: "9.9", node: "x" })).toMatchObject({
      type: "refused",
      message: `the node x has version 9.9 (protocol ${PROTOCOL + 1}), the coordinator ${version} (protocol ${PROTOCOL}); give both the same version`,
    });
    expect(ask({ type: "status", run: "0000000000000000", node: "x" })).toMatchObject({ type: "refused" });
    kill();
  });

  test("an update counts once, whole, and with its checksum; another one under the same name is refused", () => {
    const { ask, kill } = opened();
    const update = new Uint8Array(SIZE + 4 * Math.ceil(SIZE / 128));
    const digest = new Bun.CryptoHasher("sha256").update(update).digest("hex");
    const commit = (more: object = {}) => ask({ type: "commit", run, node: "x", round: 1, digest, report, ...more } as Request);
    expect(commit()).toMatchObject({ type: "refused", again: true });
    expect(ask({ type: "upload", run, node: "x", round: 1, part: 0, parts: 2 }, update)).toMatchObject({ type: "refused" });
    expect(ask({ type: "upload", run, node: "x", round: 1, part: 0, parts: 1 }, update)).toEqual({ type: "received" });
    expect(commit({ digest: "0" })).toMatchObject({ type: "refused", again: true });
    ask({ type: "upload", run, node: "x", round: 1, part: 0, parts: 1 }, update);
    expect(commit()).toEqual({ type: "committed", counts: true });
    expect(commit()).toEqual({ type: "committed", counts: true });
    expect(commit({ digest: "1" })).toMatchObject({ type: "refused", again: false });
    expect(commit({ node: "y", round: 7 })).toEqual({ type: "committed", counts: false });
    kill();
  });

  test("bytes that are no message, and names that are no names, are answered and change nothing", () => {
    const { coordinator, ask, kill } = opened();
    const random = createRandom(4, "bytes");
    for (let i = 0; i < 500; i++) {
      const bytes = writeRequest({ type: "status", run, node: "x" });
      for (let k = 0; k < 3; k++) bytes[random.below(bytes.length)] = random.below(256);
      const { head } = readReply(
        coordinator!.handle(bytes.subarray(0, random.below(2) === 0 ? bytes.length : random.below(bytes.length))),
      );
      expect(["refused", "round"]).toContain(head.type);
    }
    expect(ask({ type: "status", run, node: "../x" })).toMatchObject({ type: "refused" });
    expect(ask({ type: "status", run, node: "x" })).toMatchObject({ type: "round", round: 1, isIn: false });
    kill();
  });
});
