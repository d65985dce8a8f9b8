import { setKeyDialog } from "./api/client.ts";
import { startRouter } from "./base/router.ts";
import { askForKey } from "./parts/dialog.ts";
import { topBar } from "./parts/top-bar.ts";
import { createJobs } from "./state/jobs.ts";
import { chatView } from "./views/chat.ts";
import { federationView } from "./views/fleet/federation.ts";
import { jobView } from "./views/job.ts";
import { jobsView } from "./views/jobs.ts";
import { modelsView } from "./views/models.ts";
import { trainView } from "./views/train.ts";

setKeyDialog(askForKey);
const jobs = createJobs();
const bar = topBar(document.querySelector("#top")!, jobs);
startRouter(
  document.querySelector("#main")!,
  [
    [
      /^job\/([^/]+)$/,
      ([id], query) =>
        jobView(
          jobs,
          id!,
          (query.get("with") ?? "").split(",").filter((other) => other !== ""),
        ),
    ],
    [/^federation\/([^/]+)$/, ([id]) => federationView(id!)],
    [/^train$/, (_, query) => trainView(jobs, query.get("model"))],
    [/^chat$/, (_, query) => chatView(query.get("left"), query.get("right"))],
    [/^models$/, () => modelsView(jobs)],
    [/^/, () => jobsView(jobs)],
  ],
  bar.showPlace,
);
