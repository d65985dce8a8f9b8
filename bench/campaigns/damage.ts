import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Random } from "../../src/base/random.ts";
import {
  copy,
  filesUnder,
  generateArgs,
  hashFile,
  isRefusal,
  shown,
  STEPS,
  Tally,
  trainArgs,
  trainedBits,
  type World,
} from "./world.ts";

/** Files that a verb reads, in a folder that is copied for each damage. */
interface Target {
  readonly name: string;
  readonly folder: string;
  /** Files of the folder, by name. */
  readonly files: readonly string[];
  /** Reads the damaged copy. Returns the arguments, the bits of what was written, and the folder of caches. */
  reader(damaged: string, output: string): { readonly args: string[]; bits(): string; readonly cache?: string };
  /** The bits without damage. */
  readonly bits: string;
  /** True where another byte may be another value, which no checksum stands beside. */
  readonly isUnchecked?: boolean;
}

/** Flips a bit of one byte, or cuts a file at a random length. Returns which, in words. */
function damageFile(path: string, random: Random): string {
  const bytes = readFileSync(path);
  if (random.below(3) === 0) {
    const length = random.below(bytes.length);
    writeFileSync(path, bytes.subarray(0, length));
    return `cut to ${length} of ${bytes.length} bytes`;
  }
  const at = random.below(bytes.length);
  const bit = random.below(8);
  bytes[at]! ^= 1 << bit;
  writeFileSync(path, bytes);
  return `bit ${bit} of byte ${at} of ${bytes.length} flipped`;
}

async function targetsOf(world: World): Promise<Target[]> {
  const { folder } = world;
  const whole = (name: string) => join(folder, `whole-${name}`);
  const generated = (model: (damaged: string) => string[]) => (damaged: string, output: string) => ({
    args: generateArgs(folder, model(damaged), output),
    bits: () => hashFile(output),
  });
  const merged = world.fresh("answers");
  await undisturbed(world, generateArgs(folder, ["--model", whole("merge")], merged));
  const half = world.fresh("half");
  await undisturbed(world, trainArgs(folder, half, undefined, STEPS / 2));
  // Names of steps have leading zeros: the last is the newest, which is resumed from.
  const newest = dirname(filesUnder(half).findLast((name) => name.startsWith("checkpoints/step-"))!);
  const checkpoints = filesUnder(half).filter((name) => dirname(name) === newest);
  const cache = copy(join(folder, "cache"), world.fresh("cache"));
  const ofTraining = world.baseline.get("train")!.bits;
  return [
    {
      name: "model",
      folder: whole("merge"),
      files: ["config.json", "tokenizer.json", "model.safetensors"],
      reader: generated((damaged) => ["--model", damaged]),
      bits: hashFile(merged),
    },
    {
      name: "adapter",
      folder: whole("train"),
      files: ["adapter_config.json", "adapter_model.safetensors"],
      reader: generated((damaged) => ["--model", join(folder, "model"), "--adapter", damaged]),
      bits: world.baseline.get("generate")!.bits.split(" ").at(-1)!,
    },
    {
      name: "checkpoint",
      folder: half,
      files: checkpoints,
      reader: (damaged) => ({ args: ["train", damaged, "--resume", "--steps", String(STEPS)], bits: () => trainedBits(damaged) }),
      bits: ofTraining,
    },
    {
      name: "token cache",
      folder: cache,
      files: filesUnder(cache).filter((name) => name.startsWith("tokens/")),
      reader: (damaged, output) => ({ args: trainArgs(folder, output), bits: () => trainedBits(output), cache: damaged }),
      bits: ofTraining,
    },
    {
      name: "data",
      folder: copy(join(folder, "data.jsonl"), join(world.fresh("data"), "data.jsonl")).slice(0, -"/data.jsonl".length),
      files: ["data.jsonl"],
      reader: (damaged, output) => ({
        args: trainArgs(folder, output, join(damaged, "data.jsonl")),
        bits: () => trainedBits(output),
      }),
      bits: ofTraining,
      isUnchecked: true,
    },
  ];
}

async function undisturbed(world: World, args: readonly string[]): Promise<void> {
  const ended = await world.run(args);
  if (ended.code !== 0) throw new Error(`${args[0]} when nothing disturbs it: ${shown(ended, world)}`);
}

/** Damages every file that is read, each `count` times: a clear error or the same result; of texts without a checksum, another text. */
export async function damage(world: World, count: number): Promise<Tally> {
  const tally = new Tally();
  for (const target of await targetsOf(world)) {
    if (target.files.length === 0) throw new Error(`${target.name}: no files to damage`);
    for (const file of target.files) {
      for (let i = 0; i < count; i++) {
        const damaged = copy(target.folder, world.fresh(target.name));
        const how = `${target.name}, ${file}: ${damageFile(join(damaged, file), world.random)}`;
        const { args, bits, cache } = target.reader(damaged, world.fresh("read"));
        const ended = await world.run(args, cache);
        if (isRefusal(ended)) tally.add(`refused (${target.name})`);
        else if (ended.code !== 0) tally.lose(`${how}: ${shown(ended, world)}`);
        else if (bits() === target.bits) tally.add(`the same result (${target.name})`);
        else if (target.isUnchecked) tally.add(`learned as another text (${target.name})`);
        else tally.lose(`${how}: another result, without a word`);
      }
    }
  }
  return tally;
}
