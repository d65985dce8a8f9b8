import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { flagsOf, parseFlags, shownName, textOf } from "../flags/flags.ts";
import { suggestion } from "../../base/names.ts";
import { ALIASES, type VerbTable } from "../flags/verb.ts";

export const flags = z.strictObject({});

const SHELLS = { bash, zsh, fish } as const;
export const words = Object.keys(SHELLS);

export function help(): string {
  return `Prints a script that completes verbs, flags and their values.

Usage: remat completion bash|zsh|fish

bash   add to ~/.bashrc:               source <(remat completion bash)
zsh    add to ~/.zshrc after compinit: source <(remat completion zsh)
fish   run once:                       remat completion fish > ~/.config/fish/completions/remat.fish`;
}

export async function run(args: readonly string[], table: VerbTable): Promise<number> {
  const { words: given } = parseFlags(flags, args);
  const [shell] = given;
  if (shell === undefined || given.length > 1) throw new UserError(`completion takes one shell: ${words.join(", ")}`);
  if (!Object.hasOwn(SHELLS, shell)) throw new UserError(`no completion for ${JSON.stringify(shell)}${suggestion(shell, words)}`);
  process.stdout.write(SHELLS[shell as keyof typeof SHELLS](await readVerbs(table)));
  return 0;
}

interface CompletedFlag {
  readonly name: string;
  readonly description: string;
  readonly choices: readonly string[];
  /** Takes a value that is not one of `choices`: a file, as a rule. */
  readonly isOpen: boolean;
}

interface CompletedVerb {
  readonly name: string;
  readonly summary: string;
  readonly words: readonly string[];
  readonly flags: readonly CompletedFlag[];
}

async function readVerbs(table: VerbTable): Promise<CompletedVerb[]> {
  const read = async (name: string, from: string, summary: string): Promise<CompletedVerb> => {
    const module = await table[from]!.load();
    const named = flagsOf(module.flags).map((flag): CompletedFlag => {
      const { kind, choices } = flag;
      return {
        name: shownName(flag),
        description: textOf(flag),
        choices,
        isOpen: kind !== "boolean" && choices.length === 0,
      };
    });
    const all = [...named, { name: "--help", description: "explain the verb", choices: [], isOpen: false }];
    return { name, summary, words: name === from ? (module.words ?? []) : [], flags: all };
  };
  const own = Object.entries(table).map(([name, { summary }]) => read(name, name, summary));
  const aliases = Object.entries(ALIASES).map(([name, [verb, ...rest]]) =>
    read(name, verb!, `the same as ${[verb, ...rest].join(" ")}`),
  );
  return Promise.all([...own, ...aliases]);
}

/** A single-quoted word of a POSIX shell. */
const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

function bash(verbs: readonly CompletedVerb[]): string {
  const values = (verb: CompletedVerb) =>
    verb.flags
      .filter(({ choices }) => choices.length > 0)
      .map(
        ({ name, choices }) =>
          `    ${verb.name},${name}) COMPREPLY=($(compgen -W ${quote(choices.join(" "))} -- "$current")); return ;;\n`,
      );
  const open = (verb: CompletedVerb) =>
    verb.flags
      .filter(({ isOpen }) => isOpen)
      .map(({ name }) => `    ${verb.name},${name}) COMPREPLY=($(compgen -f -- "$current")); return ;;\n`);
  const lists = verbs.map(
    (verb) => `    ${verb.name}) words=${quote([...verb.words, ...verb.flags.map(({ name }) => name)].join(" "))} ;;\n`,
  );
  return `_remat() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}" verb="\${COMP_WORDS[1]}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W ${quote(verbs.map(({ name }) => name).join(" "))} -- "$current"))
    return
  fi
  case "$verb,$previous" in
${verbs.flatMap((verb) => [...values(verb), ...open(verb)]).join("")}  esac
  case "$verb" in
${lists.join("")}  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  case "$current" in -*) ;; *) COMPREPLY+=($(compgen -f -- "$current")) ;; esac
}
complete -o filenames -F _remat remat
`;
}

function zsh(verbs: readonly CompletedVerb[]): string {
  // In _arguments, brackets and colons separate.
  const escape = (text: string): string => text.replaceAll(/[[\]:\\]/g, (char) => `\\${char}`);
  const argument = ({ name, description, choices, isOpen }: CompletedFlag): string =>
    quote(
      `${name}[${escape(description)}]${choices.length > 0 ? `:value:(${choices.join(" ")})` : isOpen ? ":value:_files" : ""}`,
    );
  const cases = verbs.map((verb) => {
    const first = verb.words.length > 0 ? quote(`1:action:(${verb.words.join(" ")})`) : "";
    return `    ${verb.name}) _arguments ${[first, ...verb.flags.map(argument), quote("*:file:_files")].filter(Boolean).join(" ")} ;;\n`;
  });
  return `#compdef remat
_remat() {
  local -a verbs
  verbs=(${verbs.map(({ name, summary }) => quote(`${name}:${summary}`)).join(" ")})
  if (( CURRENT == 2 )); then
    _describe verb verbs
    return
  fi
  local verb=$words[2]
  shift words
  (( CURRENT-- ))
  case $verb in
${cases.join("")}  esac
}
compdef _remat remat
`;
}

function fish(verbs: readonly CompletedVerb[]): string {
  // Fish escapes quotes and backslashes within single quotes.
  const fishQuote = (text: string): string => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
  const lines = verbs.flatMap((verb) => {
    const when = `-n '__fish_seen_subcommand_from ${verb.name}'`;
    return [
      `complete -c remat -f -n __fish_use_subcommand -a ${verb.name} -d ${fishQuote(verb.summary)}`,
      ...verb.words.map((word) => `complete -c remat ${when} -a ${word}`),
      ...verb.flags.map(({ name, description, choices, isOpen }) => {
        const value = choices.length > 0 ? ` -x -a ${fishQuote(choices.join(" "))}` : isOpen ? " -r" : "";
        return `complete -c remat ${when} -l ${name.slice(2)}${value} -d ${fishQuote(description)}`;
      }),
    ];
  });
  return `${lines.join("\n")}\n`;
}
