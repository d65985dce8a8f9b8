/** A thread that reads all weights it gets the places of. */
import type { OpenFile } from "../../../src/base/files/open-file.ts";
import type { WeightPlace } from "../../../src/load/stored/reader.ts";
import { readAll } from "../../support/checkpoint.ts";

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<{ files: readonly OpenFile[]; places: ReadonlyMap<string, WeightPlace> }>) => {
  self.postMessage(readAll(data));
};
