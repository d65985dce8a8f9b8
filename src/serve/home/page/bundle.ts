import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { IS_EXECUTABLE, PROGRAM_FOLDER } from "../../../base/process/program.ts";

/** A file of the page as browsers get it. */
export interface PageFile {
  readonly type: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The files of the page by their names; those other than `index.html` have a hash of what is in them in their names. */
export type PageFiles = ReadonlyMap<string, PageFile>;

export const INDEX = "index.html";

/** The folder in the executable that holds the files of the page. */
export const BUNDLED = "page";

const TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  svg: "image/svg+xml",
};

const fileOf = (name: string, bytes: Uint8Array<ArrayBuffer>): readonly [string, PageFile] => {
  const type = TYPES[name.split(".").at(-1)!];
  if (type === undefined) throw new Error(`the page has a file of an unknown type: ${name}`);
  return [name, { type, bytes }];
};

/** Bundles the page from its sources: some 20 ms, which are spent when it is first asked for. */
export async function bundlePage(): Promise<PageFiles> {
  const { outputs } = await Bun.build({
    entrypoints: [join(PROGRAM_FOLDER, "src/page", INDEX)],
    target: "browser",
    minify: true,
    // Relative, so that a proxy may put the server under a path of its own.
    publicPath: `${BUNDLED}/`,
  });
  return new Map(
    await Promise.all(outputs.map(async (file) => fileOf(basename(file.path), new Uint8Array(await file.arrayBuffer())))),
  );
}

/** Returns the files of the page: from the executable, which holds them bundled, or from their sources. */
export async function pageFiles(): Promise<PageFiles> {
  if (!IS_EXECUTABLE) return bundlePage();
  const folder = join(PROGRAM_FOLDER, BUNDLED);
  return new Map(readdirSync(folder).map((name) => fileOf(name, Uint8Array.from(readFileSync(join(folder, name))))));
}
