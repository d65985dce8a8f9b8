import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { tryWebGpu } from "../../test/support/webgpu.ts";
import { createWorld, STEPS, trainArgs, trainedBits, type World } from "../campaigns/world.ts";
import type { Check } from "../webgpu.ts";

const MAIN = join(import.meta.dir, "../../src/cli/main.ts");

/** Devices are opened by one process after the other. */
export async function starts(check: Check): Promise<void> {
  for (let i = 1; i <= 10; i++) {
    const { exitCode, output } = tryWebGpu();
    check(`start ${i}`, exitCode === 0 && output.startsWith("opened"), `exit code ${exitCode}, ${output}`);
  }
}

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function remat(args: readonly string[], env: Readonly<Record<string, string>>, input = ""): Ended {
  const child = Bun.spawnSync([process.execPath, MAIN, ...args], {
    env: { ...process.env, BUN_ENABLE_CRASH_REPORTING: "0", ...env },
    stdin: new TextEncoder().encode(input),
    stdout: "pipe",
    stderr: "pipe",
  });
  return { code: child.exitCode, stdout: child.stdout.toString(), stderr: child.stderr.toString() };
}

/** The program's own lines. */
const lines = (text: string) =>
  text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("Warning: max"))
    .join(" | ");

/** A driver that ends the process as soon as it is loaded. */
const DEADLY = "#include <stdlib.h>\n__attribute__((constructor)) static void end(void) { abort(); }\n";

/** Drivers that are missing, damaged or deadly, for `train` and for `doctor`. */
export async function broken(check: Check, folder: string): Promise<void> {
  const world = await createWorld(join(folder, "drivers"), 1);
  const describe = (name: string, library: string) => {
    const path = join(folder, `${name}.json`);
    writeFileSync(path, JSON.stringify({ file_format_version: "1.0.0", ICD: { library_path: library, api_version: "1.3.0" } }));
    return path;
  };
  const [none, text, deadly] = [join(folder, "nothing.json"), join(folder, "text.so"), join(folder, "deadly.so")];
  writeFileSync(text, "no library");
  writeFileSync(join(folder, "deadly.c"), DEADLY);
  const hasCompiler =
    Bun.which("cc") !== null && Bun.spawnSync(["cc", "-shared", "-fPIC", "-o", deadly, join(folder, "deadly.c")]).exitCode === 0;
  if (!hasCompiler) console.log("     no C compiler: a driver that ends the process is passed over");
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ["no driver", none, /webgpu/],
    ["a driver that is no library", describe("text", text), /webgpu/],
    ...(hasCompiler ? [["a driver that ends the process", describe("deadly", deadly), /crashed \(SIGABRT\)/] as const] : []),
  ];
  for (const [what, driver, expected] of cases) {
    const env = { VK_DRIVER_FILES: driver, VK_ICD_FILENAMES: driver, REMAT_CACHE: join(folder, "cache") };
    const output = world.fresh("train");
    const { code, stderr } = remat([...trainArgs(world.folder, output), "--device", "webgpu"], env);
    const said = lines(stderr);
    check(`${what}: train`, code === 2 && expected.test(said) && !existsSync(output), `exit code ${code}: ${said}`);
    const doctor = remat(["doctor"], env);
    const line = doctor.stdout.split("\n").find((each) => each.startsWith("webgpu")) ?? "";
    check(`${what}: doctor`, doctor.code === 0 && line.includes("does not work"), `exit code ${doctor.code}: ${line}`);
  }
}

