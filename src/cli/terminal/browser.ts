import { printNote } from "./terminal.ts";

/** The parts of a machine that show a file in a browser; a test replaces them. */
export interface Desktop {
  readonly platform: NodeJS.Platform;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Somebody looks at the output: it is a terminal. */
  readonly isTerminal: boolean;
  which(program: string): string | null;
  /** Starts a program that goes on by itself. */
  start(command: readonly string[]): void;
}

const HERE: Desktop = {
  platform: process.platform,
  env: process.env,
  isTerminal: process.stderr.isTTY === true,
  which: (program) => Bun.which(program),
  start: (command) => Bun.spawn([...command], { stdio: ["ignore", "ignore", "ignore"], detached: true }).unref(),
};

/** Shows a file in the browser. In a pipe, in CI and where there is no desktop, a note says where the file is. */
export function openInBrowser(path: string, desktop: Desktop = HERE, note: (text: string) => void = printNote): void {
  const reason = reasonAgainst(desktop);
  const program = desktop.platform === "darwin" ? "open" : "xdg-open";
  if (reason !== null) return note(`${path} is not opened: ${reason}`);
  const found = desktop.which(program);
  if (found === null) return note(`${path} is not opened: there is no ${program} here`);
  try {
    desktop.start([found, path]);
  } catch (error) {
    note(`${path} is not opened: ${program} cannot be started: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function reasonAgainst({ platform, env, isTerminal }: Desktop): string | null {
  if (env["CI"]) return "CI is set, so that nobody would see it";
  if (!isTerminal) return "standard error is no terminal, so that nobody would see it";
  if (platform === "darwin") return null;
  if (platform !== "linux") return `no program is known that opens files on ${platform}`;
  return env["DISPLAY"] || env["WAYLAND_DISPLAY"] ? null : "there is no desktop (DISPLAY and WAYLAND_DISPLAY are not set)";
}
