import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { hubCacheFolder, hubToken } from "../../src/hf/hub/hub-cache.ts";
import { resolveModel, type HubOptions } from "../../src/hf/hub/hub.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { filesIn, temporaryFolder } from "./temp.ts";

setDefaultTimeout(120_000);

/** A hub and the storage that it redirects to, each an origin of its own, with faults on request. */
const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const models = new Map<string, Map<string, Buffer>>();
const log: string[] = [];
const faults = { status: 0, times: 0, cutAt: 0, corrupt: false, location: "" };

const sha1 = (bytes: Buffer) => new Bun.CryptoHasher("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
const sha256 = (bytes: Buffer) => new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
const isLarge = (file: string) => file.endsWith(".safetensors");

const storage = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request) {
    const [, org, name, file] = new URL(request.url).pathname.split("/");
    const bytes = models.get(`${org}/${name}`)!.get(file!)!;
    const range = /^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "");
    log.push(`storage ${file} ${request.headers.get("range") ?? "all"} ${request.headers.get("authorization") ?? "no token"}`);
    let body = bytes.subarray(range ? Number(range[1]) : 0);
    if (faults.corrupt) body = Buffer.from(body.map((byte) => byte ^ 1));
    if (faults.cutAt > 0) {
      body = body.subarray(0, faults.cutAt);
      faults.cutAt = 0;
    }
    return new Response(new Uint8Array(body), { status: range ? 206 : 200 });
  },
});

const hub = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request) {
    const path = new URL(request.url).pathname;
    log.push(`${request.method} ${path}`);
    if (faults.times > 0) {
      faults.times--;
      return new Response("fault", { status: faults.status });
    }
    const [, api, , org, name] = path.split("/");
    if (api === "api") {
      const files = models.get(`${org}/${name}`);
      if (!files) return new Response("{}", { status: 401 });
      if (org === "gated" && request.headers.get("authorization") !== "Bearer secret") return new Response("{}", { status: 401 });
      return Response.json({
        sha: COMMIT,
        siblings: [...files.keys(), "README.md", "pytorch_model.bin"].map((rfilename) => ({ rfilename })),
      });
    }
    const [, modelOrg, modelName, , commit, file] = path.split("/");
    const bytes = models.get(`${modelOrg}/${modelName}`)?.get(file!);
    if (!bytes || commit !== COMMIT) return new Response("no", { status: 404 });
    if (isLarge(file!)) {
      const headers = {
        location: faults.location || `http://127.0.0.1:${storage.port}/${modelOrg}/${modelName}/${file}`,
        "x-linked-etag": `"${sha256(bytes)}"`,
        "x-linked-size": String(bytes.length),
      };
      return new Response(null, { status: 302, headers });
    }
    return new Response(request.method === "HEAD" ? null : new Uint8Array(bytes), {
      headers: { etag: `W/"${sha1(bytes)}"`, "content-length": String(bytes.length) },
    });
  },
});

const folder = temporaryFolder();
afterAll(async () => {
  await hub.stop(true);
  await storage.stop(true);
});
afterEach(() => {
  Object.assign(faults, { status: 0, times: 0, cutAt: 0, corrupt: false, location: "" });
  log.length = 0;
});

const json = (value: unknown) => Buffer.from(JSON.stringify(value));
function weights(name: string, values: number): Buffer {
  const path = join(folder, "weights.safetensors");
  writeSafetensors(path, [{ name, dtype: "f32", shape: [values], data: new Float32Array(values).fill(0.5) }]);
  return readFileSync(path);
}

models.set(
  "org/single",
  new Map([
    ["config.json", json({ model_type: "llama" })],
    ["tokenizer.json", json({})],
    ["model.safetensors", weights("w", 5000)],
    ["vocab.json", json({})],
  ]),
);
models.set(
  "org/coded",
  new Map([
    ["config.json", json({ model_type: "internlm2", auto_map: { AutoModelForCausalLM: "modeling_internlm2.X" } })],
    ["tokenizer.model", Buffer.from("pieces")],
    ["modeling_internlm2.py", Buffer.from("# code\n")],
    ["model.safetensors", weights("w", 10)],
  ]),
);
models.set("gated/single", models.get("org/single")!);
models.set(
  "org/sharded",
  new Map([
    ["config.json", json({})],
    ["model.safetensors.index.json", json({ weight_map: { a: "s-1.safetensors", b: "s-2.safetensors" } })],
    ["s-1.safetensors", weights("a", 10)],
    ["s-2.safetensors", weights("b", 20)],
  ]),
);
models.set(
  "org/escape",
  new Map([
    ["config.json", json({})],
    ["model.safetensors.index.json", json({ weight_map: { a: "../../../evil.safetensors" } })],
  ]),
);
models.set("org/pickle", new Map([["config.json", json({})]]));

