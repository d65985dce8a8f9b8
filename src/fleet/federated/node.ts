import { version } from "../../../package.json" with { type: "json" };
import { UserError } from "../../base/errors.ts";
import type { LocalTraining } from "./local-training.ts";
import {
  type Message,
  type NodeNumbers,
  partAt,
  partsOf,
  PROTOCOL,
  readReply,
  type Reply,
  type Request,
  type Transport,
  UnreachableError,
  writeRequest,
} from "./messages.ts";
import { type NodeFiles, openNodeFiles } from "./node-files.ts";
import { type PrivateSteps, privacySpent } from "./privacy/accountant.ts";
import type { Federation } from "./settings.ts";
import { decode, encodedBytes, encodeWithRest } from "../../base/codes.ts";
import { digestOf } from "./updates/layout.ts";

/** Describes what a node tells. */
export type NodeEvent =
  | {
      readonly type: "joined";
      readonly run: string;
      readonly rounds: number;
      readonly parameters: number;
      readonly examples: number;
    }
  | { readonly type: "waiting"; readonly why: string }
  | {
      readonly type: "trained";
      readonly round: number;
      readonly loss: number;
      readonly tokens: number;
      readonly heldOut: NodeNumbers | null;
      readonly epsilon: number | null;
      readonly bytes: number;
      readonly seconds: number;
    }
  | { readonly type: "sent"; readonly round: number; readonly counts: boolean }
  | {
      readonly type: "federated";
      readonly rounds: number;
      readonly heldOut: NodeNumbers | null;
      readonly epsilon: number | null;
    };

export interface NodeOptions {
  readonly transport: Transport;
  readonly node: string;
  /** The folder of what the node keeps, and of the adapter at the end. */
  readonly folder: string;
  open(federation: Federation): Promise<LocalTraining>;
  readonly sink: (event: NodeEvent) => void;
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds that the coordinator may be away. */
  readonly patienceMs: number;
  /** Milliseconds between two looks whether there is something to do (default: 1000). */
  readonly pollMs?: number;
}

type ReplyOf<Type extends Reply["type"]> = Extract<Reply, { readonly type: Type }>;

/** Requests with their answers: repeated while nobody answers. */
interface Line {
  ask<Type extends Reply["type"]>(
    request: Request,
    body: Uint8Array | undefined,
    ...types: readonly Type[]
  ): Promise<Message<ReplyOf<Type>>>;
  wait(): Promise<void>;
}

function openLine({ transport, signal, patienceMs, pollMs = 1000, sink }: NodeOptions): Line {
  const wait = async () => {
    await Bun.sleep(pollMs);
    signal?.throwIfAborted();
  };
  return {
    wait,
    async ask(request, body, ...types) {
      const message = writeRequest(request, body);
      const begin = performance.now();
      for (let told = false; ;) {
        signal?.throwIfAborted();
        try {
          const reply = readReply(await transport.request(message));
          const { head } = reply;
          if ((types as readonly string[]).includes(head.type)) return reply as never;
          throw new UserError(
            head.type === "refused"
              ? `the coordinator: ${head.message}`
              : `the coordinator answers ${request.type} with ${head.type}`,
          );
        } catch (error) {
          if (!(error instanceof UnreachableError)) throw error;
          if (performance.now() - begin > patienceMs)
            throw new UserError(
              `the coordinator has not answered for ${Math.round(patienceMs / 1000)} seconds (${error.message}); start this node again when it is there: it goes on where it was`,
            );
          if (!told) sink({ type: "waiting", why: "no coordinator answers" });
          told = true;
          await wait();
        }
      }
    },
  };
}

/** Tries to send an update whose parts the coordinator has lost. */
const MOST_TRIES = 100;

/**
 * Takes part in a federation to its end: fetches the common model, measures it on the held-out examples, trains on the node's own data, sends what was learned.
 * Whatever ends the process, called again it goes on where it was.
 * @throws {UserError} another base model, another version, a coordinator that stays away
 */
