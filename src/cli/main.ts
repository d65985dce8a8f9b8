#!/usr/bin/env bun
import { runCommandLine } from "./command-line.ts";
import { guardOutput, reportOutputFailure } from "./terminal/output.ts";

guardOutput();
process.exitCode = await runCommandLine(process.argv.slice(2));
// Where the output was lost, whatever was asked for is not done.
if (await reportOutputFailure()) process.exitCode = 2;
