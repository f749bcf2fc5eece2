// Inside a machine under test only: runs commands for the tests, as root, over a port that is forwarded to them. It is
// brought in by an archive beside the initramfs (qemu/host.ts) and is in no image.
import { spawn } from "node:child_process";
import { createServer } from "node:http";

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const { argv, input } = JSON.parse(Buffer.concat(chunks).toString("utf8"));
    const [file, ...args] = argv;
    const child = spawn(file, args, { stdio: ["pipe", "pipe", "pipe"] });
    const out = [];
    const err = [];
    child.stdout.on("data", (chunk) => out.push(chunk));
    child.stderr.on("data", (chunk) => err.push(chunk));
    child.stdin.on("error", () => undefined);
    child.stdin.end(Buffer.from(input ?? "", "base64"));
    const answer = (code, message = "") => {
      const stdout = Buffer.concat(out).toString("base64");
      response.end(JSON.stringify({ code, stdout, stderr: Buffer.concat(err).toString("utf8") + message }));
    };
    child.once("error", (error) => answer(127, error.message));
    // "exit", not "close": what a command leaves behind may hold its output.
    child.once("exit", (code) => setTimeout(() => answer(code ?? 1), 5));
  });
}).listen(50_010, "0.0.0.0");