export async function takePart(options: NodeOptions): Promise<{ readonly heldOut: NodeNumbers | null }> {
  const { node, folder, sink, signal } = options;
  const line = openLine(options);
  const welcome = await line.ask({ type: "join", protocol: PROTOCOL, version, node }, undefined, "welcome");
  const { federation } = welcome.head;
  const { run } = federation;
  const files = openNodeFiles(folder, { run, node });
  const training = await options.open(federation);
  try {
    begin(files, federation, training, node);
    sink({ type: "joined", run, rounds: federation.rounds, parameters: training.layout.size, examples: training.examples });
    const state = () => files.state!;
    let isWaiting = false;
    for (;;) {
      if (state().pending) await send(files, federation, line, sink);
      const { head } = await line.ask({ type: "status", run, node }, undefined, "round");
      if (!head.isDone && head.isIn) {
        if (!isWaiting) sink({ type: "waiting", why: `round ${head.round} is not closed yet` });
        isWaiting = true;
        await line.wait();
        continue;
      }
      isWaiting = false;
      // The round may be over by the time that its model is here.
      if (!(await fetchModel(files, federation, line, head))) continue;
      training.write(files.readVector(state().model));
      if (head.isDone) break;
      await learnRound(files, federation, training, options, head.round);
    }
    const heldOut = await training.evaluate(signal);
    await line.ask({ type: "evaluation", run, node, heldOut }, undefined, "received");
    training.export(folder);
    sink({ type: "federated", rounds: federation.rounds, heldOut, epsilon: epsilonOf(federation, state().spent) });
    return { heldOut };
  } finally {
    training.close();
  }
}