type Env = Readonly<Record<string, string | undefined>>;

let homes = 0;
function options(env: Record<string, string> = {}, more: Partial<HubOptions> = {}): HubOptions & { readonly env: Env } {
  return {
    env: { HF_ENDPOINT: `http://127.0.0.1:${hub.port}`, HF_HOME: join(folder, `home-${homes++}`), ...env },
    retryDelays: [1, 1],
    ...more,
  };
}

async function failure(model: string, given: HubOptions): Promise<string> {
  const error = await resolveModel(model, given).then(
    (path) => new Error(`resolved to ${path}`),
    (reason: unknown) => reason,
  );
  if (!(error instanceof UserError)) throw error;
  return error.message;
}

describe("downloads", () => {
  test("only what is needed, into the layout of the Python library; a second time nothing is asked but the commit", async () => {
    const given = options();
    const progress: number[] = [];
    const path = await resolveModel("org/single", { ...given, onProgress: ({ bytes }) => progress.push(bytes) });
    const root = join(given.env.HF_HOME!, "hub/models--org--single");
    expect(path).toBe(join(root, "snapshots", COMMIT));
    expect(filesIn(path)).toEqual(["config.json", "model.safetensors", "tokenizer.json"]);
    expect(readFileSync(join(root, "refs/main"), "utf8")).toBe(COMMIT);
    const bytes = models.get("org/single")!.get("model.safetensors")!;
    expect(readlinkSync(join(path, "model.safetensors"))).toBe(`../../blobs/${sha256(bytes)}`);
    expect(lstatSync(join(path, "config.json")).isSymbolicLink()).toBe(true);
    expect(progress.at(-1)).toBe(bytes.length);
    expect(openSafetensors(path).tensors.get("w")!.shape).toEqual([5000]);
    expect(filesIn(join(root, "blobs")).filter((name) => name.endsWith(".incomplete"))).toEqual([]);
    log.length = 0;
    expect(await resolveModel("org/single", given)).toBe(path);
    expect(log).toEqual(["GET /api/models/org/single/revision/main"]);
  });

  test("a vocabulary without tokenizer.json, and the code that the configuration names", async () => {
    expect(filesIn(await resolveModel("org/coded", options()))).toEqual([
      "config.json",
      "model.safetensors",
      "modeling_internlm2.py",
      "tokenizer.model",
    ]);
  });

  test("shards that the index names", async () => {
    const path = await resolveModel("org/sharded", options());
    expect(filesIn(path)).toEqual(["config.json", "model.safetensors.index.json", "s-1.safetensors", "s-2.safetensors"]);
    expect([...openSafetensors(path).tensors.keys()]).toEqual(["a", "b"]);
  });

  test("a connection that breaks is taken up where it broke, also by a later run", async () => {
    faults.cutAt = 7000;
    await resolveModel("org/single", options());
    const size = models.get("org/single")!.get("model.safetensors")!.length;
    expect(log.filter((entry) => entry.startsWith("storage"))).toEqual([
      "storage model.safetensors all no token",
      "storage model.safetensors bytes=7000- no token",
    ]);

    const given = options({}, { retryDelays: [] });
    faults.cutAt = 9000;
    expect(await failure("org/single", given)).toContain(`after 9000 of ${size} bytes`);
    log.length = 0;
    expect(openSafetensors(await resolveModel("org/single", given)).tensors.size).toBe(1);
    expect(log.filter((entry) => entry.startsWith("storage"))).toEqual(["storage model.safetensors bytes=9000- no token"]);
  });

  test("a file whose hash is wrong never gets its name", async () => {
    const given = options();
    faults.corrupt = true;
    expect(await failure("org/single", given)).toContain("does not have the hash");
    const blobs = filesIn(join(given.env.HF_HOME!, "hub/models--org--single/blobs"));
    expect(blobs).toHaveLength(2);
    faults.corrupt = false;
    expect(existsSync(await resolveModel("org/single", given))).toBe(true);
  });

  test("passing faults of the server are tried again, lasting ones reported", async () => {
    Object.assign(faults, { status: 503, times: 2 });
    expect(existsSync(await resolveModel("org/single", options()))).toBe(true);
    Object.assign(faults, { status: 429, times: 3 });
    expect(await failure("org/single", options())).toContain("the server answers 429; try again later");
  });

  test("the token goes to the hub and not to the storage", async () => {
    expect(await failure("gated/single", options())).toContain("log in or set HF_TOKEN");
    expect(await failure("gated/single", options({ HF_TOKEN: "wrong" }))).toContain("the token in use does not allow it");
    await resolveModel("gated/single", options({ HF_TOKEN: "secret" }));
    expect(log.filter((entry) => entry.startsWith("storage"))).toEqual(["storage model.safetensors all no token"]);
  });
});

