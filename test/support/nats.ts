import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Path of Debian's `nats-server`, or null: tests of a fleet are passed over without one, and say so. */
export const NATS_SERVER = Bun.which("nats-server", { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/usr/local/sbin` });

export interface NatsServer {
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** Ends the process as a failing machine would; what JetStream stored stays on disk. */
  kill(): Promise<void>;
  /** Starts it again on the same port and store. */
  restart(): Promise<void>;
  /** Ends it and removes its store. */
  close(): Promise<void>;
}

/**
 * Starts a NATS server with JetStream on this machine, on a free port, with a store of its own. Extra arguments are the server's.
 * @param address of this machine, at which it listens
 */
export async function startNats(extra: readonly string[] = [], address = "127.0.0.1"): Promise<NatsServer> {
  if (NATS_SERVER === null) throw new Error("no nats-server is installed");
  const store = mkdtempSync(join(tmpdir(), "remat-test-nats-"));
  const port = freePort(address);
  const start = () => spawned(["-a", address, "-p", String(port), "-js", "-sd", store, ...extra]);
  let child = await start();
  const kill = async () => {
    child.kill("SIGKILL");
    await child.exited;
  };
  return {
    url: `nats://${address}:${port}`,
    port,
    get pid() {
      return child.pid;
    },
    kill,
    async restart() {
      await kill();
      child = await start();
    },
    async close() {
      await kill();
      rmSync(store, { recursive: true, force: true });
    },
  };
}

function freePort(hostname: string): number {
  const listener = Bun.listen({ hostname, port: 0, socket: { data() {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

async function spawned(args: readonly string[]) {
  const child = Bun.spawn([NATS_SERVER!, ...args], { stdout: "ignore", stderr: "pipe" });
  const decoder = new TextDecoder();
  let said = "";
  // Read to the end of its life: a Go program is ended by a write to a standard error that nobody reads.
  await new Promise<void>((resolve, reject) => {
    const follow = async () => {
      for await (const chunk of child.stderr) {
        if (said.includes("Server is ready")) continue;
        said += decoder.decode(chunk, { stream: true });
        if (said.includes("Server is ready")) resolve();
      }
      reject(new Error(`nats-server ended: ${said}`));
    };
    follow().catch(reject);
  });
  return child;
}