/** Holds the node's first model against the coordinator's, and restores what an earlier process has left. */
function begin(files: NodeFiles, federation: Federation, training: LocalTraining, node: string): void {
  const { run, layout, initial } = federation;
  if (training.layout.digest !== layout)
    throw new UserError("this node would learn other parameters than the coordinator's; are the base models the same?");
  if (files.state === null) {
    const model = training.read();
    if (digestOf(model) !== initial)
      throw new UserError("the first values of this node's adapter are not those of the coordinator; are the versions the same?");
    const first = files.write("model", bytesOf(model));
    files.commit({
      run,
      node,
      has: 1,
      model: first,
      rest: null,
      optimizer: null,
      position: { draw: 0, count: 0 },
      spent: [],
      pending: null,
    });
  } else if (files.state.optimizer) {
    files.read(files.state.optimizer);
    training.load(files.path(files.state.optimizer));
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer>) => new Uint8Array(buffer, byteOffset, byteLength);

/** Brings the node's copy of the common model up to a round, change by change. False: there is a newer round by now. */
async function fetchModel(
  files: NodeFiles,
  { run, encoding }: Federation,
  line: Line,
  { round, model: digest }: ReplyOf<"round">,
): Promise<boolean> {
  const state = files.state!;
  if (state.has === round) return true;
  const fetchParts = async (make: (part: number) => Request): Promise<Uint8Array | null> => {
    const got: Uint8Array[] = [];
    for (let part = 0, parts = 1; part < parts; part++) {
      const { head, body } = await line.ask(make(part), undefined, "part", "gone");
      if (head.type === "gone") return null;
      got.push(body);
      parts = head.parts;
    }
    return new Uint8Array(Buffer.concat(got));
  };
  let model: Float32Array<ArrayBuffer> | null = files.readVector(state.model);
  for (let next = state.has + 1; model !== null && next <= round; next++) {
    const change = await fetchParts((part) => ({ type: "change", run, round: next, part }));
    const added: Float32Array | null = change && decode(change, model.length, encoding);
    model = added && model.map((value, i) => value + added[i]!);
  }
  if (model === null || digestOf(model) !== digest) {
    // It was away for longer than changes are kept.
    const whole = await fetchParts((part) => ({ type: "model", run, round, part }));
    if (whole === null) return false;
    model = new Float32Array(whole.slice().buffer);
    if (digestOf(model) !== digest) throw new UserError("the common model has not the checksum that the coordinator states");
  }
  files.commit({ ...state, has: round, model: files.write("model", bytesOf(model)) });
  return true;
}

/** Trains for a round, and keeps what is to be sent. */
async function learnRound(
  files: NodeFiles,
  federation: Federation,
  training: LocalTraining,
  { sink, signal }: NodeOptions,
  round: number,
): Promise<void> {
  const begun = performance.now();
  const state = files.state!;
  const { localSteps, encoding, privacy } = federation;
  const heldOut = await training.evaluate(signal);
  const learned = await training.learn({ steps: localSteps, done: (round - 1) * localSteps, position: state.position, signal });
  const model = files.readVector(state.model);
  const after = training.read();
  const rest = state.rest && files.readVector(state.rest);
  const coded = encodeWithRest(
    after.map((value, i) => value - model[i]!),
    rest,
    encoding,
  );
  const path = files.fresh("optimizer");
  training.save(path);
  const spent = learned.spent ? withSteps(state.spent, learned.spent) : state.spent;
  const epsilon = epsilonOf(federation, spent);
  const seconds = (performance.now() - begun) / 1000;
  // With DP-SGD everything about training examples but their number has noise, or stays here.
  const told = privacy ? { tokens: null, loss: null } : { tokens: learned.tokens, loss: learned.loss };
  files.commit({
    ...state,
    optimizer: files.keep(path),
    position: learned.position,
    spent,
    pending: {
      round,
      update: files.write("update", coded.bytes),
      rest: files.write("rest", bytesOf(coded.rest)),
      report: { examples: training.examples, ...told, heldOut, epsilon, seconds },
    },
  });
  sink({
    type: "trained",
    round,
    loss: learned.loss,
    tokens: learned.tokens,
    heldOut,
    epsilon,
    bytes: coded.bytes.length,
    seconds,
  });
}

/** Sends the update that is ready, as often as the coordinator loses its parts. */
async function send(files: NodeFiles, federation: Federation, line: Line, sink: NodeOptions["sink"]): Promise<void> {
  const state = files.state!;
  const { round, update, rest, report } = state.pending!;
  const { run } = federation;
  const { node } = state;
  const bytes = files.read(update);
  const parts = partsOf(bytes.length);
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    for (let part = 0; part < parts; part++)
      await line.ask({ type: "upload", run, node, round, part, parts }, partAt(bytes, part), "received");
    const { head } = await line.ask(
      { type: "commit", run, node, round, digest: update.sha256, report },
      undefined,
      "committed",
      "refused",
    );
    if (head.type === "refused") {
      if (!head.again) throw new UserError(`the coordinator: ${head.message}`);
      await line.wait();
      continue;
    }
    // An update that came too late is as if this node had been away: what earlier codes left out is still to be sent.
    files.commit({ ...state, pending: null, rest: head.counts ? rest : state.rest });
    sink({ type: "sent", round, counts: head.counts });
    return;
  }
  throw new UserError(`the coordinator has lost the update of round ${round} ${MOST_TRIES} times`);
}

/** Steps with the ones before: those of the same kind are counted together. */
function withSteps(spent: readonly PrivateSteps[], { rate, noise, steps }: PrivateSteps): PrivateSteps[] {
  const same = spent.findIndex((one) => one.rate === rate && one.noise === noise);
  if (same < 0) return [...spent, { rate, noise, steps }];
  return spent.map((one, i) => (i === same ? { ...one, steps: one.steps + steps } : one));
}

/** The epsilon of all that the node has sent; null: without DP-SGD, or without noise. */
function epsilonOf({ privacy }: Federation, spent: readonly PrivateSteps[]): number | null {
  if (!privacy) return null;
  const { epsilon } = privacySpent(spent, privacy.delta);
  return Number.isFinite(epsilon) ? epsilon : null;
}

/** Bytes that a node sends of its update in a round, and that it is sent of the common model's change. */
export const bytesEachWay = (parameters: number, { encoding }: Pick<Federation, "encoding">): number =>
  encodedBytes(parameters, encoding);