/** Whole runs of the command line on the device. */
export async function runs(check: Check, folder: string, kills: number): Promise<void> {
  const world = await createWorld(join(folder, "runs"), 2);
  const env = { REMAT_CACHE: join(folder, "cache") };
  const train = (output: string, more: readonly string[] = []) => [
    ...trainArgs(world.folder, output),
    ..."--device webgpu --dropout 0".split(" "),
    ...more,
  ];
  const trained = (name: string, more: readonly string[] = []): string | null => {
    const output = world.fresh(name);
    const { code, stderr } = remat(train(output, more), env);
    if (code === 0) return output;
    check(name, false, `exit code ${code}: ${lines(stderr)}`);
    return null;
  };
  const begin = performance.now();
  const whole = trained("a whole run");
  if (whole === null) return;
  const ms = performance.now() - begin;
  check("a whole run", true, `${STEPS} steps, ${(ms / 1000).toFixed(1)} s; ${lossesOf(whole)}`);
  await killed(check, world, (output) => train(output), { whole, kills, ms, env });
  for (const [name, more] of [
    ["a run in f16", ["--dtype", "f16"]],
    ["a run with dropout", ["--dropout", "0.1", "--steps", "3"]],
  ] as const) {
    const output = trained(name, more);
    if (output !== null) check(name, true, lossesOf(output));
  }
  readers(check, world, whole, env);
}

/** The verbs that read what was trained, on the device and on the kernels. */
function readers(check: Check, world: World, adapter: string, env: Readonly<Record<string, string>>): void {
  const model = ["--model", join(world.folder, "model"), "--adapter", adapter, "--threads", "1"];
  const answers = join(world.folder, "answers.jsonl");
  const both = (args: readonly string[], input = "") =>
    ["webgpu", "wasm"].map((device) => {
      const { code, stdout, stderr } = remat([...args, "--device", device], env, input);
      return { code, text: stdout, said: lines(stderr), written: existsSync(answers) ? readFileSync(answers, "utf8") : "" };
    }) as [Answer, Answer];
  const note = (name: string, [own, kernels]: [Answer, Answer], isSame: boolean, detail: string) =>
    check(name, own.code === 0 && kernels.code === 0 && isSame, own.code === 0 ? detail : own.said);

  const judged = both(["eval", ...model, "--data", join(world.folder, "data.jsonl"), "--json"]);
  const [loss = NaN, expected = NaN] = judged.map(({ text }) => Number(/"loss": ?([\d.]+)/.exec(text)?.[1]));
  note("eval", judged, Math.abs(loss / expected - 1) <= 1e-4, `loss ${loss}, on the kernels ${expected}`);
  const written = both(["generate", ...model, "--data", join(world.folder, "prompts.jsonl"), "--out", answers, ...GREEDY]);
  note("generate", written, written[0].written !== "" && written[0].written === written[1].written, "the kernels' answers");
  const said = both(["chat", ...model, ...CHAT], "Define king.\n");
  note("chat", said, said[0].text.trim() !== "" && said[0].text === said[1].text, `the kernels' answer: ${said[0].text.trim()}`);
}

interface Answer {
  readonly code: number | null;
  readonly text: string;
  readonly said: string;
  readonly written: string;
}

const CHAT = "--max-new-tokens 8 --temperature 0".split(" ");
const GREEDY = [...CHAT, "--overwrite"];

interface Killing {
  /** The folder of a run that was not disturbed. */
  readonly whole: string;
  readonly kills: number;
  /** How long it took. */
  readonly ms: number;
  readonly env: Readonly<Record<string, string>>;
}

/** A run that is killed at random and resumed, each time in the same folder. */
async function killed(check: Check, world: World, args: (output: string) => readonly string[], killing: Killing): Promise<void> {
  const { whole, kills, ms, env } = killing;
  const output = world.fresh("killed");
  for (let i = 0; i < kills; i++) {
    const child = Bun.spawn([process.execPath, MAIN, ...args(output)], {
      env: { ...process.env, ...env },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    await Promise.race([Bun.sleep(ms * (0.4 + 0.5 * world.random.uniform())), child.exited]);
    child.kill("SIGKILL");
    await child.exited;
  }
  const { code, stderr } = remat(args(output), env);
  const isSame = code === 0 && trainedBits(output) === trainedBits(whole);
  check(`killed ${kills} times and resumed`, isSame, code === 0 ? lossesOf(output) : `exit code ${code}: ${lines(stderr)}`);
}

function lossesOf(output: string): string {
  const losses = readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { readonly type: string; readonly loss?: number })
    .flatMap(({ type, loss }) => (type === "step" && loss !== undefined ? [loss] : []));
  return `loss ${losses[0]?.toFixed(4)} to ${losses.at(-1)?.toFixed(4)}`;
}
