/** A worker that adds 1 to each value it is sent, for the test of what processes send each other. */
import { type Freed, isFreed, type Laid, openSharedValues } from "../../src/train/nodes/shared-values.ts";

interface Numbers {
  readonly values: Uint8Array<ArrayBuffer>;
}

const post = (message: Laid<Numbers> | Freed | string) => void process.send!(message);
const shared = openSharedValues(post, true);
process.on("message", (told: Laid<Numbers> | Freed) => {
  if (isFreed(told)) return shared.freed(told);
  const { values } = shared.pick<Numbers>(told);
  post(shared.lay({ values: values.map((value) => value + 1) }));
});
process.send!("listening");
