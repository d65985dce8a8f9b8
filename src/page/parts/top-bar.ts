import { get } from "../api/client.ts";
import type { BoxMemory } from "../api/types.ts";
import { attribute, h, write } from "../base/dom.ts";
import { formatBytes } from "../base/format.ts";
import { themeSwitch } from "../base/theme.ts";
import type { Connection } from "../state/event-feed.ts";
import type { Jobs } from "../state/jobs.ts";

const CONNECTIONS: Readonly<Record<Connection, string>> = {
  live: "Live",
  lost: "Connecting…",
  refused: "No access",
};

/** Milliseconds between two looks at the memory of the box. */
const LOOK_MS = 5000;

/**
 * Completes the page's head, which is painted before any script runs: whether the server is there, and how much of the box's memory is held.
 */
export function topBar(head: Element, jobs: Jobs) {
  const links = [...head.querySelectorAll("nav a")];
  const sign = h("span", { class: "connection", role: "status" });
  const level = h("i");
  const memory = h(
    "a",
    { class: "box-memory", href: "#/models", hidden: true },
    h("span", { class: "meter" }, level),
    h("span", { class: "text" }),
  );
  head.append(h("div", { class: "right" }, memory, sign, themeSwitch()));
  const showConnection = () => {
    const { connection } = jobs;
    if (sign.dataset["state"] === connection) return;
    sign.dataset["state"] = connection;
    write(sign, CONNECTIONS[connection]);
  };
  jobs.watch(showConnection);
  showConnection();
  const look = async () => {
    if (document.hidden || jobs.connection !== "live") return;
    try {
      const { limit, free } = await get<BoxMemory>("v1/memory");
      memory.hidden = false;
      level.style.width = `${(100 * (limit - free)) / limit}%`;
      const text = `${formatBytes(limit - free)} of ${formatBytes(limit)}`;
      write(memory.querySelector(".text")!, text);
      memory.setAttribute("aria-label", `Memory of the box that is held: ${text}`);
    } catch {
      // The sign beside it says that the server is away.
    }
  };
  setInterval(() => void look(), LOOK_MS);
  const end = jobs.watch(() => {
    if (jobs.connection !== "live") return;
    end();
    void look();
  });
  return {
    showPlace(path: string) {
      // A job is one of the jobs, and federations are listed below them.
      const place = `#/${path.replace(/^(?:job|federation)\/.*/, "")}`;
      for (const link of links) attribute(link, "aria-current", link.getAttribute("href") === place ? "page" : null);
    },
  };
}
