import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { exportGguf } from "../../../src/library/export-gguf.ts";
import { GGUF_ENCODERS, GGUF_JUDGES, GGUF_TEXTS, writeGgufEncoder } from "../../support/gguf-encoder.ts";

/** Makes the files that encoder.mjs loads, in the folder that is named. */
const folder = process.argv[2]!;
const model = writeGgufEncoder(join(folder, "bert"));
for (const type of ["f32", "q8_0"] as const) await exportGguf({ model, out: join(folder, `${type}.gguf`), type });
for (const [name, make] of Object.entries({ ...GGUF_ENCODERS, ...GGUF_JUDGES }))
  await exportGguf({ model: make(join(folder, name)), out: join(folder, `${name}.gguf`), type: "f32" });
const names = { encoders: Object.keys(GGUF_ENCODERS), judges: Object.keys(GGUF_JUDGES) };
writeFileSync(join(folder, "texts.json"), JSON.stringify({ texts: GGUF_TEXTS, ...names }));
