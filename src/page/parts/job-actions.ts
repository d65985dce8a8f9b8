import { messageOf, send } from "../api/client.ts";
import type { Job } from "../api/types.ts";
import { h } from "../base/dom.ts";
import type { Jobs } from "../state/jobs.ts";
import { ask, note } from "./dialog.ts";
import { isOver } from "./status.ts";

/** Buttons that pause, resume and cancel a job. */
export function jobActions(jobs: Jobs): { readonly element: HTMLElement; show(job: Job): void } {
  let job: Job | null = null;
  const act = async (what: "pause" | "resume" | "cancel") => {
    try {
      jobs.put(await send<Job>(`v1/fine_tuning/jobs/${job!.id}/${what}`));
    } catch (error) {
      note(messageOf(error), "error");
    }
  };
  const cancel = async () => {
    const isMeant = await ask({
      title: "Cancel this job?",
      content: [h("p", {}, "Its checkpoints stay, and can be talked to; the job itself does not go on.")],
      action: "Cancel the job",
      isDangerous: true,
    });
    if (isMeant) await act("cancel");
  };
  const pause = h("button", { type: "button", onclick: () => void act("pause") }, "Pause");
  const resume = h("button", { type: "button", class: "primary", onclick: () => void act("resume") }, "Resume");
  const stop = h("button", { type: "button", class: "danger", onclick: () => void cancel() }, "Cancel");
  const element = h("div", { class: "actions" }, pause, resume, stop);
  return {
    element,
    show(shown) {
      job = shown;
      element.hidden = isOver(shown);
      const isFocused = [pause, resume].some((button) => button === document.activeElement);
      pause.hidden = isOver(shown) || shown.remat.paused;
      resume.hidden = isOver(shown) || !shown.remat.paused;
      stop.hidden = isOver(shown);
      // The button under the finger has become the other one.
      if (isFocused) [pause, resume].find((button) => !button.hidden)?.focus();
    },
  };
}
