import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { combinations, slowTest } from "./support/slow.ts";

setDefaultTimeout(120_000);

/** The package as it would be published, in a folder without the clone around it. */
const root = join(import.meta.dir, "..");
const home = mkdtempSync(join(tmpdir(), "remat-package-"));
const installed = join(home, "package");
const work = join(home, "work");

function run(command: readonly string[], cwd: string): { code: number; stdout: string; stderr: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync([...command], { cwd, stdout: "pipe", stderr: "pipe" });
  return { code: exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
}

const remat = (...args: string[]) => run([process.execPath, join(installed, "src/cli/main.ts"), ...args], work);

describe("the package", () => {
  beforeAll(() => {
    // As prepack does; the kernels are there already.
    expect(run([process.execPath, "run", "types"], root).code).toBe(0);
    const pack = run([process.execPath, "pm", "pack", "--ignore-scripts", "--destination", home], root);
    expect(pack.stderr + pack.stdout).toContain("Total files");
    const archive = readdirSync(home).find((name) => name.endsWith(".tgz"))!;
    // What is downloaded, as the README has it: the base model takes most of it.
    expect(statSync(join(home, archive)).size).toBeLessThan(8e6);
    expect(run(["tar", "-xzf", archive], home).code).toBe(0);
    mkdirSync(work);
    // Everything that is installed but the development dependencies.
    const { devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    const modules = join(installed, "node_modules");
    mkdirSync(join(modules, "@types"), { recursive: true });
    for (const name of readdirSync(join(root, "node_modules")))
      if (!(name in devDependencies) && !name.startsWith(".") && name !== "@types")
        symlinkSync(join(root, "node_modules", name), join(modules, name));
  });
  afterAll(() => rmSync(home, { recursive: true }));

  test("holds what a user needs, and nothing of development", () => {
    for (const folder of ["src", "recipes", "docs", "assembly", "build"]) {
      const files = (at: string) => readdirSync(join(at, folder), { recursive: true, encoding: "utf8" }).sort();
      // What the base model was made of is in the repository alone.
      expect(files(installed)).toEqual(files(root).filter((path) => path !== "base/kjv.txt.gz"));
    }
    for (const path of [
      "README.md",
      "LICENSE",
      "NOTICE",
      "docs/verbs.md",
      "recipes/base/model/model.safetensors",
      "build/kernels",
    ])
      expect(statSync(join(installed, path)).isFile()).toBe(true);
    for (const path of ["test", "bench", ".ci"]) expect(readdirSync(installed)).not.toContain(path);
  });

  test("its command is the one that package.json names", () => {
    const { bin, version } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8"));
    expect(readFileSync(join(installed, bin.remat), "utf8")).toStartWith("#!/usr/bin/env bun\n");
    expect(remat("--version").stdout).toBe(`${version}\n`);
  });

  test("has the server's page, which is bundled where it is installed", () => {
    const code = `import { bundlePage } from ${JSON.stringify(join(installed, "src/serve/home/page/bundle.ts"))};
      console.log([...(await bundlePage()).keys()].map((name) => name.split(".").at(-1)).sort().join(" "));`;
    const { stdout, stderr } = run([process.execPath, "-e", code], work);
    expect([stdout, stderr]).toEqual(["css html js svg\n", ""]);
  });

  test("works without its optional dependencies", () => {
    const { optionalDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(Object.keys(optionalDependencies)).toEqual(["onnxruntime-node"]);
    const link = join(installed, "node_modules/onnxruntime-node");
    unlinkSync(link);
    const model = join(installed, "recipes/base/model");
    for (const [device, env] of combinations(["ort-cpu", "cuda", "webgpu"], [{}, { REMAT_ORT: "addon" }])) {
      const command = [process.execPath, join(installed, "src/cli/main.ts"), "chat", "--model", model, "--prompt", "x"];
      const { exitCode, stderr } = Bun.spawnSync([...command, "--device", device], {
        cwd: work,
        env: { ...process.env, ...env },
        stderr: "pipe",
      });
      expect(stderr.toString()).toStartWith("remat: ONNX Runtime is not there: expected the package onnxruntime-node");
      expect(exitCode).toBe(2);
    }
    const train = ["train", "devils-dictionary", "--steps", "1", "--output", "refused", "--device", "ort-cpu"];
    expect(remat(...train)).toMatchObject({ code: 2, stdout: "" });
    expect(readdirSync(work)).toEqual([]);
    const step = remat("train", "devils-dictionary", "--steps", "1", "--eval-limit", "64", "--no-sample", "--output", "bare");
    symlinkSync(join(root, "node_modules/onnxruntime-node"), link);
    expect(step.code).toBe(0);
    expect(step.stdout + step.stderr).toContain("ONNX Runtime is not there");
    rmSync(join(work, "bare"), { recursive: true });
  });

  slowTest("trains with the kernels that came with it", () => {
    const train = remat("train", "devils-dictionary", "--steps", "1", "--eval-limit", "64", "--no-sample", "--output", "run");
    expect(train.code).toBe(0);
    expect(readdirSync(join(work, "run"))).toContain("adapter_model.safetensors");
    const answer = remat("chat", "--model", "run", "--prompt", "Love", "--max-new-tokens", "4", "--seed", "1");
    expect(answer.code).toBe(0);
    expect(readdirSync(work)).toEqual(["run"]);
  });

  test("a project that has it imports it, and type-checks as strictly as a compiler can", () => {
    const project = join(home, "project");
    mkdirSync(join(project, "node_modules"), { recursive: true });
    symlinkSync(installed, join(project, "node_modules/remat"));
    symlinkSync(join(root, "node_modules/@types"), join(project, "node_modules/@types"));
    const page = readFileSync(join(root, "docs/library.md"), "utf8");
    const examples = [...page.matchAll(/^```ts\n([^]*?)^```/gm)].map(([, code]) => code!);
    const files = examples.map((_, i) => `example-${i}.ts`);
    examples.forEach((code, i) => writeFileSync(join(project, files[i]!), code));
    writeFileSync(
      join(project, "wrong.ts"),
      'import { train } from "remat";\n// @ts-expect-error there is no such key\nawait train({ model: "m", data: "d", rnk: 1 });\n',
    );
    const compilerOptions = {
      strict: true,
      noUncheckedIndexedAccess: true,
      noPropertyAccessFromIndexSignature: true,
      erasableSyntaxOnly: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      types: ["node"],
      target: "ES2023",
      module: "ESNext",
      moduleResolution: "bundler",
      noEmit: true,
    };
    writeFileSync(join(project, "package.json"), JSON.stringify({ type: "module" }));
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [...files, "wrong.ts"] }));
    const checked = run([join(root, "node_modules/.bin/tsc"), "-p", project], project);
    expect(checked).toEqual({ code: 0, stdout: "", stderr: "" });
    const names = run([process.execPath, "-e", 'console.log(Object.keys(await import("remat")).sort().join())'], project);
    expect(names.stdout.trim()).toBe(
      "UserError,classify,createKey,createMemoryControl,defineConfig,deleteKey,embed,evaluate,exportGguf,exportOnnx,generate,joinFederation,leadFederation,listKeys,merge,node,openChat,plan,rerank,serve,step,train",
    );
  });
});
