import { openLibc } from "../../src/base/process/libc.ts";
import { bf16Routines, fewRowsRoutines, int8Routines, thinRoutines } from "../../src/wasm/machine-code/executable.ts";

/** PR_SET_MDWE with PR_MDWE_REFUSE_EXEC_GAIN: from here on nothing that was writable becomes executable. Linux 6.3 and later have it. */
const [PR_SET_MDWE, REFUSE_EXEC_GAIN] = [65, 1];

const libc = openLibc({ prctl: { args: ["int", "u64", "u64", "u64", "u64"], returns: "int" } })!;
if (libc.prctl(PR_SET_MDWE!, REFUSE_EXEC_GAIN!, 0, 0, 0) !== 0) {
  console.log("this kernel refuses nothing");
} else {
  console.log(fewRowsRoutines() === null ? "none for few rows" : "some for few rows");
  console.log(thinRoutines() === null ? "none for experts" : "some for experts");
  for (const routines of [bf16Routines, int8Routines]) {
    try {
      console.log(`some: ${Object.keys(routines()).join()}`);
    } catch (error) {
      console.log(`${(error as Error).name}: ${(error as Error).message}`);
    }
  }
}