describe("without a network", () => {
  test("a redirect to a file of this machine is refused", async () => {
    faults.location = `file://${join(folder, "weights.safetensors")}`;
    expect(await failure("org/single", options())).toContain("expected an address on the web");
  });

  test("HF_HUB_OFFLINE and a hub that cannot be reached use the cache, when it is complete", async () => {
    const given = options();
    const path = await resolveModel("org/single", given);
    const offline = { ...given, env: { ...given.env, HF_HUB_OFFLINE: "1" } };
    const unreachable = { ...given, env: { ...given.env, HF_ENDPOINT: "http://127.0.0.1:9" } };
    log.length = 0;
    expect(await resolveModel("org/single", offline)).toBe(path);
    expect(await resolveModel("org/single", unreachable)).toBe(path);
    expect(await resolveModel("org/single", { ...offline, revision: COMMIT })).toBe(path);
    expect(log).toEqual([]);
    rmSync(join(path, "model.safetensors"));
    expect(await failure("org/single", offline)).toContain(
      "not complete in the cache, and it cannot be downloaded: HF_HUB_OFFLINE is set",
    );
    expect(await failure("org/sharded", unreachable)).toMatch(
      /^there is no folder org\/sharded, and the hub cannot be asked for a model of that name: .*check the network$/,
    );
  });
});

describe("names", () => {
  test("local folders are taken as they are", async () => {
    mkdirSync(join(folder, "local"));
    expect(await resolveModel(join(folder, "local"), options())).toBe(join(folder, "local"));
    writeFileSync(join(folder, "file"), "");
    expect(await failure(join(folder, "file"), options())).toContain("is a file");
  });

  test("what is neither a folder nor a name, and names that would leave the cache", async () => {
    for (const name of ["./none", "../up", "a/b/c", "org/..", "", "/absolute", "org/na me", "org/a\0b"]) {
      expect(await failure(name, options())).toContain("no such folder, and not the name of a model");
    }
    for (const revision of ["../../x", "a/../b", "", "a b"])
      expect(await failure("org/single", options({}, { revision }))).toContain("not a branch, tag or commit");
    const given = options();
    expect(await failure("org/escape", given)).toContain("not a file name in the model's folder");
    expect(existsSync(join(given.env.HF_HOME!, "evil.safetensors"))).toBe(false);
  });

  test("a model without safetensors, and one that does not exist", async () => {
    expect(await failure("org/pickle", options())).toContain("choose one whose weights are in safetensors");
    expect(await failure("org/nothing", options())).toContain("private, gated or does not exist");
  });

  test("cache folder and token follow the Python library's variables", () => {
    expect(hubCacheFolder({ HF_HUB_CACHE: "/c", HF_HOME: "/h" })).toBe("/c");
    expect(hubCacheFolder({ HF_HOME: "/h" })).toBe("/h/hub");
    expect(hubCacheFolder({ XDG_CACHE_HOME: "/x" })).toBe("/x/huggingface/hub");
    const home = join(folder, "token-home");
    mkdirSync(home);
    expect(hubToken({ HF_HOME: home })).toBeNull();
    writeFileSync(join(home, "token"), "from-file\n");
    expect(hubToken({ HF_HOME: home })).toBe("from-file");
    expect(hubToken({ HF_HOME: home, HF_TOKEN: " own " })).toBe("own");
  });
});

test("a partial file longer than the whole is begun anew", async () => {
  const given = options();
  const blob = join(
    given.env.HF_HOME!,
    "hub/models--org--single/blobs",
    sha256(models.get("org/single")!.get("model.safetensors")!),
  );
  mkdirSync(join(blob, ".."), { recursive: true });
  writeFileSync(`${blob}.incomplete`, "x");
  truncateSync(`${blob}.incomplete`, 1_000_000);
  const path = await resolveModel("org/single", given);
  expect(statSync(join(path, "model.safetensors")).size).toBe(models.get("org/single")!.get("model.safetensors")!.length);
});
