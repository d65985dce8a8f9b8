import { afterAll, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deflateRawSync } from "node:zlib";
import { UserError } from "../../src/base/errors.ts";
import { PROVIDER_FILES } from "../../src/ort/cuda.ts";
import { CUDA_PACKAGE, installCuda, type ProviderPackage } from "../../src/ort/install.ts";
import { loadOrt } from "../../src/ort/library.ts";
import { filesIn, temporaryFolder } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const contents = new Map(PROVIDER_FILES.map((name, i) => [`capi/${name}`, Buffer.from(`${name} `.repeat(5000 + i))]));

/** A ZIP archive; the first entry is stored, the others are deflated. */
function zip(entries: ReadonlyMap<string, Buffer>): Buffer {
  const local: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = 0;
  for (const [name, data] of entries) {
    const stored = local.length === 0;
    const packed = stored ? data : deflateRawSync(data);
    const header = Buffer.alloc(30);
    header.writeUInt32LE(0x04034b50, 0);
    header.writeUInt16LE(name.length, 26);
    header.writeUInt16LE(3, 28);
    const entry = Buffer.alloc(46);
    entry.writeUInt32LE(0x02014b50, 0);
    entry.writeUInt16LE(stored ? 0 : 8, 10);
    entry.writeUInt32LE(packed.length, 20);
    entry.writeUInt32LE(data.length, 24);
    entry.writeUInt16LE(name.length, 28);
    entry.writeUInt32LE(offset, 42);
    const piece = Buffer.concat([header, Buffer.from(name), Buffer.from("xyz"), packed]);
    local.push(piece);
    central.push(entry, Buffer.from(name));
    offset += piece.length;
  }
  const directory = Buffer.concat(central);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(entries.size, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...local, directory, end]);
}

const archive = zip(new Map([["other.txt", Buffer.from("something else")], ...contents]));
const faults = { cutAt: 0, corrupt: false, status: 200 };
beforeEach(() => void Object.assign(faults, { cutAt: 0, corrupt: false, status: 200 }));
const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  fetch(request) {
    if (faults.status !== 200) return new Response("fault", { status: faults.status });
    const range = /^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "");
    let body = archive.subarray(range ? Number(range[1]) : 0);
    if (faults.corrupt) body = Buffer.from(body.map((byte) => byte ^ 1));
    if (faults.cutAt > 0) body = body.subarray(0, faults.cutAt);
    faults.cutAt = 0;
    return new Response(new Uint8Array(body), { status: range ? 206 : 200 });
  },
});
afterAll(() => server.stop(true));

const source: ProviderPackage = {
  version: loadOrt().version,
  url: `${server.url}provider.whl`,
  bytes: archive.length,
  sha256: new Bun.CryptoHasher("sha256").update(archive).digest("hex"),
  folder: "capi",
};

async function refused(action: Promise<unknown>): Promise<string> {
  const error = await action.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).message;
}

function expectInstalled(folder: string, paths: readonly string[]): void {
  expect(paths).toEqual(PROVIDER_FILES.map((name) => join(folder, name)));
  expect(filesIn(folder)).toEqual([...PROVIDER_FILES].sort());
  for (const name of PROVIDER_FILES) expect(readFileSync(join(folder, name)).equals(contents.get(`capi/${name}`)!)).toBe(true);
}

describe.if(process.platform === "linux" && process.arch === "x64")("installing the CUDA provider", () => {
  test("the package fits the installed ONNX Runtime", () => {
    expect(CUDA_PACKAGE.version).toBe(loadOrt().version);
    expect(CUDA_PACKAGE.sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test("both files, and nothing else, come beside the library; a connection that breaks is taken up again", async () => {
    const folder = temporaryFolder();
    faults.cutAt = 100;
    const seen: number[] = [];
    const options = { folder, source, retryDelays: [0], onBytes: (bytes: number) => void seen.push(bytes) };
    expectInstalled(folder, await installCuda(options));
    expect(seen.at(-1)).toBe(archive.length);
    // Again over what is there.
    expectInstalled(folder, await installCuda(options));
  });

  test("from a file, without network", async () => {
    const folder = temporaryFolder();
    const from = join(temporaryFolder(), "provider.whl");
    writeFileSync(from, archive);
    expectInstalled(folder, await installCuda({ folder, source: { ...source, url: "http://127.0.0.1:1/none" }, from }));
    expect(existsSync(from)).toBe(true);
  });

  test("a wrong checksum installs nothing", async () => {
    const folder = temporaryFolder();
    faults.corrupt = true;
    expect(await refused(installCuda({ folder, source, retryDelays: [] }))).toContain("hash");
    expect(filesIn(folder)).toEqual([]);
    const from = join(temporaryFolder(), "provider.whl");
    writeFileSync(from, archive.subarray(1));
    expect(await refused(installCuda({ folder, source, from }))).toContain(`does not have the checksum ${source.sha256}`);
    expect(filesIn(folder)).toEqual([]);
  });

  test("without network: one clear error with the way around it", async () => {
    const folder = temporaryFolder();
    const url = "http://127.0.0.1:1/provider.whl";
    const message = await refused(installCuda({ folder, source: { ...source, url }, retryDelays: [0] }));
    expect(message).toContain(url);
    expect(message).toContain("--from FILE");
    faults.status = 404;
    expect(await refused(installCuda({ folder, source, retryDelays: [] }))).toContain("not found");
    expect(filesIn(folder)).toEqual([]);
  });

  test("another version of ONNX Runtime, a missing file, an archive without the files", async () => {
    const folder = temporaryFolder();
    const { version } = source;
    expect(await refused(installCuda({ folder, source: { ...source, version: "1.2.3" } }))).toBe(
      `the CUDA provider's files are of ONNX Runtime 1.2.3, but ${version} is installed here`,
    );
    const from = join(folder, "none.whl");
    expect(await refused(installCuda({ folder, source, from }))).toBe(`--from ${from}: there is no such file`);
    expect(await refused(installCuda({ folder, source: { ...source, folder: "lib" } }))).toContain("does not hold lib/");
    expect(filesIn(folder)).toEqual([]);
  });
});
