import type { VerbEvent } from "../../train/run/events.ts";
import { printEvent } from "./display.ts";
import { printNote } from "./terminal.ts";

/** Shows what verbs other than `train` tell: JSON lines on standard output, or notes and warnings on standard error. */
export function createVerbSink(json: boolean, show: (event: VerbEvent) => void = () => {}): (event: VerbEvent) => void {
  // How answers are sampled is for a reader's eyes.
  if (json) return (event) => event.type !== "sampling" && printEvent(event);
  return (event) => {
    if (event.type === "note") printNote(event.text);
    else if (event.type === "warning") process.stderr.write(`warning: ${event.text}\n`);
    else show(event);
  };
}
